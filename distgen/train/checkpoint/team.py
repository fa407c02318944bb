"""Workers that agree."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

from distgen.config import TIMEOUTS
from distgen.errors import CheckpointError, DistgenError

T = TypeVar("T")


class Team:
    """All workers of a training, or one process.

    Args:
        group: how they talk: over the host's network, never in the way of what is trained. None for one process.
    """

    def __init__(self, group: dist.ProcessGroup | None = None):
        self.group = group
        self.rank = dist.get_rank(group) if group else 0
        self.size = dist.get_world_size(group) if group else 1

    @classmethod
    def of_all(cls) -> Team:
        """All workers there are; they call this together."""
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return cls()
        return cls(dist.new_group(backend="gloo", timeout=timedelta(seconds=TIMEOUTS["checkpoint"])))

    @property
    def leads(self) -> bool:
        """One worker does what is done once."""
        return self.rank == 0

    def all(self, task: Callable[[], T]) -> list[T]:
        """What every worker makes of a task, by rank; what one raises, all raise."""
        if self.group is None:
            return [task()]
        mine: tuple[Any, Exception | None]
        try:
            mine = task(), None
        except DistgenError as error:
            mine = None, error
        except Exception as error:  # another worker may not be able to make it
            mine = None, CheckpointError(f"worker {self.rank}: {type(error).__name__}: {error}")
        told: list[Any] = [None] * self.size
        dist.all_gather_object(told, mine, group=self.group)
        for _, failure in told:
            if failure is not None:
                raise failure
        return [found for found, _ in told]

    def first(self, task: Callable[[], T]) -> T:
        """What the leading worker makes of a task; what it raises, all raise."""
        return self.all(task if self.leads else lambda: None)[0]  # type: ignore[return-value]
