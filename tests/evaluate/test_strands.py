"""Both strands asked: what they say, brought into place and averaged."""

import pytest
import torch
from torch import nn

from distgen import models, objectives
from distgen.errors import ConfigError
from distgen.evaluate.strands import BothStrands, check_strands
from distgen.models import DilatedConfig
from distgen.models.schema import Schema
from distgen.train.model import schema_of
from tests.models.test_strands import LABEL, far, shared, windows

LM = objectives.MaskedLM(objectives.MaskedLMConfig(kind="masked_lm"))


class Echo(nn.Module):
    """Answers with what it sees: the logits of A, C, G and T are their channels, times the position."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x_BCL):
        return self.scale * x_BCL[:, :4] * torch.arange(1, x_BCL.shape[2] + 1)


def test_answers_for_the_other_strand_are_turned_and_change_places():
    x_BCL = torch.zeros(1, 5, 3)
    x_BCL[0, 0, 0] = x_BCL[0, 2, 1] = x_BCL[0, 4, 2] = 1  # A, G and the mask
    found_BOL = BothStrands(Echo(), schema_of(LM), LM)(x_BCL)
    # From the other strand the A is a T at the last position, the G a C at the middle one.
    here, there = torch.zeros(1, 4, 3), torch.zeros(1, 4, 3)
    here[0, 0, 0], here[0, 2, 1] = 1, 2
    there[0, 0, 0], there[0, 2, 1] = 3, 2
    assert torch.allclose(found_BOL.softmax(1), (here.softmax(1) + there.softmax(1)) / 2)


@pytest.mark.parametrize("per_window", [False, True])
def test_any_model_becomes_alike_on_both_strands(small, per_window):
    torch.manual_seed(0)
    genes = objectives.BaseClasses(objectives.BaseClassesConfig(kind="base_classes", track="genes"), small)
    schema = Schema(genes.inputs, genes.outputs, 48 if per_window else None, genes.swap)
    model, x_BCL = models.build(DilatedConfig(family="dilated", channels=8), schema).eval(), windows(schema).float()
    assert far(model, x_BCL, schema) > 1e-3
    assert far(BothStrands(model, schema, genes), x_BCL, schema) < 1e-5


def test_a_model_that_shares_its_parameters_says_nothing_else():
    torch.manual_seed(0)
    schema = schema_of(LM)
    model, x_BCL = models.build(shared("transformer"), schema).eval(), windows(schema).float()
    torch.testing.assert_close(BothStrands(model, schema, LM)(x_BCL), model(x_BCL).log_softmax(1))


def test_an_answer_on_one_strand_alone_is_refused():
    with pytest.raises(ConfigError, match="on the window's own strand alone"):
        BothStrands(Echo(), Schema(("A", "C", "G", "T"), ("donor",), 46, None), LM)
    with pytest.raises(ConfigError, match='data.strand = "region"'):
        check_strands(LABEL, "region")
    check_strands(LABEL, "random")
