"""How likely two motifs are as alike as they are by chance: Tomtom (Gupta et al. 2007).

Positions are compared by the Euclidean distance of their frequencies. What the sum over an overlap would be by chance is
known exactly: each position of the query is compared with one drawn from all positions of all targets, on both strands, and
the distribution of the sum follows by convolution of scores cut into steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distgen.evaluate.meme import Matrix

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_STEPS = 100  # that scores of a position are cut into
_OVERLAP = 5  # positions at least, or all of the shorter motif


@dataclass(frozen=True)
class Match:
    """The target that is most alike.

    Args:
        target: its name.
        p: that the best of all overlaps, on both strands, would be as good by chance.
        e: targets that would be as alike by chance.
        offset: the position of the query that the target's first one lies on.
        overlap: positions that lie on each other.
        reverse: the target was turned to the other strand.
    """

    target: str
    p: float
    e: float
    offset: int
    overlap: int
    reverse: bool


def compare(query: Matrix, targets: Sequence[Matrix]) -> Match:
    """The best match of a motif; its p-value is exact but for the steps of scores, and depends on what targets there are:
    from 25 on it does little."""
    columns_N4 = np.concatenate([turned for target in targets for turned in _strands(target)])
    scores_WN = -np.sqrt(((query.frequency[:, None] - columns_N4) ** 2).sum(2))
    low, high = scores_WN.min(), scores_WN.max()
    step = max(high - low, 1e-12) / _STEPS
    steps_WN: Ints = np.rint((scores_WN - low) / step).astype(np.int64)
    tails = _tails(steps_WN)
    found: list[Match] = []
    first = 0
    for target in targets:
        width = len(target.frequency)
        best = min(
            (*_placed(tails, steps_WN[:, first + turn * width :][:, :width]), bool(turn)) for turn in (False, True)
        )
        first += 2 * width
        tried = 2 * (len(query.frequency) + width - 2 * _least(len(query.frequency), width) + 1)
        p = float(-np.expm1(tried * np.log1p(-min(best[0], 1 - 1e-12))))
        found.append(Match(target.name, p, p * len(targets), *best[1:]))
    return min(found, key=lambda match: match.p)


def _strands(motif: Matrix) -> tuple[Floats, Floats]:
    return motif.frequency, motif.frequency[::-1, ::-1]


def _least(a: int, b: int) -> int:
    return min(a, b, _OVERLAP)


def _tails(steps_WN: Ints) -> dict[tuple[int, int], Floats]:
    """For each stretch [i, j) of the query: the chance of a sum of at least s, for every s."""
    chance_WS = np.stack([np.bincount(row, minlength=_STEPS + 1) / len(row) for row in steps_WN])
    found = {}
    for i in range(len(chance_WS)):
        sums = np.ones(1)
        for j in range(i, len(chance_WS)):
            sums = np.convolve(sums, chance_WS[j])
            found[i, j + 1] = sums[::-1].cumsum()[::-1]
    return found


def _placed(tails: dict[tuple[int, int], Floats], steps_WT: Ints) -> tuple[float, int, int]:
    """Over all places of a target: the least chance, where that is, and the overlap there."""
    query, width = steps_WT.shape
    least = _least(query, width)
    found = []
    for offset in range(least - width, query - least + 1):
        i, j = max(offset, 0), min(offset + width, query)
        total = int(steps_WT[np.arange(i, j), np.arange(i, j) - offset].sum())
        found.append((float(tails[i, j][total]), offset, j - i))
    return min(found)
