"""Windows at regions: peaks, transcripts, the regions of a matrix, the sequences of a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from distgen.config.windows import At
from distgen.errors import ConfigError
from distgen.genome import Int64
from distgen.loader.exclusions import Exclusions
from distgen.loader.windows import Geometry, Runs, Windows, tiles
from distgen.store.reader import Store

MATRIX, CONTIGS = "matrix:", "contigs"


@dataclass(frozen=True)
class Regions:
    """Stretches of an assembly, in any order; they may overlap.

    Args:
        intervals: int64 (n, 2), flat.
        origins: int64 (n,), flat, the first base of the contig of each.
        strands: int8 (n,), 1 for +, -1 for -, 0 for none.
        rows: int64 (n,), the row of each in the table that it comes from.
        summits: int64 (n,), flat, or None if there are none.
        skipped: how many regions lie on contigs that the assembly lacks, by the name the file has for them.
    """

    intervals: Int64
    origins: Int64
    strands: npt.NDArray[np.int8]
    rows: Int64
    summits: Int64 | None = None
    skipped: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.intervals)


def read_regions(source: str | Path, store: Store, *, summit: bool = False) -> Regions:
    """The regions that `regions.source` of a run names.

    Args:
        source: the path of a BED or narrowPeak file, "matrix:NAME", or "contigs".
        store: whose contigs, matrices or sequences they are.
        summit: read the summits, too.

    Raises:
        ConfigError: the store has no such matrix. SourceError: the file is malformed, of another assembly or has no summits.
    """
    contigs, intervals, summits, skipped = store.contigs, store.contigs.whole(), None, dict[str, int]()
    strands = np.zeros(len(contigs), np.int8)
    rows = np.arange(len(contigs))
    if str(source).startswith(MATRIX):
        matrix = store.matrix(str(source).removeprefix(MATRIX))
        intervals, strands, rows = matrix.regions, matrix.strands, np.arange(len(matrix))
    elif source != CONTIGS:
        from distgen.ingest.intervals import read_listed

        found = read_listed(Path(source), contigs, summit=summit)
        offsets = contigs.offsets[found.contig]
        intervals, strands, rows = (
            np.stack([found.start, found.end], axis=1) + offsets[:, None],
            found.strand,
            found.rows,
        )
        summits, skipped = None if found.summit is None else offsets + found.summit, found.skipped
    return Regions(intervals, contigs.offsets[contigs.locate(intervals[:, 0])], strands, rows, summits, skipped)


class Places(Windows):
    """Windows at regions, in the order of the assembly.

    The target is centred on a region's middle, its summit, or its first ("start") or last base ("end") in the region's own
    orientation. An even target has no middle base: then the base is the first after its middle, and a middle between two
    bases is met exactly. "first" lets the window begin with the region's first base in its orientation, whatever their
    lengths. "tile" widens the region, as far as its part of the split goes, and tiles that from left to right. With bins
    the target then moves to the nearest one, to the left if two are as near.

    Args:
        regions: the regions.
        stretches: int64 (s, 2), flat, sorted and disjoint: the part of the split; each begins on a bin.
        window: bases per window.
        target_length: bases per target, at most `window`.
        at: where windows lie.
        pad: by how many bases "tile" widens a region on either side.
        stride: bases from one target to the next, for "tile".
        jitter: windows move by up to so many bases to either side.
        unit: bases per bin.
        exclusions: which windows to leave out.

    Attributes:
        left_out: with "elsewhere", regions on contigs that the assembly lacks, and "outside", regions that no stretch
            holds as a whole (of which no stretch holds the target, where it is centred).

    Raises:
        ConfigError: no window is left, or the regions have no summits.
    """

    def __init__(
        self,
        regions: Regions,
        stretches: Int64,
        window: int,
        target_length: int,
        *,
        at: At = "middle",
        pad: int = 0,
        stride: int | None = None,
        jitter: int = 0,
        unit: int = 1,
        exclusions: Exclusions | None = None,
    ):
        geometry = Geometry(window, target_length, stride or target_length, jitter, unit)
        placed = (
            _tiled(regions, stretches, geometry, pad) if at == "tile" else _placed(regions, stretches, geometry, at)
        )
        order = np.argsort(placed.starts, kind="stable")
        of = placed.of[order]
        reverse = regions.strands[of] < 0 if regions.strands.any() else None
        runs = Runs(
            placed.starts[order], placed.counts[order], stretches[placed.stretch[order]], reverse, regions.rows[of]
        )
        left_out = Counter(elsewhere=sum(regions.skipped.values()), outside=len(regions) - len(of))
        super().__init__(geometry, runs, stretches, exclusions, left_out)


class _Placed(NamedTuple):
    """Runs of windows: `Runs`, the region `of` each, and its stretch of the split."""

    starts: Int64
    counts: Int64
    of: Int64
    stretch: Int64


def _placed(regions: Regions, stretches: Int64, geometry: Geometry, at: At) -> _Placed:
    """A window for each region."""
    (first, last), minus = regions.intervals.T, regions.strands < 0
    length, unit = geometry.target_length, geometry.unit
    held = regions.intervals
    if at == "first":
        starts = np.where(minus, last - geometry.margin - length, first + geometry.margin)
    else:
        # Twice the centre, so that a middle between two bases is a number; what is rounded goes the region's way.
        if at == "middle":
            centre = first + last
        elif at == "summit":
            if regions.summits is None:
                raise ConfigError('the regions have no summits: narrowPeak files do. Use "middle"', key="at")
            centre = 2 * regions.summits + 1
        else:
            centre = 2 * np.where(minus == (at == "start"), last - 1, first) + 1
        starts = np.where(minus, -((length - centre) // 2), (centre - length) // 2)
    starts = regions.origins + (starts - regions.origins + (unit - 1) // 2) // unit * unit
    if at != "first":
        held = np.stack([starts, starts + length], axis=1)
    stretch, inside = _holding(held, stretches)
    inside &= (starts >= stretches[stretch, 0]) & (starts < stretches[stretch, 1])
    of = np.flatnonzero(inside)
    return _Placed(starts[of], np.ones(len(of), np.int64), of, stretch[of])


def _tiled(regions: Regions, stretches: Int64, geometry: Geometry, pad: int) -> _Placed:
    """A run for each region, widened by `pad` bases; it begins on a bin."""
    stretch, inside = _holding(regions.intervals, stretches)
    of = np.flatnonzero(inside)
    stretch = stretch[of]
    wide = regions.intervals[of] + np.array([-pad, pad])
    wide = np.minimum(np.maximum(wide, stretches[stretch, :1]), stretches[stretch, 1:])
    wide[:, 0] -= (wide[:, 0] - regions.origins[of]) % geometry.unit
    return _Placed(wide[:, 0], tiles(wide, geometry), of, stretch)


def _holding(intervals: Int64, stretches: Int64) -> tuple[Int64, npt.NDArray[np.bool_]]:
    """The last stretch that begins before or with each interval (n,), and whether it holds the interval (n,)."""
    row = np.maximum(np.searchsorted(stretches[:, 0], intervals[:, 0], side="right") - 1, 0)
    return row, (stretches[row, 0] <= intervals[:, 0]) & (intervals[:, 1] <= stretches[row, 1])
