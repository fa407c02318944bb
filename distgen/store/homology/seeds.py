"""Where two stretches of DNA may resemble each other: spaced seeds that lie near one diagonal.

A seed is the bases at the 1s of a pattern, the smaller of the two strands' readings; the pattern reads the same
from both ends, so one lookup serves both strands. Spaced seeds find about twice as many copies of 72 to 77 % identity as
runs of as many bases do. Compiled by numba on first use and cached on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from distgen.compiled import compiled
from distgen.genome import Bytes, Int64

Counts = npt.NDArray[np.uint32]

PATTERNS = {  # the largest text in bases: what still keeps chance hits at a few per seed
    1 << 22: "11101001010010111",
    1 << 25: "11110010100101001111",
    1 << 62: "1101100011010101100011011",
}
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def pattern(bases: int) -> str:
    """The pattern for a text of so many bases."""
    return next(text for largest, text in PATTERNS.items() if bases <= largest)


@compiled
def _fill_words(codes: Bytes, mask: np.uint64, span: int, multiplier: np.uint64, words: Int64) -> None:
    forward, backward = np.uint64(0), np.uint64(0)
    top, kept = np.uint64(2 * (span - 1)), np.uint64((1 << (2 * span)) - 1)
    run = 0
    for i in range(codes.size):
        code = codes[i]
        run = run + 1 if code < 4 else 0
        forward = ((forward << np.uint64(2)) | np.uint64(code & 3)) & kept
        backward = (backward >> np.uint64(2)) | (np.uint64(3 - (code & 3)) << top)
        if i >= span - 1:
            words[i - span + 1] = -1
            if run >= span:
                one, other = forward & mask, backward & mask
                hashed = (min(one, other) * multiplier) >> np.uint64(32)
                words[i - span + 1] = np.int64(hashed << np.uint64(1)) | np.int64(other < one)


def words(codes: Bytes, shape: str) -> Int64:
    """The seed at each position: a 32-bit hash, times 2, plus 1 if the other strand's reading is the smaller.

    Args:
        codes: uint8 (n,). A seed with any code of 4 or more under its pattern is none.
        shape: the pattern.

    Returns:
        int64 (max(n - len(shape) + 1, 0),), -1 where there is no seed.
    """
    found = np.empty(max(codes.size - len(shape) + 1, 0), np.int64)
    mask = sum(3 << (2 * i) for i, bit in enumerate(shape) if bit == "1")
    _fill_words(codes, np.uint64(mask), len(shape), _MULTIPLIER, found)
    return found


@compiled
def _cells(word: int, bits: int) -> tuple[int, Any]:
    """Two independent cells of a seed: another seed shares one of them by chance, hardly ever both."""
    again = (np.uint64(word >> 1) * _MULTIPLIER) >> np.uint64(64 - bits)
    return word >> (33 - bits), np.int64(again)


@compiled
def count(found: Int64, bits: int, counts: npt.NDArray[np.uint16]) -> None:
    """Add seeds to counts uint16 (2, 2**bits); a full count stays what it is."""
    for word in found:
        if word >= 0:
            one, other = _cells(word, bits)
            counts[0, one] += counts[0, one] < 65535
            counts[1, other] += counts[1, other] < 65535


@compiled
def mark(
    found: Int64, bits: int, counts: npt.NDArray[np.uint16], most: int, span: int, marked: npt.NDArray[np.bool_]
) -> None:
    """Set the bases under every seed that was counted more than `most` times."""
    for i in range(found.size):
        if found[i] >= 0:
            one, other = _cells(found[i], bits)
            if min(counts[0, one], counts[1, other]) > most:
                marked[i : i + span] = True


@dataclass(frozen=True)
class Index:
    """Where each seed stands: hash bucket b holds places[starts[b] : starts[b + 1]].

    Args:
        bits: 2**bits buckets.
        starts: uint32, one a bucket and its end.
        places: uint32, in order of position within a bucket: the hash's last 3 bits, which tell seeds of one bucket apart,
            28 bits of position, the strand bit.
        known: uint8, a bit for each value of the hash's first `bits` + 3 bits: most seeds that are not there end here,
            in an eighth of the memory of the buckets' starts.
    """

    bits: int
    starts: Counts
    places: Counts
    known: Bytes


@compiled
def _add(found: Int64, bits: int, starts: Counts, known: Bytes) -> None:
    for word in found:
        if word >= 0:
            starts[(word >> (33 - bits)) + 2] += 1
            known[word >> (33 - bits)] |= np.uint8(1 << ((word >> (30 - bits)) & 7))


@compiled
def _fill_places(found: Int64, bits: int, first: int, starts: Counts, places: Counts) -> None:
    """Each place goes to starts[bucket + 1], which ends up as the start of the next bucket."""
    for i in range(found.size):
        word = found[i]
        if word >= 0:
            at = starts[(word >> (33 - bits)) + 1]
            places[at] = ((word >> 1 & 7) << 29) | ((first + i) << 1) | (word & 1)
            starts[(word >> (33 - bits)) + 1] += 1


def index(bases: int, pieces: Callable[[], Iterator[tuple[int, Int64]]]) -> Index:
    """Index about `bases` bases in 4 bytes for each, and 4 to 9 for each bucket.

    Args:
        bases: their number, for the number of buckets.
        pieces: called twice; yields the first position (below 2**28) and the seeds of each piece, in order.
    """
    bits = min(max((bases - 1).bit_length(), 8), 25)
    starts, known = np.zeros((1 << bits) + 2, np.uint32), np.zeros(1 << bits, np.uint8)
    for _, found in pieces():
        _add(found, bits, starts, known)
    np.cumsum(starts, out=starts, dtype=np.uint32)
    places = np.empty(starts[-1], np.uint32)
    for first, found in pieces():
        _fill_places(found, bits, first, starts, places)
    return Index(bits, starts, places, known)


# A hit as one sortable number: strand, diagonal + 2**20, and in the last 20 bits the position in the text that windows
# lie in. All hits of a group of windows are found at once: windows overlap.


@compiled
def _fill_known(found: Int64, bits: int, known: Bytes, out: Int64) -> int:
    """Positions whose seeds may stand in the index. Without a branch, so that many cache misses wait at a time."""
    n = 0
    for q in range(found.size):
        word = max(found[q], 0)
        out[n] = q
        n += (found[q] >= 0) & ((known[word >> (33 - bits)] >> ((word >> (30 - bits)) & 7)) & 1)
    return n


@compiled
def _fill_hits(found: Int64, bits: int, starts: Counts, places: Counts, known: Bytes, copies: int, at: Int64) -> Int64:
    """Hits of all positions, those of position q in rows at[q] to at[q + 1]."""
    there = np.empty(found.size + 1, np.int64)
    number = _fill_known(found, bits, known, there)
    # The same for where their buckets begin: each is a miss, and none waits for another.
    buckets = np.empty((number, 2), np.int64)
    for i in range(number):
        bucket = found[there[i]] >> (33 - bits)
        buckets[i, 0], buckets[i, 1] = starts[bucket], starts[bucket + 1]
    hits, n, done = np.empty(2 * found.size + copies, np.int64), 0, 0
    for i in range(number):
        q = there[i]
        at[done : q + 1] = n
        done, word, taken = q + 1, found[q], 0
        if n + copies > hits.size:
            hits = np.concatenate((hits[:n], np.empty(hits.size + copies, np.int64)))
        for j in range(buckets[i, 0], buckets[i, 1]):
            if places[j] >> 29 != (word >> 1) & 7:
                continue
            place = np.int64(places[j] & 0x1FFFFFFF)
            turned = (place ^ word) & 1
            diagonal = (place >> 1) + (q if turned else -q) + (1 << 20)
            hits[n] = (((turned << 32) | diagonal) << 20) | q
            n, taken = n + 1, taken + 1
            if taken == copies:
                break
    at[done:] = n
    return hits[:n]


@compiled
def _not_alone(hits: Int64, bins: Counts, out: Int64) -> int:
    """Hits that have another near their diagonal (or, by chance, in the same bin of a few thousand): all that a run
    can be made of. It saves sorting the others."""
    last = bins.size - 1
    for hit in hits:
        bins[(hit >> 26) & last] += 1
    n = 0
    for hit in hits:
        where = hit >> 26
        near = bins[where & last] + bins[(where + 1) & last] + bins[(where - 1) & last]
        out[n] = hit
        n += near > 1
    for hit in hits:
        bins[(hit >> 26) & last] = 0
    return n


@compiled
def _find_runs(hits: Int64, length: int, seeds: int, spread: int, slack: int, out: Int64) -> int:
    """Runs of sorted hits whose diagonals follow each other within `slack`; returns how many count."""
    n, first = 0, 0
    low = high = hits[0] & 0xFFFFF
    for i in range(1, hits.size + 1):
        if i < hits.size:
            diagonal, q = hits[i] >> 20, hits[i] & 0xFFFFF
            if diagonal - (hits[i - 1] >> 20) <= slack and diagonal - (hits[first] >> 20) <= length:
                low, high = min(low, q), max(high, q)
                continue
        if i - first >= seeds and high - low >= spread:
            out[n, 0] = hits[first] >> 52
            out[n, 1] = ((hits[first] >> 20) & 0xFFFFFFFF) - (1 << 20)
            out[n, 2] = ((hits[i - 1] >> 20) & 0xFFFFFFFF) - (1 << 20)
            out[n, 3] = i - first
            n += 1
        if i < hits.size:
            first, low, high = i, q, q
    return n


@compiled
def _candidates(
    found: Int64, windows: Int64, needs: Int64, span: int, bits: int, starts: Counts, places: Counts, known: Bytes, copies: int, most: int,
) -> Int64:  # fmt: skip
    out, n = np.empty((64, 5), np.int64), 0
    bins, kept = np.zeros(1 << 13, np.uint32), np.empty(1024, np.int64)
    w = 0
    while w < len(windows):
        first, last, v = windows[w, 0], windows[w, 1], w + 1
        while v < len(windows) and windows[v, 1] - first <= (1 << 14):
            last, v = max(last, windows[v, 1]), v + 1
        inside = found[first : max(first, last - span + 1)]
        at = np.zeros(inside.size + 1, np.int64)
        hits = _fill_hits(inside, bits, starts, places, known, copies, at)
        for row in range(w, v):
            length, offset = windows[row, 1] - windows[row, 0], windows[row, 0] - first
            seeds = 3 if needs[row] >= 100 else 2
            here = hits[at[min(offset, inside.size)] : at[max(min(offset + length - span + 1, inside.size), 0)]]
            if here.size < seeds:
                continue
            if here.size > kept.size:
                kept = np.empty(2 * here.size, np.int64)
            number = _not_alone(here, bins, kept)
            if number < seeds:
                continue
            kept[:number].sort()
            slack = min(max(length // 16, 8), 48)
            runs = np.empty((number // seeds, 4), np.int64)
            number = _find_runs(kept[:number], length, seeds, needs[row] // 4, slack, runs)
            best = np.argsort(-runs[:number, 3], kind="mergesort")[:most]
            if n + best.size > len(out):
                out = np.concatenate((out[:n], np.empty((n + 2 * best.size, 5), np.int64)))
            for run in best:
                shift = -offset if runs[run, 0] else offset
                out[n, 0], out[n, 1] = row, runs[run, 0]
                out[n, 2], out[n, 3] = runs[run, 1] + shift, runs[run, 2] + shift
                n += 1
        w = v
    return out[:n, :4]


def candidates(found: Int64, windows: Int64, needs: Int64, span: int, indexed: Index, copies: int, most: int) -> Int64:
    """Which windows share seeds with the index near one diagonal.

    Two seeds (three where a window needs 100 bases or more) must lie on diagonals that follow each other within a
    sixteenth of the window (8 to 48 bases) and spread over no more than its length, and stretch over a quarter of the bases that must align.

    Args:
        found: int64, seeds of the text that the windows lie in.
        windows: int64 (W, 2), start and end in it, sorted by start; at most 2**16 bases long.
        needs: int64 (W,), bases that must align.
        span: length of the pattern.
        indexed: the other side.
        copies: of a seed that stands in more places, only the first so many count.
        most: of the places that one window may resemble, so many with the most seeds.

    Returns:
        int64 (n, 4): row of the window; 1 for the other strand; smallest and largest diagonal, which is the position
        in the index minus the position in the window (their sum for the other strand). Of one window, that with the most
        seeds comes first.
    """
    rows: Int64 = _candidates(
        found, windows, needs, span, indexed.bits, indexed.starts, indexed.places, indexed.known,
        copies, most,
    )  # fmt: skip
    return rows
