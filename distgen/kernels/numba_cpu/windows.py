"""tokens, one_hot, kmers and bits for the CPU. A block is decoded to codes, then written as the op wants it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy import uint8, uint32, uint64
from torch import Tensor

from distgen.compiled import compiled
from distgen.kernels.numba_cpu.decode import (
    BLOCK,
    NO_BYTES,
    Bytes,
    any_set,
    bits_of,
    block,
    decode_bits,
    rows,
    workspace,
)
from distgen.kernels.numba_cpu.hot import hot
from distgen.kernels.reference import bases_of


@compiled
def _copy(codes: Bytes, out: Any) -> None:
    for i in range(codes.size):
        out[i] = codes[i]


@compiled
def _fill_tokens(plane: Bytes, ambiguous: Bytes, starts: Any, limits: Any, reverse: Any, out: Any) -> None:
    length = out.shape[1]
    work, other = workspace(), workspace()
    for b in range(starts.size):
        low, high, backward = limits[b, 0], limits[b, 1], reverse.size > 0 and reverse[b]
        for first in range(0, length, BLOCK):
            size = min(BLOCK, length - first)
            codes = block(plane, ambiguous, starts[b], length, low, high, first, size, backward, work, other)
            _copy(codes, out[b, first : first + size])


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
def _fill_one_hot(
    plane: Bytes, ambiguous: Bytes, starts: Any, limits: Any, reverse: Any, one: Any, last: bool, out: Any
) -> None:
    cells = out.reshape((starts.size, out.shape[1] * out.shape[2]))
    for b in range(starts.size):
        backward = reverse.size > 0 and reverse[b]
        hot(plane, ambiguous, starts[b], limits[b, 0], limits[b, 1], backward, last, one, cells[b])


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
def _split(codes: Bytes, digits: Bytes, unknown: Bytes) -> None:
    for i in range(codes.size):
        digits[i], unknown[i] = codes[i] & uint8(3), codes[i] >> uint8(2)


# How much a digit's step to the left multiplies by, as a table: LLVM makes a shift of what it knows to be a power of two,
# and bytes are shifted by an unknown number one by one.
_POWERS_OF_FOUR, _POWERS_OF_ONE = np.array([1, 4, 16], np.uint8), np.ones(5, np.uint8)


@compiled
def _join(values: Bytes, step: int, factor: int, out: Bytes) -> None:
    later, by = values[step:], uint8(factor)
    for i in range(later.size):
        out[i] = uint8(values[i] * by) | later[i]


@compiled
def _grow(values: Bytes, digits: int, powers: Bytes, other: Bytes) -> Bytes:
    """From single digits the numbers of so many digits: doubled, and what overlaps is the same in both."""
    have, other = 1, other[: values.size]
    while have < digits:
        step = min(have, digits - have)
        _join(values, step, powers[step], other)
        values, other, have = other, values, have + step
    return values


@compiled
def _number(quads: Bytes, unknown: Bytes, k: int, stride: int, out: Any) -> None:
    """k-mers from the first, the second and the last four of their digits (all the same for a k up to 4)."""
    last = max(k - 4, 0)
    second = min(last, 4)
    at_second, at_last = quads[second:], quads[last:]
    high, middle = uint32(2 * last) & uint32(31), uint32(2 * (last - second)) & uint32(31)
    none = uint32(1) << uint32(2 * k)
    for i in range(out.size):
        j = uint64(i) * uint64(stride)
        number = (uint32(quads[j]) << high) | (uint32(at_second[j]) << middle) | uint32(at_last[j])
        out[i] = none if unknown[j] else number


@compiled
def _fill_kmers(
    plane: Bytes, ambiguous: Bytes, starts: Any, limits: Any, reverse: Any, length: int, k: int, stride: int, out: Any
) -> None:
    work, other = workspace(), workspace()
    digits, unknown = workspace(), workspace()
    at_once = (BLOCK - k) // stride + 1
    for b in range(starts.size):
        low, high, backward = limits[b, 0], limits[b, 1], reverse.size > 0 and reverse[b]
        for first in range(0, out.shape[1], at_once):
            numbers = out[b, first : first + at_once]
            size = (numbers.size - 1) * stride + k
            codes = block(plane, ambiguous, starts[b], length, low, high, first * stride, size, backward, work, other)
            _split(codes, digits, unknown)
            quads = _grow(digits[:size], min(k, 4), _POWERS_OF_FOUR, other)
            some_unknown = unknown[:size]
            if any_set(unknown, 0, size):
                some_unknown = _grow(some_unknown, k, _POWERS_OF_ONE, work)
            _number(quads, some_unknown, k, stride, numbers)


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
    work = workspace()
    for b in range(starts.size):
        low, high, backward = limits[b, 0], limits[b, 1], reverse.size > 0 and reverse[b]
        for first in range(0, length, BLOCK):
            made = out[b, first : first + BLOCK]
            begin = length - first - made.size if backward else first
            at = decode_bits(plane, starts[b] + begin, made.size, low, high, work)
            found = work[at : at + made.size]
            if backward:
                _reverse(found, made)
            else:
                _copy(found, made)


def bits(
    plane: Tensor, starts: Tensor, length: int, reverse: Tensor | None = None, limits: Tensor | None = None
) -> Tensor:
    which = rows(plane.numel() * 8, starts, length, limits, reverse)
    out = torch.empty((starts.numel(), length), dtype=torch.bool)
    _fill_bits(plane.contiguous().numpy(), *which, bits_of(out))
    return out


def _arguments(
    plane: Tensor, starts: Tensor, length: int, reverse: Tensor | None, ambiguous: Tensor | None, limits: Tensor | None
) -> tuple[Any, ...]:
    bits = NO_BYTES if ambiguous is None else ambiguous.contiguous().numpy()
    which = rows(bases_of(plane, ambiguous), starts, length, limits, reverse)
    return plane.contiguous().numpy(), bits, *which
