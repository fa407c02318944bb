import pytest
import torch

from distgen import models
from distgen.config import checked
from distgen.errors import ConfigError
from distgen.models.cnn import Cnn, CnnConfig
from tests.schemas import schema


def config(**sizes):
    default = {"channels": (8, 6), "widths": (5, 3), "pools": (4, 2), "hidden": 7}
    return CnnConfig(family="cnn", **(default | sizes))


@pytest.mark.parametrize("window", [1, 7, 8, 21])
def test_a_window_has_one_answer_whatever_its_length(window):
    model = models.build(config(), schema(4, 3, window=window))
    assert model(torch.rand(2, 4, window)).shape == (2, 3, 1)


def test_every_base_has_the_answer_of_those_it_is_pooled_with():
    torch.manual_seed(0)
    y = Cnn(config(dropout=0.0), schema(4, 3))(torch.rand(2, 4, 48))
    assert y.shape == (2, 3, 48)
    assert (y.unflatten(2, (6, 8)) == y[..., ::8, None]).all()
    assert y[0, 0].unique().numel() == 6


def test_a_position_sees_its_receptive_field_and_no_more():
    torch.manual_seed(0)
    seen = torch.zeros(160, dtype=torch.bool)
    for _ in range(8):  # what is not the highest gets no gradient: of several windows, all that can be seen is
        x = torch.rand(4, 4, 160, requires_grad=True)
        Cnn(config(dropout=0.0), schema(4, 1)).double()(x.double())[:, 0, 80].sum().backward()
        seen |= x.grad.abs().sum((0, 1)) > 0
    found = seen.nonzero().flatten()
    assert config().receptive_field == 1 + 4 + 3 + 2 * 4 + 4
    assert int(found.max() - found.min()) + 1 == config().receptive_field


def test_an_answer_sees_all_of_its_window():
    torch.manual_seed(0)
    seen = torch.zeros(20, dtype=torch.bool)
    for _ in range(8):
        x = torch.rand(8, 4, 20, requires_grad=True)
        models.build(config(dropout=0.0), schema(4, 1, window=20))(x).sum().backward()
        seen |= x.grad.abs().sum((0, 1)) > 0
    assert seen.all()


def test_gradients_reach_every_parameter():
    torch.manual_seed(0)
    model = models.build(config(channels=(8, 8, 4), widths=(5, 3, 3), pools=(2, 2, 1)), schema(4, 2, window=30))
    model(torch.rand(3, 4, 30)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


def test_sizes_that_do_not_belong_together_are_refused():
    with pytest.raises(ConfigError, match="has 1 entries and channels 2: one each"):
        checked(CnnConfig, {"family": "cnn", "channels": (8, 6), "widths": (5, 3), "pools": (4,)})
