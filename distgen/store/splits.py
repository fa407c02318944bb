"""Which stretches of an assembly train, validate and test."""

from __future__ import annotations

from typing import Any

import numpy as np

from distgen.config import Split, digest
from distgen.errors import ConfigError
from distgen.genome import Contigs, Int64, subtract

PARTS = ("train", "valid", "test")


def resolve(split: Split, contigs: Contigs) -> dict[str, Any]:
    """A split as the manifest keeps it: an id, and flat (n, 2) intervals for each part.

    `train` is what the other parts leave, unless it is named.

    Raises:
        ConfigError: a part names what the assembly lacks, or two parts share bases. The message begins
            with the part's name.
    """
    parts: dict[str, Int64] = {}
    for part in PARTS:
        try:
            parts[part] = contigs.regions(getattr(split, part))
        except ConfigError as error:
            raise ConfigError(f"{part}: {error}") from None
    if not split.train:
        held_out = np.concatenate([parts["valid"], parts["test"]])
        parts["train"] = subtract(contigs.whole(), held_out[np.argsort(held_out[:, 0])])
    for one, other in (("valid", "test"), ("train", "valid"), ("train", "test")):
        _refuse_overlap(one, parts[one], other, parts[other], contigs)
    table = {part: intervals.tolist() for part, intervals in parts.items()}
    return {"id": digest(table), **table}


def _refuse_overlap(one: str, left: Int64, other: str, right: Int64, contigs: Contigs) -> None:
    rest = subtract(left, right)
    if (left[:, 1] - left[:, 0]).sum() == (rest[:, 1] - rest[:, 0]).sum():
        return
    for start, end in left.tolist():
        inside = right[(right[:, 0] < end) & (right[:, 1] > start)]
        if len(inside):
            row = int(contigs.locate(start))
            shared = np.clip(inside[0], start, end) - contigs.offsets[row]
            raise ConfigError(f"{other}: shares {contigs.names[row]}:{shared[0]}-{shared[1]} with {one}")
