"""The planes of an assembly in units of one shard each: `sequence`, `ambiguous` and `softmask`.

A unit holds the bases [k * UNIT, (k + 1) * UNIT) of the flat coordinate. Units of a FASTA file are written one
after another from one stream, or each from a place of its own if the file has been scanned.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from distgen.genome import ALIGNMENT, Bytes, Int64
from distgen.ingest import fasta, packing
from distgen.ingest.fasta import Header, Letters, Listing, Place, read_fasta
from distgen.ingest.twobit import TwoBit
from distgen.store.contigs import Wanted, added_up, pack
from distgen.store.format import CHUNK_BYTES, Layout, ShardWriter
from distgen.store.work import Progress, Work

UNIT = 1 << 28  # bases
_RECEIPT = 2  # the form of what a unit says of itself: one that an earlier version left is built again
_RARE = "U" + packing.IUPAC.decode()
_TOGETHER = 1 << 18  # letters that are packed in one go at least: of short contigs many
_ROOM = _TOGETHER + fasta.BLOCK + ALIGNMENT  # letters
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
        offset: the first base, in the flat coordinate, of the contig in which `place` lies.
        flat: the unit's first base in the flat coordinate; what is read before is dropped.
    """

    place: Place = field(default_factory=Place)
    offset: int = 0
    flat: int = 0

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> Start:
        position, fresh, header, bases = saved["place"]
        return cls(**saved | {"place": Place(position, fresh, Header(*header) if header else None, bases)})


@dataclass(frozen=True)
class Units:
    """The units of some planes by number.

    Args:
        work: where they go.
        inputs: an id of what they are made of.
    """

    work: Work
    inputs: str

    def name(self, number: int) -> str:
        """The id of a unit."""
        return f"{self.inputs}-{_RECEIPT}-{number}"

    def receipt(self, number: int) -> dict[str, Any] | None:
        """What a finished unit says of itself; None if it is still to be built."""
        return self.work.receipt(self.name(number))

    def shard(self, number: int, plane: str) -> Path:
        """Where a finished unit has its shard of a plane."""
        return self.work.path(self.name(number)) / plane


class Packer:
    """Writes the units of a FASTA file from `start` on.

    Args:
        path: the file.
        wanted: whether a contig belongs into the store.
        units: that it writes.
        start: where the first unit begins.
        count: how many units to write; None for all to the end.
        progress: hears of the bases read.
    """

    def __init__(
        self,
        path: Path,
        wanted: Callable[[Header], bool],
        units: Units,
        start: Start,
        count: int | None,
        progress: Progress,
    ):
        self._path, self._wanted, self._units, self._progress = path, wanted, units, progress
        compiling = path.stat().st_size > packing.SMALL
        self._pack = partial(packing.pack, into=packing.room(_ROOM)) if compiling else packing.reference
        self._start, self._number = start, start.flat // UNIT
        self._stop = None if count is None else self._number + count
        self._header, self._offset = start.place.header, start.offset
        self._bases = start.place.bases  # letters of the contig that have come
        self._keep = self._header is not None and wanted(self._header)
        self._place = start.place
        self._held = np.empty(_ROOM, np.uint8)  # letters to be packed, each contig's filled up to whole alignments
        self._flat, self._size = start.flat, 0  # where they begin, and how many they are
        self._unheard = 0
        self._out = _Unit(units, self._number)
        self._listed = _Listed()

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
            if self._number == self._stop:
                break
        else:
            self._end_contig()
            self._pack_held()
            if self._number != self._stop:
                self._close_unit(last=True)
        self._progress(self._unheard)

    def _begin_contig(self, header: Header) -> None:
        self._header, self._bases, self._keep = header, 0, self._wanted(header)
        if self._offset >= self._start.flat:
            if self._keep:
                self._list()
            else:
                self._listed.others.add(header)

    def _list(self) -> None:
        """Let this unit know the contig, and how many bases it has as far as that is known."""
        assert self._header is not None
        self._listed.keep(self._header, self._bases, self._offset)

    def _append(self, event: Letters) -> None:
        letters = event.letters
        missing = self._start.flat - self._offset - self._bases
        self._bases += len(letters)
        self._unheard += len(letters)
        if self._unheard >= _TOGETHER:
            self._progress(self._unheard)
            self._unheard = 0
        if self._keep and missing < len(letters):
            self._place = event.place
            # What lies before the unit is dropped; so the first letter kept begins an alignment, wherever one began.
            self._hold(letters[missing:] if missing > 0 else letters)

    def _end_contig(self) -> None:
        if self._keep:
            fill = _FILL[: -self._bases % ALIGNMENT]
            if len(fill) and self._offset + self._bases > self._start.flat:
                self._hold(fill)
            self._offset += -(-self._bases // ALIGNMENT) * ALIGNMENT

    def _hold(self, letters: Bytes) -> None:
        """Keep letters until they are worth packing; no longer than to the unit's end, so that what it says of its end
        is so."""
        self._list()
        self._held[self._size : self._size + len(letters)] = letters
        self._size += len(letters)
        if self._size >= _TOGETHER or self._flat + self._size >= (self._number + 1) * UNIT:
            self._pack_held()

    def _pack_held(self) -> None:
        """Pack what is held, but for less than an alignment, and cut it at the units' ends."""
        letters = self._held[: self._size]
        first, whole = 0, len(letters) // ALIGNMENT * ALIGNMENT
        while first < whole and self._number != self._stop:
            end = min(whole, (self._number + 1) * UNIT - self._flat)
            packed = self._pack(letters[first:end])
            if packed.mixed:
                self._count(letters[first:end], packed.ambiguous, self._flat + first)
            self._out.write(packed)
            first = end
            if self._flat + first == (self._number + 1) * UNIT:
                self._close_unit(last=False)
                if first < whole:
                    self._list()
        self._flat, self._size = self._flat + whole, len(letters) - whole
        self._held[: self._size] = letters[whole:].copy()

    def _count(self, letters: Bytes, ambiguous: Bytes, flat: int) -> None:
        """Add up the letters that are none of A C G T, of each contig."""
        listed, first = self._listed, bisect_right(self._listed.offsets, flat) - 1
        rows = slice(first, bisect_left(listed.offsets, flat + len(letters)))
        begins = np.maximum(np.array(listed.offsets[rows], np.int64) - flat, 0)

        def counted(flags: np.ndarray[Any, np.dtype[np.bool_]]) -> Int64:
            if len(begins) == 1:
                return np.array([np.count_nonzero(flags)])
            return np.add.reduceat(flags, begins, dtype=np.int64)

        upper = letters & np.uint8(0xDF)
        found = {letter: counted(upper == ord(letter)) for letter in "NU"}
        if found["N"].sum() != np.bitwise_count(ambiguous).sum():  # there are rarer ones
            if packing.foreign(letters).any():
                raise fasta.strange(self._path, self._start.place, self._wanted)
            tally = np.bincount(letters, minlength=256)
            forms = {letter: {ord(letter), ord(letter.lower())} for letter in _RARE}
            present = {letter: both for letter, both in forms.items() if any(tally[form] for form in both)}
            found = {letter: counted(np.isin(letters, list(both))) for letter, both in present.items()}
        positions = np.array(listed.kept.positions[rows], np.int64)
        for letter, counts in found.items():
            some = np.flatnonzero(counts)
            listed.letters.append(np.stack([positions[some], np.full(len(some), ord(letter)), counts[some]], axis=1))

    def _close_unit(self, *, last: bool) -> None:
        end = Start(self._place, self._offset, (self._number + 1) * UNIT)
        self._out.finish(**self._listed.to_json(), end=asdict(end), last=last)
        self._listed, self._number = _Listed(), self._number + 1
        self._out = _Unit(self._units, self._number)


_FILL = np.full(ALIGNMENT, ord("A"), np.uint8)  # packs to zeros in all planes


class _Listed:
    """What a unit knows of contigs: those of which it has bases, with the offsets at which they begin, those that it
    came by and left out, and rows (position, letter, how many) of what is none of A C G T."""

    def __init__(self) -> None:
        self.kept, self.others = Listing(), Listing()
        self.offsets = array("q")
        self.letters: list[Int64] = []

    def keep(self, header: Header, bases: int, offset: int) -> None:
        """A contig has so many bases so far."""
        if not self.offsets or self.kept.positions[-1] != header.position:
            self.kept.add(header)
            self.offsets.append(offset)
        self.kept.bases[-1] = bases

    def to_json(self) -> dict[str, Any]:
        """The part of a receipt that speaks of contigs."""
        letters = added_up(np.concatenate([np.empty((0, 3), np.int64), *self.letters]))
        return {"contigs": self.kept.to_json(), "others": self.others.to_json(), "letters": pack(letters)}


class _Unit:
    """One shard of each plane on its way to the disk."""

    def __init__(self, units: Units, number: int):
        self._work, self._name, self._writers = units.work, units.name(number), dict[str, ShardWriter]()

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


def copy_tasks(path: Path, wanted: Wanted, units: Units) -> list[Callable[[Progress], None]]:
    """The tasks that write the units of a .2bit file, each on its own."""
    file = _open(path)
    contigs = [
        (Header(name, "", number), int(n))
        for number, (name, n) in enumerate(zip(file.names, file.lengths, strict=True))
    ]
    kept = wanted.long_enough(contigs)
    rows = np.array([header.position for header, _ in contigs if kept(header)], np.int64)
    length = int((-(-file.lengths[rows] // ALIGNMENT) * ALIGNMENT).sum())
    return [partial(_copy, path, rows, units, number) for number in range(max(1, -(-length // UNIT)))]


@lru_cache(maxsize=1)
def _open(path: Path) -> TwoBit:
    return TwoBit(path)


def _copy(path: Path, rows: Int64, units: Units, number: int, progress: Progress) -> None:
    """Write unit `number` of the contigs `rows` of a .2bit file."""
    if units.receipt(number) is not None:
        return
    file, out, listed = _open(path), _Unit(units, number), _Listed()
    padded = -(-file.lengths[rows] // ALIGNMENT) * ALIGNMENT
    ends = np.cumsum(padded)
    begin, stop = number * UNIT, (number + 1) * UNIT
    held: list[packing.Packed] = []
    size = 0
    for i in range(int(np.searchsorted(ends, begin, side="right")), len(rows)):
        row, offset = int(rows[i]), int(ends[i] - padded[i])
        if offset >= stop:
            break
        listed.keep(Header(file.names[row], "", row), int(file.lengths[row]), offset)
        low, high = max(begin - offset, 0), min(stop - offset, int(file.lengths[row]))
        for first in range(low, high, _STRETCH):
            last = min(first + _STRETCH, high)
            sequence, unknown, soft = file.planes(row, first, last)
            if ambiguous := int(np.bitwise_count(unknown).sum()):
                listed.letters.append(np.array([[row, ord("N"), ambiguous]]))
            held.append(packing.Packed(_whole(sequence, 16), _whole(unknown, 8), _whole(soft, 8), mixed=False))
            size += last - first
            if size >= _TOGETHER:
                _write(held, out)
                progress(size, size // 4)
                size = 0
    _write(held, out)
    progress(size, size // 4)
    for row in sorted(set(range(len(file.names))) - set(rows.tolist())) if number == 0 else ():
        listed.others.add(Header(file.names[row], "", row))
    out.finish(**listed.to_json(), last=stop >= (int(ends[-1]) if len(ends) else 0))


def _write(held: list[packing.Packed], out: _Unit) -> None:
    """Write stretches that follow one another, and forget them."""
    if held:
        pieces = zip(*(packed[:3] for packed in held), strict=True)
        sequence, ambiguous, softmask = (np.concatenate(parts) for parts in pieces)
        out.write(packing.Packed(sequence, ambiguous, softmask, mixed=False))
        held.clear()


def _whole(plane: Bytes, size: int) -> Bytes:
    """A stretch of a plane with zeros up to a whole number of alignments, `size` bytes each."""
    return np.pad(plane, (0, -len(plane) % size)) if len(plane) % size else plane
