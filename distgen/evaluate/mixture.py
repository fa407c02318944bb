"""The best that Markov models of many orders do together: orders 0 to 16, counted on both strands of the training part, mixed by
how much each context has been seen.

Each order adds to the one below it: p_k = (1 - w) p_(k-1) + w c / n, where of n times that the context of k bases was seen, c
were followed by this base. The weight w goes by the order, by n, by how many different bases followed, and by whether the next longer
context has been seen as well (a repeat) or not (by chance), and is learned by expectation maximisation on sequence that is
not counted (Jelinek and Mercer 1980). Contexts of the other strand count as well: the inverted repeats of GeCo (Pratas et al.
2016). Unlike a compressor, it learns nothing from what it is measured on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from distgen.compiled import compiled
from distgen.genome import AMBIGUOUS, COMPLEMENT, Bits, Bytes

Floats = npt.NDArray[np.float64]
LONGEST = 16
_WHOLE = 11  # bases of the longest contexts that all have room: 67 MB; of longer ones only those that are asked for
_SIZES = 12  # by powers of two, of how often a context has been seen
_CELLS = _SIZES * 4 * 2
_ROUNDS = 40
_PRIOR, _PRIOR_WEIGHT = 5.0, 0.2  # observations that a weight begins with
_SHARE, _BLOCK = (
    10,
    1 << 16,
)  # blocks of so many bases, of which one is held out of the training part, where nothing else is


def mixture(fit: list[Bytes], valid: list[Bytes], score: list[Bytes], longest: int = LONGEST) -> list[Floats]:
    """Bits of each base of some stretches.

    Args:
        fit: codes uint8 (n,) of stretches to count; 4 is ambiguous.
        valid: to learn weights on; without any, a tenth of `fit` is held out for that, and counted afterwards.
        score: what is to be predicted, forward.
        longest: the highest order.

    Returns:
        For each stretch of `score` float64 (n,), NaN at ambiguous bases.
    """
    if valid:
        held, scored = _joined(valid), _joined(score)
        found, _ = _mix(fit, np.concatenate([held, scored]), np.arange(len(held) + len(scored)) < len(held), longest)
        found = found[len(held) :]
    else:
        counted, blocks = _held_out(fit)
        held, scored = _joined(blocks), _joined(score)
        _, weights = _mix(counted, held, np.ones(len(held), np.bool_), longest)
        found, _ = _mix(fit, scored, np.zeros(len(scored), np.bool_), longest, weights)
    bits, end = [], 0
    for codes in score:
        own = np.where(codes < AMBIGUOUS, -np.log2(found[end : end + len(codes)]), np.nan)
        bits.append(own)
        end += len(codes) + 1
    return bits


def _joined(stretches: list[Bytes]) -> Bytes:
    """One after another, each with an ambiguous base behind it."""
    gap = np.array([AMBIGUOUS], np.uint8)
    return np.concatenate([np.empty(0, np.uint8), *(part for codes in stretches for part in (codes, gap))])


def _held_out(fit: list[Bytes]) -> tuple[list[Bytes], list[Bytes]]:
    """Stretches without every tenth block, and these blocks: ends of chromosomes, say, are no sample of them."""
    counted: list[Bytes] = []
    held: list[Bytes] = []
    for codes in fit:
        block = max(min(_BLOCK, len(codes) // _SHARE), 1)
        for number, first in enumerate(range(0, len(codes), block)):
            (held if number % _SHARE == _SHARE // 2 else counted).append(codes[first : first + block])
    return counted, held


def _mix(
    fit: list[Bytes], asked: Bytes, learns: Bits, longest: int, weights: list[Floats] | None = None
) -> tuple[Floats, list[Floats]]:
    """The probability of each base that is asked for, and the weights of each order: given, or learned where `learns` is True."""
    found = np.full(len(asked), 0.25)
    known = asked < AMBIGUOUS
    used: list[Floats] = []
    orders = _seen(fit, asked, longest)
    now = next(orders)
    for order in range(longest + 1):
        (times, total, different), now = now, next(orders, now)
        seen = known & (total > 0)
        share = times[seen] / total[seen]
        size = np.minimum(np.log2(total[seen]).astype(np.int64), _SIZES - 1)
        cell = (size * 4 + different[seen] - 1) * 2 + (now[1][seen] > 0)
        shorter = found[seen]
        if weights is None:
            own = learns[seen]
            used.append(_weights(share[own], shorter[own], cell[own]))
        else:
            used.append(weights[order])
        w = used[-1][cell]
        found[seen] = (1 - w) * shorter + w * share
    return found, used


def _weights(share: Floats, shorter: Floats, cell: npt.NDArray[np.int64]) -> Floats:
    """What each cell's context weighs, by expectation maximisation."""
    count = np.bincount(cell, minlength=_CELLS)
    w = np.full(_CELLS, 0.5)
    for _ in range(_ROUNDS):
        mine = w[cell] * share
        total = mine + (1 - w[cell]) * shorter
        w = (np.bincount(cell, mine / total, _CELLS) + _PRIOR * _PRIOR_WEIGHT) / (count + _PRIOR)
    below: Floats = np.minimum(w, 1 - 1e-6)  # what was never seen stays possible
    return below


def _seen(fit: list[Bytes], asked: Bytes, longest: int) -> Iterator[tuple[Any, Any, Any]]:
    """For each order: of each base asked for how often its context was followed by it, and by any; and by how many different ones."""
    for order in range(longest + 1):
        whole = order <= _WHOLE
        size = 4**order if whole else 1 << max(int(2 * len(asked)).bit_length(), 4)
        keys = np.zeros(0 if whole else size, np.uint64)
        counts = np.zeros((size, 4), np.uint32)
        if not whole:
            _insert(asked, order, keys)
        for codes in fit:
            for strand in (codes, COMPLEMENT[codes[::-1]]):
                _add(strand, order, keys, counts)
        times, total = np.zeros((2, len(asked)), np.int64)
        different = np.zeros(len(asked), np.int64)
        _look(asked, order, keys, counts, times, total, different)
        yield times, total, different


@compiled
def _slot(keys: Any, context: Any) -> Any:
    """Where a context stands, or where it would: keys are one more than contexts, and 0 where there is none."""
    last = np.uint64(keys.size - 1)
    at = ((context * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(20)) & last
    while keys[at] != 0 and keys[at] != context + np.uint64(1):
        at = (at + np.uint64(1)) & last
    return np.int64(at)


@compiled
def _insert(codes: Bytes, order: int, keys: Any) -> None:
    kept = (np.uint64(1) << np.uint64(2 * order)) - np.uint64(1)
    context, run = np.uint64(0), 0
    for i in range(codes.size):
        if run >= order and codes[i] < 4:
            keys[_slot(keys, context)] = context + np.uint64(1)
        run = run + 1 if codes[i] < 4 else 0
        context = ((context << np.uint64(2)) | np.uint64(codes[i] & 3)) & kept


@compiled
def _add(codes: Bytes, order: int, keys: Any, counts: Any) -> None:
    kept = (np.uint64(1) << np.uint64(2 * order)) - np.uint64(1)
    context, run = np.uint64(0), 0
    for i in range(codes.size):
        if run >= order and codes[i] < 4:
            if keys.size == 0:
                counts[np.int64(context), codes[i]] += 1
            else:
                at = _slot(keys, context)
                if keys[at] != 0:
                    counts[at, codes[i]] += 1
        run = run + 1 if codes[i] < 4 else 0
        context = ((context << np.uint64(2)) | np.uint64(codes[i] & 3)) & kept


@compiled
def _look(codes: Bytes, order: int, keys: Any, counts: Any, times: Any, total: Any, different: Any) -> None:
    kept = (np.uint64(1) << np.uint64(2 * order)) - np.uint64(1)
    context, run = np.uint64(0), 0
    for i in range(codes.size):
        if run >= order and codes[i] < 4:
            at = np.int64(context) if keys.size == 0 else _slot(keys, context)
            times[i] = counts[at, codes[i]]
            for base in range(4):
                total[i] += counts[at, base]
                different[i] += counts[at, base] > 0
        run = run + 1 if codes[i] < 4 else 0
        context = ((context << np.uint64(2)) | np.uint64(codes[i] & 3)) & kept
