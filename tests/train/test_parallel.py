import math
import socket

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from distgen.config import Cluster
from distgen.train.parallel import Parallel, Worker


class _Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.unused, self.weight = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.tensor([2.0]))


def _rank(rank: int, world_size: int, port: int, out, found) -> None:
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size)
    model = _Model()
    parallel = Parallel(model, Worker(rank, world_size, torch.device("cpu"), out), Cluster())
    mine = torch.tensor([[1.0, 2.0, 6.0], [7.0]][rank])
    total = (model.weight * mine).sum()
    total.backward()
    sums = parallel.reduce(torch.tensor([float(total), len(mine)], dtype=torch.float64))
    found[rank] = (float(model.weight.grad), model.unused.grad.tolist(), *sums.tolist())
    dist.destroy_process_group()


def test_gradients_and_sums_are_those_of_all_workers(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with mp.Manager() as manager:
        found = manager.dict()
        mp.spawn(_rank, (2, port, tmp_path, found), nprocs=2)
        assert found[0] == found[1]
        weight, unused, total, count = found[0]
    assert math.isclose(weight, 16)
    assert (unused, total, count) == ([0, 0], 32.0, 4.0)
