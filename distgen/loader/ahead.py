"""Work done ahead of who asks for it, by threads, in order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from queue import Empty, SimpleQueue
from typing import TypeVar

from distgen.config import TIMEOUTS
from distgen.errors import LostError

T = TypeVar("T")

Slot = SimpleQueue["T | BaseException"]


def ahead(calls: Iterable[Callable[[], T]], threads: int, depth: int) -> Iterator[T]:
    """What each call gives, in their order; up to `depth` of them run, or have run, before they are asked for.

    Raises:
        LostError: nothing came within `TIMEOUTS["next_batch"]` seconds. Whatever a call raises is raised in its place.
    """
    work: SimpleQueue[tuple[Callable[[], T], Slot[T]] | None] = SimpleQueue()
    stop = threading.Event()

    def run() -> None:
        while (taken := work.get()) is not None:
            call, slot = taken
            if stop.is_set():
                return
            try:
                slot.put(call())
            except BaseException as error:  # whatever it is belongs to whoever asks for the result
                slot.put(error)

    # Daemons: a read that hangs for ever must not keep the process from telling so and ending.
    running = [threading.Thread(target=run, name=f"distgen-loader-{n}", daemon=True) for n in range(threads)]
    for thread in running:
        thread.start()
    waiting: deque[Slot[T]] = deque()
    try:
        for call in calls:
            slot: Slot[T] = SimpleQueue()
            work.put((call, slot))
            waiting.append(slot)
            if len(waiting) > depth:
                yield _take(waiting.popleft())
        while waiting:
            yield _take(waiting.popleft())
    finally:
        # A thread that still computes while the interpreter goes down aborts the process.
        stop.set()
        for _ in running:
            work.put(None)
        for thread in running:
            if thread is not threading.current_thread():  # it may have collected the garbage that this was
                thread.join(timeout=5)


def _take(slot: Slot[T]) -> T:
    try:
        made = slot.get(timeout=TIMEOUTS["next_batch"])
    except Empty:
        raise LostError(f"no batch came within {TIMEOUTS['next_batch']:.0f} s; is the storage alive?") from None
    if isinstance(made, BaseException):
        raise made
    return made
