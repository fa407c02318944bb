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
        self._asked.append((step, self._measure(path)))

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
                log.warning("step %d was not validated: %s. Training goes on.", step, error or type(error).__name__)
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
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(1, spawn, initializer=_end_with, initargs=(os.getpid(),))
    try:
        yield lambda path: pool.submit(validate, run, path, device)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _end_with(parent: int) -> None:
    """A training that is killed leaves nothing running."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, name="distgen-parent", daemon=True).start()
