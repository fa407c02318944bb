"""What all families are held to."""

import pytest
import torch

from distgen.models.schema import Schema
from tests.families import KINDS, built
from tests.schemas import schema

LABEL = Schema(("A", "C", "G", "T"), ("yes",), 96, ())
CASES = [(name, asked) for name in KINDS for asked in (schema(4, 3), LABEL)]


@pytest.mark.parametrize(("name", "asked"), CASES)
def test_an_output_does_not_depend_on_the_batch(name, asked):
    model, x = built(name, {}, asked), torch.rand(5, 4, 96)
    assert torch.allclose(model(x)[2:3], model(x[2:3]), atol=1e-5)


@pytest.mark.parametrize(("name", "asked"), CASES)
def test_in_few_bits_it_is_what_it_is_but_for_rounding(name, asked):
    model, x = built(name, {}, asked), torch.rand(2, 4, 96)
    with torch.autocast("cpu", torch.bfloat16):
        y = model(x)
    assert y.dtype == torch.bfloat16
    assert torch.allclose(y.float(), model(x), atol=0.05)
