"""gather_bins for the CPU: on bit patterns, as numba knows neither float16 nor bfloat16."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy import uint64
from torch import Tensor

from distgen.compiled import compiled
from distgen.kernels.numba_cpu.decode import bits_of, rows

# All bits but the sign, and infinity: what is above it is NaN. A uint8 has neither sign nor NaN.
INFINITY = {
    torch.float32: (np.uint32(0x7FFFFFFF), np.uint32(0x7F800000)),
    torch.bfloat16: (np.uint16(0x7FFF), np.uint16(0x7F80)),
    torch.float16: (np.uint16(0x7FFF), np.uint16(0x7C00)),
    torch.uint8: (np.uint8(0xFF), np.uint8(0xFF)),
}
_BLOCK = 4096  # values turned at a time: they stay in the first-level cache


@compiled
def keep(values: Any, infinity: Any, missing: Any, out: Any, known: Any) -> None:
    """Values that are data, else 0, and which they are; all but `known` as bits, `missing` as of `missing_bits`."""
    magnitude, highest = infinity
    absent, also_absent, some_absent = missing
    zero = highest ^ highest
    for i in range(values.size):
        value = values[i]
        here = (value != absent) & (value != also_absent) if some_absent else True
        here &= (value & magnitude) <= highest
        out[i] = value if here else zero
        known[i] = here


@compiled
def _turn(values: Any, swap: Any, out: Any) -> None:
    """Bins back to front, columns from where `swap` has them."""
    tracks = swap.size
    for t in range(tracks):
        column, end = uint64(swap[t]), uint64(out.size - tracks + t)
        for i in range(out.size // tracks):
            out[end - uint64(i) * uint64(tracks)] = values[column + uint64(i) * uint64(tracks)]


@compiled
def _gather(
    values: Any, starts: Any, limits: Any, reverse: Any, swap: Any, infinity: Any, missing: Any, out: Any, known: Any
) -> None:
    tracks, size = swap.size, out.shape[1]
    at_once = max(_BLOCK // tracks, 1) * tracks
    some, some_known = np.empty(at_once, values.dtype), np.empty(at_once, np.bool_)
    for b in range(starts.size):
        start = starts[b]
        begin, stop = max(start, limits[b, 0]), min(start + size // tracks, limits[b, 1])
        if begin >= stop:  # as a rule, or as 64 bits overflow
            begin = stop = start
        first, end = begin - start, stop - start
        backward = reverse.size > 0 and reverse[b]
        if backward:
            out[b, : size - end * tracks], known[b, : size - end * tracks] = 0, False
            out[b, size - first * tracks :], known[b, size - first * tracks :] = 0, False
        else:
            out[b, : first * tracks], known[b, : first * tracks] = 0, False
            out[b, end * tracks :], known[b, end * tracks :] = 0, False
        row = values[begin * tracks : stop * tracks]
        if not backward:
            keep(row, infinity, missing, out[b, first * tracks :], known[b, first * tracks :])
            continue
        for at in range(0, row.size, at_once):
            part = row[at : at + at_once]
            keep(part, infinity, missing, some, some_known)
            last = size - first * tracks - at
            _turn(some, swap, out[b, last - part.size : last])
            _turn(some_known, swap, known[b, last - part.size : last])


def missing_bits(missing: float | None, dtype: torch.dtype) -> Any:
    """The bits of the value that means "no data" and of the one that equals it, and whether there is such a value."""
    if dtype == torch.uint8 and missing not in range(256):
        missing = None
    value = torch.tensor(missing or 0.0).to(dtype)
    both = bits_of(torch.stack([value, -value if value == 0 else value]))
    return both[0], both[1], missing is not None


def gather_bins(
    values: Tensor,
    starts: Tensor,
    bins: int,
    reverse: Tensor | None = None,
    swap: Tensor | None = None,
    limits: Tensor | None = None,
    missing: float | None = None,
) -> tuple[Tensor, Tensor]:
    which = rows(len(values), starts, bins, limits, reverse, "bin")
    tracks = torch.arange(values.shape[1])
    columns = tracks if swap is None else tracks[swap]  # raises where a column does not exist
    made = torch.empty((len(starts), bins, len(tracks)), dtype=values.dtype)
    known = torch.empty(made.shape, dtype=torch.bool)
    if made.numel():
        _gather(
            bits_of(values.contiguous().view(-1)),
            *which,
            columns.numpy(),
            INFINITY[values.dtype],
            missing_bits(missing, values.dtype),
            bits_of(made.view(len(starts), -1)),
            known.view(len(starts), -1).numpy(),
        )
    return made, known
