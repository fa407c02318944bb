"""Who a worker is, and what it may tell the world."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch


class Told(Protocol):
    """Where a training's records go."""

    def begin(self, step: int) -> None:
        """A training goes on at a step: later ones are taken again."""

    def add(self, record: dict[str, Any]) -> None:
        """Keep a record."""

    def end(self, status: str) -> None:
        """No more will come: the training "finished" or "failed"."""


@dataclass(frozen=True)
class Worker:
    """One worker, and what it may tell the world.

    Args:
        rank, world_size: among all workers.
        device: where this worker computes.
        context: so many workers of consecutive ranks share each window.
        out: the run directory, shared by all workers.
        show: called on rank 0 with every metrics record.
        records: what rank 0 tells records instead of keeping them in the run directory and showing them.
        report: called on every rank with the path of a checkpoint that has become whole, at the same step on all.
        aside: has the checkpoint at a path measured beside the training, see `distgen.train.aside`; None: all workers do it.
        leaving: whether this worker was asked to leave: it then keeps a checkpoint with all others, and training ends.
    """

    rank: int
    world_size: int
    device: torch.device
    out: Path
    show: Callable[[dict[str, Any]], None] = field(default=lambda record: None)
    report: Callable[[str, dict[str, Any]], None] = field(default=lambda path, record: None)
    leaving: Callable[[], bool] = field(default=lambda: False)
    records: Told | None = None
    aside: Callable[[str], Future[dict[str, Any]]] | None = None
    context: int = 1

    @property
    def data_rank(self) -> int:
        """Which rows of a batch are this worker's: among `data_size`, alike on workers that share windows."""
        return self.rank // self.context

    @property
    def data_size(self) -> int:
        """In how many parts the rows of a batch are dealt."""
        return self.world_size // self.context

    @property
    def context_rank(self) -> int:
        """Which slice of each of these rows."""
        return self.rank % self.context

    @property
    def leads(self) -> bool:
        """Rank 0 writes what is written once."""
        return self.rank == 0
