"""Memory of the host that tensors have left."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of <malloc.h>


def keep_heap() -> None:
    """Have this process keep the memory that tensors leave, for those of the next step.

    glibc gives large blocks back to the system as soon as they are free, and takes them anew: each step of a model on the CPU
    then waits for its pages to be zeroed again (up to a quarter of the time of a dilated one of 64 channels). Kept blocks are not
    more than the most that was used at once. Other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
