"""`distgen train` watched: the process that trains is started again when it dies. Nothing heavy is imported here."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from distgen.errors import ConfigError, LostError

log = logging.getLogger("distgen")
_WATCHED = "DISTGEN_WATCHED"
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def restarts(run: Path, overrides: list[str]) -> int:
    """How often the training of a run is to be started again when its process dies; 0 in such a process, in one of
    torchrun's (which starts its own again), and if the run cannot be read: who trains says why."""
    if _WATCHED in os.environ or "TORCHELASTIC_RUN_ID" in os.environ:
        return 0
    from distgen.config import Restarted, read

    try:
        return read(run, Restarted, overrides).cluster.restarts
    except ConfigError:
        return 0


def watch(arguments: list[str], most: int) -> int:
    """Run `distgen train`, again with --resume when it dies of a signal (such as the one that ends who takes too much
    memory) or loses Ray, but not when it says what is wrong or was asked to end.

    Args:
        arguments: of the command.
        most: how often it is started again.

    Returns:
        The exit status of the last one.
    """
    command = [sys.executable, "-m", "distgen.cli", "train", *arguments]
    asked: list[int] = []
    child: subprocess.Popen[bytes] | None = None

    def pass_on(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        if child is not None:
            child.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in _PASSED_ON}
    try:
        for count in range(most + 1):
            # In a session of its own: a terminal would send Ctrl-C to both, and the child hear it twice.
            child = subprocess.Popen(  # noqa: S603 - this very program
                command, env=os.environ | {_WATCHED: "1"}, start_new_session=True, preexec_fn=_end_with_parent
            )
            for number in asked[:1]:  # it came before there was anybody to pass it on to
                child.send_signal(number)
            status = child.wait()
            if asked or (status >= 0 and status != LostError.exit_status) or count == most:
                break
            why = f"died of signal {-status}" if status < 0 else "lost what it needs"
            log.warning("the training %s; it is started again (%d of %d)", why, count + 1, most)
            command += ["--resume"] * ("--resume" not in command)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return status if status >= 0 else 128 - status


def _end_with_parent() -> None:
    """Linux sends a child SIGTERM when its parent dies: the training then keeps a checkpoint and leaves."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)
