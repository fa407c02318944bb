import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from distgen import models
from distgen.config import checked
from distgen.errors import ConfigError
from distgen.models.hopfield import Hopfield, HopfieldConfig, retrieve
from tests.schemas import schema


def config(**sizes):
    default = {"channels": 8, "stem_width": 5, "width": 3, "heads": 2, "dim": 6, "patterns": 3, "hidden": 7}
    return HopfieldConfig(**{"family": "hopfield", "dropout": 0.0} | default | sizes)


# ---- retrieval --------------------------------------------------------------------------------


def slowly(state, keys, values, beta, updates):
    """What one state (E,) retrieves in one head."""
    for step in range(updates + 1):
        alike = [math.exp(beta * float(state @ key)) for key in keys]
        read = values if step == updates else keys
        state = sum(a / sum(alike) * one for a, one in zip(alike, read, strict=True))
    return state


@given(st.integers(1, 3), st.integers(1, 4), st.sampled_from([None, 0.0, 0.3, 2.0]), st.integers(0, 2))
def test_states_retrieve_stored_patterns_by_how_alike_they_are(heads, size, beta, updates):
    torch.manual_seed(heads + 10 * size)
    states, keys, values = (torch.randn(2, n, heads * size).double() for n in (3, 5, 5))
    found = retrieve(states, keys, values, heads, beta, updates)
    scale = 1 / math.sqrt(size) if beta is None else beta
    for window in range(2):
        for number in range(3):
            for head in range(heads):
                part = slice(head * size, (head + 1) * size)
                expected = slowly(
                    states[window, number, part], keys[window, :, part], values[window, :, part], scale, updates
                )
                torch.testing.assert_close(found[window, number, part], expected)


def test_a_sharp_state_finds_what_it_was_a_noisy_copy_of():
    torch.manual_seed(0)
    stored = torch.randn(1, 50, 64)
    noisy = stored[:, :9] + 0.3 * torch.randn(1, 9, 64)
    assert (retrieve(noisy, stored, stored, 1, beta=1.0) - stored[:, :9]).abs().max() < 1e-3
    mean = retrieve(noisy, stored, stored, 1, beta=0.0)
    torch.testing.assert_close(mean, stored.mean(1, keepdim=True).expand_as(mean))


def test_more_updates_come_closer_to_one_pattern():
    torch.manual_seed(0)
    stored = 5.6 * F.normalize(torch.randn(1, 20, 32), dim=-1)
    noisy = stored[:, :5] + 0.8 * torch.randn(1, 5, 32)
    away = [(retrieve(noisy, stored, stored, 1, 0.3, n) - stored[:, :5]).norm() for n in range(3)]
    assert away[0] > away[1] > away[2]


# ---- the model --------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [{}, {"depth": 0}, {"depth": 2, "updates": 2, "beta": 0.5}])
def test_every_length_keeps_its_length_and_a_window_has_one_answer(sizes):
    for length in (1, 20):
        assert models.build(config(**sizes), schema(5, 3))(torch.rand(2, 5, length)).shape == (2, 3, length)
        one = models.build(config(**sizes), schema(4, 3, window=length))
        assert one(torch.rand(2, 4, length)).shape == (2, 3, 1)


@pytest.mark.parametrize("window", [None, 20])
def test_gradients_reach_every_parameter(window):
    torch.manual_seed(0)
    model = models.build(config(updates=1), schema(4, 2, window=window))
    model(torch.rand(3, 4, 20)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert all(
        p.grad.any() for name, p in model.named_parameters() if not name.endswith("key.bias")
    )  # it moves all alike


def test_an_output_sees_its_receptive_field_and_no_more():
    torch.manual_seed(0)
    x = torch.rand(1, 4, 61, requires_grad=True)
    Hopfield(config(depth=3), schema(4, 1))(x)[0, 0, 30].backward()
    seen = x.grad.abs().sum((0, 1)).nonzero().flatten()
    assert config(depth=3).receptive_field == 5 + 3 * 2
    assert (int(seen.min()), int(seen.max())) == (25, 35)


def test_an_answer_sees_all_of_its_window_wherever_what_it_retrieves_stands():
    torch.manual_seed(0)
    model = Hopfield(config(), schema(4, 2, window=40))
    x = torch.rand(1, 4, 40, requires_grad=True)
    model(x).sum().backward()
    assert (x.grad.abs().sum((0, 1)) > 0).all()
    stored_BLD = torch.rand(2, 40, 8)
    torch.testing.assert_close(model.association(stored_BLD), model.association(stored_BLD[:, torch.randperm(40)]))


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ConfigError, match="10 does not divide into 4 heads. Use 8 or 12"):
        checked(HopfieldConfig, {"family": "hopfield", "dim": 10})
    with pytest.raises(ConfigError, match="3 does not divide into 4 heads. Use 4"):
        checked(HopfieldConfig, {"family": "hopfield", "dim": 3})
