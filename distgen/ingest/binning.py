"""Records to bins: the two kernels, compiled by numba on first use and cached on disk. `signal.py` says what they mean."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from distgen.compiled import compiled

REDUCES = ("mean", "mean_covered", "max", "sum", "coverage")
_MEAN, _MEAN_COVERED, _MAX, _SUM, _COVERAGE = range(5)


@compiled
def add(
    words: npt.NDArray[np.uint32],
    values: npt.NDArray[np.float32],
    kind: int,
    at: int,
    step: int,
    span: int,
    after: int,
    length: int,
    low: int,
    high: int,
    bin_bp: int,
    largest: bool,
    total: npt.NDArray[np.float64],
    covered: npt.NDArray[np.int64],
) -> tuple[int, int]:
    """Add the records of one section to the bins of bases [low, high) of a contig.

    Args:
        words, values: the section's memory as uint32 and as float32.
        kind: 1: start, end and value of each record; 2: start and value; 3: the value alone.
        at, step, span: where the records of kind 3 lie, how long those of kinds 2 and 3 are.
        after: end of the record before these.
        length: bases of the contig.
        low: first base of the first bin.
        largest: True: keep the largest value; False: the sum of value times bases.
        total, covered: float64 and int64 (bins,): what is kept, and bases that have data. NaN is no data.

    Returns:
        The end of the last record, and -1, or the index of the first record that is out of order, overlaps the one
        before, is empty, leaves the contig or is infinite.
    """
    per_record = 4 - kind
    bin, bin_end = -1, low
    for i in range(words.size // per_record):
        start = at + i * step if kind == 3 else int(words[per_record * i])
        end = int(words[3 * i + 1]) if kind == 1 else start + span
        value = np.float64(values[per_record * i + per_record - 1])
        if start < after or end <= start or end > length or np.isinf(value):
            return after, i
        after = end
        start, end = max(start, low), min(end, high)
        if start >= end or value != value:
            continue
        if start >= bin_end:
            if start - bin_end < bin_bp:  # mostly the next one: spares a division
                bin += 1
            else:
                bin = (start - low) // bin_bp
            bin_end = low + (bin + 1) * bin_bp
        while True:
            bases = min(end, bin_end) - start
            if not largest:
                total[bin] += value * bases
            elif covered[bin] == 0 or value > total[bin]:
                total[bin] = value
            covered[bin] += bases
            if end <= bin_end:
                break
            start = bin_end
            bin += 1
            bin_end += bin_bp
    return after, -1


@compiled
def finish(
    total: npt.NDArray[np.float64],
    covered: npt.NDArray[np.int64],
    bases: int,
    bin_bp: int,
    reduce: int,
    zero: bool,
    min_covered: float,
    out: npt.NDArray[np.float32],
) -> None:
    """What `add` has kept, to one value a bin; `bases` is how many the bins have in all, `reduce` a place in REDUCES."""
    for bin in range(out.size):
        last = bin == out.size - 1
        if bin == 0 or last:
            width = min(bin_bp, bases - bin * bin_bp)
            # Comparing fractions, not products: 0.7 of 10 bases are 7.
            least = int(min_covered * width)
            while least / width < min_covered:
                least += 1
        value, data = total[bin], covered[bin]
        share = data / width
        if zero:
            if reduce == _MAX and data < width:
                value = max(value, 0.0)
            data = width
        if data < least or (data == 0 and reduce != _COVERAGE):
            out[bin] = np.nan
        elif reduce == _MEAN:
            out[bin] = value / width
        elif reduce == _MEAN_COVERED:
            out[bin] = value / data
        elif reduce == _COVERAGE:
            out[bin] = share
        else:
            out[bin] = value
