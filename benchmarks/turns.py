"""Contenders that take turns, each for so many seconds, so that what else the machine does meets all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from distgen import GenomeLoader
from distgen.genome import Bytes
from distgen.loader.batch import Batch


class Watch:
    """Says when a turn is over.

    Args:
        seconds: it lasts.
        clock: what counts them.
    """

    def __init__(self, seconds: float, clock: Callable[[], float]):
        self._clock, self._began, self._seconds, self.elapsed = clock, clock(), seconds, 0.0

    def over(self) -> bool:
        self.elapsed = self._clock() - self._began
        return self.elapsed >= self._seconds


Turn = Callable[[Watch], int]  # goes on until the turn is over -> units served


@dataclass(frozen=True)
class Match:
    """Turns of one length.

    Args:
        seconds: of each turn.
        turns: of each contender, after one that warms up.
        clock: what counts the seconds.
    """

    seconds: float
    turns: int
    clock: Callable[[], float] = time.perf_counter

    def medians(self, turns: dict[str, Turn]) -> dict[str, float]:
        """The median of the units per second of each."""
        found: dict[str, list[float]] = {name: [] for name in turns}
        for _ in range(1 + self.turns):
            for name, turn in turns.items():
                watch = Watch(self.seconds, self.clock)
                served = turn(watch)
                found[name].append(served / watch.elapsed)
        return {name: statistics.median(rates[1:]) for name, rates in found.items()}


def consume(loader: GenomeLoader, work: Callable[[Batch], object], units: int, watch: Watch) -> int:
    """Units served, `units` a batch, of a loader that goes on where it stood. Its threads start and end with the turn, so that
    they take no time from others; what they made ahead and nobody took counts as lost."""
    served = 0
    while not watch.over():
        stream = iter(loader)
        for batch in stream:
            work(batch)
            served += units
            if watch.over():
                break
        stream.close()
    return served


def draw(batches: Iterator[Bytes], work: Callable[[Bytes], object], units: int, watch: Watch) -> int:
    """The same of a peer's batches."""
    served = 0
    while not watch.over():
        work(next(batches))
        served += units
    return served


def repeat(work: Callable[[], object], watch: Watch) -> int:
    """How often something was done."""
    count = 0
    while not watch.over():
        work()
        count += 1
    return count
