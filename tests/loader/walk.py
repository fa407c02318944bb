"""What a walk with a checkpoint at every step is compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from distgen.loader.base import Loader
from distgen.loader.batch import Batch


def two_epochs(loader: Loader, content: Callable[[list[Batch]], Any]) -> tuple[list[Any], list[dict[str, Any]]]:
    """The content of every batch of two epochs, and the states before each of them and after the last."""
    reference, states = [], [loader.state_dict()]
    for _ in range(2):
        for batch in loader:
            reference.append(content([batch]))
            states.append(loader.state_dict())
    return reference, states


def go_on(ranks: Sequence[Loader], states: list[dict[str, Any]], step: int) -> list[Batch]:
    """The batch that comes next from the state before a step, of every rank; all of them then are in the state after it."""
    for rank in ranks:
        rank.load_state_dict(states[step])
    batches = [next(iter(rank)) for rank in ranks]
    assert all(rank.state_dict() == states[step + 1] for rank in ranks)
    return batches
