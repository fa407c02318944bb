"""gather_bins for CUDA: one program copies a block of one window's values."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from distgen.kernels.library import first_bad
from distgen.kernels.triton_gpu.decode import bounds, contiguous, kernel, launch, program

_BLOCK = 512


@kernel
def _gather_bins(
    out, known, values, along, across, starts, reverse, swap, limits, bins, items, missing, first_bad, blocks,
    TRACKS: tl.constexpr, MISSING: tl.constexpr, BFLOAT16: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, block = program(blocks)
    start, first, end = bounds(starts, limits, row, bins, items, first_bad, block)
    # Values in the order in which they are written, so that stores are whole; which bin that is, from the block's first.
    begin = block * BLOCK
    at_N = tl.arange(0, BLOCK) + (begin % TRACKS).to(tl.int32)
    bin_N, track_N = begin // TRACKS + at_N // TRACKS, at_N % TRACKS
    inside_N = bin_N < bins
    if reverse is not None:
        backward = tl.load(reverse + row)
        bin_N = tl.where(backward, bins - 1 - bin_N, bin_N)
        if swap is not None:
            other_N = tl.load(swap + track_N, mask=backward & inside_N, other=0)
            track_N = tl.where(backward, other_N, track_N.to(tl.int64))
    item_N = start + bin_N
    known_N = inside_N & (item_N >= first) & (item_N < end) & (track_N >= 0) & (track_N < TRACKS)
    value_N = tl.load(values + item_N * along + track_N * across, mask=known_N, other=0)
    number_N = value_N.to(tl.float32)
    if BFLOAT16:  # as bits, see `windows.py`
        number_N = (value_N.to(tl.int32) << 16).to(tl.float32, bitcast=True)
    known_N &= number_N == number_N  # NaN differs from itself
    if MISSING:
        known_N &= number_N != missing
    to = row * bins * TRACKS + begin + tl.arange(0, BLOCK)
    tl.store(out + to, tl.where(known_N, value_N, 0).to(out.dtype.element_ty), mask=inside_N)
    tl.store(known + to, known_N.to(tl.uint8), mask=inside_N)


def gather_bins(
    values: Tensor,
    starts: Tensor,
    bins: int,
    reverse: Tensor | None = None,
    swap: Tensor | None = None,
    limits: Tensor | None = None,
    missing: float | None = None,
) -> tuple[Tensor, Tensor]:
    items, tracks = values.shape
    out = torch.empty((starts.numel(), bins, tracks), dtype=values.dtype, device=values.device)
    known = torch.empty(out.shape, dtype=torch.bool, device=values.device)
    bfloat16 = values.dtype == torch.bfloat16
    if bfloat16:
        out_bits, values = out.view(torch.int16), values.view(torch.int16)
    else:
        out_bits = out
    # As torch compares: a track of whole numbers with any number, one of floats with the nearest it can hold.
    if missing is not None and out.dtype.is_floating_point:
        missing = torch.tensor(missing, dtype=out.dtype).item()
    launch(
        _gather_bins,
        starts.numel(),
        triton.cdiv(bins * tracks, _BLOCK),
        values,
        out_bits,
        known.view(torch.uint8),
        values,
        *values.stride(),
        *contiguous(starts, reverse, swap, limits),
        bins,
        items,
        missing or 0.0,
        first_bad(values.device),
        TRACKS=tracks,
        MISSING=missing is not None,
        BFLOAT16=bfloat16,
        BLOCK=_BLOCK,
    )
    return out, known
