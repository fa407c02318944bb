"""substitute for CUDA: each base of a window finds the replacement it stands in or behind, and what lies there."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from distgen.kernels.library import first_bad
from distgen.kernels.reference import bases_of
from distgen.kernels.triton_gpu.decode import contiguous, kernel, launch, program

_BLOCK = 512


@triton.jit
def _last(at, start, position, grown, low, high):
    """Which of the replacements [low, high) of a row is the last that begins at or before each base; low - 1 for none."""
    low_N, high_N = tl.zeros(at.shape, tl.int64) + low, tl.zeros(at.shape, tl.int64) + high
    shift = start + tl.load(grown + low)
    left = high - low
    while left > 0:
        middle = (low_N + high_N) >> 1
        open_ = low_N < high_N
        # Where it begins: its position, moved by what the row's earlier ones put in and took out.
        begins = tl.load(position + middle, mask=open_, other=0) + tl.load(grown + middle, mask=open_, other=0) - shift
        found = open_ & (begins <= at)
        low_N = tl.where(found, middle + 1, low_N)
        high_N = tl.where(open_ & (begins > at), middle, high_N)
        left = left >> 1
    return low_N - 1


@triton.jit
def _code(plane, ambiguous, there, limits, row, items, wanted, first_bad):
    """The code of each wanted base of the plane; outside the limits and the plane 4."""
    if limits is not None:
        wanted &= (there >= tl.load(limits + 2 * row)) & (there < tl.load(limits + 2 * row + 1))
    held = wanted & (there >= 0) & (there < items)
    bad = tl.max(tl.max(tl.max((wanted ^ held).to(tl.int32), 2), 1), 0) != 0
    tl.atomic_min(first_bad, row, mask=bad, sem="relaxed")
    code = (tl.load(plane + (there >> 2), mask=held, other=0).to(tl.int32) >> (2 * (there & 3)).to(tl.int32)) & 3
    if ambiguous is not None:
        bit = tl.load(ambiguous + (there >> 3), mask=held, other=0).to(tl.int32) >> (there & 7).to(tl.int32)
        held &= bit & 1 == 0
    return tl.where(held, code, 4)


@kernel
def _substitute(
    out, unknown, plane, ambiguous, starts, limits, offsets, position, deleted, grown, inserted_offsets, inserted,
    length, wide, items, replacements, codes, first_bad, blocks, BLOCK: tl.constexpr,
):  # fmt: skip
    row, block = program(blocks)
    start = tl.load(starts + row)
    byte, half, base = tl.arange(0, BLOCK // 8), tl.arange(0, 2), tl.arange(0, 4)
    at = block * BLOCK + byte[:, None, None] * 8 + half[None, :, None] * 4 + base[None, None, :]
    inside = at < length
    # Whatever the offsets say, nothing outside the arrays is read.
    low = tl.minimum(tl.maximum(tl.load(offsets + row), 0), replacements)
    high = tl.minimum(tl.maximum(tl.load(offsets + row + 1), low), replacements)
    which = _last(at, start, position, grown, low, high)
    behind = which >= low
    first = tl.load(position + which, mask=behind, other=0)
    since = at - (first - start + tl.load(grown + which, mask=behind, other=0) - tl.load(grown + low))
    code = tl.load(inserted_offsets + which, mask=behind, other=0)
    many = tl.load(inserted_offsets + which + 1, mask=behind, other=0) - code
    put, code = behind & (since < many), code + since
    there = first + tl.load(deleted + which, mask=behind, other=0) + since - many
    there = tl.where(behind, there, start + at)
    new = tl.load(inserted + code, mask=inside & put & (code >= 0) & (code < codes), other=4).to(tl.int32)
    old = _code(plane, ambiguous, there, limits, row, items, inside & (put == 0), first_bad)
    new = tl.where(put, new, old)
    known = new < 4
    two = tl.sum(tl.where(known, new, 0) << (2 * base[None, None, :]), 2)
    one = tl.sum(tl.sum(tl.where(known, 0, 1) << (4 * half[None, :, None] + base[None, None, :]), 2), 1)
    to = block * (BLOCK // 8) + byte
    tl.store(unknown + row * (wide // 8) + to, one.to(tl.uint8), mask=to < wide // 8)
    to = to[:, None] * 2 + half[None, :]
    tl.store(out + row * (wide // 4) + to, two.to(tl.uint8), mask=to < wide // 4)


def substitute(
    plane: Tensor,
    starts: Tensor,
    length: int,
    offsets: Tensor,
    position: Tensor,
    deleted: Tensor,
    inserted_offsets: Tensor,
    inserted: Tensor,
    ambiguous: Tensor | None = None,
    limits: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    rows, stride = starts.numel(), triton.cdiv(length, 64) * 64
    out, unknown = (torch.empty(rows * stride // items, dtype=torch.uint8, device=plane.device) for items in (4, 8))
    grown = torch.nn.functional.pad((inserted_offsets.diff() - deleted).cumsum(0), (1, 0))
    launch(
        _substitute,
        rows,
        triton.cdiv(stride, _BLOCK),
        plane,
        out,
        unknown,
        *contiguous(plane, ambiguous, starts, limits, offsets, position, deleted, grown, inserted_offsets, inserted),
        length,
        stride,
        bases_of(plane, ambiguous),
        position.numel(),
        inserted.numel(),
        first_bad(plane.device),
        BLOCK=_BLOCK,
    )
    return out, unknown
