"""How a process is asked to leave: SIGTERM and SIGUSR1, as schedulers send before they take a machine away."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

ASKING = (signal.SIGTERM, signal.SIGUSR1)


@contextmanager
def asked_to_leave() -> Iterator[Callable[[], bool]]:
    """Inside, the first signal is remembered, and what is yielded says so; a second one ends the process as it would have.

    In another thread than the main one signals stay what they were.
    """
    came = threading.Event()

    def remember(number: int, frame: FrameType | None) -> None:
        if came.is_set():
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        came.set()

    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, remember) for number in ASKING}
    try:
        yield came.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
