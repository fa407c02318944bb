"""tokens, one_hot, kmers and bits for the CPU. A block is decoded to codes, then written as the op wants it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy import uint8, uint32, uint64
from torch import Tensor

from distgen.kernels.numba_cpu.decode import (
    BLOCK,
    NO_BYTES,
    Bytes,
    bits_of,
    block,
    compiled,
    decode_bits,
    flags,
    inside,
)
from distgen.kernels.reference import bases_of

_UNKNOWN = uint32(1 << 24)  # above the 12 digits of the longest k-mer


@compiled
def _copy(codes: Bytes, out: Any) -> None:
    for i in range(codes.size):
        out[i] = codes[i]


@compiled
def _fill_tokens(plane: Bytes, ambiguous: Bytes, starts: Any, limits: Any, reverse: Any, out: Any) -> None:
    length = out.shape[1]
    scratch, codes = np.empty(2 * BLOCK, np.uint8), np.empty(BLOCK, np.uint8)
    for b in range(starts.size):
        low, high, backward = limits[b, 0], limits[b, 1], reverse.size > 0 and reverse[b]
        for first in range(0, length, BLOCK):
            made = codes[: min(BLOCK, length - first)]
            block(plane, ambiguous, starts[b], low, high, length, first, backward, scratch, made)
            _copy(made, out[b, first : first + made.size])


def tokens(
    plane: Tensor,
    starts: Tensor,
    length: int,
    reverse: Tensor | None = None,
    ambiguous: Tensor | None = None,
    limits: Tensor | None = None,
    dtype: torch.dtype = torch.uint8,
) -> Tensor:
    out = torch.empty((starts.numel(), length), dtype=dtype)
    _fill_tokens(*_arguments(plane, starts, length, reverse, ambiguous, limits), out.numpy())
    return out


# ---- one-hot ----------------------------------------------------------------------------------

# The bit pattern of 1.0 in each dtype.
_ONE = {
    torch.float32: np.uint32(0x3F800000),
    torch.bfloat16: np.uint16(0x3F80),
    torch.float16: np.uint16(0x3C00),
    torch.uint8: np.uint8(1),
}


@compiled
def _where(codes: Bytes, code: int, one: Any, out: Any) -> None:
    wanted, zero = uint8(code), one ^ one
    for i in range(codes.size):
        out[i] = one if codes[i] == wanted else zero


@compiled
def _where_last(codes: Bytes, one: Any, out: Any) -> None:
    zero = one ^ one
    for i in range(codes.size):
        code = codes[i]
        out[i, 0] = one if code == uint8(0) else zero
        out[i, 1] = one if code == uint8(1) else zero
        out[i, 2] = one if code == uint8(2) else zero
        out[i, 3] = one if code == uint8(3) else zero


@compiled
def _fill_one_hot(
    plane: Bytes, ambiguous: Bytes, starts: Any, limits: Any, reverse: Any, one: Any, last: bool, out: Any
) -> None:
    length = out.shape[1] if last else out.shape[2]
    scratch, codes = np.empty(2 * BLOCK, np.uint8), np.empty(BLOCK, np.uint8)
    for b in range(starts.size):
        low, high, backward = limits[b, 0], limits[b, 1], reverse.size > 0 and reverse[b]
        for first in range(0, length, BLOCK):
            made = codes[: min(BLOCK, length - first)]
            block(plane, ambiguous, starts[b], low, high, length, first, backward, scratch, made)
            if last:
                _where_last(made, one, out[b, first : first + made.size])
            else:
                for c in range(4):
                    _where(made, c, one, out[b, c, first : first + made.size])


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
    out = torch.empty((starts.numel(), *((length, 4) if channels_last else (4, length))), dtype=dtype)
    arguments = _arguments(plane, starts, length, reverse, ambiguous, limits)
    _fill_one_hot(*arguments, _ONE[dtype], channels_last, bits_of(out))
    return out


# ---- k-mers -----------------------------------------------------------------------------------


@compiled
def _digits(codes: Bytes, out: Any) -> None:
    for i in range(codes.size):
        out[i] = uint32(codes[i]) if codes[i] < uint8(4) else _UNKNOWN


@compiled
def _join(numbers: Any, step: int, out: Any) -> None:
    """Numbers longer by `step` digits: each with the one `step` further on, whose first digits are its own last."""
    later, shift = numbers[step:], uint32(2 * step)
    for i in range(later.size):
        out[i] = (numbers[i] << shift) | later[i] | (numbers[i] & _UNKNOWN)


@compiled
def _take(numbers: Any, stride: int, unknown: int, out: Any) -> None:
    for i in range(out.size):
        number = numbers[uint64(i) * uint64(stride)]
        out[i] = number if number < _UNKNOWN else unknown


@compiled
def _fill_kmers(
    plane: Bytes, ambiguous: Bytes, starts: Any, limits: Any, reverse: Any, length: int, k: int, stride: int, out: Any
) -> None:
    scratch, codes = np.empty(2 * BLOCK, np.uint8), np.empty(BLOCK, np.uint8)
    one, other = np.empty(BLOCK, np.uint32), np.empty(BLOCK, np.uint32)
    at_once = (BLOCK - k) // stride + 1
    for b in range(starts.size):
        low, high, backward = limits[b, 0], limits[b, 1], reverse.size > 0 and reverse[b]
        for first in range(0, out.shape[1], at_once):
            numbers = out[b, first : first + at_once]
            made = codes[: (numbers.size - 1) * stride + k]
            block(plane, ambiguous, starts[b], low, high, length, first * stride, backward, scratch, made)
            _digits(made, one)
            have, size = 1, made.size
            while have < k:
                step = min(have, k - have)
                _join(one[:size], step, other)
                one, other, have, size = other, one, have + step, size - step
            _take(one, stride, 1 << (2 * k), numbers)


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
    out = torch.empty((starts.numel(), max(length - k + stride, 0) // stride), dtype=dtype)
    arguments = _arguments(plane, starts, length, reverse, ambiguous, limits)
    _fill_kmers(*arguments, length, k, stride, out.numpy())
    return out


# ---- bits -------------------------------------------------------------------------------------


@compiled
def _reverse(values: Bytes, out: Bytes) -> None:
    last = uint64(values.size - 1)
    for i in range(values.size):
        out[i] = values[last - uint64(i)]


@compiled
def _fill_bits(plane: Bytes, starts: Any, limits: Any, reverse: Any, out: Any) -> None:
    length = out.shape[1]
    scratch = np.empty(BLOCK, np.uint8)
    for b in range(starts.size):
        low, high, backward = limits[b, 0], limits[b, 1], reverse.size > 0 and reverse[b]
        for first in range(0, length, BLOCK):
            made = out[b, first : first + BLOCK]
            if backward:
                decode_bits(plane, starts[b] + length - first - made.size, low, high, scratch[: made.size])
                _reverse(scratch[: made.size], made)
            else:
                decode_bits(plane, starts[b] + first, low, high, made)


def bits(
    plane: Tensor, starts: Tensor, length: int, reverse: Tensor | None = None, limits: Tensor | None = None
) -> Tensor:
    allowed = inside(plane.numel() * 8, starts, length, limits)
    out = torch.empty((starts.numel(), length), dtype=torch.bool)
    rows = starts.contiguous().numpy()
    _fill_bits(plane.contiguous().numpy(), rows, allowed, flags(reverse), bits_of(out))
    return out


def _arguments(
    plane: Tensor, starts: Tensor, length: int, reverse: Tensor | None, ambiguous: Tensor | None, limits: Tensor | None
) -> tuple[Any, ...]:
    allowed = inside(bases_of(plane, ambiguous), starts, length, limits)
    return (
        plane.contiguous().numpy(),
        NO_BYTES if ambiguous is None else ambiguous.contiguous().numpy(),
        starts.contiguous().numpy(),
        allowed,
        flags(reverse),
    )
