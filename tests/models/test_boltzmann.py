"""A machine against all that its few hidden units can be."""

from itertools import product

import pytest
import torch
from torch import nn

from distgen import models
from distgen.models.boltzmann import ENERGIES, Boltzmann, BoltzmannConfig
from distgen.models.schema import Schema
from distgen.train.model import inputs, outputs
from tests.schemas import schema


def config(**sizes):
    return BoltzmannConfig(family="boltzmann", **({"motifs": 3, "width": 4, "density": 0.2, "chains": 6} | sizes))


def machine(window=9, seed=0, **sizes):
    """One that says something: with large weights, and bases that are not all alike."""
    torch.manual_seed(seed)
    found = Boltzmann(config(**sizes), Schema(("A", "C", "G", "T"), ENERGIES, window, ()))
    with torch.no_grad():
        found.stem.weight.normal_()
        found.stem.bias.normal_()
        found.base.normal_()
    return found


def windows(count, length, seed=1):
    codes = torch.randint(4, (count, length), generator=torch.Generator().manual_seed(seed))
    return nn.functional.one_hot(codes, 4).transpose(1, 2).float()


def reverse_complement(x):
    return x.flip(1, 2)


def all_units(model, x_4L):
    """What each unit has to say for being on, (L, motifs, 2), by loops."""
    weight, (left, _), (L, W) = (
        model.stem.weight[:, :, 0],
        model.stem._sides,
        (x_4L.shape[1], model.stem.weight.shape[3]),
    )
    found = torch.zeros(L, len(weight), 2)
    for j in range(L):
        seen = torch.zeros(4, W)
        for m in range(W):
            if 0 <= j - left + m < L:
                seen[:, m] = x_4L[:, j - left + m]
        for k in range(len(weight)):
            found[j, k, 0] = (weight[k] * seen).sum() + model.stem.bias[k]
            found[j, k, 1] = (weight[k] * reverse_complement(seen[None])[0]).sum() + model.stem.bias[k]
    return found


def free_energy(model, x_4L, pool):
    """-log of the sum over all that hidden units may be: of each group none, or one."""
    units = all_units(model, x_4L)
    base = (model.base + model.base.flip(0)) / 2
    total = (x_4L.sum(1) * base).sum()
    for k in range(units.shape[1]):
        for first in range(0, len(units), pool):
            total = total + (1 + units[first : first + pool, k].exp().sum()).log()
    return -total


@pytest.mark.parametrize(("pool", "width"), [(1, 4), (2, 5), (4, 3)])
def test_the_free_energy_is_that_of_all_hidden_states(pool, width):
    model, x = machine(pool=pool, width=width), windows(5, 9)
    expected = torch.stack([free_energy(model, window, pool) for window in x])
    assert torch.allclose(model.free_energy(x), expected, atol=1e-4)


def test_both_strands_share_their_motifs():
    model, x = machine(width=5), windows(7, 21)
    scores = model._scores(x)
    turned = model._scores(reverse_complement(x)).flip(1)
    assert torch.allclose(turned.unflatten(2, (2, 3)).flip(2).flatten(2), scores, atol=1e-5)
    assert torch.allclose(model.free_energy(reverse_complement(x)), model.free_energy(x), atol=1e-4)


@pytest.mark.parametrize(("pool", "width", "length"), [(1, 4, 9), (2, 5, 23), (4, 3, 22), (1, 5, 3)])
def test_what_a_base_would_be_is_what_replacing_it_says(pool, width, length):
    model, x = machine(length, pool=pool, width=width), windows(2, length)
    found = model.conditionals(x)
    for i in range(length):
        for base in range(4):
            other = x.clone()
            other[:, :, i] = 0
            other[:, base, i] = 1
            expected = model.free_energy(x) - model.free_energy(other)
            mine = found[:, base, i] - (found * x).sum(1)[:, i]
            assert torch.allclose(mine, expected, atol=1e-4)


def test_chains_come_to_what_the_free_energy_says():
    model = machine(window=3, motifs=2, width=3, chains=4000, gibbs_steps=30).train()
    model(windows(1, 3))
    every = torch.tensor(list(product(range(4), repeat=3)))
    expected = (-model.free_energy(nn.functional.one_hot(every, 4).transpose(1, 2).float())).softmax(0)
    place = model.chain.long() @ torch.tensor([16, 4, 1])
    found = torch.bincount(place, minlength=64) / 4000
    # Of 4,000 draws, a share p is off by sqrt(p (1 - p) / 4000).
    assert ((found - expected).abs() < 5 * (expected * (1 - expected) / 4000).sqrt() + 1e-3).all()


@pytest.mark.parametrize("pool", [1, 3])
def test_of_a_group_one_unit_at_most_is_on(pool):
    model = machine(window=10, pool=pool)
    likely = model._likely(model._scores(windows(4, 10)))
    units = torch.stack([all_units(model, x) for x in windows(4, 10)]).exp()  # (B, L, K, 2)
    for first in range(0, 10, pool):
        group = units[:, first : first + pool]
        expected = group / (1 + group.sum((1, 3), keepdim=True))
        mine = likely[:, first : first + pool].unflatten(2, (2, 3)).transpose(2, 3)
        assert torch.allclose(mine, expected, atol=1e-5)


def test_the_gradient_is_that_of_contrastive_divergence():
    model = machine(window=9, sparsity=0.0).train()
    x = windows(5, 9)
    out = model(x)
    assert out.shape == (5, len(ENERGIES), 1)
    (out[:, 0] - out[:, 1]).mean().backward()
    dreams = model.dreams()
    expected = torch.autograd.grad(model.free_energy(x).mean() - model.free_energy(dreams).mean(), model.stem.weight)[0]
    assert torch.allclose(model.stem.weight.grad, expected, atol=1e-5)


def test_chains_go_on_from_where_they_were_and_by_torchs_draws_alone():
    model = machine().train()
    began = model.chain.clone()
    torch.manual_seed(3)
    model(windows(2, 9))
    once = model.chain.clone()
    assert not torch.equal(once, began)
    model.chain.copy_(began)
    torch.manual_seed(3)
    model(windows(2, 9))
    assert torch.equal(model.chain, once)
    model.eval()
    model(windows(2, 9))
    assert torch.equal(model.chain, once)  # measuring changes nothing


def test_what_is_denser_than_it_is_to_be_costs_and_what_is_rarer_pays():
    for bias, sign in ((2.0, 1), (-9.0, -1)):
        model = machine(density=0.01).train()
        with torch.no_grad():
            model.stem.weight.zero_()
            model.stem.bias.fill_(bias)
        model(windows(3, 9))  # what they cost is of how dense they were before
        penalty = model(windows(3, 9))[:, ENERGIES.index("penalty"), 0]
        gradient = torch.autograd.grad(penalty.sum(), model.stem.bias)[0]
        assert (gradient * sign > 0).all()


def test_windows_of_which_nothing_is_known_say_nothing_of_how_dense_motifs_are():
    model, other, x = machine().train(), machine().train(), windows(3, 9)
    other.load_state_dict(model.state_dict())
    model(x)
    other(torch.cat([x, torch.zeros(4, 4, 9)]))
    torch.testing.assert_close(other.usage, model.usage)
    before = other.usage[:-1] / other.usage[-1]
    other(torch.zeros(4, 4, 9))
    torch.testing.assert_close(other.usage[:-1] / other.usage[-1], before)


def test_of_several_workers_each_has_its_share_of_chains_and_of_what_was(monkeypatch):
    """Their buffers add up to those of all; windows and chains that workers don't divide weigh no more than others."""
    whole, x = machine(chains=7).train(), windows(5, 9)
    state, rows = {name: value.clone() for name, value in whole.state_dict().items()}, [slice(0, 4), slice(4, 5)]
    whole(x)
    parts = []
    for share, own in zip([(0, 2, 2), (2, 7, 2)], rows, strict=True):
        part = machine(chains=7).train()
        part.load_state_dict(state)
        monkeypatch.setattr("distgen.models.boltzmann.dealt", lambda count, share=share: share)
        said = part(x[own])[:, ENERGIES.index("chains"), 0]
        torch.testing.assert_close(said.mean(), part.free_energy(part.dreams()[share[0] : share[1]]).mean())
        parts.append(part)
    torch.testing.assert_close(parts[0].usage + parts[1].usage, whole.usage)
    assert not parts[0].chain[2:].any()
    assert not parts[1].chain[:2].any()


def test_what_is_measured_says_what_it_is_called():
    model, x = machine().eval(), windows(3, 9)
    x[0, :, :2] = 0  # unknown bases are not measured
    with torch.no_grad():
        found = dict(zip(ENERGIES, model(x)[..., 0].T, strict=True))
    assert torch.equal(found["energy"], model.free_energy(x))
    assert torch.allclose(found["mirrored"], model.free_energy(x.flip(2)))
    assert torch.allclose(found["chains"], model.free_energy(model.dreams()).mean())
    log_p = model.conditionals(x).log_softmax(1)
    codes, known = x.argmax(1), x.sum(1) > 0
    expected = [-sum(log_p[b, codes[b, i], i] for i in range(9) if known[b, i]) for b in range(3)]
    assert torch.allclose(found["pseudo"], torch.stack(expected), atol=1e-4)


@pytest.mark.parametrize("window", [None, 22])
def test_asked_something_else_it_is_a_layer_on_its_motifs(window):
    torch.manual_seed(0)
    model = models.build(config(pool=2), schema(4, 5, window=window))
    x = torch.rand(2, 4, 22)
    assert model(x).shape == (2, 5, 22 if window is None else 1)
    model(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_a_mask_has_no_complement():
    model = models.build(config(), schema(6, 2))
    assert model.stem.complement == (3, 2, 1, 0, 4, 5)


def test_what_follows_inputs_and_outputs_is_found_by_its_shape():
    alone = Schema(("A", "C", "G", "T"), ENERGIES, 9, ())
    assert outputs(config(), alone) == set()
    assert outputs(config(), schema(4, 2, window=9)) == {"head.weight", "head.bias"}
    assert inputs(config(), alone) == {"stem.weight": 1, "base": 0}


def test_a_position_sees_its_receptive_field_and_no_more():
    torch.manual_seed(0)
    model = models.build(config(width=5, pool=4), schema(4, 1)).double()
    x = torch.rand(2, 4, 40, dtype=torch.double, requires_grad=True)
    model(x)[:, 0, 20].sum().backward()
    seen = (x.grad.abs().sum((0, 1)) > 0).nonzero().flatten()
    assert int(seen.max() - seen.min()) + 1 == config(width=5, pool=4).receptive_field
