import pytest
import torch

from distgen import models
from distgen.models.dilated import Dilated, DilatedConfig
from distgen.models.layers import positions
from tests.schemas import schema

CONFIG = DilatedConfig(family="dilated", channels=8, stem_width=5, dilations=(1, 2, 8))


def test_every_length_keeps_its_length():
    model = Dilated(CONFIG, schema(4, 3))
    for length in (1, 2, 17, 64):
        assert model(torch.rand(2, 4, length)).shape == (2, 3, length)


def test_an_output_sees_its_receptive_field_and_no_more():
    torch.manual_seed(0)
    model = Dilated(CONFIG, schema(4, 1))
    x = torch.rand(1, 4, 101, requires_grad=True)
    model(x)[0, 0, 50].backward()
    seen = x.grad.abs().sum((0, 1)).nonzero().flatten()
    assert CONFIG.receptive_field == 5 + 2 * 11
    assert (int(seen.min()), int(seen.max())) == (50 - 13, 50 + 13)


def test_a_causal_output_sees_itself_and_what_is_before_it():
    torch.manual_seed(0)
    model = Dilated(CONFIG.model_copy(update={"causal": True}), schema(4, 1))
    x = torch.rand(1, 4, 60, requires_grad=True)
    for at in range(60):
        (gradient,) = torch.autograd.grad(model(x)[0, 0, at], x)
        seen = gradient.abs().sum((0, 1)).nonzero().flatten()
        assert (int(seen.min()), int(seen.max())) == (max(at - CONFIG.receptive_field + 1, 0), at)


def test_the_output_does_not_depend_on_the_batch():
    model = Dilated(CONFIG, schema(4, 3))
    x = torch.rand(5, 4, 64)
    assert torch.allclose(model(x)[2:3], model(x[2:3]), atol=1e-6)


def test_dropout_leaves_out_all_that_blocks_add_and_only_in_training():
    torch.manual_seed(0)
    sizes = CONFIG.model_copy(update={"dropout": 1 - 1e-6})
    model, x = models.build(sizes, schema(4, 3)), torch.rand(2, 4, 64)
    stem = model.norm(positions(model.stem(x.unsqueeze(2))))
    assert torch.allclose(model(x), model.head(stem).transpose(1, 2), atol=1e-5)
    model.eval()
    assert not torch.allclose(model(x), model.head(stem).transpose(1, 2), atol=1e-2)
    same = models.build(sizes.model_copy(update={"dropout": 0.0}), schema(4, 3))
    same.load_state_dict(model.state_dict())
    assert torch.equal(model(x), same(x))


def test_parameters_are_counted():
    assert models.parameter_count(models.build(CONFIG, schema(4, 3))) == (4 * 5 + 1) * 8 + 3 * (16 + 200 + 72) + 16 + 27


@pytest.mark.parametrize("channels", [1, 64])
def test_gradients_reach_every_parameter(channels):
    model = Dilated(DilatedConfig(family="dilated", channels=channels, dilations=(1,)), schema(4, 2))
    model(torch.rand(2, 4, 20)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
