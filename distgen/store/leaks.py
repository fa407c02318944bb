"""What the parts of a split know of each other, for any store: an assembly by its tiles, a table by its sequences."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgen.genome import Interval
from distgen.store.homology import leakage
from distgen.store.reader import Store
from distgen.store.table_homology import table_leakage


def leaks(store: Store, split: str = "default") -> dict[str, Any]:
    """As `homology.leakage` for an assembly, as `table_homology.table_leakage` for a table of sequences.

    Raises:
        ConfigError: there is no such split, or it has fewer than two parts.
    """
    parts = {part: store.regions(part, split) for part in store.parts(split)}
    if not store.manifest.get("labels"):
        return leakage(store, parts)
    of = np.concatenate([[part] * len(intervals) for part, intervals in parts.items()])
    rows = store.contigs.locate(np.concatenate([intervals[:, 0] for intervals in parts.values()]))
    names, lengths = store.contigs.names, store.contigs.lengths
    codes = [store.codes(Interval(names[row], 0, int(lengths[row]))) for row in rows.tolist()]
    offsets = np.r_[0, np.cumsum([len(code) for code in codes])].astype(np.int64)
    return table_leakage((np.concatenate(codes), offsets), of.tolist())
