import torch

from distgen.models.heads import head
from tests.schemas import schema


def test_every_position_has_an_answer_or_the_window_has_one():
    x_BLD = torch.rand(2, 9, 5)
    assert head(5, schema(4, 3))(x_BLD).shape == (2, 9, 3)
    assert head(5, schema(4, 3, window=9))(x_BLD).shape == (2, 1, 3)


def test_an_answer_depends_on_the_mean_and_the_highest_and_on_no_order():
    torch.manual_seed(0)
    pooled, x_BLD = head(5, schema(4, 3, window=9)), torch.rand(2, 9, 5)
    assert torch.allclose(pooled(x_BLD), pooled(x_BLD.flip(1)), atol=1e-6)
    features = torch.cat([x_BLD.mean(1), x_BLD.max(1).values], 1)
    expected = features @ pooled.weight.T + pooled.bias
    assert torch.allclose(pooled(x_BLD)[:, 0], expected, atol=1e-6)
