"""The orders, a block of samples at a time: a Feistel network in vector registers, and the arithmetic of lanes, groups
and pieces. `order.py` says what they mean, its `_Plan` what a plan holds. Importing this loads the compiler."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy import uint64

from distgen.compiled import compiled

_BLOCK = 1024  # samples whose numbers stay in the first-level cache


@compiled
def _mix(x: Any) -> Any:
    """The finalizer of SplitMix64 (Steele et al. 2014), modulo 2^64."""
    x = (x ^ (x >> uint64(30))) * uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> uint64(27))) * uint64(0x94D049BB133111EB)
    return x ^ (x >> uint64(31))


@compiled
def _half(n: int) -> int:
    """Bits in half of the network for range(n): of the smallest even number of bits that holds n + 2, at least six."""
    # Halves of two bits reach too few permutations, whatever the rounds: a chi-squared test over n = 2 to 6 sees it.
    half = 3
    while half < 32 and (n + 1) >> (2 * half):
        half += 1
    return half


@compiled
def _pass(values: Any, halves: Any, tweaks: Any, keys: Any) -> None:
    # A function of its own, keys in a tuple and nothing but this loop: only so it becomes vector code.
    for i in range(values.size):
        bits, tweak = halves[i], tweaks[i]
        mask, down = (uint64(1) << bits) - uint64(1), uint64(64) - bits
        left, right = values[i] >> bits, values[i] & mask
        for key in keys:
            left, right = right, left ^ (_mix(right + (key + tweak)) >> down)
        values[i] = (left << bits) | right


@compiled
def _walk(values: Any, sizes: Any, halves: Any, tweaks: Any, keys: Any) -> None:
    """Replace each value in range(its size) by where the network sends it, walked on until it is in that range again
    (at most 4 times on average, for small sizes a few more). Uses up the other arrays."""
    moving, slots, left = values.copy(), np.arange(values.size), values.size
    while left:
        _pass(moving[:left], halves[:left], tweaks[:left], keys)
        kept = 0
        for i in range(left):
            value, slot, size, half, tweak = moving[i], slots[i], sizes[i], halves[i], tweaks[i]
            values[slot] = value
            moving[kept], slots[kept], sizes[kept], halves[kept], tweaks[kept] = value, slot, size, half, tweak
            kept += value >= size
        left = kept


@compiled
def permute(index: Any, n: int, keys: Any, out: Any) -> None:
    """Put where each index of range(n) goes into `out`."""
    half = uint64(_half(n))
    for first in range(0, index.size, _BLOCK):
        values = index[first : first + _BLOCK].astype(np.uint64)
        sizes, halves = np.full(values.size, uint64(n)), np.full(values.size, half)
        _walk(values, sizes, halves, np.zeros(values.size, np.uint64), keys)
        out[first : first + _BLOCK] = values.astype(np.int64)


@compiled
def begin(group: Any, plan: Any) -> Any:
    """How many entries of the turn lie before a group; the group after the last begins at n or later."""
    return group * (plan.group * plan.piece) - plan.missing * (group > plan.slot // plan.group)


@compiled
def group_of(entry: Any, plan: Any) -> Any:
    """The group an entry of the turn lies in."""
    after = entry >= begin(plan.slot // plan.group + 1, plan)
    return (entry + plan.missing * after) // (plan.group * plan.piece)


@compiled
def _entry(sample: int, plan: Any) -> Any:
    """Where in the turn a sample is taken from: each lane walks a stretch of its own, the last batch what is left."""
    if sample >= plan.whole:
        return sample
    batch, row = sample // plan.batch, sample % plan.batch
    return row // plan.width * plan.lane + batch * plan.width + row % plan.width


@compiled
def pieces_of(slots: Any, plan: Any, keys: Any) -> None:
    """Replace each slot by the piece whose turn it is: the full ones permuted, the shorter one where it was drawn to."""
    values, sizes = np.empty(slots.size, np.uint64), np.empty(slots.size, np.uint64)
    for i in range(slots.size):
        values[i] = uint64(slots[i] - (slots[i] > plan.slot))
        sizes[i] = uint64(plan.pieces - (slots[i] != plan.slot))  # what comes of the shorter one does not matter
    halves = np.full(slots.size, uint64(_half(plan.pieces - 1)))
    _walk(values, sizes, halves, np.zeros(slots.size, np.uint64), keys)
    for i in range(slots.size):
        slots[i] = plan.pieces - 1 if slots[i] == plan.slot else np.int64(values[i])


@compiled
def grouped(index: Any, plan: Any, keys: Any, inner: Any, tweak: int, out: Any) -> None:
    """Put the window of each sample into `out`; the keys are of the pieces and of the entries of a group."""
    full = plan.group * plan.piece
    full_half = _half(full)
    for first in range(0, index.size, _BLOCK):
        samples = index[first : first + _BLOCK]
        groups, values = np.empty_like(samples), np.empty(samples.size, np.uint64)
        sizes, halves, tweaks = np.empty_like(values), np.empty_like(values), np.empty_like(values)
        for i in range(samples.size):
            entry = _entry(samples[i], plan)
            group = group_of(entry, plan)
            start = begin(group, plan)
            size = min(begin(group + 1, plan), plan.n) - start
            groups[i], values[i], sizes[i] = group, uint64(entry - start), uint64(size)
            halves[i] = uint64(full_half if size == full else _half(size))
            # Steps of the golden ratio, as SplitMix64 takes them: groups share the keys of the rounds but no input to the mix.
            tweaks[i] = _mix(uint64(tweak) + uint64(group) * uint64(0x9E3779B97F4A7C15))
        _walk(values, sizes, halves, tweaks, inner)
        slots, within = np.empty_like(samples), np.empty_like(samples)
        for i in range(samples.size):
            entry = np.int64(values[i]) + groups[i] * full
            # What lies behind the shorter piece in its own group moves up by what that piece lacks.
            here = groups[i] == plan.slot // plan.group
            entry += plan.missing * (here and entry >= (plan.slot + 1) * plan.piece - plan.missing)
            slots[i], within[i] = entry // plan.piece, entry % plan.piece
        pieces_of(slots, plan, keys)
        out[first : first + _BLOCK] = slots * plan.piece + within
