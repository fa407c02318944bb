"""Models of which every worker holds a part: fully sharded data parallelism (FSDP2; Zhao et al. 2023), on all workers or on
groups of them that hold it together and are copies of one another (hybrid)."""

from __future__ import annotations

import hashlib
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import chain, pairwise

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from distgen.config import TIMEOUTS, fitting_shards
from distgen.errors import ConfigError
from distgen.train.parallel import Parallel
from distgen.train.worker import Worker


class Sharded(Parallel):
    """Every worker holds a shard of each parameter, its gradient and its optimizer state; a block's parameters come together
    when it computes, those of the next one meanwhile.

    Between steps all parameters are shards (also the root's, which FSDP would leave whole after an evaluation, so that an
    optimizer or averaged weights would not be seen by it). Micro-batches keep what has come together until the last of a
    step, and their gradients cross the network once.

    Args:
        model: as it was made, alike on all workers; its `blocks`, if it has some, are sharded one by one.
        worker: which of the workers this is.
        shards: how many hold a copy together; None for those of a node.
        dtype: what goes through the model; gradients are summed in float32.

    Raises:
        ConfigError: the workers of the nodes make no groups of one size.
    """

    def __init__(self, model: nn.Module, worker: Worker, shards: int | None, dtype: torch.dtype):
        for parameter in model.parameters():
            parameter.data = parameter.data.contiguous()  # FSDP takes no channels-last weights
        mesh = _mesh(worker, shards)
        policy = MixedPrecisionPolicy(None if dtype == torch.float32 else dtype, reduce_dtype=torch.float32)
        blocks = list(getattr(model, "blocks", []))
        for module in [*blocks, model]:
            fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
        for block, following in pairwise(blocks):
            block.set_modules_to_forward_prefetch([following])
        assert isinstance(model, FSDPModule)
        if hasattr(
            model, "set_reduce_scatter_unused_params"
        ):  # newer torch: a layer may be skipped on some workers only
            model.set_reduce_scatter_unused_params(True)
        # Of the logits, which no objective changes in place.
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
        self._root = model
        super().__init__(model)

    @contextmanager
    def accumulating(self, last: bool) -> Iterator[None]:
        self._root.set_requires_gradient_sync(last)
        self._root.set_reshard_after_backward(last)
        self._root.set_is_last_backward(last)
        yield

    def reduce(self, sums: Tensor) -> Tensor:
        self._gradients()
        return self._agree(sums)


def _mesh(worker: Worker, shards: int | None) -> DeviceMesh:
    """Workers as (copies, shards of each); one axis where there is one copy."""
    world, kind = worker.world_size, worker.device.type
    nodes = [list(range(world))] if shards == world else _nodes(worker)
    shards = shards or _alike(nodes)
    if shards == world:
        assert dist.group.WORLD is not None
        return DeviceMesh.from_group(dist.group.WORLD, kind)
    ranks = torch.tensor(list(chain.from_iterable(nodes))).view(-1, shards)
    groups = []
    for together in (ranks.T, ranks):  # who holds the same shard, and who holds the same copy
        timeout = timedelta(seconds=TIMEOUTS["process_group"])  # a new group's own would be another
        group, _ = dist.new_subgroups_by_enumeration(together.tolist(), timeout=timeout)
        groups.append(group)
    return DeviceMesh.from_group(groups, kind, ranks, mesh_dim_names=("copy", "shard"))


def _nodes(worker: Worker) -> list[list[int]]:
    """The ranks of each node, in order."""
    name = hashlib.blake2b(socket.gethostname().encode(), digest_size=7).digest()
    mine = torch.tensor([int.from_bytes(name, "little")], device=worker.device)
    hosts = [torch.empty_like(mine) for _ in range(worker.world_size)]
    dist.all_gather(hosts, mine)
    nodes: dict[int, list[int]] = {}
    for rank, host in enumerate(hosts):
        nodes.setdefault(int(host), []).append(rank)
    return list(nodes.values())


def _alike(nodes: list[list[int]]) -> int:
    """How many workers each node has."""
    sizes = [len(ranks) for ranks in nodes]
    if len(set(sizes)) > 1:
        raise ConfigError(
            f"the nodes have {', '.join(map(str, sizes))} workers: hybrid sharding has no group of one size. Set cluster.shards "
            f"to one of {fitting_shards(sum(sizes))}"
        )
    return sizes[0]
