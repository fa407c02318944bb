"""What windows must not be made of, as positions: arithmetic over runs of ambiguous bases and over holes, not over windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np

from distgen.genome import Contigs, Int64, intersect, subtract, union
from distgen.store.reader import Store

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
    def of(cls, store: Store, beds: Sequence[Path] = (), max_ambiguous: float = 1.0) -> Exclusions:
        """Those of a store and some BED files. Raises SourceError: a file is malformed or of another assembly."""
        unknown = store.unknown if max_ambiguous < 1 else NONE
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

    def _crowded(self, regions: Int64, window: int, margin: int) -> Int64:
        """Target starts whose windows have too many ambiguous bases.

        Their number is piecewise linear in the start: it bends where an end of the window meets that of a run, and
        between two such knots it rises or falls by one a base, or stays. So the knots tell where it is too large.
        """
        most = int(Fraction(str(self.max_ambiguous)) * window)  # as the user wrote it: 0.29 of 100 is 29
        if most >= window or not len(regions):
            return NONE
        known = subtract(regions, self.unknown)
        borders = known.ravel()
        ends = np.repeat(regions[np.searchsorted(regions[:, 1], known[:, 0], side="right")], 2, axis=0)
        knots = [regions[:, 0], regions[:, 1] - 1]
        for shift in (margin, margin - window):
            knots.append((borders + shift)[(borders + shift > ends[:, 0]) & (borders + shift < ends[:, 1] - 1)])
        starts = np.sort(np.concatenate(knots), kind="stable")
        rows = np.searchsorted(regions[:, 1], starts, side="right")
        first = np.maximum(starts - margin, regions[rows, 0])
        last = np.minimum(starts - margin + window, regions[rows, 1])
        count = window - _before(known, last) + _before(known, first)
        left, right, over_left, over_right = starts[:-1], starts[1:], count[:-1] - most, count[1:] - most
        low = np.where(over_left > 0, left, right - over_right + 1)
        high = np.where(over_right > 0, right + 1, left + over_left)
        crowded = ((over_left > 0) | (over_right > 0)) & (rows[:-1] == rows[1:])
        return union(np.stack([low, high], axis=1)[crowded], rows[:-1][crowded])

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


def _before(stretches: Int64, positions: Int64) -> Int64:
    """How many bases of sorted disjoint stretches lie before each position."""
    lengths = stretches[:, 1] - stretches[:, 0]
    total = np.r_[0, np.cumsum(lengths)]
    row = np.searchsorted(stretches[:, 0], positions, side="right")
    beyond = np.maximum(np.r_[0, stretches[:, 1]][row] - positions, 0)  # the last one that begins may reach further
    found: Int64 = np.where(row > 0, total[row] - beyond, 0)
    return found


def _on_grid(starts: Int64, regions: Int64, unit: int) -> Int64:
    """Shrink intervals of starts, each in one region, to the multiples of `unit` from its start that they hold."""
    origin = regions[np.searchsorted(regions[:, 1], starts[:, 0], side="right"), 0]
    low = origin + -(-(starts[:, 0] - origin) // unit) * unit
    high = origin + (starts[:, 1] - 1 - origin) // unit * unit + 1
    shrunk: Int64 = np.stack([low, high], axis=1)[low < high]
    return shrunk
