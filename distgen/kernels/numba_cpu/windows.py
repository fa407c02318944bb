"""The ops for the CPU, compiled by numba on first use and cached on disk. `reference.py` specifies them.

One decoder serves all ops: 16 bytes become 64 codes in a handful of vector instructions, because
spreading a byte over four is two shifts and two masks that LLVM vectorizes.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distgen.kernels.reference import bases_of, check_bounds

Bytes = npt.NDArray[np.uint8]
_NONE = np.empty(0, np.uint8)
_BLOCK = 8192  # bases decoded at a time: the codes stay in the first-level cache


def _jit(function: Any) -> Any:
    return numba.njit(function, cache=True, nogil=True, boundscheck=False)


@_jit
def _spread(plane: Bytes, start: int, out: Bytes) -> None:
    """Codes of len(out) bases from `start` on, none of them outside the plane."""
    n = out.size
    head = min(n, (4 - start % 4) % 4)
    for i in range(head):
        out[i] = (plane[(start + i) >> 2] >> (2 * ((start + i) & 3))) & 3
    body = (n - head) // 4
    words = out[head : head + 4 * body].view(np.uint32)
    packed = plane[(start + head) >> 2 : ((start + head) >> 2) + body]
    for j in range(body):
        word = np.uint32(packed[j])
        word = (word | (word << np.uint32(12))) & np.uint32(0x000F000F)
        words[j] = (word | (word << np.uint32(6))) & np.uint32(0x03030303)
    for i in range(head + 4 * body, n):
        out[i] = (plane[(start + i) >> 2] >> (2 * ((start + i) & 3))) & 3


@_jit
def _decode(plane: Bytes, ambiguous: Bytes, start: int, low: int, high: int, out: Bytes) -> None:
    """Codes of len(out) bases from `start` on; positions outside [low, high) are 4 and not read."""
    first, end = max(start, low), min(start + out.size, high)
    if first >= end:
        out[:] = 4
        return
    out[: first - start] = 4
    out[end - start :] = 4
    _spread(plane, first, out[first - start : end - start])
    if ambiguous.size:
        for byte in range(first >> 3, (end + 7) >> 3):
            bits = ambiguous[byte]
            if bits:
                for bit in range(8):
                    position = byte * 8 + bit
                    if (bits >> bit) & 1 and first <= position < end:
                        out[position - start] = 4


@_jit
def _reverse_complement(codes: Bytes, out: Bytes) -> None:
    last = codes.size - 1
    for i in range(codes.size):
        code = codes[last - i]
        out[i] = 3 - code if code < 4 else 4


@_jit
def _block(
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
        other = scratch[: out.size]
        _decode(plane, ambiguous, start + length - first - out.size, low, high, other)
        _reverse_complement(other, out)
    else:
        _decode(plane, ambiguous, start + first, low, high, out)


# Innermost loops stand alone: inlined by hand into the loops over rows, LLVM leaves them scalar.
@_jit
def _copy(codes: Bytes, out: Any) -> None:
    for i in range(codes.size):
        out[i] = codes[i]


@_jit
def _where(codes: Bytes, code: int, one: Any, out: Any) -> None:
    zero = one ^ one
    for i in range(codes.size):
        out[i] = one if codes[i] == code else zero


@_jit
def _fill_tokens(plane: Bytes, ambiguous: Bytes, starts: Any, limits: Any, reverse: Any, out: Any) -> None:
    length = out.shape[1]
    scratch, codes = np.empty(_BLOCK, np.uint8), np.empty(_BLOCK, np.uint8)
    for b in range(starts.size):
        backward = reverse.size > 0 and reverse[b]
        for first in range(0, length, _BLOCK):
            n = min(_BLOCK, length - first)
            _block(plane, ambiguous, starts[b], limits[b, 0], limits[b, 1], length, first, backward, scratch, codes[:n])
            _copy(codes[:n], out[b, first : first + n])


@_jit
def _fill_one_hot(plane: Bytes, ambiguous: Bytes, starts: Any, limits: Any, reverse: Any, one: Any, out: Any) -> None:
    length = out.shape[2]
    scratch, codes = np.empty(_BLOCK, np.uint8), np.empty(_BLOCK, np.uint8)
    for b in range(starts.size):
        backward = reverse.size > 0 and reverse[b]
        for first in range(0, length, _BLOCK):
            n = min(_BLOCK, length - first)
            _block(plane, ambiguous, starts[b], limits[b, 0], limits[b, 1], length, first, backward, scratch, codes[:n])
            for c in range(4):
                _where(codes[:n], c, one, out[b, c, first : first + n])


# The bit pattern of 1.0, so that one kernel per width serves every dtype.
_ONE = {
    torch.float32: np.uint32(0x3F800000),
    torch.bfloat16: np.uint16(0x3F80),
    torch.float16: np.uint16(0x3C00),
    torch.uint8: np.uint8(1),
}
_WIDTHS = {1: torch.uint8, 2: torch.uint16, 4: torch.uint32}


def _arguments(
    plane: Tensor, starts: Tensor, length: int, reverse: Tensor | None, ambiguous: Tensor | None, limits: Tensor | None
) -> tuple[Any, ...]:
    check_bounds(bases_of(plane, ambiguous), starts, length, limits)
    if limits is None:
        limits = torch.stack([starts, starts + length], dim=1)
    return (
        plane.contiguous().numpy(),
        _NONE if ambiguous is None else ambiguous.contiguous().numpy(),
        starts.contiguous().numpy(),
        limits.contiguous().numpy(),
        _NONE.view(np.bool_) if reverse is None else reverse.contiguous().numpy(),
    )


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


def one_hot(
    plane: Tensor,
    starts: Tensor,
    length: int,
    reverse: Tensor | None = None,
    ambiguous: Tensor | None = None,
    limits: Tensor | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> Tensor:
    out = torch.empty((starts.numel(), 4, length), dtype=dtype)
    bits = out.view(_WIDTHS[dtype.itemsize]).numpy()
    _fill_one_hot(*_arguments(plane, starts, length, reverse, ambiguous, limits), _ONE[dtype], bits)
    return out
