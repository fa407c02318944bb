"""The one place that says how numba compiles: on first use, kept on disk where that can be, other threads may run meanwhile."""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def compiled(function: Any) -> Any:
    """`function` as numba compiles it; once, however often this is called."""
    import numba  # 0.3 s to import: only who computes pays

    try:
        return numba.njit(function, cache=True, nogil=True)
    except RuntimeError:  # neither the package's folder nor the user's can be written: compile each time
        return numba.njit(function, nogil=True)
