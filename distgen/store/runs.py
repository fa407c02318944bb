"""Runs of set bits in a bit plane, such as the ambiguous bases of an assembly: work goes with the chunks that are stored."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from distgen.compiled import compiled
from distgen.genome import Int64
from distgen.store.array import Array

Words = npt.NDArray[np.uint64]


def set_bits(plane: Array) -> Int64:
    """Sorted disjoint intervals (n, 2) of the bits that are set in a plane of bytes; bit i is bit i % 8 of byte i // 8.

    Raises:
        StoreError: a chunk is damaged.
    """
    borders: list[Int64] = []
    state, expected, bits = 0, 0, plane.layout.chunk_bytes * 8
    for number, chunk in plane.chunks(0, plane.layout.chunks):
        if state and number != expected:  # the chunks between are absent, and all zero
            borders.append(np.array([expected * bits]))
            state = 0
        words = chunk.view(np.uint64)
        found = np.empty(compiled(_count)(words, state), np.int64)
        state = compiled(_borders)(words, state, number * bits, found)
        borders.append(found)
        expected = number + 1
    if state:
        borders.append(np.array([min(expected * bits, plane.shape[0] * 8)]))
    return np.concatenate([np.empty(0, np.int64), *borders]).reshape(-1, 2)


def _count(words: Words, state: int) -> int:
    """How many bits differ from the one before; `state` is the bit before the first."""
    one, last = np.uint64(1), np.uint64(63)
    before, count = np.uint64(state), 0
    for word in words:
        change = word ^ ((word << one) | before)
        before = word >> last
        while change:
            change &= change - one
            count += 1
    return count


def _borders(words: Words, state: int, first: int, out: Int64) -> int:
    """Write the positions of the bits that differ from the one before, counted from `first`; returns the last bit."""
    one, last = np.uint64(1), np.uint64(63)
    before, count = np.uint64(state), 0
    for number in range(words.size):
        word = words[number]
        change = word ^ ((word << one) | before)
        before = word >> last
        while change:
            lowest = change & (~change + one)
            change ^= lowest
            at = 0
            for step in (32, 16, 8, 4, 2, 1):
                if lowest >> np.uint64(step):
                    lowest >>= np.uint64(step)
                    at += step
            out[count] = first + number * 64 + at
            count += 1
    return int(before)
