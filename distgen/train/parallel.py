"""Data parallelism: who this worker is, and how gradients of all workers become one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from distgen.config import Cluster
from distgen.train.records import Told


@dataclass(frozen=True)
class Worker:
    """One worker, and what it may tell the world.

    Args:
        rank, world_size: among all workers.
        device: where this worker computes.
        out: the run directory, shared by all workers.
        show: called on rank 0 with every metrics record.
        records: what rank 0 tells records instead of keeping them in the run directory and showing them.
        report: called on every rank with the path of a checkpoint that has become whole, at the same step on all.
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

    @property
    def leads(self) -> bool:
        """Rank 0 writes what is written once."""
        return self.rank == 0


class Parallel:
    """A model on all workers: how it is called, and how their gradients become one.

    Every worker holds the whole model; one flat buffer in parameter order crosses the network, so that the sum does not
    depend on how autograd ordered the backward pass.

    Args:
        model: as it was made, alike on all workers.
        worker: which of them this is.
        cluster: `[cluster]` of the run.
    """

    def __init__(self, model: nn.Module, worker: Worker, cluster: Cluster):
        self.model = model
        self._parameters = [p for p in model.parameters() if p.requires_grad]

    def accumulating(self, last: bool) -> AbstractContextManager[None]:
        """Around forward and backward of one micro-batch; the gradients cross the network after the `last` of a step."""
        return nullcontext()

    def reduce(self, sums: Tensor) -> Tensor:
        """Make the gradients of a summed loss those of the loss summed over all workers.

        Args:
            sums: (n,) numbers of this worker.

        Returns:
            (n,) their sums over all workers; nobody waits for the device.
        """
        if dist.is_initialized():
            gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self._parameters]
            flat = torch.cat([g.reshape(-1) for g in gradients])
            dist.all_reduce(flat)
            dist.all_reduce(sums)
            for parameter, part in zip(self._parameters, flat.split([g.numel() for g in gradients]), strict=True):
                parameter.grad = part.view_as(parameter)
        return sums


def broadcast_parameters(model: nn.Module) -> None:
    """Give every worker the parameters and buffers of rank 0."""
    if dist.is_initialized():
        for tensor in [*model.parameters(), *model.buffers()]:
            dist.broadcast(tensor.detach(), src=0)
