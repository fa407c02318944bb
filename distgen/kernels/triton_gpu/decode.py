"""What the kernels share: a window's bounds, and 16 packed bases from anywhere in a plane at once.

A kernel handles words of 16 bases, not bases: loads, strand and bounds then cost a sixteenth each, and what is left per
base is to shift and to mask. Positions in a plane are int64, offsets inside a program's block int32.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# Triton compiles a kernel anew for numbers that are 1 or that 16 divides: worth it for the length of rows, not for these.
kernel = partial(
    triton.jit,
    do_not_specialize=(
        "items", "many", "stride", "span", "limit", "soft_limit", "mask_below", "draw_below", "missing",
        "replacements", "codes", "blocks",
    ),
)  # fmt: skip


@triton.jit
def bounds(starts, limits, row, length, items, first_bad, block):
    """A window's start, and the first and end of what it may read; a row that wants more is reported by its block 0."""
    start = tl.load(starts + row)
    first, end = start, start + length
    if limits is not None:
        first = tl.maximum(first, tl.load(limits + 2 * row))
        end = tl.minimum(end, tl.load(limits + 2 * row + 1))
    bad = (first < end) & ((first < 0) | (end > items))
    tl.atomic_min(first_bad, row, mask=bad & (block == 0), sem="relaxed")
    first, end = tl.maximum(first, 0), tl.minimum(end, items)
    return start, first, tl.maximum(first, end)


@triton.jit
def read(plane, source, at, low, high, BITS: tl.constexpr, MANY: tl.constexpr):
    """MANY packed items of BITS bits from item `source + at` on, the first in the lowest bits.

    Only cells (bytes or words, whatever the plane has) that hold items [low, high), counted from `source`, are read;
    other items are anything.
    """
    WIDTH: tl.constexpr = plane.dtype.element_ty.primitive_bitwidth
    PER: tl.constexpr = WIDTH // BITS  # a power of two, so that a negative position divides as a positive one does
    phase = (source & (PER - 1)).to(at.dtype)
    plane += _floor(source, PER)
    begin, end = _floor(low + phase, PER), _floor(high + phase + (PER - 1), PER)
    many = tl.where(low < high, end - begin, 0)
    at += phase
    cell = _floor(at, PER)
    word = tl.zeros_like(at).to(tl.uint64)
    for j in tl.static_range((MANY + 2 * (PER - 1)) // PER):
        loaded = tl.load(plane + (cell + j), mask=(cell + j - begin >= 0) & (cell + j - begin < many))
        word |= loaded.to(tl.uint64) << (WIDTH * j)
    return (word >> ((at & (PER - 1)) * BITS).to(tl.uint64)).to(tl.uint32)


@triton.jit
def _floor(number, PER: tl.constexpr):
    SHIFT: tl.constexpr = 5 if PER == 32 else 4 if PER == 16 else 3 if PER == 8 else 2
    return number >> SHIFT


@triton.jit
def outside(at, low, high):
    """16 bits: which of the items from `at` on are not in [low, high)."""
    before = tl.minimum(tl.maximum(low - at, 0), 16).to(tl.uint32)
    within = tl.minimum(tl.maximum(high - at, 0), 16).to(tl.uint32)
    one = tl.full(at.shape, 1, tl.uint32)
    return (((one << before) - 1) | (((one << within) - 1) ^ 0xFFFF)) & 0xFFFF


@triton.jit
def swap(word, BITS: tl.constexpr, MASK: tl.constexpr):
    """Neighbouring groups of BITS bits change places."""
    return ((word >> BITS) & MASK) | ((word & MASK) << BITS)


@triton.jit
def turn_bases(word):
    """16 bases of 2 bits, last to first."""
    word = swap(swap(word, 2, 0x33333333), 4, 0x0F0F0F0F)
    return swap(swap(word, 8, 0x00FF00FF), 16, 0x0000FFFF)


@triton.jit
def turn_bits(word):
    """16 bits, last to first."""
    word = swap(swap(word, 1, 0x5555), 2, 0x3333)
    return swap(swap(word, 4, 0x0F0F), 8, 0x00FF)


@triton.jit
def program(blocks):
    """The row and the block of this program: rows and blocks may both be too many for a second dimension of the grid."""
    return (tl.program_id(0) // blocks).to(tl.int64), (tl.program_id(0) % blocks).to(tl.int64)


@triton.jit
def place(starts, reverse, limits, row, block, length, items, first_bad, BLOCK: tl.constexpr):
    """Where BLOCK items of a window lie, after strand.

    Returns:
        A position in the plane; from it on, the offset of each 16 items, and what may be read, [low, high).
    """
    start, first, end = bounds(starts, limits, row, length, items, first_bad, block)
    at_W = tl.arange(0, BLOCK // 16) * 16
    source = start + block * BLOCK
    if reverse is not None:
        backward = tl.load(reverse + row)
        source = tl.where(backward, start + length - (block + 1) * BLOCK, source)
        at_W = tl.where(backward, BLOCK - 16 - at_W, at_W)
    low = tl.minimum(tl.maximum(first - source, 0), BLOCK).to(tl.int32)
    high = tl.minimum(tl.maximum(end - source, 0), BLOCK).to(tl.int32)
    return source, at_W, low, high


@triton.jit
def words(plane, ambiguous, starts, reverse, limits, row, block, length, items, first_bad, BLOCK: tl.constexpr):
    """BLOCK bases of a window after strand, 16 a word: their codes, 2 bits each, and a bit for each that is unknown."""
    source, at_W, low, high = place(starts, reverse, limits, row, block, length, items, first_bad, BLOCK)
    codes_W = read(plane, source, at_W, low, high, 2, 16)
    unknown_W = outside(at_W, low, high)
    if ambiguous is not None:
        unknown_W |= read(ambiguous, source, at_W, low, high, 1, 16) & 0xFFFF
    if reverse is not None:
        backward = tl.load(reverse + row)
        codes_W = tl.where(backward, turn_bases(codes_W) ^ 0xFFFFFFFF, codes_W)
        unknown_W = tl.where(backward, turn_bits(unknown_W), unknown_W)
    return codes_W, unknown_W


@triton.jit
def spread(codes_W, unknown_W):
    """The code of each base of each word, 4 where unknown: (words, 16)."""
    base = tl.arange(0, 16)[None, :]
    codes_WI = (codes_W[:, None] >> (2 * base)) & 3
    return tl.where((unknown_W[:, None] >> base) & 1 != 0, 4, codes_WI)


def cells(plane: Tensor | None) -> Tensor | None:
    """A plane in words of four bytes where it consists of whole ones: two loads for 16 bases, not five."""
    if plane is None or not (plane := plane.contiguous()).numel() or plane.numel() % 4 or plane.data_ptr() % 4:
        return plane
    return plane.view(torch.uint32)


def contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if t is None else t.contiguous() for t in tensors]


def launch(what: Any, rows: int, blocks: int, on: Tensor, *arguments: Any, **constants: Any) -> None:
    """One program for each block of each row, on the device of a tensor. Nothing waits."""
    if rows and blocks:
        with torch.cuda.device_of(on):
            what[(rows * blocks,)](*arguments, blocks, **constants)
