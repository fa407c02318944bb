"""Contenders that take turns, each for so many seconds, so that what else the machine does meets all of them.

Each has a process of its own, which stands still while it is not its turn: threads that one leaves running take no time from another.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection

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


Turn = Callable[[Watch], float]  # goes on until the turn is over -> units served
Maker = Callable[[], Turn]  # called where turns are taken; it can be pickled


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

    def medians(self, makers: dict[str, Maker]) -> dict[str, float]:
        """The median of the units per second of each.

        Raises:
            RuntimeError: a contender failed; its traceback was printed.
        """
        found: dict[str, list[float]] = {name: [] for name in makers}
        with ExitStack() as stack:
            contenders = {
                name: stack.enter_context(_Contender(name, maker, self.clock)) for name, maker in makers.items()
            }
            for _ in range(1 + self.turns):
                for name, contender in contenders.items():
                    found[name].append(contender.rate(self.seconds))
        return {name: statistics.median(rates[1:]) for name, rates in found.items()}


class _Contender:
    """A process that takes turns when it is told to."""

    def __init__(self, name: str, maker: Maker, clock: Callable[[], float]):
        processes = multiprocessing.get_context("spawn")
        self._name, (self._pipe, theirs) = name, processes.Pipe()
        self._process = processes.Process(target=_play, args=(maker, clock, theirs))
        self._process.start()
        theirs.close()

    def __enter__(self) -> _Contender:
        self._take()
        self._send(signal.SIGSTOP)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.is_alive():
            self._send(signal.SIGCONT)
            self._pipe.send(None)
        self._process.join(60)
        self._process.kill()

    def rate(self, seconds: float) -> float:
        """Units per second of one turn."""
        self._send(signal.SIGCONT)
        self._pipe.send(seconds)
        rate = self._take()
        self._send(signal.SIGSTOP)
        return rate

    def _send(self, number: signal.Signals) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def _take(self) -> float:
        try:
            found: float = self._pipe.recv()
        except EOFError:
            raise RuntimeError(f"{self._name} failed") from None
        return found


def _play(maker: Maker, clock: Callable[[], float], pipe: Connection) -> None:
    turn = maker()
    pipe.send(0.0)
    while (seconds := pipe.recv()) is not None:
        watch = Watch(seconds, clock)
        served = turn(watch)
        pipe.send(served / watch.elapsed)


def consume(loader: GenomeLoader, work: Callable[[Batch], object], units: float, watch: Watch) -> float:
    """Units served, `units` a batch, of a loader that goes on where it stood. Its threads start and end with the turn, so that
    what they made ahead and nobody took counts as lost."""
    served = 0.0
    while not watch.over():
        stream = iter(loader)
        for batch in stream:
            work(batch)
            served += units
            if watch.over():
                break
        stream.close()
    return served


def draw(batches: Iterator[Bytes], work: Callable[[Bytes], object], units: float, watch: Watch) -> float:
    """The same of a peer's batches."""
    served = 0.0
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
