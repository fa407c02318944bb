import pytest
from torch import nn

from distgen.config import Optimizer
from distgen.train.optimizer import Updater, learning_rate


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
    (optimizer,) = Updater(Optimizer(weight_decay=0.5), model, 10)._optimizers
    decayed, others = optimizer.param_groups
    assert [p.shape for p in decayed["params"]] == [(3, 2)]
    assert len(others["params"]) == 3
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.5, 0.0)
