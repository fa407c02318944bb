"""substitute for the CPU: a row's codes are put together piece by piece, then packed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy import uint8, uint32, uint64
from torch import Tensor

from distgen.compiled import compiled
from distgen.kernels.numba_cpu.decode import BLOCK, NO_BYTES, Bytes, decode, lines, workspace
from distgen.kernels.reference import bases_of, check_bounds, check_replacements

_ANY = [[-(2**63), 2**63 - 1]]


@compiled
def _pack(codes: Bytes, plane: Bytes) -> None:
    words = codes.view(np.uint32)
    for i in range(plane.size):
        word = words[i] & uint32(0x03030303)
        word |= word >> uint32(6)
        plane[i] = uint8((word & uint32(0xF)) | (word >> uint32(12)))


@compiled
def _pack_unknown(codes: Bytes, ambiguous: Bytes) -> None:
    words = codes.view(np.uint64)
    for i in range(ambiguous.size):
        word = (words[i] >> uint64(2)) & uint64(0x0101010101010101)
        word |= word >> uint64(7)
        word = (word | (word >> uint64(14))) & uint64(0x0000000F0000000F)
        ambiguous[i] = uint8(word | (word >> uint64(28)))


@compiled
def _leaves(first: int, size: int, low: int, high: int, items: int) -> bool:
    begin, end = max(first, low), min(first + size, high)
    return begin < end and (begin < 0 or end > items)


@compiled
def _copy(values: Bytes, first: int, size: int, out: Bytes, at: int) -> None:
    for i in range(size):
        out[uint64(at) + uint64(i)] = values[uint64(first) + uint64(i)]


@compiled
def _fill_row(
    packed: Any, start: int, low: int, high: int, changes: Any, rows: Any, work: Bytes, other: Bytes, codes: Bytes
) -> Any:
    """A window with its replacements. Returns the first base and the size of a stretch that leaves the plane, or 0."""
    plane, ambiguous, items = packed
    position, deleted, inserted_offsets, inserted = changes
    inner_low, inner_high = max(low, 0), min(high, items)
    # Replacements are often close to each other: what follows the first stretch is decoded with it.
    place, held, held_from = 0, 0, start
    at, made, length = start, 0, codes.size
    for r in range(rows[0], rows[1] + 1):
        kept = position[r] - at if r < rows[1] else length - made
        if kept < 0 or kept >= length - made:  # the last stretch; less than 0 only where 64 bits overflow
            kept = length - made
        if _leaves(at, kept, low, high, items):
            return at, kept
        while kept > 0:
            if not 0 <= at - held_from < held:
                held, held_from = min(BLOCK, length - made), at
                place = decode(plane, ambiguous, at, held, inner_low, inner_high, work, other)
            size = min(kept, held_from + held - at)
            _copy(work, place + at - held_from, size, codes, made)
            at, made, kept = at + size, made + size, kept - size
        if made == length:
            break
        size = min(inserted_offsets[r + 1] - inserted_offsets[r], length - made)
        _copy(inserted, inserted_offsets[r], size, codes, made)
        at, made = position[r] + deleted[r], made + size
    return at, 0


@compiled
def _fill(
    packed: Any, starts: Any, length: int, limits: Any, offsets: Any, changes: Any, made: Any, unknown: Any
) -> Any:
    work, other, codes = workspace(), workspace(), lines(made.shape[1] * 4)
    codes[length:] = 4
    for b in range(starts.size):
        rows = offsets[b], offsets[b + 1]
        low, high = limits[b, 0], limits[b, 1]
        first, bases = _fill_row(packed, starts[b], low, high, changes, rows, work, other, codes[:length])
        if bases:
            return b, first, bases
        _pack(codes, made[b])
        _pack_unknown(codes, unknown[b])
    return 0, 0, 0


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
    check_replacements(starts, offsets, position, deleted, inserted_offsets, inserted)
    items, strides = bases_of(plane, ambiguous), -(-length // 64)
    if limits is None:
        limits = torch.tensor(_ANY).expand(len(starts), 2)
    made, unknown = (torch.empty((len(starts), strides * bytes_), dtype=torch.uint8) for bytes_ in (16, 8))
    codes = NO_BYTES if ambiguous is None else ambiguous.contiguous().numpy()
    row, first, bases = _fill(
        (plane.contiguous().numpy(), codes, items),
        starts.contiguous().numpy(),
        length,
        limits.contiguous().numpy(),
        offsets.contiguous().numpy(),
        tuple(t.contiguous().numpy() for t in (position, deleted, inserted_offsets, inserted)),
        made.numpy(),
        unknown.numpy(),
    )
    if bases:
        check_bounds(items, starts.new_tensor([first]), bases, limits[row : row + 1], row=row)
    return made.view(-1), unknown.view(-1)
