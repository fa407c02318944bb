"""Files that one process has at a time, by the kernel's locks (flock): whoever dies frees them.

A name can come to mean another file at any time: whoever was first may have renamed or removed what the next has opened.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def locked(path: Path, how: int, create: int = 0) -> int | None:
    """Open and lock a file. None if there is none, if others have locked it, or have taken it away meanwhile."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC | create, 0o644)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
        if is_named(file, path):
            return file
    except BlockingIOError:
        pass
    except BaseException:
        os.close(file)
        raise
    os.close(file)
    return None


def is_named(file: int, path: Path) -> bool:
    """Whether an open file has this name."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False
