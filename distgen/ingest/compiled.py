"""The one place that says how numba compiles: on first use, kept on disk, other threads may run meanwhile."""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def compiled(function: Any) -> Any:
    """`function` as numba compiles it; once, however often this is called."""
    import numba  # 0.3 s to import: only who computes pays

    return numba.njit(function, cache=True, nogil=True)
