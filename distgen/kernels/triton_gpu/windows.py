"""tokens, one_hot, kmers and bits for CUDA: one program decodes a block of one window. See `decode.py`."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from distgen.kernels.library import first_bad
from distgen.kernels.reference import bases_of
from distgen.kernels.triton_gpu.decode import (
    bounds,
    cells,
    contiguous,
    kernel,
    launch,
    outside,
    place,
    program,
    read,
    spread,
    turn_bases,
    turn_bits,
    words,
)

# 1.0 as bits, so that a kernel per width serves every dtype; the interpreter has no bfloat16.
_ONE = {torch.float32: 0x3F800000, torch.bfloat16: 0x3F80, torch.float16: 0x3C00, torch.uint8: 1}
_WIDTHS = {1: torch.uint8, 2: torch.int16, 4: torch.int32}


@kernel
def _tokens(out, plane, ambiguous, starts, reverse, limits, length, items, first_bad, blocks, BLOCK: tl.constexpr):
    row, block = program(blocks)
    codes_W, unknown_W = words(plane, ambiguous, starts, reverse, limits, row, block, length, items, first_bad, BLOCK)
    begin = block * BLOCK
    at_WI = tl.arange(0, BLOCK // 16)[:, None] * 16 + tl.arange(0, 16)[None, :]
    codes_WI = spread(codes_W, unknown_W).to(out.dtype.element_ty)
    tl.store(out + (row * length + begin) + at_WI, codes_WI, mask=at_WI < length - begin)


@kernel
def _tokens_by_four(
    out, plane, ambiguous, starts, reverse, limits, length, items, first_bad, blocks, BLOCK: tl.constexpr
):
    """As `_tokens`, four codes to a word, which takes half the instructions; `length` is a multiple of 4."""
    row, block = program(blocks)
    codes_W, unknown_W = words(plane, ambiguous, starts, reverse, limits, row, block, length, items, first_bad, BLOCK)
    four = tl.arange(0, 4)[None, :]
    # Eight bits are spread over four bytes by halves; four bits by a product that puts bit i into bit 2 of byte i.
    codes_WF = (codes_W[:, None] >> (8 * four)) & 0xFF
    codes_WF = (codes_WF | (codes_WF << 12)) & 0x000F000F
    codes_WF = (codes_WF | (codes_WF << 6)) & 0x03030303
    unknown_WF = (((unknown_W[:, None] >> (4 * four)) & 15) * 0x00810204) & 0x04040404
    codes_WF = (codes_WF & ((unknown_WF - (unknown_WF >> 2)) ^ 0xFFFFFFFF)) | unknown_WF
    at_WF = tl.arange(0, BLOCK // 16)[:, None] * 4 + four
    begin = block * (BLOCK // 4)
    tl.store(out + (row * (length // 4) + begin) + at_WF, codes_WF, mask=at_WF < length // 4 - begin)


@kernel
def _one_hot(
    out, plane, ambiguous, starts, reverse, limits, length, items, first_bad, blocks,
    HOT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, block = program(blocks)
    codes_W, unknown_W = words(plane, ambiguous, starts, reverse, limits, row, block, length, items, first_bad, BLOCK)
    begin = block * BLOCK
    at_WI = tl.arange(0, BLOCK // 16)[:, None] * 16 + tl.arange(0, 16)[None, :]
    codes_WI = spread(codes_W, unknown_W)
    for channel in tl.static_range(4):
        hot_WI = tl.where(codes_WI == channel, HOT, 0).to(out.dtype.element_ty)
        tl.store(out + ((row * 4 + channel) * length + begin) + at_WI, hot_WI, mask=at_WI < length - begin)


@kernel
def _one_hot_last(
    out, plane, ambiguous, starts, reverse, limits, length, items, first_bad, blocks,
    HOT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, block = program(blocks)
    codes_W, unknown_W = words(plane, ambiguous, starts, reverse, limits, row, block, length, items, first_bad, BLOCK)
    begin = block * BLOCK
    base, channel = tl.arange(0, 64)[None, :] // 4, tl.arange(0, 64)[None, :] % 4
    hot_WI = ((codes_W[:, None] >> (2 * base)) & 3) == channel
    hot_WI &= (unknown_W[:, None] >> base) & 1 == 0
    at_WI = tl.arange(0, BLOCK // 16)[:, None] * 64 + tl.arange(0, 64)[None, :]
    hot_WI = tl.where(hot_WI, HOT, 0).to(out.dtype.element_ty)
    tl.store(out + (row * length + begin) * 4 + at_WI, hot_WI, mask=at_WI < (length - begin) * 4)


@kernel
def _kmers(
    out, plane, ambiguous, starts, reverse, limits, length, items, many, stride, first_bad, blocks,
    K: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, block = program(blocks)
    start, first, end = bounds(starts, limits, row, length, items, first_bad, block)
    begin, at_N = block * BLOCK, tl.arange(0, BLOCK)
    # A stride may be as long as the window: these offsets are int64.
    source, after_N = start + begin * stride, at_N.to(tl.int64) * stride
    if reverse is not None:
        backward = tl.load(reverse + row)
        source = tl.where(backward, start + length - K - begin * stride, source)
        after_N = tl.where(backward, -after_N, after_N)
    low, high = first - source, end - source
    codes_N = read(plane, source, after_N, low, high, 2, K)
    unknown_N = outside(after_N, low, high)
    if ambiguous is not None:
        unknown_N |= read(ambiguous, source, after_N, low, high, 1, K)
    # The first base is the highest digit: for the other strand as it lies, for this one turned.
    id_N = turn_bases(codes_N) >> (32 - 2 * K)
    if reverse is not None:
        id_N = tl.where(backward, (codes_N ^ 0xFFFFFFFF) & (4**K - 1), id_N)
    id_N = tl.where(unknown_N & (2**K - 1) != 0, 4**K, id_N)
    tl.store(out + (row * many + begin) + at_N, id_N.to(out.dtype.element_ty), mask=at_N < many - begin)


@kernel
def _bits(out, plane, starts, reverse, limits, length, items, first_bad, blocks, BLOCK: tl.constexpr):
    row, block = program(blocks)
    source, at_W, low, high = place(starts, reverse, limits, row, block, length, items, first_bad, BLOCK)
    bits_W = read(plane, source, at_W, low, high, 1, 16) & (outside(at_W, low, high) ^ 0xFFFF)
    if reverse is not None:
        bits_W = tl.where(tl.load(reverse + row), turn_bits(bits_W), bits_W)
    begin = block * BLOCK
    base = tl.arange(0, 16)[None, :]
    at_WI = tl.arange(0, BLOCK // 16)[:, None] * 16 + base
    bits_WI = ((bits_W[:, None] >> base) & 1).to(tl.uint8)
    tl.store(out + (row * length + begin) + at_WI, bits_WI, mask=at_WI < length - begin)


def _block(length: int, channels: int = 1) -> int:
    """Bases a program decodes: fewer where a thread needs an address for each value, as it does if 16 divides no row."""
    return 1024 if length <= 1024 or length % 16 or channels > 1 else 4096


def tokens(
    plane: Tensor,
    starts: Tensor,
    length: int,
    reverse: Tensor | None = None,
    ambiguous: Tensor | None = None,
    limits: Tensor | None = None,
    dtype: torch.dtype = torch.uint8,
) -> Tensor:
    out = torch.empty((starts.numel(), length), dtype=dtype, device=plane.device)
    window = (plane, starts, length, reverse, ambiguous, limits)
    if dtype == torch.uint8 and length and length % 4 == 0:
        # Two warps, 64 bases a thread: what a program does once is then a fourth of the work, not half.
        _decode(_tokens_by_four, out.view(torch.uint32), *window, num_warps=2)
    else:
        _decode(_tokens, out, *window)
    return out


def one_hot(
    plane: Tensor,
    starts: Tensor,
    length: int,
    reverse: Tensor | None = None,
    ambiguous: Tensor | None = None,
    limits: Tensor | None = None,
    dtype: torch.dtype = torch.bfloat16,
    channels_last: bool = False,
) -> Tensor:
    shape = (starts.numel(), length, 4) if channels_last else (starts.numel(), 4, length)
    out = torch.empty(shape, dtype=dtype, device=plane.device)
    decoder, bits = _one_hot_last if channels_last else _one_hot, out.view(_WIDTHS[dtype.itemsize])
    _decode(decoder, bits, plane, starts, length, reverse, ambiguous, limits, HOT=_ONE[dtype])
    return out


def _decode(
    decoder: Any,
    out: Tensor,
    plane: Tensor,
    starts: Tensor,
    length: int,
    reverse: Tensor | None,
    ambiguous: Tensor | None,
    limits: Tensor | None,
    **constants: int,
) -> None:
    block = _block(length, out.shape[2] if decoder is _one_hot_last else 1)
    blocks, given = triton.cdiv(length, block), _given(plane, starts, length, reverse, ambiguous, limits)
    launch(decoder, starts.numel(), blocks, plane, out, *given, first_bad(plane.device), BLOCK=block, **constants)


def _given(
    plane: Tensor,
    starts: Tensor,
    length: int,
    reverse: Tensor | None,
    ambiguous: Tensor | None,
    limits: Tensor | None,
) -> tuple[Any, ...]:
    """Windows as the kernels take them."""
    rows = contiguous(starts, reverse, limits)
    return cells(plane), cells(ambiguous), *rows, length, bases_of(plane, ambiguous)


def kmers(
    plane: Tensor,
    starts: Tensor,
    length: int,
    k: int,
    stride: int = 1,
    reverse: Tensor | None = None,
    ambiguous: Tensor | None = None,
    limits: Tensor | None = None,
    dtype: torch.dtype = torch.int64,
) -> Tensor:
    many = max(length - k + stride, 0) // stride
    out = torch.empty((starts.numel(), many), dtype=dtype, device=plane.device)
    given, sizes = _given(plane, starts, length, reverse, ambiguous, limits), {"K": k, "BLOCK": 1024}
    blocks = triton.cdiv(many, sizes["BLOCK"])
    launch(_kmers, starts.numel(), blocks, plane, out, *given, many, stride, first_bad(plane.device), **sizes)
    return out


def bits(
    plane: Tensor, starts: Tensor, length: int, reverse: Tensor | None = None, limits: Tensor | None = None
) -> Tensor:
    out = torch.empty((starts.numel(), length), dtype=torch.bool, device=plane.device)
    block = _block(length)
    arguments = (out.view(torch.uint8), cells(plane), *contiguous(starts, reverse, limits), length, 8 * plane.numel())
    launch(_bits, starts.numel(), triton.cdiv(length, block), plane, *arguments, first_bad(plane.device), BLOCK=block)
    return out
