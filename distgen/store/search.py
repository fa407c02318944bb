"""The search behind `homology`: seeds propose stretches of DNA that resemble each other, minimap2 (mappy) confirms them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Protocol

import mappy
import numpy as np
import numpy.typing as npt

from distgen.errors import ConfigError
from distgen.genome import AMBIGUOUS, Int64
from distgen.ingest.packing import unpack_codes
from distgen.store import seeds
from distgen.store.reader import Store

Bytes = npt.NDArray[np.uint8]
Bits = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

PIECE = 1 << 20  # bases read at a time
BLOCK = 1 << 25  # bases indexed at a time: 300 MB
OVERLAP = 1 << 16  # of two blocks: the longest window
_COUNTERS = 25  # at most 2 x 2**25 counters of seeds: 128 MiB
_LETTERS = np.frombuffer(b"ACGTN", np.uint8)
# Dense short minimizers and a lenient score: copies of 70 % identity still align, random sequence does not.
_MINIMAP = {"k": 10, "w": 1, "min_cnt": 2, "min_chain_score": 16, "min_dp_score": 30, "scoring": [2, 3, 4, 2]}


@dataclass(frozen=True)
class Likeness:
    """When two stretches resemble each other.

    Args:
        identity: least identity of an alignment (matches / its length with gaps), 0.7 to 1.
        coverage: least share of a tile, or of a whole short sequence, that is aligned and not masked.
        tile: bases of the windows that an assembly is compared in, a multiple of 64. With `coverage` it says the
            shortest homology that counts: 256 bases.
        copies: seeds that stand more often in the assembly are masked as repeats; of a seed that stands more often
            in the other part, only the first so many places are looked at.

    Raises:
        ConfigError: a number is out of its range.
    """

    identity: float = 0.8
    coverage: float = 0.5
    tile: int = 512
    copies: int = 100

    def __post_init__(self) -> None:
        if not 0.7 <= self.identity <= 1:
            raise ConfigError(f"identity is {self.identity}: use 0.7 to 1; below, chance can't be told from kinship")
        if not 0 < self.coverage <= 1:
            raise ConfigError(f"coverage is {self.coverage}: use more than 0, at most 1")
        if self.tile % 64 or not 128 <= self.tile <= 8192:
            raise ConfigError(f"tile is {self.tile}: use a multiple of 64 from 128 to 8,192")
        if self.tile * self.coverage < 64:
            raise ConfigError(f"coverage {self.coverage} of tile {self.tile} is less than 64 bases: use more of either")
        if not 1 <= self.copies <= 1000:
            raise ConfigError(f"copies is {self.copies}: use 1 to 1,000")


class Text(Protocol):
    """What is searched: bases in one flat coordinate."""

    def codes(self, start: int, end: int) -> Bytes:
        """Codes (end - start,), ambiguous is 4."""

    def read(self, start: int, end: int) -> tuple[Bytes, Bits]:
        """Codes and masked flags, both (end - start,)."""


class Assembly:
    """The bases of a store, its repeats masked."""

    def __init__(self, store: Store, copies: int):
        self.store, self.copies, self.shape = store, copies, seeds.pattern(store.length)

    @cached_property
    def _counts(self) -> tuple[int, npt.NDArray[np.uint16], int]:
        """Bits of the hash, counts of the assembly's seeds, and the most that is no repeat."""
        bits, total = min(self.store.length.bit_length() + 1, _COUNTERS), 0
        counts = np.zeros((2, 1 << bits), np.uint16)
        for start, end in cut(self.store.contigs.whole(), len(self.shape) - 1):
            words = seeds.words(self.codes(start, end), self.shape)
            seeds.count(words, bits, counts)
            total += len(words)
        values = min(1 << bits, 4 ** self.shape.count("1") // 2)
        return bits, counts, self.copies + 4 * total // values

    def codes(self, start: int, end: int) -> Bytes:
        """Codes (end - start,), ambiguous is 4."""
        packed = self.store.planes["sequence"][start // 4 : -(-end // 4)]
        codes: Bytes = unpack_codes(packed)[start % 4 :][: end - start]
        codes[self._flags("ambiguous", start, end)] = AMBIGUOUS
        return codes

    def _flags(self, plane: str, start: int, end: int) -> Bits:
        packed = self.store.planes[plane][start // 8 : -(-end // 8)]
        return np.unpackbits(packed, bitorder="little")[start % 8 :][: end - start].view(np.bool_)

    def read(self, start: int, end: int) -> tuple[Bytes, Bits]:
        """Codes and masked flags, both (end - start,); a base is masked the same wherever a stretch begins."""
        bits, counts, most = self._counts
        span = len(self.shape)
        first, last = max(start - span, 0), min(end + span, self.store.length)
        codes, masked = self.codes(first, last), self._flags("softmask", first, last)
        seeds.mark(seeds.words(codes, self.shape), bits, counts, most, span, masked)
        return codes[start - first : end - first], masked[start - first : end - first]

    def masked(self, part: Int64) -> int:
        """Bases of a part that are masked or ambiguous."""
        pieces = (self.read(start, end) for start, end in cut(part))
        return sum(int((masked | (codes == AMBIGUOUS)).sum()) for codes, masked in pieces)


@dataclass(frozen=True)
class Search:
    """Finds what windows of a text resemble in target intervals of the same text.

    Args:
        text: where both lie.
        shape: the seed's pattern.
        likeness: what counts.
        tiled: bases that must align are a share of the tile; otherwise, of each window.
    """

    text: Text
    shape: str
    likeness: Likeness
    tiled: bool

    def run(self, batches: Callable[[], Iterator[Int64]], targets: Int64, longest: int) -> Floats:
        """All pairs, float64 (n, 7): flat start and end in the window, in the target, reverse, identity, coverage.

        Args:
            batches: called once a block; each yields sorted windows (n, 2) that span about `PIECE` bases.
            targets: sorted flat intervals (n, 2); no alignment leaves one.
            longest: bases of the longest window.
        """
        found = [np.empty((0, 7))]
        room = 2 * longest + 64  # between the intervals: it keeps the diagonals of different ones apart
        for block in _blocks(targets, 2**30 // room):
            lengths = block[:, 1] - block[:, 0]
            places = np.cumsum(lengths + room) - lengths
            index = seeds.index(int(lengths.sum()), partial(self._seeds, block, places))
            for windows in batches():
                first = int(windows[0, 0])
                codes, masked = self.text.read(first, int(windows[:, 1].max()))
                words = seeds.words(np.where(masked, np.uint8(AMBIGUOUS), codes), self.shape)
                rows = seeds.candidates(
                    words, windows - first, self._needs(windows), len(self.shape), index, self.likeness.copies
                )
                if len(rows):
                    unmasked = ~masked & (codes < AMBIGUOUS)
                    found.append(self._confirm(rows, _regions(rows, windows, block, places), windows, codes, unmasked))
        return np.unique(np.concatenate(found), axis=0)

    def _needs(self, windows: Int64) -> Int64:
        """Bases of each window that must align."""
        lengths = np.full(len(windows), self.likeness.tile) if self.tiled else windows[:, 1] - windows[:, 0]
        needs: Int64 = np.ceil(lengths * self.likeness.coverage).astype(np.int64)
        return needs

    def _seeds(self, block: Int64, places: Int64) -> Iterator[tuple[int, Int64]]:
        for (start, end), place in zip(block.tolist(), places.tolist(), strict=True):
            for first, last in cut(np.array([[start, end]]), len(self.shape) - 1):
                codes, masked = self.text.read(first, last)
                yield place + first - start, seeds.words(np.where(masked, np.uint8(AMBIGUOUS), codes), self.shape)

    def _confirm(self, rows: Int64, regions: Int64, windows: Int64, codes: Bytes, unmasked: Bits) -> Floats:
        """Align each candidate's region with its window; rows as `run` returns them."""
        before = np.concatenate([[0], np.cumsum(unmasked)])
        needs = self._needs(windows)
        pairs, current = [], -1
        for (row, reverse), (start, end) in zip(rows[:, :2].tolist(), regions.tolist(), strict=True):
            window_start, window_end = windows[row].tolist()
            offset = window_start - int(windows[0, 0])
            if row != current:
                letters = _letters(codes[offset : offset + window_end - window_start])
                current, aligner = row, mappy.Aligner(seq=letters, **_MINIMAP)
            for hit in aligner.map(_letters(self.text.codes(start, end))):
                aligned = int(before[offset + hit.r_en] - before[offset + hit.r_st])
                identity = hit.mlen / hit.blen
                if aligned < needs[row] or identity < self.likeness.identity or (hit.strand < 0) != reverse:
                    continue
                whole = self.likeness.tile if self.tiled else window_end - window_start
                here, there = (window_start + hit.r_st, window_start + hit.r_en), (start + hit.q_st, start + hit.q_en)
                pairs.append((*here, *there, reverse, identity, aligned / whole))
        return np.array(pairs, np.float64).reshape(-1, 7)


def cut(intervals: Int64, overlap: int = 0) -> Iterator[tuple[int, int]]:
    """Intervals in pieces of `PIECE` bases, and `overlap` more where the next piece goes on."""
    for start, end in intervals.tolist():
        for first in range(start, end, PIECE):
            yield first, min(first + PIECE + overlap, end)


def _letters(codes: Bytes) -> str:
    return _LETTERS[codes].tobytes().decode()


def _blocks(intervals: Int64, most: int) -> Iterator[Int64]:
    """At most `most` intervals of `BLOCK` bases at a time; one that is cut goes on `OVERLAP` bases before its cut."""
    group: list[tuple[int, int]] = []
    room = BLOCK
    for start, end in intervals.tolist():
        while start < end:
            if room <= OVERLAP or len(group) == most:
                yield np.array(group, np.int64)
                group, room = [], BLOCK
            stop = min(end, start + room)
            group.append((start, stop))
            room -= stop - start
            start = stop if stop == end else stop - OVERLAP
    if group:
        yield np.array(group, np.int64)


def _regions(rows: Int64, windows: Int64, block: Int64, places: Int64) -> Int64:
    """Flat stretches (n, 2) of the target where each candidate's window may align, inside one interval."""
    lengths = windows[rows[:, 0], 1] - windows[rows[:, 0], 0]
    reverse = rows[:, 1] == 1
    room = np.minimum(64, lengths // 2)
    first = np.where(reverse, rows[:, 2] - lengths, rows[:, 2]) - room
    last = np.where(reverse, rows[:, 3] + 32, rows[:, 3] + lengths) + room
    # The hits lie in the interval nearest to the middle: `run` keeps intervals two windows apart.
    middle = (first + last) // 2
    ends = places + block[:, 1] - block[:, 0]
    after = np.searchsorted(places, middle, side="right")
    left, right = np.clip([after - 1, after], 0, len(places) - 1)
    chosen = np.where(places[right] - middle < middle - ends[left], right, left)
    shift = block[chosen, 0] - places[chosen]
    inside = [np.maximum(first + shift, block[chosen, 0]), np.minimum(last + shift, block[chosen, 1])]
    return np.array(inside, np.int64).T
