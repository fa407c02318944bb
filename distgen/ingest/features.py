"""Features: stretches of contigs that carry classes or values, and how they are painted into bins."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from distgen.compiled import compiled
from distgen.errors import ConfigError
from distgen.genome import Contigs, Int64

Integers = npt.NDArray[np.signedinteger[Any]]

_CONTIG_BITS = 40  # a contig has fewer than 2^40 bases: (contig, position) fits one int64 that sorts as the pair does


@dataclass(frozen=True)
class Features:
    """Stretches of contigs, sorted by (contig, start). Make them with `gather`.

    Args:
        contig: int32 (n,), row in the contig table.
        start, end: int32 (n,), or int64 where a position needs it; 0-based half-open positions in the contig.
        klass: int16 (n,), column of the track that the stretch belongs to.
        skipped: how many features lie on contigs that the table lacks, by the name the file has for them.
        value: float32 (n,), or None for plain classes.
        step: uint8 (n,) or None. A stretch covers its bases start, start + step, ... below end: 3 for positions in
            codons, which would be millions of single bases; None stands for 1 everywhere.
    """

    contig: Integers
    start: Integers
    end: Integers
    klass: Integers
    skipped: dict[str, int]
    value: npt.NDArray[np.float32] | None = None
    step: npt.NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return len(self.start)

    def flat(self, contigs: Contigs) -> Int64:
        """The stretches (n, 2) in the flat coordinate of their contig table."""
        offsets = contigs.offsets[self.contig]
        return np.stack([offsets + self.start, offsets + self.end], axis=1)

    @cached_property
    def _reach(self) -> Int64:
        """The furthest end of all features up to each one, as a (contig, position) key."""
        return np.maximum.accumulate((self.contig.astype(np.int64) << _CONTIG_BITS) | self.end)

    def overlapping(self, row: int, start: int, end: int) -> slice:
        """The features that may overlap bases [start, end) of contig `row`: none of them is left out."""
        low, high = np.searchsorted(self.contig, [row, row + 1])
        # A feature counts from the first whose predecessors, or itself, reach past `start`.
        low = max(low, np.searchsorted(self._reach, (int(row) << _CONTIG_BITS) | start, side="right"))
        high = low + np.searchsorted(self.start[low:high], end)
        return slice(int(low), int(high))


def gather(
    contig: npt.ArrayLike,
    start: npt.ArrayLike,
    end: npt.ArrayLike,
    klass: npt.ArrayLike,
    skipped: dict[str, int],
    *,
    value: npt.NDArray[np.float32] | None = None,
    step: npt.NDArray[np.uint8] | None = None,
) -> Features:
    """Features of columns (n,) in any order: sorted, in the smallest types that hold them."""
    rows, starts, ends = np.asarray(contig), np.asarray(start), np.asarray(end)
    order: Any = slice(None)
    if np.any((rows[1:] < rows[:-1]) | ((rows[1:] == rows[:-1]) & (starts[1:] < starts[:-1]))):
        order = np.lexsort((starts, rows))
    position = np.int32 if not ends.size or ends.max() <= np.iinfo(np.int32).max else np.int64
    return Features(
        rows[order].astype(np.int32, copy=False),
        starts[order].astype(position, copy=False),
        ends[order].astype(position, copy=False),
        np.asarray(klass)[order].astype(np.int16, copy=False),
        skipped,
        None if value is None else value[order],
        None if step is None else step[order],
    )


# ---- painting -------------------------------------------------------------------------------


def paint(
    features: Features,
    row: int,
    first_bin: int,
    last_bin: int,
    columns: int,
    bin_bp: int,
    absent: float = np.nan,
) -> npt.NDArray[np.uint8] | npt.NDArray[np.float32]:
    """A run of bins of one contig: any run gives what the whole contig would have there.

    Args:
        features: as `gather` makes them.
        row: the contig, as a row of the contig table.
        first_bin, last_bin: bins [first_bin, last_bin) of the contig; bin b holds bases [b * bin_bp, (b + 1) * bin_bp).
        columns: how many columns the track has.
        bin_bp: bases per bin.
        absent: what a bin without any feature gets, for features with values.

    Returns:
        (last_bin - first_bin, columns). Without values uint8: 1 where any base of the bin is in a feature, else 0.
        With values float32: the largest value of the features that touch the bin.

    Raises:
        ConfigError: a feature belongs to a column that the track does not have.
    """
    here = features.overlapping(row, first_bin * bin_bp, last_bin * bin_bp)
    start, end, klass = (column[here].astype(np.int64) for column in (features.start, features.end, features.klass))
    if klass.size and klass.max() >= columns:
        raise ConfigError(f"features belong to column {klass.max()}, the track has {columns}")
    shape = (last_bin - first_bin, columns)
    if features.value is None:
        step = np.ones(len(start), np.uint8) if features.step is None else features.step[here]
        marks = np.zeros(shape, np.uint8)
        compiled(_mark)(start, end, step.astype(np.int64), klass, first_bin, bin_bp, marks)
        return marks
    values = np.full(shape, np.nan, np.float32)
    compiled(_raise)(start, end, features.value[here], klass, first_bin, bin_bp, values)
    return values if np.isnan(absent) else np.nan_to_num(values, copy=False, nan=absent)


def _mark(
    start: Int64, end: Int64, step: Int64, klass: Int64, first_bin: int, bin_bp: int, out: npt.NDArray[np.uint8]
) -> None:
    """Set the bins of `out` that features, sorted by start, touch; each bin once, however many overlap there."""
    last_bin = first_bin + out.shape[0]
    painted = np.full(out.shape[1], first_bin)  # by column, the first bin that no feature so far has reached
    for i in range(start.size):
        column = klass[i]
        if step[i] == 1:
            stop = min((end[i] - 1) // bin_bp + 1, last_bin)
            for b in range(max(start[i] // bin_bp, painted[column]), stop):
                out[b - first_bin, column] = 1
            painted[column] = max(painted[column], stop)
        else:
            missed = max(0, -((start[i] - first_bin * bin_bp) // step[i]))
            for base in range(start[i] + missed * step[i], min(end[i], last_bin * bin_bp), step[i]):
                out[base // bin_bp - first_bin, column] = 1


def _raise(
    start: Int64,
    end: Int64,
    value: npt.NDArray[np.float32],
    klass: Int64,
    first_bin: int,
    bin_bp: int,
    out: npt.NDArray[np.float32],
) -> None:
    """Raise the bins of `out`, which start as NaN, to the value of each feature that touches them."""
    last_bin = first_bin + out.shape[0]
    for i in range(start.size):
        for b in range(max(start[i] // bin_bp, first_bin), min((end[i] - 1) // bin_bp + 1, last_bin)):
            if not out[b - first_bin, klass[i]] >= value[i]:
                out[b - first_bin, klass[i]] = value[i]
