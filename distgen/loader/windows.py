"""Which stretch of the assembly window w is: arithmetic over runs of windows, no list of windows.

A run is a number of windows whose targets begin every `stride` bases; tiles make a run of each region, less what is
excluded, and a window at a place of its own is a run of one. Window w is found by binary search among the few runs
that the windows of its block lie in; there are four times as many blocks as runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
from blake3 import blake3

from distgen.compiled import compiled
from distgen.errors import ConfigError
from distgen.genome import Bits, Int64, bases_in, pairs, subtract, tiles, union
from distgen.loader.exclusions import NONE, Exclusions

# Why windows are left out.
WHY = {
    "ambiguous": "with too much N",
    "excluded": "excluded",
    "outside": "outside the part",
    "elsewhere": "on contigs that are not here",
}


class Located(NamedTuple):
    """Where some windows lie.

    Args:
        target_starts: int64 (n,), flat, the first base of each window's target.
        limits: int64 (n, 2), flat, the bases that the window may read, wherever jitter puts it: a stretch of one part
            of the split; what it reads outside is N.
        reverse: bool (n,), True where the region of the window is on the minus strand; None if no region has a strand.
        rows: int64 (n,), the row in the table that the regions come from; None if they come from none.
        haplotypes: int64 (n,), the haplotype that each window is read in; None where there is the assembly alone.
    """

    target_starts: Int64
    limits: Int64
    reverse: Bits | None = None
    rows: Int64 | None = None
    haplotypes: Int64 | None = None


class Numbered(Protocol):
    """Windows of one length, by number."""

    @property
    def window(self) -> int:
        """Bases per window."""

    @property
    def target_length(self) -> int:
        """Bases of the target in its middle."""

    @property
    def identity(self) -> Any:
        """What says which window is which, as plain data."""

    def __len__(self) -> int:
        """How many there are."""

    def locate(self, windows: Int64) -> Located:
        """Where the windows of these numbers (n,) lie before jitter."""


@dataclass(frozen=True)
class Geometry:
    """Lengths in bases.

    Args:
        window: of a window.
        target_length: of the target in its middle, at most `window`.
        stride: from one target to the next.
        jitter: windows move by up to so many bases to either side.
        unit: bases per bin: targets begin at multiples of it, whatever the jitter. It divides all lengths but the window.
    """

    window: int
    target_length: int
    stride: int
    jitter: int = 0
    unit: int = 1

    @property
    def margin(self) -> int:
        """Bases of a window before its target."""
        return (self.window - self.target_length) // 2

    def tiles(self, regions: Int64) -> Int64:
        """How many targets cover each region (n, 2)."""
        return tiles(regions, self.target_length, self.stride)

    def highest(self, limits: Int64) -> Int64:
        """The last start at which a target still lies inside its `limits` (n, 2); before them if it never does."""
        return limits[:, 0] + (limits[:, 1] - self.target_length - limits[:, 0]) // self.unit * self.unit

    def moved(self, target_starts: Int64, limits: Int64, draws: Int64) -> Int64:
        """Target starts after jitter in whole units; no target leaves its limits further than it does without.

        Args:
            target_starts, limits: as located.
            draws: int64 (n,), 32 random bits each.
        """
        steps = self.jitter // self.unit
        moved = target_starts + self.unit * (((draws * (2 * steps + 1)) >> 32) - steps)
        lowest, highest = np.minimum(target_starts, limits[:, 0]), np.maximum(target_starts, self.highest(limits))
        return np.minimum(np.maximum(moved, lowest), highest)


class Runs(NamedTuple):
    """Windows in runs, a row for each; empty ones are allowed.

    Args:
        starts: int64 (r,), flat, where the first target begins.
        counts: int64 (r,), how many targets follow each other every `stride` bases.
        limits: int64 (r, 2), as `Located` has them.
        reverse: bool (r,) or None, as `Located` has it.
        rows: int64 (r,) or None, as `Located` has them.
    """

    starts: Int64
    counts: Int64
    limits: Int64
    reverse: Bits | None = None
    rows: Int64 | None = None


class Windows:
    """Windows in runs, less those excluded.

    A window is left out if an exclusion holds at any position that jitter can give it, and at no other.

    Args:
        geometry: of every window.
        runs: all windows. Each target begins inside its limits, at a multiple of the unit from their start; without
            exclusions it need only lie there in part.
        regions: int64 (R, 2), flat, sorted and disjoint: all limits that there are.
        exclusions: which of them to leave out.
        left_out: how many are missing already, by reason.

    Attributes:
        left_out: how many windows (or regions) are left out by reason; a window with two counts for the first.

    Raises:
        ConfigError: no window is left.
    """

    def __init__(
        self,
        geometry: Geometry,
        runs: Runs,
        regions: Int64,
        exclusions: Exclusions | None = None,
        left_out: Mapping[str, int] | None = None,
    ):
        self.geometry, self.left_out = geometry, Counter(left_out or {})
        ends = np.cumsum(runs.counts)
        firsts, dropped = ends - runs.counts, NONE
        positions = (exclusions or Exclusions()).positions(
            regions, geometry.window, geometry.target_length, geometry.unit
        )
        for reason, bad in positions.items():
            before = bases_in(dropped)
            dropped = union(np.concatenate([dropped, _reached(geometry, runs, firsts, bad)]))
            self.left_out[reason] += bases_in(dropped) - before
        kept = subtract(np.stack([firsts, ends], axis=1)[runs.counts > 0], dropped)
        of = np.searchsorted(ends, kept[:, 0], side="right")
        self._ends = np.cumsum(kept[:, 1] - kept[:, 0])
        starts = runs.starts[of] + (kept[:, 0] - firsts[of]) * geometry.stride
        # Window w of a run begins at origin + w * stride, w counted among all windows.
        self._origins = starts - (self._ends - (kept[:, 1] - kept[:, 0])) * geometry.stride
        self._limits = np.ascontiguousarray(runs.limits[of])
        self._reverse = None if runs.reverse is None else runs.reverse[of]
        self._rows = None if runs.rows is None else runs.rows[of]
        if not len(kept):
            reasons = ", ".join(f"{count:,} {WHY[reason]}" for reason, count in self.left_out.items() if count)
            raise ConfigError(f"no window is left{f': {reasons}' if reasons else ''}")

    @property
    def window(self) -> int:
        """Bases per window."""
        return self.geometry.window

    @property
    def target_length(self) -> int:
        """Bases per target."""
        return self.geometry.target_length

    def __len__(self) -> int:
        return int(self._ends[-1])

    @cached_property
    def identity(self) -> Any:
        """What says which window is which, as plain data."""
        content = blake3()
        for column in (self._ends, self._origins, self._limits, self._reverse, self._rows):
            content.update(b"-" if column is None else np.ascontiguousarray(column).tobytes())
        return [*astuple(self.geometry), content.hexdigest()]

    @cached_property
    def _blocks(self) -> tuple[int, Int64]:
        """The binary logarithm of the windows in a block, and the run that the first window of each block lies in."""
        log = max(len(self) // (4 * len(self._ends)), 1).bit_length() - 1
        firsts = np.arange((len(self) - 1 >> log) + 2) << log
        return log, np.minimum(np.searchsorted(self._ends, firsts, side="right"), len(self._ends) - 1)

    def locate(self, windows: Int64) -> Located:
        """Where windows (n,), counted from 0, lie before jitter."""
        windows = np.ascontiguousarray(windows, np.int64)
        starts, runs = np.empty(len(windows), np.int64), np.empty(len(windows), np.int64)
        limits = np.empty((len(windows), 2), np.int64)
        compiled(_locate)(
            windows, self._ends, self._origins, self._limits, self.geometry.stride, *self._blocks, starts, limits, runs
        )
        reverse = None if self._reverse is None else self._reverse[runs]
        return Located(starts, limits, reverse, None if self._rows is None else self._rows[runs])

    @property
    def runs(self) -> Runs:
        """The windows that are left, in order."""
        counts = np.diff(self._ends, prepend=0)
        firsts = self._origins + (self._ends - counts) * self.geometry.stride
        return Runs(firsts, counts, self._limits, self._reverse, self._rows)


class Tiles(Windows):
    """Windows whose targets tile regions.

    Targets of a region begin at its start and follow each other every `stride` bases until the region
    is covered. A window lies centred on its target; what sticks out of the region is outside the
    window's limits and reads as N, so that no base of another part of a split is ever seen.

    Args:
        regions: int64 (R, 2), flat, sorted and disjoint, each inside one contig; each begins at a multiple of the unit.
        geometry: of every window.
        exclusions: which windows to leave out.

    Raises:
        ConfigError: no window is left.
    """

    def __init__(self, regions: Int64, geometry: Geometry, exclusions: Exclusions | None = None):
        super().__init__(geometry, Runs(regions[:, 0], geometry.tiles(regions), regions), regions, exclusions)


def _reached(geometry: Geometry, runs: Runs, firsts: Int64, bad: Int64) -> Int64:
    """Numbers of the windows that jitter can bring to `bad` target starts, as sorted disjoint intervals (n, 2)."""
    jitter, stride = geometry.jitter, geometry.stride
    low, top = runs.limits[:, 0], geometry.highest(runs.limits)
    last = runs.starts + (runs.counts - 1) * stride
    reach = [np.maximum(runs.starts - jitter, low), np.minimum(last + jitter, np.maximum(last, top)) + 1]
    run, row = pairs(np.stack(reach, axis=1), bad)
    first, end = bad[row].T
    # No window moves up to a start past the top: there is only the last target itself, whose end sticks out.
    first = np.maximum(first, low[run]) - np.where(first <= top[run], jitter, 0)
    end = np.minimum(end, runs.limits[run, 1]) + jitter
    begin = np.maximum(-(-(first - runs.starts[run]) // stride), 0)
    stop = np.minimum((end - 1 - runs.starts[run]) // stride + 1, runs.counts[run])
    numbers = np.stack([begin, stop], axis=1) + firsts[run, None]
    return union(numbers[begin < stop])


def _locate(
    windows: Int64,
    ends: Int64,
    origins: Int64,
    limits: Int64,
    stride: int,
    log: int,
    blocks: Int64,
    starts: Int64,
    within: Int64,
    runs: Int64,
) -> None:
    """Fill `starts`, `within` and `runs` with the target start, the limits and the run of each window."""
    for i in range(windows.size):
        block = windows[i] >> log
        first = blocks[block]
        count = blocks[block + 1] - first + 1
        while count > 1:
            half = count // 2
            first += half * (ends[first + half - 1] <= windows[i])
            count -= half
        starts[i] = origins[first] + windows[i] * stride
        within[i, 0], within[i, 1] = limits[first, 0], limits[first, 1]
        runs[i] = first
