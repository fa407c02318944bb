"""Which stretches of an assembly train, validate and test."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from distgen.config import Split, digest, is_bed
from distgen.errors import ConfigError
from distgen.genome import Contigs, Int64, bases_in, intersect, subtract

PARTS = ("train", "valid", "test")

Parts = dict[str, Int64]

_NONE: Int64 = np.empty((0, 2), np.int64)


def resolve(
    name: str,
    split: Split,
    contigs: Contigs,
    path: Callable[[str], Path],
    family: Int64 | None = None,
    *,
    whole: bool = False,
) -> dict[str, Parts]:
    """The splits that one table of a recipe makes: flat intervals (n, 2) of each part, sorted and disjoint.

    Args:
        name: of the split; folds are called NAME-0, NAME-1, ...
        split: the table.
        contigs: the assembly's.
        path: where a file that it names lies.
        family: int64 (C,), equal for contigs that are drawn into the same part.
        whole: contigs are sequences of a table, which stay whole.

    Raises:
        ConfigError: a part names what the assembly lacks, two parts share bases, or nothing is left to train on; `key`
            is that of the part. SourceError: a BED file is malformed.
    """
    if split.fraction:
        found = {name: _drawn(split, contigs, whole) if family is None else _drawn_families(split, contigs, family)}
    elif split.folds:
        found = _folds(name, split, contigs, family, whole)
    else:
        found = {name: _named(split, contigs, path)}
    found = {name: _buffered(parts, split.buffer_bp, contigs) for name, parts in found.items()}
    if not all(len(parts["train"]) for parts in found.values()):
        raise ConfigError("valid, test and what lies within buffer_bp of them leave nothing to train on", key="train")
    return found


def table(parts: Parts, contigs: Contigs) -> dict[str, Any]:
    """A split as the manifest keeps it: an id, and the stretches of each part, which run on from contig to contig. So
    of 10^6 scaffolds that all train two numbers are kept."""
    stretches = {part: run_on(parts[part], contigs).tolist() for part in PARTS}
    return {"id": digest(stretches), **stretches}


def intervals(stretches: list[list[int]], contigs: Contigs) -> Int64:
    """The intervals (n, 2), each inside one contig, of one part of a split as the manifest keeps it."""
    return intersect(np.array(stretches, np.int64).reshape(-1, 2), contigs.whole())


def run_on(intervals: Int64, contigs: Contigs) -> Int64:
    """Join intervals with the next one if they end where a contig ends, and that begins where the next contig does; the
    inverse of `intervals`."""
    rows, whole = contigs.locate(intervals[:, 0]), contigs.whole()
    ends = (intervals[:-1, 1] == whole[rows[:-1], 1]) & (intervals[1:, 0] == whole[rows[1:], 0])
    seam = ends & (rows[1:] == rows[:-1] + 1)
    return np.stack(
        [intervals[np.r_[True, ~seam][: len(rows)], 0], intervals[np.r_[~seam, True][: len(rows)], 1]], axis=1
    )


# ---- named ----------------------------------------------------------------------------------


def _named(split: Split, contigs: Contigs, path: Callable[[str], Path]) -> Parts:
    parts: Parts = {}
    for part in PARTS:
        entries = getattr(split, part)
        beds = [_bed(path(entry), contigs) for entry in entries if is_bed(entry)]
        try:
            named = contigs.regions(entry for entry in entries if not is_bed(entry))
        except ConfigError as error:
            raise ConfigError(error.problem, key=part) from None
        parts[part] = contigs.join(np.concatenate([named, *beds]))
    if not split.train:
        parts["train"] = subtract(contigs.whole(), contigs.join(np.concatenate([parts["valid"], parts["test"]])))
    for one, other in (("valid", "test"), ("train", "valid"), ("train", "test")):
        _refuse_overlap(one, parts[one], other, parts[other], contigs)
    return parts


def _bed(path: Path, contigs: Contigs) -> Int64:
    """The intervals of a BED file as flat intervals."""
    from distgen.ingest.intervals import read_intervals

    return read_intervals((path,), contigs).flat(contigs)


def _refuse_overlap(one: str, left: Int64, other: str, right: Int64, contigs: Contigs) -> None:
    rest = subtract(left, right)
    if bases_in(left) == bases_in(rest):
        return
    for start, end in left.tolist():
        inside = right[(right[:, 0] < end) & (right[:, 1] > start)]
        if len(inside):
            row = int(contigs.locate(start))
            shared = np.clip(inside[0], start, end) - contigs.offsets[row]
            raise ConfigError(f"shares {contigs.names[row]}:{shared[0]}-{shared[1]} with {one}", key=other)


# ---- drawn ----------------------------------------------------------------------------------

_BLOCK = 1_000_000


def _shuffled_blocks(split: Split, contigs: Contigs) -> Int64:
    """Blocks of contigs in an order that depends on the seed and on what each is called: the same on any machine, and
    whatever other contigs there are."""
    size, blocks = split.block_bp or _BLOCK, []
    for name, (start, end) in zip(contigs.names, contigs.whole().tolist(), strict=True):
        for number, first in enumerate(range(start, end, size)):
            key = hashlib.sha256(f"{split.seed}:{name}:{number}".encode()).digest()
            blocks.append((key, first, min(first + size, end)))
    return np.array([(first, last) for _, first, last in sorted(blocks)], np.int64)


def _drawn(split: Split, contigs: Contigs, whole: bool) -> Parts:
    assert split.fraction is not None
    blocks = _shuffled_blocks(split, contigs)
    reached = np.cumsum(blocks[:, 1] - blocks[:, 0]) / bases_in(blocks)
    last_test = int(np.searchsorted(reached, split.fraction.test)) + 1 if split.fraction.test else 0
    target = split.fraction.valid + (reached[last_test - 1] if last_test else 0)
    last_valid = int(np.searchsorted(reached, target)) + 1 if split.fraction.valid else last_test
    test, valid, train = np.split(blocks, [last_test, last_valid])
    if not len(train) and whole:
        raise ConfigError(f"of {len(contigs):,} sequences none is left to train on", key="fraction")
    if not len(train):
        raise ConfigError(
            f"the assembly is {len(blocks)} blocks of up to {split.block_bp or _BLOCK:,} bases, none of which "
            "is left to train on; lower block_bp",
            key="fraction",
        )
    return {"train": contigs.join(train), "valid": contigs.join(valid), "test": contigs.join(test)}


def _families(split: Split, contigs: Contigs, family: Int64) -> tuple[list[Int64], Int64]:
    """The contigs (m, 2) of each family, families in a random order, and their bases."""
    blocks = _shuffled_blocks(split, contigs)
    of = family[contigs.locate(blocks[:, 0])]
    _, first, of = np.unique(of, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))[of]  # of each block, its family's place in the order
    order = np.argsort(rank, kind="stable")
    families = np.split(blocks[order], np.flatnonzero(np.diff(rank[order])) + 1)
    return families, np.array([bases_in(blocks) for blocks in families])


def _drawn_families(split: Split, contigs: Contigs, family: Int64) -> Parts:
    """As near to the fractions as families allow: one that is larger than what a part lacks is left for others."""
    assert split.fraction is not None
    families, sizes = _families(split, contigs, family)
    room = {part: share * sizes.sum() for part, share in split.fraction}
    drawn: dict[str, list[Int64]] = {part: [] for part in PARTS}
    for blocks, size in zip(families, sizes.tolist(), strict=True):
        part = next((part for part in ("test", "valid") if size <= room[part]), "train")
        drawn[part].append(blocks)
        room[part] = room.get(part, 0) - size
    for part, share in split.fraction:
        if share and not drawn[part]:
            raise ConfigError(
                f"every family of sequences that resemble each other is larger than {share:g} of the table, "
                f"{part}'s share; ask for a larger one, or for a higher identity or coverage of homology",
                key="fraction",
            )
    if not drawn["train"]:
        raise ConfigError("no family of sequences is left to train on", key="fraction")
    return {part: contigs.join(np.concatenate([_NONE, *blocks])) for part, blocks in drawn.items()}


def _folds(name: str, split: Split, contigs: Contigs, family: Int64 | None, whole: bool) -> dict[str, Parts]:
    """Folds of about equal size: the longest contig or family (the next block) goes to the smallest fold."""
    assert split.folds is not None
    if family is not None:
        pieces, _ = _families(split, contigs, family)
    else:
        blocks = _shuffled_blocks(split, contigs) if split.block_bp else contigs.whole()
        pieces = list(blocks[:, None])
    if len(pieces) < split.folds:
        what = (
            f"{'sequences' if whole else 'contigs'} make"
            if family is None
            else "families of sequences that resemble each other make"
        )
        hint = "; set block_bp to cut them" if family is None and not whole else ""
        raise ConfigError(f"{len(pieces)} {what} no {split.folds} folds{hint}", key="folds")
    if family is not None or not split.block_bp:
        pieces.sort(key=bases_in, reverse=True)
    folds: list[list[Int64]] = [[] for _ in range(split.folds)]
    sizes = np.zeros(split.folds, np.int64)
    for piece in pieces:
        smallest = int(np.argmin(sizes))
        folds[smallest].append(piece)
        sizes[smallest] += bases_in(piece)
    found = {}
    for number in range(split.folds):
        test, valid, *train = (np.concatenate(fold) for fold in folds[number:] + folds[:number])
        drawn = {"train": np.concatenate(train), "valid": valid, "test": test}
        found[f"{name}-{number}"] = {part: contigs.join(blocks) for part, blocks in drawn.items()}
    return found


def _buffered(parts: Parts, buffer_bp: int, contigs: Contigs) -> Parts:
    if not buffer_bp:
        return parts
    test = _wider(parts["test"], buffer_bp, contigs)
    held_out = _wider(np.concatenate([parts["valid"], parts["test"]]), buffer_bp, contigs)
    return {
        "train": subtract(parts["train"], held_out),
        "valid": subtract(parts["valid"], test),
        "test": parts["test"],
    }


def _wider(intervals: Int64, by: int, contigs: Contigs) -> Int64:
    """Intervals with so many bases more on either side, inside their contigs."""
    whole = contigs.whole()[contigs.locate(intervals[:, 0])]
    start = np.maximum(intervals[:, 0] - by, whole[:, 0])
    return contigs.join(np.stack([start, np.minimum(intervals[:, 1] + by, whole[:, 1])], axis=1))
