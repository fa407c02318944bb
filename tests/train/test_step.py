import math

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from distgen.config import Optimizer
from distgen.train.parallel import reduce_gradients
from distgen.train.step import learning_rate, make_optimizer


def test_the_rate_rises_then_falls_to_zero():
    config = Optimizer(lr=1.0, warmup_steps=4)
    rates = [learning_rate(config, step, 20) for step in range(20)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[12] == pytest.approx(0.5)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[-1] < 0.02


def test_a_warm_up_longer_than_the_run_is_cut():
    assert max(learning_rate(Optimizer(lr=1.0, warmup_steps=1000), step, 10) for step in range(10)) == 1.0


def test_biases_and_norms_do_not_decay():
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    decayed, others = make_optimizer(Optimizer(weight_decay=0.5), model).param_groups
    assert [p.shape for p in decayed["params"]] == [(3, 2)]
    assert len(others["params"]) == 3
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.5, 0.0)


def test_the_gradient_is_that_of_the_mean_over_targets():
    weight = nn.Parameter(torch.tensor([2.0]))
    total = (weight * torch.tensor([1.0, 2.0, 6.0])).sum()
    total.backward()
    total, count = reduce_gradients([weight], total, torch.tensor(3))
    assert (float(weight.grad), float(total), float(count)) == (3.0, 18.0, 3.0)


def _rank(rank: int, world_size: int, port: int, found) -> None:
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size)
    weight, unused = nn.Parameter(torch.tensor([2.0])), nn.Parameter(torch.zeros(2))
    mine = torch.tensor([[1.0, 2.0, 6.0], [7.0]][rank])
    total = (weight * mine).sum()
    total.backward()
    total, count = reduce_gradients([unused, weight], total, torch.tensor(len(mine)))
    found[rank] = (float(weight.grad), unused.grad.tolist(), float(total), float(count))
    dist.destroy_process_group()


def test_no_worker_weighs_more_than_its_targets():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with mp.Manager() as manager:
        found = manager.dict()
        mp.spawn(_rank, (2, port, found), nprocs=2)
        assert found[0] == found[1]
        weight, unused, total, count = found[0]
    assert math.isclose(weight, 16 / 4)
    assert (unused, total, count) == ([0, 0], 32.0, 4.0)
