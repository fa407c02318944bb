"""Stores of short labelled sequences: each sequence is a contig, and lies in one part of each split as a whole.

Beside the planes and the contig table of any store there is `labels/ID8/values`, a row for each sequence: binary uint8
(n, 1) and multilabel uint8 (n, k) with 255 for missing, classes int32 (n,) with -1, regression float32 (n, k) with NaN.
Which part a sequence is in says an array, too, not a list of stretches: 0 none, 1 train, 2 valid, 3 test. That is
`labels/ID8/part` where the table says it, and `splits/NAME.ID8/part` for other splits.

All of a table is one unit of a build, which takes seconds; a build that is stopped before its end reads it again.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from distgen.config import Labelled, Recipe, Sequences, digest
from distgen.errors import ConfigError, SourceError, suggest
from distgen.genome import ALIGNMENT, Bytes, Contigs, Int64
from distgen.ingest import packing
from distgen.ingest.objects import Place
from distgen.store import format, planes
from distgen.store.array import Array
from distgen.store.format import Entry
from distgen.store.planes import PER_BYTE, plane_layout
from distgen.store.rows import Column, link_arrays
from distgen.store.splits import PARTS, Parts
from distgen.store.work import Execute, Part, Progress, Work, silent

if TYPE_CHECKING:
    from distgen.ingest.tables import SequenceBlock

_PART = {part: number for number, part in enumerate(PARTS, 1)}
_CALLED = {**_PART, "training": 1, "dev": 2, "val": 2, "validation": 2}


def inputs(table: Sequences, ids: dict[str, str]) -> str:
    """An id of all that a table's store depends on; `ids` are those of the recipe's sources."""
    parameters = table.model_dump(mode="json", exclude={"train", "valid", "test", "table", "webdataset"})
    files = {part: _each(entry, ids.__getitem__) for part, entry in table.files.items()}
    return digest(["sequences/1", parameters, files, planes.UNIT])


def build(recipe: Recipe, table: Sequences, unit: str, work: Work, progress: Progress, execute: Execute) -> None:
    """Write the unit of a recipe's table unless it is finished.

    Raises:
        ConfigError: a column is not there, or the columns do not fit the kind. SourceError: a row is malformed.
    """
    files = {
        part: _each(entry, partial(recipe.resolve, key=f"sequences.{part}")) for part, entry in table.files.items()
    }
    with recipe.at("sequences"):
        execute([partial(_write, table, files, work, unit)], progress)


def _write(table: Sequences, files: dict[str, Any], work: Work, unit: str, progress: Progress) -> None:
    named = table.id is not None or table.webdataset is not None
    paths = [path for entry in files.values() for path in (entry.values() if isinstance(entry, dict) else [entry])]
    part = Part(progress, paths, passes=1 if table.kind == "regression" else 2)  # first for the labels' names
    with part.reading():
        build_from_blocks(_blocks(table, files), table.kind, work, unit, part, named=named, split=table.is_split)
    part.reach(1)


def _blocks(table: Sequences, files: dict[str, Any]) -> Iterator[SequenceBlock]:
    if table.webdataset is not None:
        yield from _exported(table, files["webdataset"].parent)
        return
    from distgen.ingest.tables import read_sequences

    if table.table is not None:
        files = {"" if table.split is not None else "train": files["table"]}
    columns = {key: getattr(table, key) for key in ("sequence", "label", "split", "id", "separator")}
    yield from read_sequences(files, kind=table.kind, **columns)


def _exported(table: Sequences, folder: Path) -> Iterator[SequenceBlock]:
    from distgen.store.exported_labels import read_blocks_of_export

    for block in read_blocks_of_export(folder):
        columns = block.labels.shape[1]
        if not columns:
            raise ConfigError(f"{folder} has no labels: export one track, with one bin in each window")
        kind = "regression" if block.labels.dtype != np.uint8 else "binary" if columns == 1 else "multilabel"
        if table.kind != kind:
            raise ConfigError(f'{folder} has labels of kind "{kind}", not "{table.kind}"')
        yield block


def _each(entry: Labelled, function: Any) -> Any:
    """`function` of the file, or of the file of each class."""
    return {name: function(file) for name, file in entry.items()} if isinstance(entry, Mapping) else function(entry)


def build_from_blocks(
    blocks: Iterator[SequenceBlock],
    kind: str,
    work: Work,
    unit: str,
    progress: Progress = silent,
    *,
    named: bool = True,
    split: bool = True,
) -> None:
    """Write the unit of a table of sequences unless it is finished: planes, contigs, labels and parts.

    Args:
        blocks: the sequences with their labels, in the order of the contigs.
        kind: of the labels: binary, classes, multilabel or regression.
        work: where units go.
        unit: the unit's id.
        progress: hears of the bases read.
        named: contigs are called as the blocks' ids, where these differ; otherwise by their number.
        split: the blocks' parts are those of the split called default; otherwise they mean nothing.

    Raises:
        SourceError: a sequence is empty or has other than IUPAC letters, its part is none, or there are no sequences.
    """
    if work.receipt(unit) is not None:
        return
    folder = work.begin(unit)
    table = _Table(folder, named, split)
    for block in blocks:
        table.add(block)
        progress(len(block.letters))
    work.finish(unit, folder, table.finish(kind))


class _Table:
    """The arrays of a unit, as blocks come."""

    def __init__(self, folder: Path, named: bool, split: bool):
        self._folder, self._split = folder, split
        self._planes = {
            plane: Column(folder / plane, plane_layout(plane, planes.UNIT), sparse=plane != "sequence")
            for plane in PER_BYTE
        }
        self._labels: Column | None = None
        self._part = Column.of(folder / "labels" / "part", np.uint8)
        self._lengths: list[Int64] = []
        self._odd: list[Int64] = [np.empty((0, 3), np.int64)]
        self._names = _Names(folder) if named else None
        self._rows = self._bases = self._missing = 0
        self._classes: tuple[str, ...] = ()
        self._counts = np.zeros(len(PARTS) + 1, np.int64)

    def add(self, block: SequenceBlock) -> None:
        lengths = np.diff(block.offsets)
        self._check(block, lengths)
        padded = _padded(block, lengths)
        packed = (packing.pack if self._bases > packing.SMALL else packing.reference)(padded)
        for plane, column in self._planes.items():
            column.write(getattr(packed, plane))
        if packed.mixed:
            self._odd.append(_odd(block, self._rows))
        if self._split:
            parts = np.array([_CALLED[part] for part in block.parts], np.uint8)
            self._counts += np.bincount(parts, minlength=len(self._counts))
            self._part.write(parts)
        if self._labels is None:
            self._labels = Column.of(self._folder / "labels" / "values", block.labels.dtype, *block.labels.shape[1:])
        self._labels.write(block.labels)
        if self._names is not None:
            self._names.add(block.ids)
        self._lengths.append(lengths)
        self._classes, self._missing = block.names, self._missing + block.missing
        self._rows, self._bases = self._rows + len(lengths), self._bases + len(block.letters)

    def _check(self, block: SequenceBlock, lengths: Int64) -> None:
        for row in np.flatnonzero(lengths < 1)[:1].tolist():
            raise SourceError(f"{block.where(row)}: the sequence is empty")
        bad = np.flatnonzero(packing.foreign(block.letters))
        for at in bad[:1].tolist():
            row = int(np.searchsorted(block.offsets, at, side="right")) - 1
            raise SourceError(f"{block.where(row)}: {chr(block.letters[at])!r} is no IUPAC nucleotide letter")
        unknown = set(block.parts) - _CALLED.keys() if self._split else ()
        for row, part in ((row, part) for row, part in enumerate(block.parts) if part in unknown):
            raise SourceError(f'{block.where(row)}: "{part}" is no part of a split. {suggest(part, _CALLED)}')

    def finish(self, kind: str) -> dict[str, Any]:
        """Close all arrays; returns the unit's receipt."""
        if self._labels is None:
            raise SourceError("the table holds no sequence")
        arrays = {plane: column.close() for plane, column in self._planes.items()}
        repeated = self._names.repeated() if self._names is not None else None
        named = self._names is not None and repeated is None
        names = self._names.blocks() if self._names is not None and named else _numbers(self._rows)
        arrays["contigs/name"] = _write_blocks(self._folder / "contigs" / "name", self._rows, names)
        self._names = None
        lengths = np.concatenate(self._lengths)
        self._lengths.clear()
        padded = -(-lengths // ALIGNMENT) * ALIGNMENT
        columns: dict[str, npt.NDArray[Any]] = {
            "alias": np.zeros((self._rows, 1), np.uint8),
            "length": lengths,
            "offset": np.cumsum(padded) - padded,
            "circular": np.zeros(self._rows, np.uint8),
            "letters": np.concatenate(self._odd),
        }
        for name, column in columns.items():
            arrays[f"contigs/{name}"] = format.write_array(self._folder / "contigs" / name, column, "zstd")
        arrays["labels/values"] = self._labels.close()
        if self._split:
            arrays["labels/part"] = self._part.close()
        about = {
            "kind": kind,
            "names": self._classes,
            "missing": self._missing,
            "named": named,
            "repeated": repeated,
            "parts": {part: int(self._counts[number]) for part, number in _PART.items()} if self._split else None,
        }
        return {"arrays": arrays, "about": about}


def _padded(block: SequenceBlock, lengths: Int64) -> Bytes:
    """The letters of all sequences, each filled up to whole alignments."""
    padded = -(-lengths // ALIGNMENT) * ALIGNMENT
    starts = np.cumsum(padded) - padded
    letters = np.full(int(padded.sum()), ord("A"), np.uint8)
    letters[np.arange(len(block.letters)) + np.repeat(starts - block.offsets[:-1], lengths)] = block.letters
    return letters


def _odd(block: SequenceBlock, first: int) -> Int64:
    """Rows (sequence, letter in upper case, how many) of what is none of A, C, G, T."""
    upper = np.where(block.letters >= ord("a"), block.letters - 32, block.letters)
    at = np.flatnonzero((packing.CODES[upper] > 3) | (upper == ord("U")))
    row = np.searchsorted(block.offsets, at, side="right") - 1 + first
    keys, counts = np.unique(row * 256 + upper[at], return_counts=True)
    return np.stack([keys // 256, keys % 256, counts], axis=1).astype(np.int64)


_STEP = 1 << 20  # names in memory at a time


def _numbers(count: int) -> Iterator[Bytes]:
    """0 to count - 1 as `text` would have them."""
    width = len(str(count - 1))
    for first in range(0, count, _STEP):
        yield np.arange(first, min(first + _STEP, count)).astype(f"S{width}").view(np.uint8).reshape(-1, width)


def _write_blocks(folder: Path, count: int, blocks: Iterator[Bytes]) -> Entry:
    """As `format.write_array` of all `count` rows of blocks; returns the manifest entry."""
    first = next(blocks)
    column = Column(folder, format.rows_layout((count, *first.shape[1:]), first.dtype, "zstd"))
    for block in itertools.chain([first], blocks):
        column.write(block)
    return column.close()


class _Names:
    """What all sequences are called, kept on disk; in memory are a hash and a place for each."""

    def __init__(self, scratch: Path):
        self._file = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115
        self._hashes: list[npt.NDArray[np.uint64]] = []
        self._sizes: list[npt.NDArray[np.uint32]] = []

    def add(self, names: list[str]) -> None:
        import polars as pl

        column = pl.Series(names, dtype=pl.String)
        self._hashes.append(column.hash().to_numpy())
        self._sizes.append(column.str.len_bytes().to_numpy())
        self._file.write("".join(names).encode())

    def repeated(self) -> str | None:
        """The first name that is empty or came before, if there is one."""
        sizes, hashes = np.concatenate(self._sizes), np.concatenate(self._hashes)
        sorted_ = np.sort(hashes)
        if sizes.all() and not (sorted_[1:] == sorted_[:-1]).any():
            return None
        ends = np.cumsum(sizes, dtype=np.int64)
        order = np.argsort(hashes, kind="stable")
        again = order[1:][hashes[order[1:]] == hashes[order[:-1]]]
        for row in np.sort(np.concatenate([again, np.flatnonzero(sizes == 0)])).tolist():
            # Two names may have one hash.
            same = np.flatnonzero(hashes[: row + 1] == hashes[row]).tolist()
            *others, name = (self._read(int(ends[at] - sizes[at]), int(sizes[at])) for at in same)
            if not name or name in others:
                return name.decode()
        return None

    def blocks(self) -> Iterator[Bytes]:
        """All names as `text` would have them."""
        sizes = np.concatenate(self._sizes)
        width, place = max(int(sizes.max()), 1), 0
        for first in range(0, len(sizes), _STEP):
            here = sizes[first : first + _STEP].astype(np.int64)
            words = np.zeros((len(here), width), np.uint8)
            size = int(here.sum())
            words[np.arange(width) < here[:, None]] = np.frombuffer(self._read(place, size), np.uint8)
            place += size
            yield words

    def _read(self, place: int, size: int) -> bytes:
        self._file.seek(place)
        return self._file.read(size)


# ---- publishing -----------------------------------------------------------------------------


def place(work: Work, unit: str, folder: Path) -> tuple[dict[str, Entry], dict[str, Any]]:
    """Put the unit's arrays under their keys in `folder`.

    Returns:
        The manifest entry of each array by its key, and what the manifest says of the labels.
    """
    receipt = work.receipt(unit) or {}
    entries: dict[str, Entry] = receipt["arrays"]
    labels = sorted(name for name in entries if name.startswith("labels/"))
    key = f"labels/{digest([entries[name]['id'] for name in labels])[:8]}"
    arrays = {name: entry for name, entry in entries.items() if name not in labels}
    link_arrays(work.path(unit), folder, list(arrays))
    link_arrays(work.path(unit) / "labels", folder / key, [name.removeprefix("labels/") for name in labels])
    for group in ("contigs", "labels", key):
        format.write_group(folder / group, {})
    arrays |= {name.replace("labels", key): entries[name] for name in labels}
    return arrays, receipt["about"] | {"key": key}


def own_split(labels: dict[str, Any], arrays: dict[str, Entry]) -> dict[str, Any]:
    """What the manifest says of the split that the table itself makes."""
    key = f"{labels['key']}/part"
    return {"id": arrays[key]["id"], "array": key, **labels["parts"]}


def own_parts(labels: dict[str, Any], folder: Place, arrays: dict[str, Entry], contigs: Contigs) -> Parts:
    """The parts of that split; `folder` has the arrays."""
    key = f"{labels['key']}/part"
    return parts_of(Array(folder / key, arrays[key]).read(), contigs)


def place_split(
    name: str, parts: Parts, contigs: Contigs, folder: Path, known: dict[str, Entry]
) -> tuple[dict[str, Entry], dict[str, Any]]:
    """Put a split into `folder` as an array of parts, unless it is among the store's `known` arrays.

    Returns:
        Its manifest entry by its key, and what the manifest says of the split.

    Raises:
        ConfigError: a part cuts a sequence.
    """
    codes = assign(parts, contigs)
    key = f"splits/{name}.{blake3(codes.tobytes()).hexdigest()[:8]}"
    entry = known.get(f"{key}/part")
    if entry is None:
        entry = format.write_array(folder / key / "part", codes, "zstd")
        for group in ("splits", key):
            format.write_group(folder / group, {})
    counts = {part: int(np.count_nonzero(codes == number)) for part, number in _PART.items()}
    return {f"{key}/part": entry}, {"id": entry["id"], "array": f"{key}/part", **counts}


def assign(parts: Parts, contigs: Contigs) -> Bytes:
    """The number of the part uint8 (n,) that each sequence is in.

    Raises:
        ConfigError: a part cuts a sequence; `key` is the part's.
    """
    codes, whole = np.zeros(len(contigs), np.uint8), contigs.whole()
    for part, number in reversed(_PART.items()):  # train may be what the others leave
        rows = contigs.locate(parts[part][:, 0])
        for row in rows[(whole[rows] != parts[part]).any(axis=1)][:1].tolist():
            raise ConfigError(
                f'a part of a table takes sequences whole, not a stretch of "{contigs.names[row]}"', key=part
            )
        codes[rows] = number
    return codes


def parts_of(codes: Bytes, contigs: Contigs) -> Parts:
    """The parts of a split, from the number of the part that each sequence is in."""
    return {part: contigs.whole()[np.flatnonzero(codes == number)] for part, number in _PART.items()}
