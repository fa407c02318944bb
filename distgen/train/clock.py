"""Where the time of training goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from distgen.loader.base import Loader
from distgen.loader.batch import Batch

PARTS = ("wait", "encode", "forward", "backward", "communicate", "optimize")


class Clock:
    """Sums what happens between two logs: bases, time, and what parts of it were spent with what."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._since, self._bases, self._steps = time.perf_counter(), 0, 0
        self._seconds = dict.fromkeys(PARTS, 0.0)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What happens inside is one of `PARTS` of a step."""
        began = time.perf_counter()
        yield
        self._seconds[name] += time.perf_counter() - began

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside is no training, and counts for no speed."""
        began = time.perf_counter()
        yield
        self._since += time.perf_counter() - began

    def waiting(self, loader: Loader) -> Iterator[Batch]:
        """The loader's batches; the time until each comes is counted as waiting."""
        batches = iter(loader)
        while True:
            with self.part("wait"):
                batch = next(batches, None)
            if batch is None:
                return
            self._bases += loader.batch_size * batch.length
            self._steps += 1
            yield batch

    def record(self) -> dict[str, Any]:
        """The speed since the last record."""
        seconds = time.perf_counter() - self._since
        record = {
            "bases_per_second": self._bases / seconds,
            "wait_share": self._seconds["wait"] / seconds,
            "step_ms": {part: 1e3 * self._seconds[part] / max(self._steps, 1) for part in PARTS},
        }
        self._reset()
        return record
