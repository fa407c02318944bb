"""The one place that says how numba compiles: on first use, kept on disk where that can be, other threads may run meanwhile."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal


@cache
def compiled(function: Any, *, error_model: Literal["python", "numpy"] = "python") -> Any:
    """`function` as numba compiles it; once, however often this is called.

    What is kept on disk goes by the date of the function's own file: who changes what it calls in another one, touches it.

    Args:
        function: what numba can compile.
        error_model: "numpy" where a division that could raise would keep a loop from being vectorized.
    """
    import numba  # 0.3 s to import: only who computes pays

    try:
        return numba.njit(function, cache=True, nogil=True, error_model=error_model)
    except RuntimeError:  # neither the package's folder nor the user's can be written: compile each time
        return numba.njit(function, nogil=True, error_model=error_model)
