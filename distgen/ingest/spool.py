"""Sort more than memory holds: records go to a scratch file in sorted runs and come back merged."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from distgen.errors import SourceError
from distgen.genome import Contigs, Int64

_MEMORY = 1 << 21  # records in memory at a time
_LEAST = 1 << 10  # records read from one run at a time, at least


class Keys:
    """One number for a column, a contig and a position in it, that sorts in this order; the contig's end is a position too."""

    def __init__(self, contigs: Contigs, columns: int):
        if len(contigs) and contigs.lengths.max() >= 1 << 32:
            name = contigs.names[int(contigs.lengths.argmax())]
            raise SourceError(f'contig "{name}" has {contigs.lengths.max():,} bases; signals reach to 4,294,967,295')
        bases = contigs.lengths + 1
        self._offsets: Int64 = np.cumsum(bases) - bases
        self._genome = int(bases.sum())
        self.columns = columns

    def of(self, column: npt.ArrayLike, row: Int64, position: npt.ArrayLike) -> Int64:
        """The keys of columns, rows in the contig table and 0-based positions; int64."""
        keys: Int64 = np.asarray(column) * self._genome + self._offsets[row] + np.asarray(position)
        return keys

    def split(self, keys: Int64) -> tuple[Int64, Int64]:
        """Group (column times contigs plus row) and position of each key; int64."""
        column, flat = np.divmod(keys, self._genome)
        row = np.searchsorted(self._offsets, flat, side="right") - 1
        return column * len(self._offsets) + row, flat - self._offsets[row]


class Spool:
    """Records added in any order and given back in the order of their field `key` (int64).

    Args:
        scratch: the folder of the temporary file, which goes with this object.
        dtype: of the records.
        memory: how many records to hold at a time.
    """

    def __init__(self, scratch: Path, dtype: np.dtype[Any], memory: int = _MEMORY):
        self._dtype, self._memory = dtype, memory
        self._file = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115
        self._waiting: list[npt.NDArray[np.void]] = []
        self._waits = 0
        self._runs: list[list[int]] = []  # first and last record of each, half-open
        self._last_key = 0

    def add(self, records: npt.NDArray[np.void]) -> None:
        """Take records of the spool's dtype."""
        self._waiting.append(records)
        self._waits += len(records)
        if self._waits >= self._memory:
            self._write()

    def _write(self) -> None:
        records = _sorted(self._waiting)
        self._waiting, self._waits = [], 0
        if not len(records):
            return
        written = self._runs[-1][1] if self._runs else 0
        # What follows the last run is a part of it: a file that is in order stays one run.
        if not self._runs or records["key"][0] < self._last_key:
            self._runs.append([written, written])
        self._runs[-1][1] += len(records)
        self._last_key = int(records["key"][-1])
        self._file.write(records.data)

    def blocks(self) -> Iterator[npt.NDArray[np.void]]:
        """All records in order, none of the blocks empty. Equal keys may stand in two blocks."""
        if self._waits:
            self._write()
        if not self._runs:
            return
        self._file.flush()
        data = np.memmap(self._file, self._dtype, mode="r")
        keys = data["key"]
        step = max(_LEAST, self._memory // len(self._runs))
        heads = [list(run) for run in self._runs]
        while heads:
            # Up to the least of the last keys in sight nothing can come any more from what lies beyond sight.
            bound = min(int(keys[min(at + step, end) - 1]) for at, end in heads)
            parts = []
            for head in heads:
                at, end = head
                head[0] = at + int(np.searchsorted(keys[at : min(at + step, end)], bound, side="right"))
                parts.append(data[at : head[0]])
            yield _sorted(parts)
            heads = [head for head in heads if head[0] < head[1]]


def _sorted(parts: list[npt.NDArray[np.void]]) -> npt.NDArray[np.void]:
    filled = [part for part in parts if len(part)]
    if not filled:
        return parts[0][:0]
    records = np.concatenate(filled)
    if (records["key"][1:] < records["key"][:-1]).any():
        records = records[np.argsort(records["key"], kind="stable")]
    return records


def write_groups(
    scratch: Path, dtype: np.dtype[Any], groups: int, pieces: Iterable[tuple[Int64, npt.NDArray[np.void]]]
) -> tuple[npt.NDArray[np.void], Int64]:
    """Records on disk, group by group.

    Args:
        scratch: folder of the file.
        groups: how many there are.
        pieces: group of each record, int64 (n,), ascending over all pieces, and the records of `dtype`.

    Returns:
        All records, mapped from disk, and int64 (groups + 1,): group g is records[bounds[g] : bounds[g + 1]].
    """
    counts = np.zeros(groups, np.int64)
    with tempfile.NamedTemporaryFile(dir=scratch, delete=False) as file:
        for group, records in pieces:
            counts += np.bincount(group, minlength=groups)
            file.write(records.data)
        file.flush()
        mapped = np.memmap(file.name, dtype, mode="r") if counts.any() else np.empty(0, dtype)
    return mapped, np.r_[0, np.cumsum(counts)]
