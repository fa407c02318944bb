import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distgen import models
from distgen.models.longconv import Filter, LongConvConfig, convolved, quick
from tests.schemas import schema


def config(**sizes):
    small = {"family": "longconv", "channels": 8, "depth": 2, "reach": 32, "filter_units": 6, "bands": 3}
    return LongConvConfig(**small | sizes)


def directly(x_BLD, filter_FD):
    """The sum as it is written: each output from each input, with the filter at the distance between them."""
    length, taps = x_BLD.shape[1], filter_FD.shape[0]
    at_LL = torch.arange(length)[:, None] - torch.arange(length) + taps - length
    filter_LLD = filter_FD[at_LL.clamp(min=0)] * (at_LL >= 0)[..., None]
    return torch.einsum("ijd,bjd->bid", filter_LLD, x_BLD)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [1, 2, 3, 31, 32, 33, 200])
def test_the_fast_convolution_and_its_gradients_equal_the_sum(length, causal):
    torch.manual_seed(length)
    x_BLD, weight_BLD = torch.randn(2, length, 3), torch.randn(2, length, 3)
    filter_FD = torch.randn(length if causal else 2 * length - 1, 3)
    found, wanted = [], []
    for way, results, dtype in ((convolved, found, torch.float32), (directly, wanted, torch.float64)):
        given = [part.to(dtype).requires_grad_() for part in (x_BLD, filter_FD)]
        y_BLD = way(*given)
        results.extend([y_BLD, *torch.autograd.grad((y_BLD * weight_BLD).sum(), given)])
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.double(), other, atol=1e-4, rtol=1e-5)


def test_a_long_convolution_in_few_bits_is_summed_in_float32():
    torch.manual_seed(0)
    x_BLD, filter_FD = torch.randn(1, 300, 2).bfloat16(), torch.randn(599, 2)
    with torch.autocast("cpu", torch.bfloat16):
        y_BLD = convolved(x_BLD, filter_FD)
    assert y_BLD.dtype == torch.bfloat16
    torch.testing.assert_close(y_BLD.float(), directly(x_BLD.float(), filter_FD), rtol=2**-8, atol=1e-3)


@given(st.integers(1, 10**7))
def test_what_is_transformed_is_hardly_longer_than_needed(least):
    odd = quick(least)
    while odd % 2 == 0:
        odd //= 2
    assert odd in (1, 3)
    assert least <= quick(least) < max(1.5 * least, 2)


@pytest.mark.parametrize("causal", [False, True])
def test_a_filter_is_the_same_for_windows_of_every_length_and_falls(causal):
    torch.manual_seed(0)
    filter = Filter(config(causal=causal))
    short, long = filter(20), filter(400)
    first = 0 if causal else 380
    torch.testing.assert_close(long[first : first + len(short)], short)
    at_zero = 0 if causal else 399
    assert (long[at_zero] != 0).all()
    assert long[-1].abs().max() < 1e-4 * long.abs().max()
    if not causal:
        assert (long[: at_zero - 1] - long[at_zero + 1 :].flip(0)[1:]).abs().max() > 0.01  # each side is its own


def test_far_away_a_filter_still_tells_neighbours_apart():
    torch.manual_seed(0)
    filter = Filter(config(causal=True, channels=2, reach=10**6))  # the last channel falls by 1 / e in a million bases
    last = filter(10**6)[-2000:, 1]
    with torch.no_grad():
        turned = filter(2000)[:, 1]
    assert (last[1:] - last[:-1]).abs().mean() > 0.1 * (turned[1:] - turned[:-1]).abs().mean()


@pytest.mark.parametrize("sizes", [{}, {"causal": True}, {"width": 5, "dropout": 0.5}, {"channels": 1, "bands": 1}])
def test_every_length_keeps_its_length_and_gradients_reach_every_parameter(sizes):
    torch.manual_seed(0)
    model = models.build(config(**sizes), schema(4, 3))
    for length in (1, 2, 17, 64):
        y = model(torch.rand(2, 4, length))
        assert y.shape == (2, 3, length)
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert models.build(config(**sizes), schema(4, 2, window=37))(torch.rand(3, 4, 37)).shape == (3, 2, 1)


@pytest.mark.parametrize("causal", [False, True])
def test_an_output_sees_every_base_or_those_before_it(causal):
    torch.manual_seed(0)
    model, x = models.build(config(causal=causal), schema(4, 1)).double(), torch.rand(1, 4, 64).double()
    x.requires_grad_()
    model(x)[0, 0, 40].backward()
    # In float64: FFTs round, and what is not seen is seen by so little.
    seen = x.grad.abs().amax((0, 1)) > 1e-12 * x.grad.abs().max()
    assert seen.nonzero().flatten().tolist() == list(range(41 if causal else 64))
