"""What counting alone can do: Markov models, and a count model that sees both sides.

Each is fitted on both strands of the training part and measured on the forward strand of another. Counts
of long contexts are sparse, so each order falls back on the next shorter one with a Dirichlet prior
centred on its prediction (MacKay and Peto 1995), which makes the long orders as strong as they honestly are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from distgen.evaluate.mixture import LONGEST, mixture
from distgen.genome import AMBIGUOUS, COMPLEMENT, Int64, Interval
from distgen.store.reader import Store

Codes = npt.NDArray[np.uint8]
ORDERS = (0, 3, 8, 11)
_PRIOR = 64.0  # weight of the shorter context, in observations; the best of 8 to 128 by powers of two on E. coli


@dataclass(frozen=True)
class Scored:
    """How many bits each base of some stretches takes.

    Args:
        intervals: int64 (n, 2), flat, sorted.
        bits: of each float64 (bases,), NaN at ambiguous bases.
    """

    intervals: Int64
    bits: list[npt.NDArray[np.float64]]

    @classmethod
    def of(cls, intervals: Int64, stretches: list[Codes], predicted: list[npt.NDArray[np.float32]]) -> Scored:
        """From the probabilities (bases, 4) of the four bases at each."""
        bits = []
        for codes, p in zip(stretches, predicted, strict=True):
            known = codes < AMBIGUOUS
            own = np.full(len(codes), np.nan)
            own[known] = -np.log2(p[known, codes[known]].astype(np.float64))
            bits.append(own)
        return cls(intervals, bits)

    def mean(self) -> float:
        """Bits per base that is known."""
        return sum(float(np.nansum(bits)) for bits in self.bits) / max(
            sum(int((bits >= 0).sum()) for bits in self.bits), 1
        )

    def within(self, starts: Int64, ends: Int64) -> tuple[npt.NDArray[np.float64], Int64]:
        """Bits, and how many bases have some, of flat stretches [starts, ends)."""
        (total, count), first, last = self._sums, self._before(starts), self._before(ends)
        return total[last] - total[first], count[last] - count[first]

    def _before(self, flat: Int64) -> Int64:
        """How many bases of the stretches lie before flat positions (n,)."""
        lengths = self.intervals[:, 1] - self.intervals[:, 0]
        ends = np.append(0, np.cumsum(lengths))
        stretch = np.maximum(np.searchsorted(self.intervals[:, 0], flat, "right") - 1, 0)
        found: Int64 = ends[stretch] + np.clip(flat - self.intervals[stretch, 0], 0, lengths[stretch])
        return found

    @cached_property
    def _sums(self) -> tuple[npt.NDArray[np.float64], Int64]:
        """Bits, and known bases, of all bases before each, and of all."""
        bits = np.concatenate(self.bits or [np.empty(0)])
        return np.append(0.0, np.cumsum(np.nan_to_num(bits))), np.append(0, np.cumsum(bits >= 0))


def baselines(store: Store, train: Int64, test: Int64) -> dict[str, Scored]:
    """Bits of each base by every baseline, by name.

    Args:
        store: the assembly.
        train, test: flat intervals (n, 2) to fit on and to measure on.
    """
    fit = [strand for codes in _codes(store, train) for strand in (codes, _other_strand(codes))]
    score = list(_codes(store, test))
    bits: dict[str, Scored] = {}
    predicted: list[npt.NDArray[np.float32]] = [np.full((len(codes), 4), 0.25, np.float32) for codes in score]
    for order in range(max(ORDERS) + 1):
        # Nearest base first: each order extends the context of the one before.
        offsets = [-back for back in range(1, order + 1)]
        predicted = _refine(fit, score, offsets, predicted)
        if order in ORDERS:
            bits[f"markov order {order}"] = Scored.of(test, score, predicted)
    predicted = [np.full((len(codes), 4), 0.25, np.float32) for codes in score]
    for reach in range(5):
        offsets = [sign * step for step in range(1, reach + 1) for sign in (-1, 1)]
        predicted = _refine(fit, score, offsets, predicted)
    bits["counts, 4 bases either side"] = Scored.of(test, score, predicted)
    return bits


def mixed(store: Store, train: Int64, valid: Int64 | None, test: Int64) -> dict[str, Scored]:
    """Bits of each base by all orders together, by name; see `distgen.evaluate.mixture`.

    Args:
        store: the assembly.
        train, valid, test: flat intervals (n, 2) to count, to learn weights on (None: a part of `train`), to measure on.
    """
    fit, held, score = (
        list(_codes(store, some)) for some in (train, np.empty((0, 2), np.int64) if valid is None else valid, test)
    )
    return {f"markov orders 0 to {LONGEST}, mixed": Scored(test, mixture(fit, held, score))}


def _refine(
    fit: list[Codes], score: list[Codes], offsets: list[int], shorter: list[npt.NDArray[np.float32]]
) -> list[npt.NDArray[np.float32]]:
    """Predictions (n, 4) from the bases at `offsets`, with `shorter` as prior."""
    counts = np.zeros((4 ** len(offsets), 4), np.float32)
    for codes in fit:
        context, whole = _contexts(codes, offsets)
        cells = context[whole] * 4 + codes[whole]
        counts += np.bincount(cells, minlength=counts.size).reshape(counts.shape)
    totals = counts.sum(1)
    refined = []
    for codes, prior in zip(score, shorter, strict=True):
        context, whole = _contexts(codes, offsets)
        # Where the context leaves the stretch, the shorter one has the last word.
        better = np.where(
            whole[:, None],
            (counts[context] + _PRIOR * prior) / (totals[context] + _PRIOR)[:, None],
            prior,
        ).astype(np.float32)
        refined.append(better)
    return refined


def _contexts(codes: Codes, offsets: list[int]) -> tuple[Int64, npt.NDArray[np.bool_]]:
    """The context of each base as a number, and whether it and the base are whole and unambiguous."""
    context, whole = np.zeros(len(codes), np.int64), codes < AMBIGUOUS
    for offset in offsets:
        shifted = np.full(len(codes), AMBIGUOUS, np.uint8)
        if offset < 0:
            shifted[-offset:] = codes[:offset]
        else:
            shifted[:-offset] = codes[offset:]
        whole &= shifted < AMBIGUOUS
        context = context * 4 + (shifted & 3)
    return context, whole


def _codes(store: Store, regions: Int64) -> Iterator[Codes]:
    for start, end in regions.tolist():
        row = int(store.contigs.locate(start))
        offset = int(store.contigs.offsets[row])
        yield store.codes(Interval(store.contigs.names[row], start - offset, end - offset))


def _other_strand(codes: Codes) -> Codes:
    return COMPLEMENT[codes[::-1]]
