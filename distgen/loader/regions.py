"""Windows at regions: peaks, transcripts, the regions of a matrix, the sequences of a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from distgen.config import At
from distgen.errors import ConfigError
from distgen.genome import Int64
from distgen.loader.exclusions import Exclusions
from distgen.loader.windows import Geometry, Runs, Windows
from distgen.store.reader import Store

MATRIX, TRACK, CONTIGS = "matrix:", "track:", "contigs"
_TOGETHER = 1 << 22  # bins that are read together


def is_stored(source: str) -> bool:
    """Whether regions are named by what is in the store, not by a file."""
    return source == CONTIGS or source.startswith((MATRIX, TRACK))


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


def read_regions(source: str | Path, store: Store, *, at: At = "middle") -> Regions:
    """The regions that `regions.source` of a run names.

    Args:
        source: the path of a BED or narrowPeak file, or of a GTF or GFF3 file or SpliceAI's table (.tsv), whose genes are
            taken; "matrix:NAME"; "track:NAME", the stretches of bins that have any of its classes; or "contigs".
        store: whose contigs, matrices, tracks or sequences they are.
        at: where windows lie: "summit" reads the summits of narrowPeak, too, and "exon" takes exons instead of genes.

    Raises:
        ConfigError: the store has no such matrix or track of classes, or what is named has no summits or exons.
        SourceError: the file is malformed, of another assembly, or has no summits.
    """
    contigs, name = store.contigs, str(source)
    genes = name.lower().removesuffix(".gz").removesuffix(".bgz").endswith((".gtf", ".gff", ".gff3", ".tsv"))
    if at == "exon":
        if not genes:
            raise ConfigError(f'{name} has no exons: an annotation does. Use "middle"', key="at")
        return _exons(Path(source), store)
    summit = at == "summit"
    if summit and (is_stored(name) or genes):
        raise ConfigError(f'{name} has no summits: narrowPeak files do. Use "middle"', key="at")
    if name == CONTIGS:
        count = len(contigs)
        return Regions(contigs.whole(), contigs.offsets, np.zeros(count, np.int8), np.arange(count))
    if name.startswith(MATRIX):
        matrix = store.matrix(name.removeprefix(MATRIX))
        origins = contigs.offsets[contigs.locate(matrix.regions[:, 0])]
        return Regions(matrix.regions, origins, matrix.strands, np.arange(len(matrix)))
    if name.startswith(TRACK):
        return _marked(name.removeprefix(TRACK), store)
    return _genes(Path(source), store) if genes else _listed(Path(source), store, summit)


def _marked(name: str, store: Store) -> Regions:
    track, contigs = store.track(name), store.contigs
    if not track.is_classes:
        raise ConfigError(f'track "{name}" holds signals, which mark no regions: a track of classes does', key="source")
    edges: list[Int64] = []
    ends = np.append(track.bin_offsets[1:], track.bins).tolist()
    for first_bin, end_bin, offset, length in zip(
        track.bin_offsets.tolist(), ends, contigs.offsets.tolist(), contigs.lengths.tolist(), strict=True
    ):
        before = np.zeros(1, np.bool_)
        for first in range(first_bin, end_bin, _TOGETHER):
            marked = np.asarray(track[first : min(first + _TOGETHER, end_bin)].any(axis=1))
            changes = first + np.flatnonzero(np.diff(marked, prepend=before))
            edges.append(offset + (changes - first_bin) * track.bin_bp)
            before = np.asarray(marked[-1:])
        edges.append(np.full(int(before.sum()), offset + length))
    intervals = np.concatenate(edges).reshape(-1, 2)
    count = len(intervals)
    origins = contigs.offsets[contigs.locate(intervals[:, 0])]
    return Regions(intervals, origins, np.zeros(count, np.int8), np.arange(count))


def _listed(path: Path, store: Store, summit: bool) -> Regions:
    from distgen.ingest.intervals import read_listed

    found = read_listed(path, store.contigs, summit=summit)
    origins = store.contigs.offsets[found.contig]
    intervals = np.stack([found.start, found.end], axis=1) + origins[:, None]
    summits = None if found.summit is None else origins + found.summit
    return Regions(intervals, origins, found.strand, found.rows, summits, found.skipped)


def _genes(path: Path, store: Store) -> Regions:
    from distgen.ingest.regions import read_regions as read_genes

    found = read_genes(path, store.contigs)
    rows = np.flatnonzero(found.contig >= 0)
    origins = store.contigs.offsets[found.contig[rows]]
    intervals = np.stack([found.start, found.end], axis=1)[rows] + origins[:, None]
    return Regions(intervals, origins, found.strand[rows], rows, None, Counter(filter(None, found.elsewhere)))


def _exons(path: Path, store: Store) -> Regions:
    from distgen.ingest.annotation import read_annotation

    found = read_annotation(path, ("exon+", "exon-"), store.contigs)
    origins = store.contigs.offsets[found.contig]
    intervals = np.stack([found.start, found.end], axis=1) + origins[:, None]
    strands = np.where(found.klass == 0, 1, -1).astype(np.int8)
    return Regions(intervals, origins, strands, np.arange(len(intervals)), None, found.skipped)


class Places(Windows):
    """Windows at regions, in the order of the assembly.

    The target is centred on a region's middle, its summit, or its first ("start") or last base ("end") in the region's own
    orientation. An even target has no middle base: then the base is the first after its middle, and a middle between two
    bases is met exactly. With bins the target then moves to the nearest one, to the left if two are as near.

    "whole" windows begin with their region's first base in its orientation, and read nothing but the region: what is
    longer than the window is cut off, what is shorter is followed by N that no exclusion counts. With bins the target
    begins at the next one. "tile" widens a region, as far as its part of the split goes, and tiles that from left to right.

    Args:
        regions: the regions.
        stretches: int64 (s, 2), flat, sorted and disjoint: the part of the split; each begins on a bin.
        geometry: of every window; its stride is that of "tile".
        at: where windows lie.
        pad: by how many bases "tile" widens a region on either side.
        exclusions: which windows to leave out.

    Attributes:
        left_out: with "elsewhere", regions on contigs that the assembly lacks, and "outside", regions that no stretch
            holds (or holds the target of, where it is centred).

    Raises:
        ConfigError: no window is left, or the regions have no summits.
    """

    def __init__(
        self,
        regions: Regions,
        stretches: Int64,
        geometry: Geometry,
        *,
        at: At = "middle",
        pad: int = 0,
        exclusions: Exclusions | None = None,
    ):
        if at == "whole":
            if geometry.jitter:
                raise ConfigError('whole regions do not move. Use 0, or at = "middle"', key="jitter")
            placed, excluded = _whole(regions, stretches, geometry, exclusions or Exclusions())
        elif at == "tile":
            placed, excluded = _tiled(regions, stretches, geometry, pad), {}
        else:
            placed, excluded = _centred(regions, stretches, geometry, at), {}
        outside = len(regions) - len(placed.of) - sum(excluded.values())
        left_out = {"elsewhere": sum(regions.skipped.values()), "outside": outside, **excluded}
        order = np.argsort(placed.starts, kind="stable")
        starts, counts, limits, of = (column[order] for column in placed)
        reverse = regions.strands[of] < 0 if regions.strands.any() else None
        runs = Runs(starts, counts, limits, reverse, regions.rows[of])
        super().__init__(geometry, runs, stretches, None if at == "whole" else exclusions, left_out)


class _Placed(NamedTuple):
    """Runs of windows as `Runs` has them, and the region `of` each."""

    starts: Int64
    counts: Int64
    limits: Int64
    of: Int64


def _centred(regions: Regions, stretches: Int64, geometry: Geometry, at: At) -> _Placed:
    """A window for each region whose target one stretch holds."""
    (first, last), minus = regions.intervals.T, regions.strands < 0
    length, unit = geometry.target_length, geometry.unit
    # Twice the centre, so that a middle between two bases is a number; what is rounded goes the region's way.
    if at in ("middle", "exon"):
        centre = first + last
    elif at == "summit":
        if regions.summits is None:
            raise ConfigError("the regions were read without their summits", key="at")
        centre = 2 * regions.summits + 1
    else:
        centre = 2 * np.where(minus == (at == "start"), last - 1, first) + 1
    starts = np.where(minus, -((length - centre) // 2), (centre - length) // 2)
    starts = regions.origins + (starts - regions.origins + (unit - 1) // 2) // unit * unit
    stretch, inside = _holding(np.stack([starts, starts + length], axis=1), stretches)
    of = np.flatnonzero(inside)
    return _Placed(starts[of], np.ones(len(of), np.int64), stretches[stretch[of]], of)


def _whole(
    regions: Regions, stretches: Int64, geometry: Geometry, exclusions: Exclusions
) -> tuple[_Placed, dict[str, int]]:
    """A window for each region that one stretch holds, and how many are excluded by reason: for bases of their own."""
    (first, last), g = regions.intervals.T, geometry
    starts = np.where(regions.strands < 0, last - g.margin - g.target_length, first + g.margin)
    starts += (regions.origins - starts) % g.unit
    shown = np.stack([np.maximum(starts - g.margin, first), np.minimum(starts - g.margin + g.window, last)], axis=1)
    inside = _holding(regions.intervals, stretches)[1] & (starts < last) & (starts + g.target_length > first)
    counts = {}
    for reason, found in exclusions.of_stretches(shown).items():
        counts[reason] = int((inside & found).sum())
        inside &= ~found
    of = np.flatnonzero(inside)
    return _Placed(starts[of], np.ones(len(of), np.int64), regions.intervals[of], of), counts


def _tiled(regions: Regions, stretches: Int64, geometry: Geometry, pad: int) -> _Placed:
    """A run for each region, widened by `pad` bases; it begins on a bin."""
    stretch, inside = _holding(regions.intervals, stretches)
    of = np.flatnonzero(inside)
    stretch = stretch[of]
    wide = regions.intervals[of] + np.array([-pad, pad])
    wide = np.minimum(np.maximum(wide, stretches[stretch, :1]), stretches[stretch, 1:])
    wide[:, 0] -= (wide[:, 0] - regions.origins[of]) % geometry.unit
    return _Placed(wide[:, 0], geometry.tiles(wide), stretches[stretch], of)


def _holding(intervals: Int64, stretches: Int64) -> tuple[Int64, npt.NDArray[np.bool_]]:
    """The last stretch that begins before or with each interval (n,), and whether it holds the interval (n,)."""
    row = np.maximum(np.searchsorted(stretches[:, 0], intervals[:, 0], side="right") - 1, 0)
    return row, (stretches[row, 0] <= intervals[:, 0]) & (intervals[:, 1] <= stretches[row, 1])
