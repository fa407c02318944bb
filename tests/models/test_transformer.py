import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distgen import models
from distgen.config import checked
from distgen.errors import ConfigError
from distgen.models.transformer import Transformer, TransformerConfig, rotated
from tests.schemas import schema


def config(**sizes):
    return TransformerConfig(
        **{"family": "transformer", "channels": 8, "pool": 4, "dim": 16, "depth": 2, "heads": 2} | sizes
    )


@pytest.mark.parametrize(
    "sizes", [{}, {"pool": 1}, {"pool": 1, "dim": 8}, {"pool": 2, "mlp": "gelu"}, {"dropout": 0.5}]
)
def test_every_length_that_is_a_multiple_of_the_pool_keeps_its_length(sizes):
    model = models.build(config(**sizes), schema(4, 3))
    for number in (1, 2, 9):
        length = number * config(**sizes).multiple
        y = model(torch.rand(2, 4, length))
        assert y.shape == (2, 3, length)
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    with pytest.raises(ValueError, match="10 bases are no multiple of 4"):
        Transformer(config(), schema(4, 3))(torch.rand(1, 4, 10))


def test_every_output_sees_every_base():
    torch.manual_seed(0)
    x = torch.rand(1, 4, 64, requires_grad=True)
    models.build(config(), schema(4, 1))(x)[0, 0, 3].backward()
    assert config().receptive_field is None
    assert (x.grad.abs().sum((0, 1)) > 0).all()


def test_a_causal_output_sees_itself_and_all_that_is_before_it():
    torch.manual_seed(0)
    model = models.build(config(pool=1, causal=True), schema(4, 1))
    x = torch.rand(1, 4, 40, requires_grad=True)
    for at in range(40):
        (gradient,) = torch.autograd.grad(model(x)[0, 0, at], x)
        assert torch.equal(gradient.abs().sum((0, 1)) > 0, torch.arange(40) <= at)


def test_outputs_tell_the_bases_of_a_position_apart():
    torch.manual_seed(0)
    y = models.build(config(), schema(4, 1))(torch.rand(1, 4, 64))
    assert y[0, 0].unique().numel() == 64


def test_the_output_does_not_depend_on_the_batch():
    torch.manual_seed(0)
    model, x = models.build(config(), schema(4, 3)), torch.rand(5, 4, 64)
    assert torch.allclose(model(x)[2:3], model(x[2:3]), atol=1e-5)


def test_blocks_are_the_parts_that_repeat():
    model = models.build(config(), schema(4, 3))
    inside = sum(p.numel() for p in model.blocks.parameters())
    outside = [name for name, _ in model.named_parameters() if not name.startswith("blocks.")]
    assert {name.split(".")[0] for name in outside} == {"stem", "norm", "head"}
    assert inside > 0.9 * models.parameter_count(model)


@given(
    first=st.integers(0, 10**6),
    apart=st.integers(0, 500),
    heads=st.sampled_from([1, 2]),
)
def test_rotated_products_depend_on_how_far_apart_positions_are_and_on_nothing_else(first, apart, heads):
    torch.manual_seed(0)
    query, key = torch.randn(1, 1, 8 * heads), torch.randn(1, 1, 8 * heads)

    def product(at):
        return (rotated(query, heads, at, 1e4) * rotated(key, heads, at + apart, 1e4)).sum()

    assert product(first).item() == pytest.approx(product(0).item(), abs=1e-4)
    several = rotated(query.expand(1, 3, -1), heads, first, 1e4)[:, 2:]
    assert torch.equal(several, rotated(query, heads, first + 2, 1e4))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"pool": 12}, "12 is no power of two. Use 8 or 16"),
        ({"dim": 10, "heads": 2}, "Use 8 or 12"),
        ({"dim": 2, "heads": 4}, "Use 8"),
        ({"causal": True, "pool": 2}, "of 2 bases that share a position, the first would see the last. Use 1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_with_those_that_do(sizes, message):
    with pytest.raises(ConfigError, match=message):
        checked(TransformerConfig, {"family": "transformer"} | sizes)
