"""A trace of some steps, as torch's profiler sees them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.profiler import ProfilerActivity

from distgen.train.clock import Clock


class Profile:
    """Traces steps first to last into DIR/profile/steps-FIRST-LAST.json.gz, for chrome://tracing or ui.perfetto.dev; the
    clock's parts are ranges in it.

    Args:
        folder: DIR/profile, on the machine of whose steps they are; made when there is a trace.
        steps: (first, last), from 1 on; None traces nothing.
        clock: whose parts are traced.
    """

    def __init__(self, folder: Path, steps: tuple[int, int] | None, clock: Clock):
        self._folder, self._steps, self._clock = folder, steps, clock
        self._profiler: torch.profiler.profile | None = None
        self._began = 0

    def at(self, taken: int) -> None:
        """Begin or end, if it is time to once so many steps were taken. A training that goes on in the middle of what is to
        be traced traces the rest of it."""
        if self._steps is None:
            return
        first, last = self._steps
        if self._profiler is None and first - 1 <= taken < last:
            self._began = taken + 1
            self._profiler = torch.profiler.profile(activities=_activities(), record_shapes=True)
            self._profiler.start()
            self._clock.trace(True)
        elif taken == last:
            self.end(taken)

    def end(self, taken: int) -> None:
        """Write what was traced, if anything is being."""
        if self._profiler is None:
            return
        profiler, self._profiler = self._profiler, None
        self._clock.trace(False)
        with self._clock.paused():
            profiler.stop()
            self._folder.mkdir(parents=True, exist_ok=True)
            profiler.export_chrome_trace(str(self._folder / f"steps-{self._began}-{taken}.json.gz"))


def _activities() -> list[ProfilerActivity]:
    return [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
