"""Packed planes to codes, a block at a time: what the compiled ops share.

Spreading a byte over four (or eight) is a few shifts and masks, which LLVM turns into vector instructions: a block is
decoded within the first-level cache and written from there in the form an op wants, in a second pass over it.

Two habits keep loops vectorized (`function.inspect_asm()` shows). Innermost loops stand alone: inlined by hand into the loops
over rows they stay scalar. And a computed index is unsigned, constants have the array's type: numba else tests for negative
indices, and widens.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numpy import uint8, uint32, uint64
from torch import Tensor

from distgen.compiled import compiled
from distgen.kernels.reference import check_bounds

Bytes = npt.NDArray[np.uint8]
NO_BYTES = np.empty(0, np.uint8)
_UNSIGNED = {1: torch.uint8, 2: torch.uint16, 4: torch.uint32}
_NO_FLAGS = np.empty(0, np.bool_)
_NO_LIMITS = np.empty((0, 2), np.int64)
BLOCK = 8192  # bases decoded at a time: the codes stay in the first-level cache


@compiled
def lines(size: int) -> Bytes:
    """Bytes that begin where a cache line does: a vector that is stored across two takes twice as long."""
    found = np.empty(size + 63, np.uint8)
    before = -found.ctypes.data % 64
    return found[before : before + size]


@compiled
def workspace() -> Any:
    """Where a block is decoded: whole packed bytes are, up to 7 bases more on either side.

    Two of them go together: for codes, and for what they are made of or into. As arguments of their own, sliced late:
    numba counts references to every array that it hands on in a tuple, which takes longer than to decode a short window.
    """
    return lines(BLOCK + 64)


@compiled
def _spread(plane: Bytes, first: int, end: int, work: Bytes, at: int) -> None:
    """Codes of the bytes [first, end), from 4 * `at` on."""
    words = work.view(np.uint32)
    for i in range(end - first):
        word = uint32(plane[uint64(first) + uint64(i)])
        word = (word | (word << uint32(12))) & uint32(0x000F000F)
        words[uint64(at) + uint64(i)] = (word | (word << uint32(6))) & uint32(0x03030303)


@compiled
def _spread_bits(plane: Bytes, first: int, end: int, work: Bytes, at: int) -> None:
    """Bits of the bytes [first, end), from 8 * `at` on."""
    words = work.view(np.uint64)
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
def _mark(bits: Bytes, codes: Bytes) -> None:
    for i in range(codes.size):
        codes[i] = uint8(4) if bits[i] else codes[i]


@compiled
def decode(
    plane: Bytes, ambiguous: Bytes, start: int, size: int, low: int, high: int, work: Bytes, other: Bytes
) -> Any:
    """Codes of `size` bases from `start` on; positions outside [low, high) are 4 and not read. Returns where in `work`."""
    found = start & 3
    first, end = max(start, low), min(start + size, high)
    if first >= end:
        _fill(work, found, found + size, 4)
        return found
    _spread(plane, first >> 2, (end + 3) >> 2, work, (first >> 2) - (start >> 2))
    at = found + first - start
    _fill(work, found, at, 4)
    _fill(work, at + end - first, found + size, 4)
    if ambiguous.size and any_set(ambiguous, first >> 3, (end + 7) >> 3):
        _spread_bits(ambiguous, first >> 3, (end + 7) >> 3, other, 0)
        _mark(other[first & 7 :], work[at : at + end - first])
    return found


@compiled
def decode_bits(plane: Bytes, start: int, size: int, low: int, high: int, work: Bytes) -> Any:
    """Bits of `size` bases from `start` on; positions outside [low, high) are 0 and not read. Returns where in `work`."""
    found = start & 7
    first, end = max(start, low), min(start + size, high)
    if first >= end:
        _fill(work, found, found + size, 0)
        return found
    _spread_bits(plane, first >> 3, (end + 7) >> 3, work, (first >> 3) - (start >> 3))
    at = found + first - start
    _fill(work, found, at, 0)
    _fill(work, at + end - first, found + size, 0)
    return found


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
    work: Bytes,
    other: Bytes,
) -> Bytes:
    """Codes of positions [first, first + size) of a window of `length` bases, after strand, in `work` or `other`."""
    begin = start + (length - first - size if backward else first)
    at = decode(plane, ambiguous, begin, size, low, high, work, other)
    codes = work[at : at + size]
    if not backward:
        return codes
    _reverse_complement(codes, other)
    return other[:size]


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


def rows(
    items: int, starts: Tensor, length: int, limits: Tensor | None, reverse: Tensor | None, unit: str = "base"
) -> tuple[Any, Any, Any]:
    """Starts (B,), the limits of each row (B, 2) within a plane of so many bases (or a track of bins), and which rows are
    reversed: (B,), or none.

    Raises:
        WindowError: a window leaves the plane; names the first row that does.
    """
    begins = starts.contiguous().numpy()
    allowed, fine = _inside(items, begins, length, _NO_LIMITS if limits is None else limits.contiguous().numpy())
    if not fine:
        check_bounds(items, starts, length, limits, unit)
    return begins, allowed, _NO_FLAGS if reverse is None else reverse.contiguous().numpy()


def bits_of(tensor: Tensor) -> Any:
    """An array of unsigned integers with a tensor's bits: one kernel per width serves every dtype."""
    unsigned = _UNSIGNED[tensor.itemsize]
    return (tensor if tensor.dtype == unsigned else tensor.view(unsigned)).numpy()
