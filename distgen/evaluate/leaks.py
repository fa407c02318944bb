"""Which windows of a part share a stretch with what was trained on: words of k bases, on either strand, letter by letter.

Words of up to 31 bases are numbers of 62 bits, so nothing is hashed and nothing is guessed. The part's words are sorted, those of
the training part pass by once. Compiled by numba on first use.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from distgen.compiled import compiled
from distgen.genome import Bits, Bytes, Int64

Numbers = npt.NDArray[np.uint64]
SHORTEST, LONGEST = 8, 31
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def leaked(part: Iterable[Bytes], train: Iterable[Bytes], k: int) -> Bits:
    """Whether each window of `part` has a word of k bases that a window of `train` has too, on either strand.

    Args:
        part, train: codes uint8 (n, L) of some windows at a time; 4 and more are in no word.
        k: 8 to 31.

    Returns:
        bool (N,), the windows of `part` one after another.
    """
    found = [words(codes, k) for codes in part]
    sizes = [len(size) for _, size in found]
    mine = np.concatenate([word for word, _ in found] or [np.empty(0, np.uint64)])
    per_row = np.concatenate([size for _, size in found] or [np.empty(0, np.int64)])
    known = np.unique(mine)
    shared = np.zeros(len(known), np.bool_)
    # A bit for each sixteenth value that there could be: nearly all words that are in no window end there.
    bits = max(int(16 * len(known) + 1).bit_length(), 10)
    sieve = np.zeros(1 << (bits - 3), np.uint8)
    _mark(known, bits, sieve)
    for codes in train:
        some, _ = words(codes, k)
        some = some[: _sift(some, bits, sieve)]
        at = np.searchsorted(known, some)
        at = at[(at < len(known)) & (known[np.minimum(at, len(known) - 1)] == some)] if len(known) else at[:0]
        shared[at] = True
    row = np.repeat(np.arange(sum(sizes)), per_row)
    return np.bincount(row[shared[np.searchsorted(known, mine)]], minlength=sum(sizes)) > 0


def words(codes: Bytes, k: int) -> tuple[Numbers, Int64]:
    """The words of windows: of each the smaller of both strands' numbers, uint64 (words,), and how many each window has (n,)."""
    count, length = codes.shape
    found = np.empty(count * max(length - k + 1, 0), np.uint64)
    sizes = np.zeros(count, np.int64)
    return found[: _fill(codes, k, found, sizes)], sizes


@compiled
def _fill(codes: Bytes, k: int, found: Numbers, sizes: Int64) -> int:
    kept, top = (np.uint64(1) << np.uint64(2 * k)) - np.uint64(1), np.uint64(2 * (k - 1))
    end = 0
    for row in range(codes.shape[0]):
        forward, backward, run = np.uint64(0), np.uint64(0), 0
        for i in range(codes.shape[1]):
            code = codes[row, i]
            run = run + 1 if code < 4 else 0
            forward = ((forward << np.uint64(2)) | np.uint64(code & 3)) & kept
            backward = (backward >> np.uint64(2)) | (np.uint64(3 - (code & 3)) << top)
            if run >= k:
                found[end] = min(forward, backward)
                end += 1
                sizes[row] += 1
    return end


@compiled
def _mark(found: Numbers, bits: int, sieve: Bytes) -> None:
    for word in found:
        at = (word * _MULTIPLIER) >> np.uint64(64 - bits)
        sieve[at >> np.uint64(3)] |= np.uint8(1 << (at & np.uint64(7)))


@compiled
def _sift(found: Numbers, bits: int, sieve: Bytes) -> int:
    """Moves the words that may be known to the front; returns how many."""
    end = 0
    for word in found:
        at = (word * _MULTIPLIER) >> np.uint64(64 - bits)
        found[end] = word
        if sieve[at >> np.uint64(3)] >> (at & np.uint64(7)) & 1:
            end += 1
    return end
