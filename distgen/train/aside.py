"""Validation beside the training: another process measures checkpoints, and the training hears of it steps later."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

import torch

from distgen.config import TIMEOUTS
from distgen.train.evaluation import validate
from distgen.train.run import Run

log = logging.getLogger("distgen")
Measure = Callable[[str], "Future[dict[str, Any]]"]


class Aside:
    """What was asked of whoever measures checkpoints.

    Args:
        measure: begins to measure the checkpoint at a path.
    """

    def __init__(self, measure: Measure):
        self._measure, self._asked = measure, deque[tuple[int, Future[dict[str, Any]]]]()

    def ask(self, step: int, path: str) -> None:
        """Have the checkpoint of a step measured; any thread may ask."""
        try:
            found = self._measure(path)
        except Exception as error:  # heard like any other failure: whoever asks is about to keep a checkpoint
            found = Future()
            found.set_exception(error)
        self._asked.append((step, found))

    @property
    def asked(self) -> set[int]:
        """The steps whose checkpoints are still needed."""
        return {step for step, _ in list(self._asked)}

    def heard(self, *, wait: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
        """Steps and what `distgen.train.evaluation.validate` found there, in the order in which they were asked for; what
        fails is said, and ends no training.

        Args:
            wait: for all that were asked for, each at most `TIMEOUTS["aside"]` seconds.
        """
        while self._asked and (wait or self._asked[0][1].done()):
            step, found = self._asked[0]
            try:
                values = found.result(TIMEOUTS["aside"])
            except Exception as error:
                log.warning(
                    "step %d was not validated: %s. Training goes on.", step, str(error) or type(error).__name__
                )
                values = None
            if values is not None:
                yield step, values
            self._asked.popleft()  # until then its checkpoint stays


@contextmanager
def beside(run: Run, device: torch.device) -> Iterator[Measure | None]:
    """Another process of this machine that measures checkpoints, from when it is first asked to; None if the run wants none."""
    if not run.cluster.valid_aside:
        yield None
        return
    other = _Other(run, device)
    try:
        yield other.measure
    finally:
        other.end()


class _Other:
    """A process that measures one checkpoint after another; where it died, another takes its place."""

    def __init__(self, run: Run, device: torch.device):
        self._run, self._device, self._pool = run, device, self._new()

    def _new(self) -> ProcessPoolExecutor:
        spawn = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(1, spawn, initializer=_end_with, initargs=(os.getpid(),))

    def measure(self, path: str) -> Future[dict[str, Any]]:
        try:
            return self._pool.submit(validate, self._run, path, self._device)
        except BrokenProcessPool:  # at the checkpoint before
            self._pool = self._new()
            return self._pool.submit(validate, self._run, path, self._device)

    def end(self) -> None:
        """Whatever it is at: a training that ends early would else wait for it at the exit of Python."""
        running = list(self._pool._processes.values())
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in running:
            process.kill()


def _end_with(parent: int) -> None:
    """A training that is killed leaves nothing running."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, name="distgen-parent", daemon=True).start()
