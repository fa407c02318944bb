import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from distgen.config import Optimizer
from distgen.models.dilated import Dilated, DilatedConfig
from distgen.train.optimizer import Updater, learning_rate
from tests.schemas import schema


def rates(steps=20, **keys):
    config = Optimizer(lr=1.0, **keys)
    return [learning_rate(config, step, steps) for step in range(steps + 1)]


def test_the_rate_rises_then_falls_to_zero():
    found = rates(warmup_steps=4)
    assert found[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert found[12] == pytest.approx(0.5)
    assert found[4:] == sorted(found[4:], reverse=True)
    assert found[-2] < 0.02


def test_a_warm_up_longer_than_the_run_is_cut():
    assert max(rates(10, warmup_steps=1000)) == 1.0


def test_each_schedule_goes_as_it_says():
    assert rates(warmup_steps=0, schedule="constant") == [1.0] * 21
    assert rates(10, warmup_steps=0, schedule="linear", final=0.5) == pytest.approx([1 - n / 20 for n in range(11)])
    assert rates(10, warmup_steps=2, schedule="wsd", decay=0.4) == pytest.approx(
        [1 / 3, 2 / 3, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0]
    )
    cycle = rates(20, schedule="one-cycle", final=1e-4)
    torch_cycle = torch.optim.lr_scheduler.OneCycleLR(
        torch.optim.SGD([torch.zeros(1)], lr=1), 1.0, total_steps=21, pct_start=7 / 21, final_div_factor=400
    )
    theirs = []
    for _ in range(21):
        theirs.append(torch_cycle.get_last_lr()[0])
        torch_cycle.optimizer.step()
        torch_cycle.step() if len(theirs) < 21 else None
    assert cycle == pytest.approx(theirs, abs=1e-9)


@given(
    schedule=st.sampled_from(["constant", "linear", "cosine", "wsd", "one-cycle"]),
    warmup=st.none() | st.integers(0, 300),
    steps=st.integers(1, 200),
    final=st.floats(0, 1),
)
def test_a_rate_is_never_above_its_peak_nor_below_its_end_and_ends_there(schedule, warmup, steps, final):
    final = 0.0 if schedule == "constant" else final
    found = rates(steps, schedule=schedule, warmup_steps=warmup, final=final)
    assert all(0 <= rate <= 1 + 1e-12 for rate in found)
    assert max(found) == pytest.approx(1)
    peak = found.index(max(found))
    assert found[:peak] == sorted(found[:peak])
    assert found[peak:] == pytest.approx(sorted(found[peak:], reverse=True))
    assert found[-1] == pytest.approx(1 if schedule == "constant" else final)
    assert min(found[peak:]) == pytest.approx(found[-1])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"decay": 0.2}, 'leave it out of "cosine"'),
        ({"schedule": "constant", "final": 0.1}, "leave out final"),
        ({"schedule": "wsd", "decay": 0.0}, "greater than 0"),
        ({"lr": math.inf}, "finite"),
    ],
)
def test_keys_that_would_do_nothing_are_refused(keys, message):
    with pytest.raises(ValidationError, match=message):
        Optimizer(**keys)


def test_biases_and_norms_do_not_decay():
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    (optimizer,) = Updater(Optimizer(weight_decay=0.5), model, 10)._optimizers
    decayed, others = optimizer.param_groups
    assert [p.shape for p in decayed["params"]] == [(3, 2)]
    assert len(others["params"]) == 3
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.5, 0.0)


# ---- Muon -------------------------------------------------------------------------------------


def dilated():
    torch.manual_seed(0)
    return Dilated(DilatedConfig(family="dilated", channels=6, dilations=(1, 2)), schema(5, 4))


def with_gradients(model, step=0):
    generator = torch.Generator().manual_seed(step)
    for p in model.parameters():
        # As a reduced flat buffer leaves them: in the order of axes, whatever the parameter's is.
        p.grad = torch.randn(p.shape, generator=generator)


def test_muon_moves_what_lies_between_the_first_layer_and_the_last():
    updater = Updater(Optimizer(kind="muon"), dilated(), 10)
    assert set(updater._matrices) == {f"blocks.{n}.{layer}.weight" for n in (0, 1) for layer in ("conv", "mix")}
    adamw, muon = updater._optimizers
    assert sum(len(g["params"]) for g in (*adamw.param_groups, *muon.param_groups)) == len(updater._trained)


def test_muon_moves_a_convolution_as_the_matrix_of_its_output_channels():
    model, plain = dilated(), dilated()
    updater = Updater(Optimizer(kind="muon", schedule="constant", warmup_steps=0, weight_decay=0.1), model, 10)
    weights = [nn.Parameter(block.conv.weight.detach().clone().flatten(1)) for block in plain.blocks]
    muon = torch.optim.Muon(weights, lr=3e-3, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for step in range(3):
        with_gradients(model, step)
        for weight, block in zip(weights, model.blocks, strict=True):
            weight.grad = block.conv.weight.grad.flatten(1)
        updater.update(step)
        muon.step()
    for weight, block, begun in zip(weights, model.blocks, plain.blocks, strict=True):
        assert block.conv.weight.is_contiguous(memory_format=torch.channels_last)
        moved = (weight - begun.conv.weight.flatten(1)).abs().max()
        # Newton-Schulz is in bfloat16, whose sums depend on the order of columns.
        assert (block.conv.weight.flatten(1) - weight).abs().max() < 0.03 * moved


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_an_update_moves_by_about_the_rate_whatever_the_kind(kind):
    model, begun = dilated(), dilated()
    updater = Updater(Optimizer(kind=kind, schedule="constant", warmup_steps=0, weight_decay=0.0), model, 10)
    with_gradients(model)
    updater.update(0)
    for name, p in model.named_parameters():
        moved = (p - begun.get_parameter(name)).square().mean().sqrt() / 3e-3
        assert 0.1 < moved < 1.01, name


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_what_a_checkpoint_keeps_of_an_optimizer_takes_it_on_alike(kind):
    config = Optimizer(kind=kind, ema=0.9)
    whole, other = dilated(), dilated()
    one = Updater(config, whole, 10)
    for step in range(4):
        with_gradients(whole, step)
        one.update(step)
        one.average(step)
        if step == 1:
            kept = {name: value.clone(memory_format=torch.contiguous_format) for name, value in one.tensors().items()}
            averages = {name: value.clone() for name, value in one.averages().items()}
            other.load_state_dict(whole.state_dict())
    two = Updater(config, other, 10)
    assert two.tensors().keys() == kept.keys()
    shapes = {name: p.shape for name, p in other.named_parameters()}
    for name, value in two.tensors().items():
        assert value.numel() == 1 or value.shape == shapes[name.split("/")[1]]
        value.copy_(kept[name])
    for name, value in two.averages().items():
        value.copy_(averages[name])
    for step in (2, 3):
        with_gradients(other, step)
        two.update(step)
        two.average(step)
    assert all(map(torch.equal, whole.parameters(), other.parameters()))
    assert all(map(torch.equal, one.averages().values(), two.averages().values()))


def test_making_the_state_of_some_leaves_that_of_others():
    model = nn.ParameterDict({"used": torch.ones(2), "not yet": torch.ones(2)})
    updater = Updater(Optimizer(schedule="constant", warmup_steps=0), model, 10)
    model["used"].grad = torch.full((2,), 2.0)
    updater.update(0)
    before = model["used"].clone()
    found = updater.tensors()
    assert found["exp_avg/used"].tolist() == pytest.approx([0.2, 0.2])
    assert (float(found["step/used"]), float(found["step/not yet"])) == (1, 0)
    assert torch.equal(model["used"], before)
    assert model["used"].grad is not None
    assert model["not yet"].grad is None


@pytest.mark.parametrize("strided", [True, False])
def test_gradients_in_another_order_of_memory_move_the_same(strided):
    config = Optimizer(schedule="constant", warmup_steps=0)
    model, plain = dilated(), dilated()
    updater = Updater(config, model, 10)
    reference = torch.optim.AdamW(plain.parameters(), lr=3e-3, betas=config.betas, weight_decay=0.0, foreach=False)
    for group in updater._optimizers[0].param_groups:
        group["weight_decay"] = 0.0
    for step in range(3):
        with_gradients(model, step)
        for p, q in zip(model.parameters(), plain.parameters(), strict=True):
            q.grad = p.grad.clone()
            if strided:
                p.grad = torch.empty_like(p).copy_(p.grad)
        updater.update(step)
        reference.step()
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


# ---- averaged weights -------------------------------------------------------------------------


@given(decay=st.floats(0.01, 0.999), steps=st.integers(1, 12))
def test_the_average_is_that_of_all_steps_with_weights_that_fall_by_the_decay(decay, steps):
    model = nn.Linear(2, 2)
    updater = Updater(Optimizer(ema=decay), model, 100)
    seen = []
    for step in range(steps):
        with torch.no_grad():
            model.weight.add_(step + 1)
        updater.average(step)
        seen.append(model.weight.detach().double().clone())
    shares = [decay ** (steps - 1 - step) for step in range(steps)]
    expected = sum(share * weight for share, weight in zip(shares, seen, strict=True)) / sum(shares)
    torch.testing.assert_close(updater.averages()["weight"].double(), expected, rtol=1e-5, atol=1e-5)


def test_the_average_stands_in_for_the_weights_and_they_come_back_bit_for_bit():
    model = nn.Linear(3, 3)
    updater = Updater(Optimizer(ema=0.5), model, 10)
    with torch.no_grad():
        model.weight.mul_(3)
    trained, average = model.weight.clone(), updater.averages()["weight"].clone()
    with updater.averaged():
        assert torch.equal(model.weight, average)
    assert torch.equal(model.weight, trained)
    assert torch.equal(updater.averages()["weight"], average)
