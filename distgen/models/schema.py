"""What goes into a model and what comes out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Schema:
    """A model's channels by name, and what one answer is of: all that another use of its weights must agree with.

    Args:
        inputs: names of the input channels; those of bases are "A", "C", "G" and "T".
        outputs: names of the output channels.
        window: bases of the windows that have one answer each; None: every base has one.
        swap: pairs of outputs that change places on the other strand, () if all stay what they are; None: what is asked has
            an answer on the window's own strand alone.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    window: int | None = None
    swap: tuple[tuple[str, str], ...] | None = None

    @classmethod
    def read(cls, found: dict[str, Any]) -> Schema:
        """As JSON has it, also of who knew no windows yet. Raises KeyError, TypeError, ValueError: it is something else."""
        swap, window = found.get("swap"), found.get("window")
        pairs = None if swap is None else tuple((str(a), str(b)) for a, b in swap)
        return cls(tuple(found["inputs"]), tuple(found["outputs"]), None if window is None else int(window), pairs)
