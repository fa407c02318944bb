"""Which of several classes or stores a slot belongs to: fixed proportions, evenly interleaved, found at once for any slot."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from heapq import heappop, heappush
from typing import Any

import numpy as np
import numpy.typing as npt

from distgen.compiled import compiled
from distgen.errors import ConfigError, some
from distgen.genome import Int64

VERSION = "schedule/1"
_SHORTEST, _LONGEST = 1 << 16, 1 << 22  # slots of a period whose shares are not ratios of small numbers
_ENOUGH = 64  # slots of the rarest class in a period: its share is right to one part in 128


class Schedule:
    """Deals slots 0, 1, 2 … to classes, each in its share (`shares`, (n,) float64, which sum to 1).

    The deal repeats after a period. In a period each class has a whole number of slots: exactly its share where all
    shares are ratios of small numbers (1 : 2, or 0.3 : 0.7), else what largest remainders give it. In every prefix of
    the slots each class has been served its share, rounded up or down. Classes too rare for a slot of their own in
    every period have slots together, which a schedule of their own deals out: they may be off by one more.

    Args:
        shares: (n,) not negative, in any unit; a class with share 0 is never served.
        period: slots; None chooses, at most 2^22.
        names: of the classes, for messages.

    Raises:
        ConfigError: a share is negative or not finite, none is positive, or one is too small to be served.
    """

    def __init__(self, shares: npt.ArrayLike, period: int | None = None, names: Sequence[str] = ()):
        given = np.asarray(shares, np.float64)
        bad = np.flatnonzero(~(np.isfinite(given) & (given >= 0)))
        if given.ndim != 1 or bad.size or not given.sum() > 0:
            said = [f"{_name(names, row)} has {given[row]}" for row in bad.tolist()]
            raise ConfigError(f"shares are numbers from 0 on, not all of them 0{': ' if said else ''}{some(said)}")
        part = given / given.sum()
        counts = None if period else _ratios(part)
        self.shares = part
        self._rare, self._others = np.empty(0, np.int64), None
        if counts is None:
            period = period or _period(part)
            rare = np.flatnonzero((part > 0) & (part * period < 1))
            if rare.size:
                part = np.append(np.where(np.isin(np.arange(len(part)), rare), 0, part), part[rare].sum())
            counts = _largest_remainders(part, period)
            if rare.size:
                if not counts[-1]:
                    lost = [_name(names, row) for row in rare.tolist()]
                    raise ConfigError(
                        f"{some(lost)} would have less than one of {period:,} slots; leave it out or raise its share"
                    )
                # Shares among themselves; only they can be as rare again.
                self._rare = rare
                self._others = Schedule(given[rare], names=[_name(names, row) for row in rare.tolist()])
        self.counts: Int64 = counts
        self.period = int(counts.sum())
        self._which, self._ordinal = compiled(_interleave)(counts)

    def at(self, slots: Int64) -> tuple[Int64, Int64]:
        """Whom slots serve.

        Args:
            slots: int64 (n,), 0 to 2^62.

        Returns:
            The class of each slot, and how many slots that class had before it since slot 0: int64 (n,) both.
        """
        cycle, rest = np.divmod(slots, self.period)
        which = self._which[rest].astype(np.int64)
        ordinal = cycle * self.counts[which] + self._ordinal[rest]
        if self._others is not None:
            together = which == len(self.counts) - 1
            row, ordinal[together] = self._others.at(ordinal[together])
            which[together] = self._rare[row]
        return which, ordinal

    def before(self, slot: int) -> Int64:
        """How many of the slots [0, slot) each class has: int64 (classes,)."""
        cycle, rest = divmod(slot, self.period)
        had: Int64 = cycle * self.counts + np.bincount(self._which[:rest], minlength=len(self.counts))
        if self._others is not None:
            together, had = int(had[-1]), had[:-1].copy()
            had[self._rare] = self._others.before(together)
        return had


@dataclass(frozen=True)
class InTurn:
    """Gives slots to classes one after another, each as many as it counts, again and again; see `Schedule`.

    Args:
        counts: int64 (n,), slots of each class in a row.
    """

    counts: Int64

    @property
    def shares(self) -> npt.NDArray[np.float64]:
        """Of all slots: float64 (n,)."""
        part: npt.NDArray[np.float64] = self.counts / self._ends[-1]
        return part

    @cached_property
    def _ends(self) -> Int64:
        return np.cumsum(self.counts)

    def at(self, slots: Int64) -> tuple[Int64, Int64]:
        """Whom slots (n,) serve, and how many slots that class had before each of them: int64 (n,) both."""
        cycle, rest = np.divmod(slots, self._ends[-1])
        which = np.searchsorted(self._ends, rest, side="right")
        return which, cycle * self.counts[which] + rest - (self._ends - self.counts)[which]

    def before(self, slot: int) -> Int64:
        """How many of the slots [0, slot) each class has: int64 (classes,)."""
        cycle, rest = divmod(slot, int(self._ends[-1]))
        had: Int64 = cycle * self.counts + np.clip(rest - (self._ends - self.counts), 0, self.counts)
        return had


def own_seed(seed: int, name: str) -> int:
    """A seed for one of several, 0 to 2^63, so that two of the same size don't draw the same."""
    key = hashlib.shake_256(f"distgen seed {VERSION} {seed} {name}".encode()).digest(8)
    return int.from_bytes(key, "little") >> 1


def _name(names: Sequence[str], row: int) -> str:
    return f'"{names[row]}"' if names else f"class {row}"


def _ratios(part: npt.NDArray[np.float64]) -> Int64 | None:
    """Slots of the shortest period that is exact; None where shares are no ratios of small numbers."""
    values, rows = np.unique(part, return_inverse=True)
    if len(values) > 1024:
        return None
    found = [Fraction(value).limit_denominator(_SHORTEST if len(part) < _SHORTEST else _LONGEST) for value in values]
    period = math.lcm(*(fraction.denominator for fraction in found))
    # A sum of parts is off by a few roundings of float64; what is off by more only looks like a ratio.
    near = all(abs(float(f) - v) <= 1e-12 * v for f, v in zip(found, values.tolist(), strict=True))
    if not near or period > _LONGEST:
        return None
    counts = np.array([int(fraction * period) for fraction in found], np.int64)[rows]
    return counts if counts.sum() == period else None


def _period(part: npt.NDArray[np.float64]) -> int:
    wanted = _ENOUGH / float(part[part > 0].min())
    return _LONGEST if wanted >= _LONGEST else max(_SHORTEST, 1 << math.ceil(math.log2(wanted)))


def _largest_remainders(part: npt.NDArray[np.float64], period: int) -> Int64:
    quota = part * period
    counts = np.floor(quota).astype(np.int64)
    missing = period - int(counts.sum())
    order = np.argsort(counts - quota, kind="stable")
    counts[order[:missing]] += 1
    return counts


def _interleave(counts: Any) -> Any:
    """Class and ordinal, int32 (sum of counts,) each, of every slot of a period.

    The j-th slot of a class with c of p must lie in [floor(j p / c), ceil((j + 1) p / c)): then no prefix is off by a
    whole slot. Such a schedule always exists (Baruah et al. 1996, "Proportionate progress"), and to serve the
    earliest deadline among those whose time has come finds it.
    """
    classes, period = len(counts), counts.sum()
    which, ordinal = np.empty(period, np.int32), np.empty(period, np.int32)
    served, following = np.zeros(classes, np.int64), np.full(classes, -1, np.int64)
    first = np.full(period + 1, -1, np.int64)  # of the classes whose time comes at a slot; `following` is the next
    for number in range(classes):
        if counts[number]:
            following[number], first[0] = first[0], number
    heap = [np.int64(0) for _ in range(0)]
    for slot in range(period):
        row: Any = first[slot]
        while row >= 0:
            deadline = ((served[row] + 1) * period + counts[row] - 1) // counts[row]
            heappush(heap, deadline * classes + row)
            row = following[row]
        row = heappop(heap) % classes
        which[slot], ordinal[slot] = row, served[row]
        served[row] += 1
        if served[row] < counts[row]:
            at = max(slot + 1, served[row] * period // counts[row])
            following[row], first[at] = first[at], row
    return which, ordinal
