"""What windows must not be made of, as positions: arithmetic over runs of ambiguous bases and over holes, not over windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np

from distgen.compiled import compiled
from distgen.genome import Bits, Contigs, Int64, intersect, pairs, subtract, union
from distgen.loader.source import Source, genome

NONE: Int64 = np.empty((0, 2), np.int64)


@dataclass(frozen=True)
class Exclusions:
    """Why a window is left out, whatever its length: too many of its bases are ambiguous, or a hole holds its whole target.

    Args:
        holes: int64 (h, 2), flat, sorted and disjoint; a target with a base outside them stays.
        unknown: int64 (u, 2), flat, sorted and disjoint: the ambiguous bases.
        max_ambiguous: the share of a window's bases that may be ambiguous, those outside its region included.
    """

    holes: Int64 = field(default_factory=NONE.copy)
    unknown: Int64 = field(default_factory=NONE.copy)
    max_ambiguous: float = 1.0

    @classmethod
    def of(cls, store: Source, beds: Sequence[Path] = (), max_ambiguous: float = 1.0) -> Exclusions:
        """Those of a store and some BED files. Raises SourceError: a file is malformed or of another assembly.
        ConfigError: what is ambiguous is not known."""
        unknown = NONE if max_ambiguous == 1 else genome(store, "what is ambiguous", "max_ambiguous").unknown
        return cls(read_holes(beds, store.contigs), unknown, max_ambiguous)

    def positions(self, regions: Int64, window: int, target_length: int, unit: int = 1) -> dict[str, Int64]:
        """Where no target may begin, by reason.

        Args:
            regions: int64 (R, 2), flat, sorted and disjoint; each begins on a bin. What a window reads outside its
                region is ambiguous, and what a target covers there is nothing.
            window, target_length: bases of the windows and of the targets in their middle.
            unit: targets begin at multiples of so many bases from the region's start.

        Returns:
            "ambiguous" and "excluded": sorted disjoint intervals (n, 2) of target starts, each in one region, that
            begin and end at such a multiple (the last base of an interval is its last start).
        """
        found = {
            "ambiguous": self._crowded(regions, window, (window - target_length) // 2),
            "excluded": self._hidden(regions, target_length),
        }
        return {reason: _on_grid(starts, regions, unit) for reason, starts in found.items()}

    def of_stretches(self, stretches: Int64) -> dict[str, Bits]:
        """Which stretches int64 (n, 2), flat, of any length would be left out as windows that are all target, by reason."""
        lengths = stretches[:, 1] - stretches[:, 0]
        different, which = np.unique(lengths, return_inverse=True)
        most = np.array([self._most(length) for length in different.tolist()], np.int64)[which]
        return {
            "ambiguous": shared(stretches, self.unknown) > most,
            "excluded": shared(stretches, union(self.holes)) == lengths,
        }

    def _most(self, length: int) -> int:
        """How many bases of a window may be ambiguous; as the user wrote the share: 0.29 of 100 is 29."""
        return int(Fraction(str(self.max_ambiguous)) * length)

    def _crowded(self, regions: Int64, window: int, margin: int) -> Int64:
        """Target starts whose windows have too many ambiguous bases."""
        most = self._most(window)
        if most >= window:
            return NONE
        known = subtract(regions, self.unknown)
        found = np.empty((2 * len(known) + len(regions), 2), np.int64)
        return found[: compiled(_crowd)(regions, known.ravel(), window, margin, most, found)]

    def _hidden(self, regions: Int64, target_length: int) -> Int64:
        """Target starts from which all that the target covers of its region lies in one hole."""
        inside = intersect(regions, union(self.holes))
        ends = regions[np.searchsorted(regions[:, 1], inside[:, 0], side="right"), 1]
        inside[:, 1] -= np.where(inside[:, 1] == ends, 0, target_length - 1)
        return inside[inside[:, 0] < inside[:, 1]]


def read_holes(beds: Sequence[Path], contigs: Contigs) -> Int64:
    """What BED files cover together, as sorted disjoint flat intervals (n, 2).

    Raises:
        SourceError: a file is malformed, or of another assembly.
    """
    if not beds:
        return NONE
    from distgen.ingest.intervals import read_intervals

    return union(read_intervals(beds, contigs).flat(contigs))


def _crowd(regions: Int64, borders: Int64, window: int, margin: int, most: int, out: Int64) -> int:
    """Write the intervals of target starts whose windows have more than `most` ambiguous bases; returns how many.

    Their number bends where an end of the window meets a border of what is known (at even places it begins), and
    between two such starts it rises or falls by one a base, or stays: so these tell where it is too large.
    """
    found = end = 0
    for low, high in regions:
        begin = end
        while end < borders.size and borders[end] < high:
            end += 2
        start, count = low, window
        # Which border is the next for the window's first base, and for the one after its last.
        before = after = begin
        for known in range(begin, end, 2):
            count -= max(min(borders[known + 1], low - margin + window) - borders[known], 0)
        own = found
        while True:
            while before < end and borders[before] <= start - margin:
                before += 1
            while after < end and borders[after] <= start - margin + window:
                after += 1
            stop = high - 1
            if before < end:
                stop = min(stop, borders[before] + margin)
            if after < end:
                stop = min(stop, borders[after] + margin - window)
            count_there = count + (before % 2 - after % 2) * (stop - start)
            if count > most or count_there > most:
                first = start if count > most else stop - (count_there - most) + 1
                if found == own or out[found - 1, 1] < first:
                    out[found, 0] = first
                    found += 1
                out[found - 1, 1] = stop + 1 if count_there > most else start + count - most
            if stop == high - 1:
                break
            start, count = stop, count_there
    return found


def shared(stretches: Int64, runs: Int64) -> Int64:
    """How many bases each of any stretches (n, 2) shares with sorted disjoint runs (m, 2)."""
    mine, theirs = pairs(stretches, runs)
    found = np.zeros(len(stretches), np.int64)
    begin, end = np.maximum(stretches[mine, 0], runs[theirs, 0]), np.minimum(stretches[mine, 1], runs[theirs, 1])
    np.add.at(found, mine, end - begin)
    return found


def _on_grid(starts: Int64, regions: Int64, unit: int) -> Int64:
    """Shrink intervals of starts, each in one region, to the multiples of `unit` from its start that they hold."""
    origin = regions[np.searchsorted(regions[:, 1], starts[:, 0], side="right"), 0]
    low = origin + -(-(starts[:, 0] - origin) // unit) * unit
    high = origin + (starts[:, 1] - 1 - origin) // unit * unit + 1
    shrunk: Int64 = np.stack([low, high], axis=1)[low < high]
    return shrunk
