"""Where the time of training goes."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from distgen.loader.base import Loader
from distgen.loader.batch import Batch

# Of a step. `wait`: for a batch to be made; `transfer`: for it to arrive on the device; `communicate`: for other workers,
# where that is not hidden inside `backward`.
PARTS = ("wait", "transfer", "encode", "forward", "backward", "communicate", "optimize")
_WAITING = 4096  # marks on a device, at most, until those it has passed are looked at

Mark = Any  # seconds on a CPU, an event on a GPU


class Clock:
    """Sums what happens between two records: bases, time, and what parts of it were spent with what.

    A part lasts from when the device begins with it to when it is done. On a CPU that is the time of the calls. On a GPU,
    which works behind the calls, marks (CUDA events) travel with the work and are read when a record is made: nothing ever
    waits for the device. So on a GPU `wait` is how long it stood still because there was no batch; a host that waits while
    the device still has work costs nothing, and counts for nothing.

    Args:
        device: what the work is done on.
        flops: floating-point operations of a training step on one row of so many bases; see `distgen.train.flops`.
        peak: operations a second that all devices together can do; None if nobody knows.
    """

    def __init__(self, device: torch.device, flops: Callable[[int], int] | None = None, peak: float | None = None):
        self._flops, self._peak = flops, peak
        self._marks = _Events() if device.type == "cuda" else _Instants()
        self._parts = {name: Part(name, self._marks) for name in PARTS}
        self.begin()

    def begin(self) -> None:
        """Count from now on."""
        self._since, self._steps, self._samples = time.perf_counter(), 0, Counter[int]()

    def part(self, name: str) -> Part:
        """What happens inside is one of `PARTS` of a step; what is another part within it counts for that one alone."""
        return self._parts[name]

    def trace(self, on: bool) -> None:
        """Whether parts are ranges of what torch's profiler sees."""
        for part in self._parts.values():
            part.traced = on

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside is no training, and counts for no speed."""
        began = time.perf_counter()
        yield
        self._since += time.perf_counter() - began

    def waiting(self, loader: Loader) -> Iterator[Batch]:
        """The loader's batches; the time until each comes is counted as waiting, and that until it arrives as transfer."""
        loader.receiving = self.part("transfer")
        batches = iter(loader)
        while True:
            with self.part("wait"):
                batch = next(batches, None)
            if batch is None:
                return
            self._samples[batch.length] += loader.batch_size
            self._steps += 1
            yield batch

    def record(self) -> dict[str, Any]:
        """The speed since the last record, and where the time of a step went; `rest` is what no part says."""
        seconds = max(time.perf_counter() - self._since, 1e-9)
        spent = self._marks.seconds()
        steps = max(self._steps, 1)
        record: dict[str, Any] = {
            "bases_per_second": sum(length * count for length, count in self._samples.items()) / seconds,
            "samples_per_second": self._samples.total() / seconds,
            "wait_share": spent["wait"] / seconds,
            "step_ms": {part: 1e3 * spent[part] / steps for part in PARTS}
            | {"rest": 1e3 * max(seconds - sum(spent.values()), 0.0) / steps},
        }
        if self._flops and self._peak:
            done = sum(self._flops(length) * count for length, count in self._samples.items())
            record["mfu"] = done / seconds / self._peak
        self.begin()
        return record


class Part:
    """`with clock.part(name):`, again and again."""

    def __init__(self, name: str, marks: _Instants | _Events):
        self._name, self._marks, self.traced = name, marks, False
        self._range: Any = None

    def __enter__(self) -> None:
        if self.traced:
            self._range = torch.profiler.record_function(self._name)
            self._range.__enter__()
        self._marks.begin(self._name)

    def __exit__(self, *raised: Any) -> None:
        self._marks.end()
        if self._range is not None:
            self._range.__exit__(*raised)
            self._range = None


class _Instants:
    """Time on the CPU."""

    def __init__(self) -> None:
        self._spent = dict.fromkeys(PARTS, 0.0)
        self._inside: list[list[Any]] = []  # name, begin, and what of it other parts took

    def begin(self, name: str) -> None:
        self._inside.append([name, time.perf_counter(), 0.0])

    def end(self) -> None:
        name, began, others = self._inside.pop()
        lasted = time.perf_counter() - began
        self._spent[name] += lasted - others
        if self._inside:
            self._inside[-1][2] += lasted

    def seconds(self) -> dict[str, float]:
        """By part, since they were last asked for."""
        spent, self._spent = self._spent, dict.fromkeys(PARTS, 0.0)
        return spent


class _Events:
    """Time on a GPU, between events on the stream that computes. Events are used again: making one takes a call to the
    driver."""

    def __init__(self) -> None:
        self._spent = dict.fromkeys(PARTS, 0.0)
        self._inside: list[tuple[str, str | None, Mark]] = []
        self._waiting: deque[tuple[str, str | None, Mark, Mark]] = deque()
        self._free: list[Mark] = []

    def begin(self, name: str) -> None:
        around = self._inside[-1][0] if self._inside else None
        self._inside.append((name, around, self._mark()))

    def end(self) -> None:
        self._waiting.append((*self._inside.pop(), self._mark()))
        while len(self._waiting) > _WAITING and self._waiting[0][3].query():
            self._sum()

    def seconds(self) -> dict[str, float]:
        """By part, since they were last asked for. Whoever asks has just seen what the last step left: it waits for nothing
        but that step's last marks."""
        while self._waiting:
            self._waiting[0][3].synchronize()
            self._sum()
        spent, self._spent = self._spent, dict.fromkeys(PARTS, 0.0)
        return spent

    def _mark(self) -> Mark:
        event = self._free.pop() if self._free else torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _sum(self) -> None:
        name, around, began, ended = self._waiting.popleft()
        lasted = began.elapsed_time(ended) / 1e3
        self._spent[name] += lasted
        if around is not None:
            self._spent[around] -= lasted
        self._free += (began, ended)
