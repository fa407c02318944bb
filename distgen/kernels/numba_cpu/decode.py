"""Packed planes to codes, a block at a time: what the compiled ops share.

Spreading a byte over four (or eight) is a few shifts and masks, which LLVM turns into vector instructions: a block is
decoded within the first-level cache and written from there in the form an op wants, in a second pass over it.

Two habits keep loops vectorized. Innermost loops stand alone: inlined by hand into the loops over rows they stay scalar.
And a computed index is unsigned, constants have the array's type: numba else tests for negative indices, and widens.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import torch
from numpy import uint8, uint32, uint64
from torch import Tensor

from distgen.kernels.reference import check_bounds

Bytes = npt.NDArray[np.uint8]
NO_BYTES = np.empty(0, np.uint8)
_NO_FLAGS = np.empty(0, np.bool_)
_NO_LIMITS = np.empty((0, 2), np.int64)
BLOCK = 8192  # bases decoded at a time: the codes stay in the first-level cache


def compiled(function: Any) -> Any:
    """A function compiled on first use, and cached; other Python threads run meanwhile."""
    return numba.njit(function, cache=True, nogil=True, boundscheck=False)


@compiled
def lines(size: int) -> Bytes:
    """Bytes that begin where a cache line does: a vector that is stored across two takes twice as long."""
    found = np.empty(size + 63, np.uint8)
    before = -found.ctypes.data % 64
    return found[before : before + size]


@compiled
def workspace() -> Any:
    """What a block is decoded in: its codes, bits, and codes of the other strand; and codes and bits by the packed byte.

    Whole packed bytes are decoded, so that there are up to 7 bases before and after those asked for.
    """
    codes, bits = lines(BLOCK + 64), lines(BLOCK + 64)
    return codes, bits, lines(BLOCK), codes.view(np.uint32), bits.view(np.uint64)


@compiled
def _spread(plane: Bytes, first: int, end: int, words: Any, at: int) -> None:
    """Codes of the bytes [first, end), four in each word from `at` on."""
    for i in range(end - first):
        word = uint32(plane[uint64(first) + uint64(i)])
        word = (word | (word << uint32(12))) & uint32(0x000F000F)
        words[uint64(at) + uint64(i)] = (word | (word << uint32(6))) & uint32(0x03030303)


@compiled
def _spread_bits(plane: Bytes, first: int, end: int, words: Any, at: int) -> None:
    """Bits of the bytes [first, end), eight in each word from `at` on."""
    for i in range(end - first):
        word = uint64(plane[uint64(first) + uint64(i)])
        word = (word | (word << uint64(28))) & uint64(0x0000000F0000000F)
        word = (word | (word << uint64(14))) & uint64(0x0003000300030003)
        words[uint64(at) + uint64(i)] = (word | (word << uint64(7))) & uint64(0x0101010101010101)


@compiled
def any_set(values: Bytes, first: int, end: int) -> Any:
    found = uint8(0)
    for i in range(end - first):
        found |= values[uint64(first) + uint64(i)]
    return found != 0


@compiled
def _fill(values: Bytes, first: int, end: int, value: int) -> None:
    for i in range(first, end):
        values[i] = value


@compiled
def _mark(bits: Bytes, first: int, codes: Bytes, at: int, size: int) -> None:
    for i in range(size):
        if bits[uint64(first) + uint64(i)]:
            codes[uint64(at) + uint64(i)] = 4


@compiled
def decode(plane: Bytes, ambiguous: Bytes, start: int, size: int, low: int, high: int, work: Any) -> Bytes:
    """Codes of `size` bases from `start` on, in `work`; positions outside [low, high) are 4 and not read."""
    codes, bits, _, words, bit_words = work
    before = start & 3
    first, end = max(start, low), min(start + size, high)
    if first >= end:
        _fill(codes, before, before + size, 4)
        return codes[before : before + size]
    _spread(plane, first >> 2, (end + 3) >> 2, words, (first >> 2) - (start >> 2))
    at = before + first - start
    _fill(codes, before, at, 4)
    _fill(codes, at + end - first, before + size, 4)
    if ambiguous.size and any_set(ambiguous, first >> 3, (end + 7) >> 3):
        _spread_bits(ambiguous, first >> 3, (end + 7) >> 3, bit_words, 0)
        _mark(bits, first & 7, codes, at, end - first)
    return codes[before : before + size]


@compiled
def decode_bits(plane: Bytes, start: int, size: int, low: int, high: int, work: Any) -> Bytes:
    """Bits of `size` bases from `start` on, in `work`; positions outside [low, high) are 0 and not read."""
    _, bits, _, _, words = work
    before = start & 7
    first, end = max(start, low), min(start + size, high)
    if first >= end:
        first = end = start
    else:
        _spread_bits(plane, first >> 3, (end + 7) >> 3, words, (first >> 3) - (start >> 3))
    _fill(bits, before, before + first - start, 0)
    _fill(bits, before + end - start, before + size, 0)
    return bits[before : before + size]


@compiled
def _reverse_complement(codes: Bytes, out: Bytes) -> None:
    last = uint64(codes.size - 1)
    for i in range(codes.size):
        code = codes[last - uint64(i)]
        out[i] = uint8(3) - code if code < uint8(4) else uint8(4)


@compiled
def block(
    plane: Bytes,
    ambiguous: Bytes,
    start: int,
    length: int,
    low: int,
    high: int,
    first: int,
    size: int,
    backward: bool,
    work: Any,
) -> Bytes:
    """Codes of positions [first, first + size) of a window of `length` bases, after strand, in `work`."""
    if not backward:
        return decode(plane, ambiguous, start + first, size, low, high, work)
    codes = decode(plane, ambiguous, start + length - first - size, size, low, high, work)
    turned = work[2][:size]
    _reverse_complement(codes, turned)
    return turned


@compiled
def _inside(items: int, starts: Any, length: int, limits: Any) -> Any:
    """What of each row may be read, within [0, items) whatever the arguments; and whether that is all that was asked."""
    found, fine = np.empty((starts.size, 2), np.int64), True
    for b in range(starts.size):
        low, high = starts[b], starts[b] + length
        if limits.size:
            low, high = limits[b, 0], limits[b, 1]
        first, end = max(starts[b], low), min(starts[b] + length, high)
        fine &= first >= end or (first >= 0 and end <= items)
        found[b, 0], found[b, 1] = max(low, 0), min(high, items)
    return found, fine


def inside(items: int, starts: Tensor, length: int, limits: Tensor | None, unit: str = "base") -> Any:
    """int64 (B, 2), the limits of each row within a plane of so many bases (or a track of bins).

    Raises:
        WindowError: a window leaves the plane; names the first row that does.
    """
    asked = _NO_LIMITS if limits is None else limits.contiguous().numpy()
    found, fine = _inside(items, starts.contiguous().numpy(), length, asked)
    if not fine:
        check_bounds(items, starts, length, limits, unit)
    return found


def flags(rows: Tensor | None) -> Any:
    return _NO_FLAGS if rows is None else rows.contiguous().numpy()


def bits_of(tensor: Tensor) -> Any:
    """An array of unsigned integers with a tensor's bits: one kernel per width serves every dtype."""
    return tensor.view({1: torch.uint8, 2: torch.uint16, 4: torch.uint32, 8: torch.int64}[tensor.itemsize]).numpy()
