"""The search behind `homology`: seeds propose stretches of DNA that resemble each other, minimap2 (mappy) confirms them.

One side is indexed in blocks of bounded size, the windows of the other stream past each of them. A block, or a share of
the windows with a block, is a task: a pool carries them out on many cores.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import mappy
import numpy as np
import numpy.typing as npt

from distgen.errors import ConfigError
from distgen.genome import AMBIGUOUS, Bits, Bytes, Contigs, Int64
from distgen.store.homology import seeds
from distgen.store.homology.text import PIECE, cut
from distgen.store.work import Execute, Progress, in_this_process, silent

Floats = npt.NDArray[np.float64]

BLOCK = 1 << 26  # bases indexed at a time, in 420 MB
OVERLAP = 1 << 16  # of two blocks: the longest window
_MOST = 16  # places in a block that are tried for a window, those with the most seeds first
_UNKNOWN = 1000  # the same where most of them may be of the window's own family, and are not tried
_ENOUGH = 4  # places in a block that a window need not resemble more than
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


class Searched(Protocol):
    """What is searched: bases in one flat coordinate."""

    def codes(self, start: int, end: int) -> Bytes:
        """Codes (end - start,), ambiguous is 4."""

    def read(self, start: int, end: int) -> tuple[Bytes, Bits]:
        """Codes and masked flags, both (end - start,)."""


@dataclass(frozen=True)
class Search:
    """Finds what windows of one text resemble in intervals of another, or of the same.

    Args:
        query: where windows lie.
        target: what is indexed.
        shape: the seed's pattern.
        likeness: what counts.
        tiled: the contigs of `query`, if windows are tiles of them that overlap by half, and `coverage` is of the tile;
            None: each interval is a window.
        execute, parallel: carries out tasks, about so many at the same time.
        known: flat starts of all sequences int64 (n,), where query and target are one table, and the family of each:
            two of one family are not compared.
    """

    query: Searched
    target: Searched
    shape: str
    likeness: Likeness
    tiled: Contigs | None
    execute: Execute = in_this_process
    parallel: int = 1
    known: tuple[Int64, Int64] | None = None

    def run(self, intervals: Int64, targets: Int64) -> Floats:
        """All pairs, float64 (n, 7): flat start and end in the window, in the target, reverse, identity, coverage.

        Args:
            intervals: sorted flat intervals (n, 2) of `query`.
            targets: sorted flat intervals (n, 2) of `target`; no alignment leaves one.
        """
        if not len(intervals) or not len(targets):
            return np.empty((0, 7))
        longest = self.likeness.tile if self.tiled is not None else int((intervals[:, 1] - intervals[:, 0]).max())
        room = 2 * longest + 64  # between the intervals: it keeps the diagonals of different ones apart
        blocks = list(_blocks(targets, 2**27 // room))
        # Each task indexes its block: no more shares of the windows than keep all workers busy.
        shares = max(-(-2 * self.parallel // len(blocks)), 1) if self.parallel > 1 else 1
        worker = replace(self, execute=in_this_process, parallel=1)
        tasks = [
            partial(worker._block, intervals, block, room, share, shares)
            for block, share in itertools.product(blocks, range(shares))
        ]
        return np.unique(np.concatenate(self.execute(tasks, silent)), axis=0)

    def _block(self, intervals: Int64, block: Int64, room: int, share: int, shares: int, progress: Progress) -> Floats:
        """Pairs of every `shares`-th batch of windows with one block of the target."""
        lengths = block[:, 1] - block[:, 0]
        places = np.cumsum(lengths + room) - lengths
        index = seeds.index(int(lengths.sum()), partial(self._seeds, block, places))
        found = [np.empty((0, 7))]
        for windows in itertools.islice(self._windows(intervals), share, None, shares):
            first = int(windows[0, 0])
            codes, masked = self.query.read(first, int(windows[:, 1].max()))
            unmasked = np.r_[0, np.cumsum(~masked & (codes < AMBIGUOUS))]
            windows = windows[unmasked[windows[:, 1] - first] - unmasked[windows[:, 0] - first] >= self._needs(windows)]
            words = seeds.words(np.where(masked, np.uint8(AMBIGUOUS), codes), self.shape)
            needs, copies = self._needs(windows), self.likeness.copies
            most = _MOST if self.known is None else _UNKNOWN
            rows = seeds.candidates(words, windows - first, needs, len(self.shape), index, copies, most)
            regions = _regions(rows, windows, block, places)
            if self.known is not None:
                new = self._family(windows[rows[:, 0], 0]) != self._family(regions[:, 0])
                rows, regions = rows[new], regions[new]
            if len(rows):
                found.append(self._confirm(rows, regions, windows, first, codes, unmasked))
        return np.concatenate(found)

    def _family(self, flat: Int64) -> Int64:
        assert self.known is not None
        starts, family = self.known
        return family[np.searchsorted(starts, flat, side="right") - 1]

    def _windows(self, intervals: Int64) -> Iterator[Int64]:
        """Windows (n, 2), sorted, that span about `PIECE` bases at a time."""
        if self.tiled is not None:
            for start, end in intervals.tolist():
                yield from self._tiles(start, end)
        else:
            yield from np.split(intervals, np.flatnonzero(np.diff(intervals[:, 0] // PIECE)) + 1)

    def _tiles(self, start: int, end: int) -> Iterator[Int64]:
        """Windows that start every half tile of a contig, clipped to the interval; those too short to count left out."""
        tile, contigs = self.likeness.tile, self.tiled
        assert contigs is not None
        half, some = tile // 2, 2 * PIECE // tile
        offset = int(contigs.offsets[contigs.locate(start)])
        first = (start - offset) // half
        last = max((end - offset - 1) // half, first + 1)
        for number in range(first, last, some):
            starts = offset + half * np.arange(number, min(number + some, last))
            windows = np.stack([np.maximum(starts, start), np.minimum(starts + tile, end)], axis=1)
            windows = windows[windows[:, 1] - windows[:, 0] >= tile * self.likeness.coverage]
            if len(windows):
                yield windows

    def _needs(self, windows: Int64) -> Int64:
        """Bases of each window that must align."""
        lengths = np.full(len(windows), self.likeness.tile) if self.tiled is not None else windows[:, 1] - windows[:, 0]
        needs: Int64 = np.ceil(lengths * self.likeness.coverage).astype(np.int64)
        return needs

    def _seeds(self, block: Int64, places: Int64) -> Iterator[tuple[int, Int64]]:
        for (start, end), place in zip(block.tolist(), places.tolist(), strict=True):
            for first, last in cut(np.array([[start, end]]), len(self.shape) - 1):
                codes, masked = self.target.read(first, last)
                yield place + first - start, seeds.words(np.where(masked, np.uint8(AMBIGUOUS), codes), self.shape)

    def _confirm(
        self, rows: Int64, regions: Int64, windows: Int64, first: int, codes: Bytes, unmasked: Int64
    ) -> Floats:
        """Align each candidate's region with its window; rows as `run` returns them.

        Args:
            rows: as `seeds.candidates` returns them, those of a window together.
            regions: where in the target each may align.
            windows, first, codes, unmasked: the windows; what is read of the query, from where on; and how many bases
                before each are not masked.
        """
        needs = self._needs(windows)
        pairs, current, found = [], -1, 0
        for (row, reverse), (start, end) in zip(rows[:, :2].tolist(), regions.tolist(), strict=True):
            window_start, window_end = windows[row].tolist()
            offset = window_start - first
            if row != current:
                letters = _letters(codes[offset : offset + window_end - window_start])
                current, found, aligner = row, 0, mappy.Aligner(seq=letters, **_MINIMAP)
            if found >= _ENOUGH:
                continue
            for hit in aligner.map(_letters(self.target.codes(start, end))):
                aligned = int(unmasked[offset + hit.r_en] - unmasked[offset + hit.r_st])
                identity = hit.mlen / hit.blen
                if aligned < needs[row] or identity < self.likeness.identity or (hit.strand < 0) != reverse:
                    continue
                whole = self.likeness.tile if self.tiled is not None else window_end - window_start
                here, there = (window_start + hit.r_st, window_start + hit.r_en), (start + hit.q_st, start + hit.q_en)
                pairs.append((*here, *there, reverse, identity, aligned / whole))
                found += 1
        return np.array(pairs, np.float64).reshape(-1, 7)


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
