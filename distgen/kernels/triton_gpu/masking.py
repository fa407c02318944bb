"""mask_tokens for CUDA: one program draws for a block of one row, and for the spans that reach into it."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from distgen.kernels.draws import MASKING, threshold
from distgen.kernels.reference import IGNORE_INDEX, span_rate
from distgen.kernels.triton_gpu.decode import contiguous, kernel, launch, program

_BLOCK = 1024


@triton.jit
def _later(one, other):
    return tl.maximum(one, other)


@triton.jit
def _draw(key, softmask, length, begin, at, span, limit, soft_limit, mask_below, draw_below, TAG: tl.constexpr):
    """For the positions `begin + at`: 4 * (at + span) plus what becomes of the span that begins there (3 mask, 2 draw,
    1 keep), or 0 if none does, so that the highest number tells of the last span; and a draw for a token of its own."""
    position = begin + at
    low, high, none = position.to(tl.uint32), (position >> 32).to(tl.uint32), tl.zeros(at.shape, tl.uint32)
    draw, action, base, _ = tl.philox(key, low, high, none + TAG, none)
    if softmask is not None:
        before = tl.maximum(position, 0)
        soft = tl.load(softmask + before, mask=before < length, other=0)
        limit = tl.where(soft, soft_limit, limit)
    kind = (action.to(tl.int64) < mask_below).to(tl.int32) + (action.to(tl.int64) < draw_below).to(tl.int32) + 1
    return tl.where(draw.to(tl.int64) < limit, (at + span) * 4 + kind, 0), base


@kernel
def _mask_tokens(
    out, targets, tokens, keys, softmask, length, limit: tl.int64, soft_limit: tl.int64, mask_below: tl.int64,
    draw_below: tl.int64, span, blocks,
    KNOWN: tl.constexpr, TAG: tl.constexpr, IGNORE: tl.constexpr, AHEAD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, block = program(blocks)
    key, begin, at = tl.load(keys + row), block * BLOCK, tl.arange(0, BLOCK)
    if softmask is not None:
        softmask += row * length
    last, base = _draw(key, softmask, length, begin, at, span, limit, soft_limit, mask_below, draw_below, TAG)
    if (
        AHEAD
    ):  # spans longer than one: the last that begins at or before a position decides over it, if it reaches so far
        last = tl.associative_scan(last, 0, _later)
        ahead = 1 - span
        while ahead < 0:
            before = ahead + tl.arange(0, AHEAD)
            began, _ = _draw(key, softmask, length, begin, before, span, limit, soft_limit, mask_below, draw_below, TAG)
            last = tl.maximum(last, tl.max(tl.where(before < 0, began, 0), 0))
            ahead += AHEAD
    inside, here = at < length - begin, row * length + begin + at
    token = tl.load(tokens + here, mask=inside, other=0).to(tl.int64)
    chosen, kind = (last // 4 > at) & (token < KNOWN), last % 4
    made = tl.where(kind == 3, KNOWN + 1, tl.where(kind == 2, (base & (KNOWN - 1)).to(tl.int64), token))
    tl.store(out + here, tl.where(chosen, made, token).to(out.dtype.element_ty), mask=inside)
    tl.store(targets + here, tl.where(chosen, token, IGNORE), mask=inside)


def mask_tokens(
    tokens: Tensor,
    keys: Tensor,
    rate: float,
    mask: float = 0.8,
    random: float = 0.1,
    softmask: Tensor | None = None,
    softmask_rate: float = 0.0,
    span: int = 1,
    k: int = 1,
) -> tuple[Tensor, Tensor]:
    rows, length = tokens.shape
    out = torch.empty((rows, length), dtype=tokens.dtype, device=tokens.device)
    targets = torch.empty((rows, length), dtype=torch.int64, device=tokens.device)
    launch(
        _mask_tokens,
        rows,
        triton.cdiv(length, _BLOCK),
        tokens,
        out,
        targets,
        *contiguous(tokens, keys, softmask),
        length,
        threshold(span_rate(rate, span)),
        threshold(span_rate(softmask_rate, span)),
        threshold(mask),
        threshold(mask + random),
        span,
        KNOWN=4**k,
        TAG=MASKING,
        IGNORE=IGNORE_INDEX,
        AHEAD=0 if span == 1 else min(max(triton.next_power_of_2(span - 1), 32), _BLOCK),
        BLOCK=_BLOCK,
    )
    return out, targets
