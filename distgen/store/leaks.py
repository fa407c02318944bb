"""What the parts of a split know of each other, for any store: an assembly by its tiles, a table by its sequences."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgen.store.homology import leakage
from distgen.store.reader import Store
from distgen.store.table_homology import Table, table_leakage


def leaks(store: Store, split: str = "default") -> dict[str, Any]:
    """As `homology.leakage` for an assembly, as `table_homology.table_leakage` for a table of sequences.

    Raises:
        ConfigError: there is no such split, or it has fewer than two parts.
    """
    parts = {part: store.regions(part, split) for part in store.parts(split)}
    if not store.manifest.get("labels"):
        return leakage(store, parts)
    table = Table.of(store)
    of = np.full(len(table), "", "U5")
    for part, intervals in parts.items():
        of[table.locate(intervals[:, 0])] = part
    return table_leakage(table, of.tolist())
