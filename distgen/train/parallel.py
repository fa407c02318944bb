"""Data parallelism: how gradients of all workers become one.

There are three ways, behind one interface (`Parallel`): one flat buffer, torch's DDP, and shards (`distgen.train.sharded`).
All leave in `p.grad` the SUM over workers, and zeros where nobody's loss depended on a parameter, as one process does.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from distgen.config import Cluster
from distgen.errors import ConfigError, TrainError
from distgen.train.worker import Worker


def parallelize(
    model: nn.Module, worker: Worker, cluster: Cluster, *, deterministic: bool, dtype: torch.dtype
) -> Parallel:
    """A model on all workers, as `[cluster]` says.

    Args:
        model: as it was made, alike on all workers. What holds parameters is made after this, which may replace them.
        deterministic: sums don't depend on when a worker's gradients are ready.
        dtype: what goes through the model.

    Raises:
        ConfigError: the model or the workers' nodes do not fit.
    """
    if worker.world_size == 1:
        return Parallel(model)
    _refuse_batch_statistics(model)
    if cluster.parallel != "ddp":
        from distgen.train.sharded import Sharded  # half a second that others need not wait

        shards = worker.world_size if cluster.parallel == "fsdp" else cluster.shards
        return Sharded(model, worker, shards, dtype)
    # On the CPU the network takes the cores that compute: nothing overlaps, and buckets cost 1 to 3 % more (2 ranks, gloo).
    return Replicated(model) if deterministic or worker.device.type == "cpu" else Overlapped(model)


class Parallel:
    """A model on one worker, which has no others: how it is called, and how gradients become those of all workers.

    Args:
        model: as it was made, alike on all workers.

    Attributes:
        model: what is called in its place; `model.state_dict()` of what was made has the same names in all kinds.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        self._trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        kept = model.state_dict().keys()
        self._buffers = [b for name, b in model.named_buffers() if name in kept]
        self._summed = {
            id(getattr(module, name)) for module in model.modules() for name in getattr(module, "summed", ())
        }

    def accumulating(self, last: bool) -> AbstractContextManager[None]:
        """Around forward and backward of one micro-batch; the gradients cross the network at the `last` of a step."""
        return nullcontext()

    def reduce(self, sums: Tensor) -> Tensor:
        """Make the gradients of a summed loss those of the loss summed over all workers.

        Args:
            sums: (n,) numbers of this worker.

        Returns:
            (n,) their sums over all workers; nobody waits for the device.
        """
        self._gradients()
        return sums

    def _gradients(self) -> list[Tensor]:
        """Of all trained parameters; there are some afterwards."""
        for _, parameter in self._trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return [parameter.grad for _, parameter in self._trained if parameter.grad is not None]

    def _agree(self, sums: Tensor) -> Tensor:
        """Sums over all workers; and what layers keep of the rows they saw is rank 0's on all, or the sum of all workers'
        where they say that it is `summed`."""
        dist.all_reduce(sums)
        for buffer in self._buffers:
            if id(buffer) in self._summed:
                dist.all_reduce(buffer)
            else:
                dist.broadcast(buffer, src=0)
        return sums


class Replicated(Parallel):
    """Every worker holds the whole model; one flat buffer in parameter order crosses the network after the backward pass, so
    that the sum depends on nothing but the number of workers: this is the deterministic way.
    """

    def reduce(self, sums: Tensor) -> Tensor:
        gradients = zip(self._gradients(), self._trained, strict=True)
        parts = [_in_memory_order(gradient, parameter) for gradient, (_, parameter) in gradients]
        flat = torch.cat(parts)
        dist.all_reduce(flat)
        for (_, parameter), part in zip(self._trained, flat.split([len(part) for part in parts]), strict=True):
            parameter.grad = part.as_strided(parameter.shape, parameter.stride())
        return self._agree(sums)


class Overlapped(Replicated):
    """Every worker holds the whole model; gradients cross the network in buckets while the backward pass goes on (Li et al.
    2020), by torch's DDP.

    The first step's cross it flat: it shows whether every parameter has a gradient, which DDP must be told.
    """

    _ddp: DistributedDataParallel | None = None
    _some_unused = False

    def accumulating(self, last: bool) -> AbstractContextManager[None]:
        return nullcontext() if last or self._ddp is None else self._ddp.no_sync()

    def reduce(self, sums: Tensor) -> Tensor:
        unused = [name for name, p in self._trained if p.grad is None]
        if self._ddp is None:
            some = torch.tensor(len(unused), device=sums.device)
            dist.all_reduce(some)
            self._some_unused = bool(some)
            sums = super().reduce(sums)
            self.model = self._ddp = DistributedDataParallel(
                self.model,
                broadcast_buffers=False,  # `_agree` settles every one
                gradient_as_bucket_view=True,
                find_unused_parameters=self._some_unused,
            )
            self._ddp.register_comm_hook(None, lambda state, bucket: _summed(bucket.buffer()))
            return sums
        if unused and not self._some_unused:  # their bucket has crossed no network
            raise TrainError(
                f"parameter {unused[0]} has no gradient in this step, as it had in the first: give train.deterministic = true "
                "to a model whose layers come and go"
            )
        self._gradients()
        return self._agree(sums)


def _summed(flat: Tensor) -> torch.futures.Future[Tensor]:
    """For DDP, which would divide by the number of workers."""
    future = dist.all_reduce(flat, async_op=True).get_future()
    summed: torch.futures.Future[Tensor] = future.then(lambda done: done.value()[0])
    return summed


def _in_memory_order(gradient: Tensor, parameter: Tensor) -> Tensor:
    """A gradient as one axis, as its parameter's numbers lie in memory: optimizers are fast where both lie alike."""
    if gradient.stride() != parameter.stride():
        gradient = torch.empty_like(parameter).copy_(gradient)
    return gradient.as_strided((gradient.numel(),), (1,))


def _refuse_batch_statistics(model: nn.Module) -> None:
    """Raise ConfigError for a layer whose output depends on which rows are on the same worker."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not isinstance(module, nn.SyncBatchNorm):
            raise ConfigError(
                f"layer {name} ({type(module).__name__}) normalises over the rows of a worker: the model would depend on how "
                "many there are. Use LayerNorm, GroupNorm or SyncBatchNorm"
            )


def broadcast_parameters(model: nn.Module) -> None:
    """Give every worker the parameters and buffers of rank 0."""
    if dist.is_initialized():
        for tensor in [*model.parameters(), *model.buffers()]:
            dist.broadcast(tensor.detach(), src=0)


def local(tensor: Tensor) -> Tensor:
    """This worker's part of a tensor, in the same memory; all of it, if it is not sharded."""
    found: Tensor = getattr(tensor, "_local_tensor", tensor)  # without importing DTensor
    return found


def total_norm(tensors: list[Tensor]) -> Tensor:
    """The Euclidean norm of tensors as if they were one, however they are sharded (all of them alike).

    Returns:
        A scalar, the same on all workers; one number crosses the network, and nobody waits for the device.
    """
    parts = [local(t) for t in tensors]
    if parts[0] is tensors[0]:
        norm: Tensor = nn.utils.get_total_norm(parts)
        return norm
    squared = torch.stack(torch._foreach_norm(parts)).double().square().sum()
    first: Any = tensors[0]
    for axis, placement in enumerate(first.placements):
        if placement.is_shard():
            dist.all_reduce(squared, group=first.device_mesh.get_group(axis))
    return squared.sqrt().float()
