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
def workspace(size: int) -> Bytes:
    """Bytes that begin where a cache line does: a vector that is stored across two takes twice as long."""
    found = np.empty(size + 63, np.uint8)
    before = -found.ctypes.data % 64
    return found[before : before + size]


@compiled
def _spread(plane: Bytes, start: int, out: Bytes) -> None:
    """Codes of len(out) bases from `start` on, none of them outside the plane."""
    n = out.size
    head = min(n, -start % 4)
    body = (n - head) // 4
    for i in range(head):
        out[i] = (plane[(start + i) >> 2] >> (2 * ((start + i) & 3))) & 3
    packed = plane[(start + head) >> 2 : ((start + head) >> 2) + body]
    words = out[head : head + 4 * body].view(np.uint32)
    for j in range(body):
        word = uint32(packed[j])
        word = (word | (word << uint32(12))) & uint32(0x000F000F)
        words[j] = (word | (word << uint32(6))) & uint32(0x03030303)
    for i in range(head + 4 * body, n):
        out[i] = (plane[(start + i) >> 2] >> (2 * ((start + i) & 3))) & 3


@compiled
def _spread_bits(plane: Bytes, start: int, out: Bytes) -> None:
    """Bits of len(out) bases from `start` on, none of them outside the plane."""
    n = out.size
    head = min(n, -start % 8)
    body = (n - head) // 8
    for i in range(head):
        out[i] = (plane[(start + i) >> 3] >> ((start + i) & 7)) & 1
    packed = plane[(start + head) >> 3 : ((start + head) >> 3) + body]
    words = out[head : head + 8 * body].view(np.uint64)
    for j in range(body):
        word = uint64(packed[j])
        word = (word | (word << uint64(28))) & uint64(0x0000000F0000000F)
        word = (word | (word << uint64(14))) & uint64(0x0003000300030003)
        words[j] = (word | (word << uint64(7))) & uint64(0x0101010101010101)
    for i in range(head + 8 * body, n):
        out[i] = (plane[(start + i) >> 3] >> ((start + i) & 7)) & 1


@compiled
def any_set(values: Bytes) -> Any:
    found = uint8(0)
    for value in values:
        found |= value
    return found != 0


@compiled
def _mark(unknown: Bytes, codes: Bytes) -> None:
    for i in range(codes.size):
        codes[i] = uint8(4) if unknown[i] else codes[i]


@compiled
def decode(plane: Bytes, ambiguous: Bytes, start: int, low: int, high: int, scratch: Bytes, out: Bytes) -> None:
    """Codes of len(out) bases from `start` on; positions outside [low, high) are 4 and not read."""
    first, end = max(start, low), min(start + out.size, high)
    if first >= end:
        out[:] = 4
        return
    out[: first - start] = 4
    out[end - start :] = 4
    inside = out[first - start : end - start]
    _spread(plane, first, inside)
    if ambiguous.size and any_set(ambiguous[first >> 3 : (end + 7) >> 3]):
        _spread_bits(ambiguous, first, scratch[: inside.size])
        _mark(scratch, inside)


@compiled
def decode_bits(plane: Bytes, start: int, low: int, high: int, out: Bytes) -> None:
    """Bits of len(out) bases from `start` on; positions outside [low, high) are 0 and not read."""
    first, end = max(start, low), min(start + out.size, high)
    if first >= end:
        out[:] = 0
        return
    out[: first - start] = 0
    out[end - start :] = 0
    _spread_bits(plane, first, out[first - start : end - start])


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
    low: int,
    high: int,
    length: int,
    first: int,
    backward: bool,
    scratch: Bytes,
    out: Bytes,
) -> None:
    """Codes of positions [first, first + len(out)) of a window of `length` bases, after strand."""
    if backward:
        codes, unknown = scratch[: out.size], scratch[out.size :]
        decode(plane, ambiguous, start + length - first - out.size, low, high, unknown, codes)
        _reverse_complement(codes, out)
    else:
        decode(plane, ambiguous, start + first, low, high, scratch, out)


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
