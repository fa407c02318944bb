import pytest
import torch

from distgen.models.layers import Convolution, fitted, margins


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("width", "dilation"), [(1, 1), (3, 2), (4, 1)])
def test_a_causal_convolution_sees_what_is_before_and_keeps_the_length(causal, width, dilation):
    torch.manual_seed(0)
    conv, x = Convolution(2, 3, width, dilation, causal=causal), torch.rand(1, 2, 1, 20, requires_grad=True)
    y = conv(x)
    assert y.shape == (1, 3, 1, 20)
    y[0, :, 0, 10].sum().backward()
    seen = x.grad.abs().sum((0, 1, 2)).nonzero().flatten()
    reach = dilation * (width - 1)
    left = reach if causal else reach // 2
    assert (int(seen.min()), int(seen.max())) == (10 - left, 10 + reach - left)


def test_windows_become_whole_with_n():
    x = torch.rand(2, 4, 10)
    assert torch.equal(fitted(x, 5, pads=True), x)
    assert torch.equal(fitted(x, 8, pads=True)[..., :10], x)
    assert fitted(x, 8, pads=True).shape == (2, 4, 16)
    assert not fitted(x, 8, pads=True)[..., 10:].any()


@pytest.mark.parametrize(
    ("length", "unit", "expected"), [(10, 5, (0, 0)), (10, 8, (3, 3)), (7, 3, (1, 1)), (8, 3, (2, 2)), (101, 9, (8, 8))]
)
def test_windows_alike_from_both_strands_have_as_much_n_before_as_after(length, unit, expected):
    before, after = margins(length, unit, alike=True)
    assert (before, after) == expected
    x = torch.rand(1, 4, length)
    assert torch.equal(fitted(x.flip(2), unit, pads=True, alike=True), fitted(x, unit, pads=True, alike=True).flip(2))


def test_an_odd_window_among_even_positions_is_refused():
    with pytest.raises(ValueError, match="101 bases have no middle between positions of 4"):
        margins(101, 4, alike=True)
