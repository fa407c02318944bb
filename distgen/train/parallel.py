"""Data parallelism: who this worker is, and how gradients of all workers become one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Worker:
    """One data-parallel rank and what it may tell the world.

    Args:
        rank, world_size: among all workers.
        device: where this worker computes.
        out: the run directory, shared by all workers.
        show: called on rank 0 with every metrics record.
        report: called on every rank when a checkpoint is whole (None between checkpoints).
    """

    rank: int
    world_size: int
    device: torch.device
    out: Path
    show: Callable[[dict[str, Any]], None] = field(default=lambda record: None)
    report: Callable[[dict[str, Any]], None] = field(default=lambda record: None)

    @property
    def leads(self) -> bool:
        """Rank 0 writes what is written once."""
        return self.rank == 0

    def wait_for_all(self) -> None:
        """Return when every rank has come here; bounded by `TIMEOUTS["process_group"]`."""
        if self.world_size > 1:
            dist.barrier()


def broadcast_parameters(model: nn.Module) -> None:
    """Give every worker the parameters and buffers of rank 0."""
    if dist.is_initialized():
        for tensor in [*model.parameters(), *model.buffers()]:
            dist.broadcast(tensor.detach(), src=0)


def reduce_gradients(parameters: list[nn.Parameter], total: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Make gradients of a summed loss those of the mean over all workers' targets.

    One flat buffer in parameter order crosses the network, and the loss and the count with it: the sum does
    not depend on how autograd ordered the backward pass, and no worker weighs more than its targets.

    Args:
        parameters: all hold a gradient of the loss summed over this worker's targets.
        total, count: that loss, and the number of targets.

    Returns:
        The loss summed over all workers' targets, and their number, float64 scalars.
    """
    sums = torch.stack([total.detach().double(), count.detach().double()])
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    if dist.is_initialized():
        flat = torch.cat([g.reshape(-1) for g in gradients])
        dist.all_reduce(flat)
        dist.all_reduce(sums)
        split = flat.split([g.numel() for g in gradients])
        gradients = [part.view_as(g) for part, g in zip(split, gradients, strict=True)]
    scale = (1 / sums[1]).nan_to_num(posinf=0).float()  # nobody has a target: nothing moves
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.mul_(scale)
    return sums[0], sums[1]
