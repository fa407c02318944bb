"""A training that stands still says where, and ends."""

from __future__ import annotations

import faulthandler
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from distgen.config import TIMEOUTS


class Watch:
    """Where a step and its batch take longer than they may, this process writes the stacks of all its threads and ends, also
    where Python itself stands still; whoever started it then brings it back or tells why.

    Args:
        out: the run directory; the stacks go to stacks-RANK.txt in it, or to stderr if this machine has no such folder.
        rank: of this worker.
    """

    def __init__(self, out: Path, rank: int):
        self._path = out / f"stacks-{rank}.txt"
        self._file: TextIO | None = None
        self._armed = -math.inf

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Around all steps."""
        try:
            self._file = self._path.open("a") if self._path.parent.is_dir() else None
            yield
        finally:
            self._rest()
            if self._file:
                self._file.close()
                self._file = None
                if not self._path.stat().st_size:  # of an end before
                    self._path.unlink()

    def moved(self) -> None:
        """A step begins; called by each."""
        now = time.monotonic()
        if not now - self._armed < 1:  # arming takes 40 microseconds
            self._armed = now
            faulthandler.dump_traceback_later(TIMEOUTS["step"], exit=True, file=self._file or sys.stderr)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside may take its time: its waits have bounds of their own."""
        self._rest()
        yield

    def _rest(self) -> None:
        faulthandler.cancel_dump_traceback_later()
        self._armed = -math.inf
