import pytest
import torch
from torch import nn

from distgen.train.precision import Precision


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_gradient_is_that_of_the_mean_over_targets(dtype):
    weight = nn.Parameter(torch.tensor([2.0]))
    precision = Precision(dtype, torch.device("cpu"), targets=5)
    precision.scaled((weight * torch.tensor([1.0, 2.0, 6.0])).sum()).backward()
    norm = precision.mean([weight], torch.tensor(3.0, dtype=torch.float64), clip_norm=10)
    assert (float(weight.grad), float(norm)) == (3.0, 3.0)
