"""What `packed.py` has compiled: windows dealt to rows, and bits put where they belong. Importing this loads the compiler."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy import int64, uint64

from distgen.compiled import compiled


@compiled
def deal(order: Any, lengths: Any, window: int, most: int) -> Any:
    """Samples by row, where each row begins among them, and where in its row each ends; see `packed.Plan`.

    Args:
        order: int64 (n,), samples as they come.
        lengths: int64 (n,), bases of each sample, at most `window`.
        most: rows that are open at any time.
    """
    room, number = np.zeros(most, np.int64), np.zeros(most, np.int64)
    row_of, end_of = np.empty(order.size, np.int32), np.empty(order.size, np.int32)
    counts = np.zeros(order.size + 1, np.int32)
    opened = 0
    for i in range(order.size):
        length = lengths[order[i]]
        # Room that is too small wraps to the largest of numbers, and rows not yet open have none: vector code without a branch.
        least = uint64(0xFFFFFFFFFFFFFFFF)
        for k in range(most):
            least = min(least, uint64((room[k] - length) * most + k))
        best: Any = int64(least % uint64(most))
        if int64(least) < 0:
            best = opened if opened < most else np.argmin(room)
            room[best], number[best] = window, opened
            opened += 1
        room[best] -= length
        row_of[i], end_of[i] = number[best], window - room[best]
        counts[number[best] + 1] += 1
    bounds = np.empty(opened + 1, np.int64)
    total = 0
    for row in range(opened + 1):
        total += counts[row]
        bounds[row] = total
    following = bounds.copy()
    samples, ends = np.empty(order.size, np.int32), np.empty(order.size, np.int32)
    for i in range(order.size):
        at = following[row_of[i]]
        samples[at], ends[at] = order[i], end_of[i]
        following[row_of[i]] += 1
    return samples, bounds, ends


@compiled
def _turned(word: Any, width: int) -> Any:
    """The bases of a word from the other strand: the last comes first, and codes are complemented (flags stay)."""
    word = (word >> uint64(32)) | (word << uint64(32))
    word = ((word >> uint64(16)) & uint64(0x0000FFFF0000FFFF)) | ((word & uint64(0x0000FFFF0000FFFF)) << uint64(16))
    word = ((word >> uint64(8)) & uint64(0x00FF00FF00FF00FF)) | ((word & uint64(0x00FF00FF00FF00FF)) << uint64(8))
    word = ((word >> uint64(4)) & uint64(0x0F0F0F0F0F0F0F0F)) | ((word & uint64(0x0F0F0F0F0F0F0F0F)) << uint64(4))
    word = ((word >> uint64(2)) & uint64(0x3333333333333333)) | ((word & uint64(0x3333333333333333)) << uint64(2))
    if width == 2:
        return ~word
    return ((word >> uint64(1)) & uint64(0x5555555555555555)) | ((word & uint64(0x5555555555555555)) << uint64(1))


@compiled
def shift(staged: Any, first: Any, to: Any, size: Any, reverse: Any, width: int, out: Any) -> None:
    """Put stretches of bits at their places in `out`, which is zero there.

    Args:
        staged: uint64 (p, words), each row with a word before and two behind the stretch that may be read.
        first, to, size: int64 (p,), bits: where a stretch begins in its row and in `out`, and how long it is.
        reverse: bool (p,), it is read from the other strand.
        width: bits of a base.
        out: uint64 (words,).
    """
    full = uint64(0xFFFFFFFFFFFFFFFF)
    for row in range(size.size):
        begin, end, words = to[row], to[row] + size[row], staged[row]
        low, high = begin >> 6, (end - 1) >> 6
        head, tail = full << uint64(begin & 63), full >> uint64(63 - ((end - 1) & 63))
        if low == high:
            head &= tail
        # Where the first bit of the lowest word of `out` comes from; each other word from one word on, or back.
        before = low * 64 - begin
        at = first[row] + (size[row] - before - 64 if reverse[row] else before)
        word, step, by = at >> 6, -1 if reverse[row] else 1, uint64(at & 63)
        for number in range(low, high + 1):
            # Shifted in two steps: by 64 at once is not defined.
            bits = (words[word] >> by) | ((words[word + 1] << uint64(1)) << (uint64(63) - by))
            if reverse[row]:
                bits = _turned(bits, width)
            if number == low:
                bits &= head
            elif number == high:
                bits &= tail
            out[number] |= bits
            word += step
