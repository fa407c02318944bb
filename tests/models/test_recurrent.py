import copy

import pytest
import torch
from torch import nn

from distgen import models
from distgen.config import checked
from distgen.errors import ConfigError
from distgen.models.context import Context
from distgen.models.recurrent import Recurrent, RecurrentConfig
from distgen.train.flops import Flops
from tests.schemas import schema


def config(**sizes):
    return RecurrentConfig(**{"family": "recurrent", "channels": 8, "width": 5, "size": 6, "dropout": 0.0} | sizes)


CAUSAL = [{"causal": True}, {"causal": True, "cell": "gru", "depth": 2, "width": 1}]


@pytest.mark.parametrize("sizes", [{}, {"cell": "gru", "depth": 2}, {"pool": 1, "size": 4}, {"pool": 3}, *CAUSAL])
def test_every_length_that_is_a_multiple_of_the_pool_keeps_its_length(sizes):
    model, unit = models.build(config(**sizes), schema(4, 3)), config(**sizes).multiple
    assert unit == (1 if "causal" in sizes else sizes.get("pool", 4))
    for number in (1, 9):
        y = model(torch.rand(2, 4, number * unit))
        assert y.shape == (2, 3, number * unit)
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


def test_other_lengths_are_refused():
    with pytest.raises(ValueError, match="10 bases are no multiple of 4"):
        Recurrent(config(), schema(4, 3))(torch.rand(1, 4, 10))


@pytest.mark.parametrize("sizes", [{}, {"cell": "gru", "depth": 2}, *CAUSAL])
@pytest.mark.parametrize("window", [1, 8, 21])
def test_a_window_has_one_answer_whatever_its_length(sizes, window):
    model = models.build(config(**sizes), schema(4, 3, window=window))
    assert model(torch.rand(2, 4, window)).shape == (2, 3, 1)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_every_output_sees_every_base(cell):
    torch.manual_seed(0)
    x = torch.rand(
        8, 4, 24, requires_grad=True
    )  # what is not the highest is not seen: of several windows, all bases are
    Recurrent(config(cell=cell), schema(4, 1))(x)[:, 0, 3].sum().backward()
    assert config().receptive_field is None
    assert (x.grad.abs().sum((0, 1)) > 0).all()


@pytest.mark.parametrize("sizes", CAUSAL)
def test_a_causal_output_sees_its_base_and_all_before_it_and_no_other(sizes):
    torch.manual_seed(0)
    model = Recurrent(config(**sizes), schema(4, 1)).double()
    moved_LL = torch.autograd.functional.jacobian(lambda x: model(x)[0, 0], torch.rand(1, 4, 15).double())
    seen_LL = moved_LL.abs().sum((1, 2)) > 0  # outputs, bases
    assert torch.equal(seen_LL, torch.ones(15, 15, dtype=torch.bool).tril())


def test_outputs_tell_the_bases_of_a_position_apart():
    torch.manual_seed(0)
    y = Recurrent(config(), schema(4, 1))(torch.rand(1, 4, 32))
    assert y[0, 0].unique().numel() == 32


def test_the_output_does_not_depend_on_the_batch():
    torch.manual_seed(0)
    model, x = Recurrent(config(), schema(4, 3)), torch.rand(5, 4, 32)
    assert torch.allclose(model(x)[2:3], model(x[2:3]), atol=1e-6)


def test_a_layer_remembers_to_the_right_and_to_the_left():
    torch.manual_seed(0)
    (layer,) = Recurrent(config(channels=12), schema(4, 1)).blocks  # 12 go in and 2 x 6 come out
    cells = nn.LSTM(12, 6, batch_first=True)
    x_BTD = torch.rand(2, 7, 12)
    for part, suffix, turned in ((slice(6), "", ()), (slice(6, 12), "_reverse", (1,))):
        with torch.no_grad():
            for name, parameter in cells.named_parameters():
                parameter.copy_(getattr(layer.cells, name + suffix))
        expected = cells(layer.norm(x_BTD).flip(turned))[0].flip(turned)
        torch.testing.assert_close(layer(x_BTD)[..., part] - x_BTD[..., part], expected)


def test_cells_begin_with_remembering():
    (layer,) = Recurrent(config(), schema(4, 1)).blocks
    for suffix in ("", "_reverse"):
        assert (getattr(layer.cells, f"bias_ih_l0{suffix}")[6:12] == 1).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_fewer_bits_give_about_the_same(cell, dtype):
    torch.manual_seed(0)
    model, x = Recurrent(config(cell=cell), schema(4, 3)), torch.rand(2, 4, 32)
    with torch.autocast("cpu", dtype):
        assert (model(x.to(dtype)) - model(x)).abs().max() < 0.05
        model(x.to(dtype)).float().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_a_copy_computes_the_same_and_its_operations_are_counted():
    model, x = Recurrent(config(), schema(4, 3)), torch.rand(2, 4, 32)
    assert torch.equal(copy.deepcopy(model)(x), model(x))
    short, long = (Flops(model, 4)(length) for length in (32, 64))
    assert short > 0
    assert long == pytest.approx(2 * short, rel=0.02)


def test_it_can_be_exported():
    model, x = Recurrent(config(), schema(4, 3, window=30)).eval(), torch.rand(2, 4, 30)
    assert torch.allclose(torch.export.export(model, (x,)).module()(x), model(x), atol=1e-6)


def test_what_would_look_ahead_is_refused():
    with pytest.raises(ConfigError, match="of 4 bases that are pooled, the first would see the last. Use 1"):
        checked(RecurrentConfig, {"family": "recurrent", "causal": True, "pool": 4})
    assert checked(RecurrentConfig, {"family": "recurrent", "causal": True, "pool": 1}).multiple == 1


def test_windows_are_not_shared():
    assert not RecurrentConfig.shares_windows
    with pytest.raises(ValueError, match="share no windows"):
        Recurrent(config(), schema(4, 3), Context(None, 0, 2))


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_compiled_layers_give_the_same(cell):
    torch.manual_seed(0)
    model, x = Recurrent(config(cell=cell, depth=2), schema(4, 3)), torch.rand(2, 4, 32)
    expected = model(x)
    expected.square().sum().backward()
    gradients = [p.grad for p in model.parameters()]
    model.zero_grad()
    for block in model.blocks:
        block.compile(dynamic=False)
    found = model(x)
    found.square().sum().backward()
    torch.testing.assert_close(found, expected)
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-4)
