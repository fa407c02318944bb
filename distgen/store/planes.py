"""The planes of an assembly in units of one shard each: `sequence`, `ambiguous` and `softmask`.

A unit holds the bases [k * UNIT, (k + 1) * UNIT) of the flat coordinate. Units of a FASTA file are written one
after another from one stream, or each from a place of its own if the file has been scanned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from distgen.genome import ALIGNMENT, Bytes, Int64
from distgen.ingest import packing
from distgen.ingest.fasta import Header, Letters, Place, read_fasta, refusal, strange
from distgen.ingest.twobit import TwoBit
from distgen.store.contigs import Wanted
from distgen.store.format import CHUNK_BYTES, Layout, ShardWriter
from distgen.store.work import Progress, Work

UNIT = 1 << 28  # bases
_RARE = "U" + packing.IUPAC.decode()
_SMALL = 1 << 25  # bytes of a source
PER_BYTE = {"sequence": 4, "ambiguous": 8, "softmask": 8}


def plane_layout(plane: str, length: int) -> Layout:
    """The layout of a plane over `length` bases: raw chunks of 64 KiB, a shard for each unit."""
    per = PER_BYTE[plane]
    return Layout((length // per,), np.dtype(np.uint8), CHUNK_BYTES, UNIT // per)


@dataclass(frozen=True)
class Start:
    """Where a unit begins.

    Args:
        place: where to begin to read.
        row: the contig in which `place` lies, as a row of the contig table; -1 before the first.
        offset: its first base in the flat coordinate.
        flat: the unit's first base in the flat coordinate; what is read before is dropped.
    """

    place: Place = field(default_factory=Place)
    row: int = -1
    offset: int = 0
    flat: int = 0

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> Start:
        place = dict(saved["place"])
        header = Header(**place.pop("header")) if place["header"] else None
        return cls(**saved | {"place": Place(**place | {"header": header})})


class Packer:
    """Writes the units of a FASTA file from `start` on.

    Args:
        path: the file.
        wanted: whether a contig belongs into the store.
        work: where units go.
        unit: the id of unit k.
        start: where the first unit begins.
        count: how many units to write; None for all to the end.
        progress: hears of the bases read.
    """

    def __init__(
        self,
        path: Path,
        wanted: Callable[[Header], bool],
        work: Work,
        unit: Callable[[int], str],
        start: Start,
        count: int | None,
        progress: Progress,
    ):
        self._path, self._wanted, self._work, self._unit, self._progress = path, wanted, work, unit, progress
        # Loading the compiler costs more than a small genome.
        self._pack = packing.pack if path.stat().st_size > _SMALL else packing.reference
        self._start, self._number = start, start.flat // UNIT
        self._stop = None if count is None else self._number + count
        self._header, self._row, self._offset = start.place.header, start.row, start.offset
        self._bases = start.place.bases  # letters of the contig that have come
        self._keep = self._header is None or wanted(self._header)
        self._rest = b""  # the last of them, less than an alignment
        self._held: list[Letters] = []  # where they stand
        self._place = start.place
        self._out = _Unit(work, unit(self._number))
        self._contigs: list[dict[str, Any]] = []
        self._left_out: list[dict[str, Any]] = []

    def run(self) -> None:
        """Read and write until the end, or until `count` units are whole.

        Raises:
            SourceError: the file is malformed.
        """
        for event in read_fasta(self._path, self._start.place):
            if isinstance(event, Header):
                self._end_contig()
                self._begin_contig(event)
            else:
                self._append(event)
                self._progress(len(event.letters))
            if self._number == self._stop:
                return
        self._end_contig()
        if self._number != self._stop:
            self._close_unit(last=True)

    def _begin_contig(self, header: Header) -> None:
        self._header, self._bases, self._keep = header, 0, self._wanted(header)
        if self._keep:
            self._row += 1
            if self._offset >= self._start.flat:
                self._record()
        elif self._offset >= self._start.flat:
            self._left_out.append(asdict(header))

    def _record(self) -> dict[str, Any]:
        """What this unit knows of the contig."""
        if not self._contigs or self._contigs[-1]["row"] != self._row:
            assert self._header is not None
            self._contigs.append({"row": self._row, **asdict(self._header), "length": 0, "letters": {}})
        return self._contigs[-1]

    def _append(self, event: Letters) -> None:
        missing = self._start.flat - self._offset - self._bases
        self._bases += len(event.letters)
        if not self._keep or missing >= len(event.letters):
            return
        self._place = event.place
        self._held.append(event)
        # What lies before the unit is dropped; so the first letter kept begins an alignment, wherever reading began.
        letters = event.letters[missing:] if missing > 0 else self._rest + event.letters
        whole = len(letters) // ALIGNMENT * ALIGNMENT
        self._rest = letters[whole:]
        if whole:
            self._write(letters, whole, self._offset + self._bases - len(letters))
            self._held = [event]

    def _end_contig(self) -> None:
        header = self._header
        if header is None:
            return
        if not self._bases:
            raise refusal(self._path, header.position, f'contig "{header.name}" has no sequence')
        if self._keep:
            last, self._rest = self._rest, b""
            if last:
                self._write(packing.pad(last), len(last), self._offset + self._bases - len(last))
            self._offset += -(-self._bases // ALIGNMENT) * ALIGNMENT
        self._held.clear()

    def _write(self, letters: bytes, count: int, flat: int) -> None:
        """Pack `count` letters (padded to whole alignments) that begin at `flat`, and cut them at the units' ends."""
        array, first = np.frombuffer(letters, np.uint8), 0
        while first < count and self._number != self._stop:
            end = min(count, (self._number + 1) * UNIT - flat)
            packed = self._pack(array[first : -(-end // ALIGNMENT) * ALIGNMENT])
            record = self._record()
            record["length"] += end - first
            if packed.mixed:
                self._count(array[first:end], packed.ambiguous, record["letters"])
            self._out.write(packed)
            first = end
            if -(-(flat + first) // ALIGNMENT) * ALIGNMENT == (self._number + 1) * UNIT:
                self._close_unit(last=False)

    def _count(self, letters: Bytes, ambiguous: Bytes, counts: dict[str, int]) -> None:
        """Add up the letters that are none of A C G T."""
        upper = letters & np.uint8(0xDF)
        found = {letter: int(np.count_nonzero(upper == ord(letter))) for letter in "NU"}
        if found["N"] != int(np.bitwise_count(ambiguous).sum()):  # there are rarer ones
            tally = np.bincount(letters, minlength=256)
            if any(tally[letter] and not packing.is_letter(letter) for letter in range(256)):
                raise strange(self._path, self._held)
            found = {letter: int(sum(tally[ord(c)] for c in {letter, letter.lower()})) for letter in _RARE}
        for letter, number in found.items():
            if number:
                counts[letter] = counts.get(letter, 0) + number

    def _close_unit(self, *, last: bool) -> None:
        end = Start(self._place, self._row, self._offset, (self._number + 1) * UNIT)
        self._out.finish(contigs=self._contigs, left_out=self._left_out, end=asdict(end), last=last)
        self._contigs, self._left_out, self._number = [], [], self._number + 1
        self._out = _Unit(self._work, self._unit(self._number))


class _Unit:
    """One shard of each plane on its way to the disk."""

    def __init__(self, work: Work, name: str):
        self._work, self._name, self._writers = work, name, dict[str, ShardWriter]()

    def write(self, packed: packing.Packed) -> None:
        if not self._writers:
            self._folder = self._work.begin(self._name)
            for plane in PER_BYTE:
                layout = plane_layout(plane, UNIT)
                self._writers[plane] = ShardWriter(self._folder / plane, layout, sparse=plane != "sequence")
        for plane, writer in self._writers.items():
            writer.write(getattr(packed, plane))

    def finish(self, **receipt: Any) -> None:
        if not self._writers:
            self._folder = self._work.begin(self._name)
        arrays = {plane: writer.close() for plane, writer in self._writers.items()}
        self._work.finish(self._name, self._folder, {"arrays": arrays, **receipt})


# ---- .2bit ----------------------------------------------------------------------------------

_STRETCH = 1 << 24  # bases in memory at a time


def copy_tasks(path: Path, wanted: Wanted, work: Work, unit: Callable[[int], str]) -> list[Callable[[Progress], None]]:
    """The tasks that write the units of a .2bit file, each on its own."""
    file = _open(path)
    contigs = [
        (Header(name, "", number), int(n))
        for number, (name, n) in enumerate(zip(file.names, file.lengths, strict=True))
    ]
    kept = wanted.long_enough(contigs)
    rows = np.array([header.position for header, _ in contigs if kept(header)], np.int64)
    length = int((-(-file.lengths[rows] // ALIGNMENT) * ALIGNMENT).sum())
    return [partial(_copy, path, rows, work, unit, number) for number in range(max(1, -(-length // UNIT)))]


@lru_cache(maxsize=1)
def _open(path: Path) -> TwoBit:
    return TwoBit(path)


def _copy(path: Path, rows: Int64, work: Work, unit: Callable[[int], str], number: int, progress: Progress) -> None:
    """Write unit `number` of the contigs `rows` of a .2bit file."""
    if work.receipt(unit(number)) is not None:
        return
    file, out, records = _open(path), _Unit(work, unit(number)), []
    padded = -(-file.lengths[rows] // ALIGNMENT) * ALIGNMENT
    ends = np.cumsum(padded)
    begin, stop = number * UNIT, (number + 1) * UNIT
    for i in range(int(np.searchsorted(ends, begin, side="right")), len(rows)):
        row, offset = int(rows[i]), int(ends[i] - padded[i])
        if offset >= stop:
            break
        low, high = max(begin - offset, 0), min(stop - offset, int(file.lengths[row]))
        ambiguous = 0
        for first in range(low, high, _STRETCH):
            last = min(first + _STRETCH, high)
            sequence, unknown, soft = file.planes(row, first, last)
            ambiguous += int(np.bitwise_count(unknown).sum())
            out.write(packing.Packed(_whole(sequence, 16), _whole(unknown, 8), _whole(soft, 8), mixed=False))
            progress(last - first, (last - first) // 4)
        letters = {"N": ambiguous} if ambiguous else {}
        records.append({"row": i, **asdict(Header(file.names[row], "", row)), "length": high - low, "letters": letters})
    others = sorted(set(range(len(file.names))) - set(rows.tolist())) if number == 0 else ()
    left_out = [asdict(Header(file.names[row], "", row)) for row in others]
    out.finish(contigs=records, left_out=left_out, last=stop >= (int(ends[-1]) if len(ends) else 0))


def _whole(plane: Bytes, size: int) -> Bytes:
    """A stretch of a plane with zeros up to a whole number of alignments, `size` bytes each."""
    return np.pad(plane, (0, -len(plane) % size))
