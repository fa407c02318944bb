"""Negatives: windows that keep a distance from positives, and for each positive one of the same composition."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np

from distgen.compiled import compiled
from distgen.config import digest
from distgen.errors import ConfigError
from distgen.genome import Contigs, Int64, subtract
from distgen.kernels.draws import NEGATIVE
from distgen.loader.gather import Chunks, gather
from distgen.loader.order import draws
from distgen.loader.windows import Geometry, Located, Numbered, Runs, Windows
from distgen.store.reader import Store

VERSION = "matched/1"
_TOGETHER = 1 << 26  # bases of candidates that are counted together, and of positives that are gone through together


def away_from(regions: Int64, positives: Int64, distance: int, contigs: Contigs) -> Int64:
    """What is left of regions outside positives and `distance` bases to either side of them.

    Args:
        regions: int64 (n, 2), flat, sorted and disjoint.
        positives: int64 (m, 2), flat, each inside one contig, in any order.
        distance: bases.
        contigs: the assembly's: a positive keeps nothing free on the contig beside its own.

    Returns:
        int64 (any, 2), flat, sorted and disjoint.
    """
    rows = contigs.locate(positives[:, 0])
    first, last = contigs.offsets[rows], contigs.offsets[rows] + contigs.lengths[rows]
    widened = np.stack(
        [np.maximum(positives[:, 0] - distance, first), np.minimum(positives[:, 1] + distance, last)], axis=1
    )
    return subtract(regions, contigs.join(widened))


class Composition(NamedTuple):
    """Of windows: float64 (n,) the share of G and C among the known bases, and the share of unknown ones."""

    gc: Any
    unknown: Any

    def of(self, rows: Any) -> Composition:
        """That of some of the windows."""
        return Composition(self.gc[rows], self.unknown[rows])


class Matched:
    """For each positive window a negative one of the same share of GC and of N, drawn by counter.

    Candidates are drawn evenly over all places where a whole window keeps its distance from every positive. The
    first that fits is taken; if none of them does, the nearest of them. Which one it is, is a function of the seed,
    the positive and the cycle alone: nothing is listed, and any number of ranks draw the same.

    Args:
        store: whose bases are counted.
        positives: the windows to be matched.
        regions: int64 (R, 2), flat, sorted and disjoint: the part of the split that negatives come from.
        avoid: int64 (m, 2), flat: the positives' regions, in any order.
        distance: bases between a negative's window and any of `avoid`.
        tolerance: by how much the shares of GC and of N may differ.
        seed: of the draws.
        drawn: "epoch": anew in each cycle of the positives; "fixed": the same in all.
        candidates: how many are looked at, at most.
        unit: targets begin at a multiple of so many bases in their contig.

    Raises:
        ConfigError: no window keeps its distance.
    """

    def __init__(
        self,
        store: Store,
        positives: Numbered,
        regions: Int64,
        avoid: Int64,
        *,
        distance: int,
        tolerance: float = 0.02,
        seed: int = 0,
        drawn: Literal["epoch", "fixed"] = "epoch",
        candidates: int = 1024,
        unit: int = 1,
    ):
        self._positives = positives
        self._sequence, unknown = Chunks(store.planes["sequence"]), store.unknown
        self._unknown_firsts = np.append(unknown[:, 0], np.iinfo(np.int64).max)
        self._unknown_lasts = unknown[:, 1].copy()
        self._unknown_before = np.append(0, np.cumsum(unknown[:, 1] - unknown[:, 0]))
        self.window, self.target_length = positives.window, positives.target_length
        self._tolerance, self._seed, self._candidates, self._unit = tolerance, seed, candidates, unit
        self._anew = drawn == "epoch"
        self._flank = (self.window - self.target_length) // 2
        # Jitter takes a target as far as the first base allowed, so that one must begin a bin.
        allowed = store.contigs.align(away_from(regions, avoid, distance, store.contigs), unit)
        offsets = store.contigs.offsets[store.contigs.locate(allowed[:, 0])]
        firsts = offsets + -(-(allowed[:, 0] + self._flank - offsets) // unit) * unit
        counts = (allowed[:, 1] - self.window + self._flank - firsts) // unit + 1
        some = counts > 0
        if not some.any():
            raise ConfigError(
                f"no window of {self.window:,} bases lies {distance:,} bases away from every positive; use less",
                key="distance",
            )
        self._allowed, self._firsts, self._ends = allowed[some], firsts[some], np.cumsum(counts[some])

    def __len__(self) -> int:
        """How many positives there are."""
        return len(self._positives)

    @property
    def identity(self) -> Any:
        """All that says which negatives are drawn, besides the positives and the store."""
        places = [self._allowed.tolist(), self._unit]
        drawn = [self._tolerance, self._seed, self._anew, self._candidates]
        return [VERSION, digest(places), *drawn]

    def draw(self, windows: Int64, cycles: Int64) -> Located:
        """Where the negatives of positives (n,) in cycles (n,) are.

        They may move (jitter) as far as their distance allows: that is what their limits say. Each is read from the strand
        of its positive, so that strands say nothing of the class.
        """
        near = self._positives.locate(windows)
        wanted = self._composition(near.target_starts, near.limits)
        chosen, nearest = np.zeros(len(windows), np.int64), np.full(len(windows), np.inf)
        left, done = np.arange(len(windows)), 0
        while left.size and done < self._candidates:
            # Most find theirs soon; for those that don't, more and more are looked at together.
            most = _TOGETHER // (left.size * self.window) // 2 * 2
            count = min(max(done, 2), max(most, 2), self._candidates - done)
            places = self._places(windows[left], cycles[left], done, count)
            found, goal = self._composition(*self._at(places.ravel())), wanted.of(np.tile(left, count))
            gc, unknown = abs(found.gc - goal.gc), abs(found.unknown - goal.unknown)
            fits = (gc <= self._tolerance) & (unknown <= self._tolerance)
            off = np.where(fits, 0, gc + unknown).reshape(places.shape)
            best = off.argmin(axis=0), np.arange(left.size)  # the first that fits, else the nearest
            better = off[best] < nearest[left]
            nearest[left[better]], chosen[left[better]] = off[best][better], places[best][better]
            left, done = left[nearest[left] > 0], done + count
        return Located(*self._at(chosen), reverse=near.reverse)

    def cycle(self, number: int) -> Windows:
        """All negatives of one cycle."""
        step, positives = max(1, _TOGETHER // self.window), np.arange(len(self))
        parts = [self.draw(rows, np.full_like(rows, number)) for rows in np.split(positives, positives[step::step])]
        starts, limits = (np.concatenate(column) for column in list(zip(*parts, strict=True))[:2])
        return self._windows(Runs(starts, np.ones_like(starts), limits), self.target_length)

    @property
    def places(self) -> Windows:
        """Wherever a negative of any cycle can lie, jitter and all."""
        counts = np.diff(self._ends, prepend=0)
        return self._windows(Runs(self._firsts, counts, self._allowed), self._unit)

    def _windows(self, runs: Runs, stride: int) -> Windows:
        return Windows(Geometry(self.window, self.target_length, stride, unit=self._unit), runs, self._allowed)

    def _places(self, windows: Int64, cycles: Int64, first: int, count: int) -> Int64:
        """The candidates from an even number `first` on of each positive: int64 (count, n), numbers of allowed starts."""
        counters = windows + cycles * len(self) * self._anew
        numbers = range(first // 2, -(-(first + count) // 2))  # four words make two candidates
        words = np.stack(
            [draws(counters, self._seed, 0, NEGATIVE | number << 16).view(np.uint64) for number in numbers]
        )
        high, low = words.reshape(-1, 2, len(windows))[:count].swapaxes(0, 1)
        # The remainder of 64 random bits is even to one part in 2^64 / places.
        places: Int64 = (((high << np.uint64(32)) | low) % np.uint64(self._ends[-1])).astype(np.int64)
        return places

    def _at(self, places: Int64) -> tuple[Int64, Int64]:
        """Target starts and limits of places, numbers of all starts that are allowed."""
        rows = np.searchsorted(self._ends, places, side="right")
        before = np.concatenate([np.zeros(1, np.int64), self._ends])[rows]
        return self._firsts[rows] + (places - before) * self._unit, self._allowed[rows]

    def _composition(self, target_starts: Int64, limits: Int64) -> Composition:
        """What lies outside of the limits counts as unknown."""
        starts = target_starts - self._flank
        firsts = np.maximum(starts, limits[:, 0])
        lasts = np.maximum(firsts, np.minimum(starts + self.window, limits[:, 1]))
        known = lasts - firsts - (self._unknown(lasts) - self._unknown(firsts))
        return Composition(self._strong(firsts, lasts) / np.maximum(known, 1), 1 - known / self.window)

    def _unknown(self, positions: Int64) -> Int64:
        """How many ambiguous bases lie before flat positions (n,)."""
        run = np.searchsorted(self._unknown_lasts, positions, side="right")
        count: Int64 = self._unknown_before[run] + np.maximum(positions - self._unknown_firsts[run], 0)
        return count

    def _strong(self, firsts: Int64, lasts: Int64) -> Int64:
        """How many G and C the flat stretches [first, last) hold."""
        begin = firsts // 32 * 8  # whole words
        rows = np.empty((len(firsts), (self.window // 32 + 2) * 8), np.uint8)
        # An empty stretch may lie anywhere, and has no bytes.
        gather(self._sequence, begin, np.where(firsts < lasts, -(-lasts // 4), begin), rows, np.zeros_like(begin))
        shift = np.arange(len(firsts)) * (rows.shape[1] * 4) - begin * 4
        counted: Int64 = compiled(_count)(rows.reshape(-1).view(np.uint64), firsts + shift, lasts + shift)
        return counted


def _count(words: Any, firsts: Any, lasts: Any) -> Any:
    """How many of the bases [first, last) are G or C: int64 (n,).

    Args:
        words: uint64, 32 bases each. An ambiguous base is stored as A, and so is neither.
        firsts, lasts: int64 (n,), bases of the plane.
    """
    full, pairs = np.uint64(0xFFFFFFFFFFFFFFFF), np.uint64(0x5555555555555555)
    fours, nibbles, ones = np.uint64(0x3333333333333333), np.uint64(0x0F0F0F0F0F0F0F0F), np.uint64(0x0101010101010101)
    counts = np.zeros(len(firsts), np.int64)
    for row in range(len(firsts)):
        if firsts[row] >= lasts[row]:
            continue
        first, last = 2 * firsts[row], 2 * lasts[row] - 1  # bits
        found = np.uint64(0)
        for word in range(first >> 6, (last >> 6) + 1):
            bits = words[word]
            if word == first >> 6:
                bits &= full << np.uint64(first & 63)
            if word == last >> 6:
                bits &= full >> np.uint64(63 - (last & 63))
            bits = (bits ^ (bits >> np.uint64(1))) & pairs  # C is 01, G is 10
            # One bit of two is set at most: their sum by fours, eights and all.
            bits = (bits & fours) + ((bits >> np.uint64(2)) & fours)
            found += (((bits + (bits >> np.uint64(4))) & nibbles) * ones) >> np.uint64(56)
        counts[row] = found
    return counts
