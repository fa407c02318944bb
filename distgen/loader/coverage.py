"""How much of an assembly windows hold: arithmetic over their runs, window by window only where they may hold a base twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from distgen.genome import Contigs, Int64, pairs, subtract, union
from distgen.loader.exclusions import shared
from distgen.loader.windows import Geometry, Windows

Extent = Literal["target", "window", "reach"]


def bases(windows: Windows, intervals: Int64, of: Extent = "target") -> Int64:
    """How many bases of windows lie in each interval: a base counts as often as windows hold it.

    Args:
        windows: which; nothing counts outside their limits.
        intervals: int64 (n, 2), flat, sorted and disjoint.
        of: their targets or whole windows before jitter, or all that jitter lets a window "reach".

    Returns:
        int64 (n,).
    """
    stride, (before, length) = windows.geometry.stride, _extent(windows.geometry, of)
    starts, counts, limits, *_ = windows.runs
    firsts = starts - before
    run, row = pairs(_spans(windows, of), intervals)
    found = np.zeros(len(intervals), np.int64)
    for sign, edge in ((-1, 0), (1, 1)):
        upto = np.clip(intervals[row, edge], *limits[run].T) - firsts[run]
        np.add.at(found, row, sign * _before(upto, counts[run], stride, length))
    return found


def covered(pools: Sequence[Windows], intervals: Int64, of: Extent = "target") -> Int64:
    """How many bases of each interval at least one window holds; the arguments are those of `bases`.

    Returns:
        int64 (n,).
    """
    depth = np.zeros(len(intervals), np.int64)
    for pool in pools:
        depth += bases(pool, intervals, of)
    if not depth.any() or (len(pools) == 1 and _apart(pools[0], of)):
        return depth
    held = union(np.concatenate([_held(pool, of) for pool in pools]))
    return shared(intervals, held)


def along(pools: Sequence[Windows], contigs: Contigs, first: int, end: int, bins: int) -> tuple[Int64, Int64]:
    """How many bases of contigs each of `bins` (at most its positions) parts of a flat stretch [first, end) has, which
    differ by one position at most, and how many of them at least one target holds: int64 (bins,) both."""
    edges = first + np.arange(bins + 1) * (end - first) // bins
    parts = np.stack([edges[:-1], edges[1:]], axis=1)
    return shared(parts, contigs.whole()), covered(pools, parts)


def ambiguous(windows: Windows, unknown: Int64) -> float:
    """The share of N among the bases of all windows, with what lies outside their limits; before jitter.

    Args:
        windows: which.
        unknown: int64 (u, 2), flat, sorted and disjoint: the ambiguous bases.
    """
    limits = windows.runs.limits
    known = subtract(np.array([[limits[:, 0].min(), limits[:, 1].max()]]), unknown)
    return 1 - int(bases(windows, known, "window").sum()) / (len(windows) * windows.window)


def _extent(geometry: Geometry, of: Extent) -> tuple[int, int]:
    """Bases before the target's first, and bases in all."""
    g = geometry
    return {
        "target": (0, g.target_length),
        "window": (g.margin, g.window),
        "reach": (g.margin + g.jitter, g.window + 2 * g.jitter),
    }[of]


def _spans(windows: Windows, of: Extent) -> Int64:
    """From the first to the last base of each run: int64 (r, 2), flat."""
    before, length = _extent(windows.geometry, of)
    starts, counts, limits, *_ = windows.runs
    firsts = starts - before
    spans = np.stack([firsts, firsts + (counts - 1) * windows.geometry.stride + length], axis=1)
    return np.clip(spans, limits[:, :1], limits[:, 1:])


def _apart(windows: Windows, of: Extent) -> bool:
    """Whether it is plain that no base is held twice."""
    spans = _spans(windows, of)
    return windows.geometry.stride >= _extent(windows.geometry, of)[1] and bool((spans[1:, 0] >= spans[:-1, 1]).all())


def _held(windows: Windows, of: Extent) -> Int64:
    """All that windows hold: int64 (n, 2), flat; by runs where these have no gaps."""
    before, length = _extent(windows.geometry, of)
    if windows.geometry.stride <= length:
        return _spans(windows, of)
    starts, limits, *_ = windows.locate(np.arange(len(windows)))
    return np.clip(np.stack([starts - before, starts - before + length], axis=1), limits[:, :1], limits[:, 1:])


def _before(upto: Int64, counts: Int64, stride: int, length: int) -> Int64:
    """Bases before `upto`, counted from the first start, of `counts` stretches of `length` that begin every `stride`."""
    whole = np.clip((upto - length) // stride + 1, 0, counts)
    begun = np.clip(-(-upto // stride), whole, counts)
    found: Int64 = whole * length + (begun - whole) * upto - stride * ((begun - whole) * (begun + whole - 1) // 2)
    return found
