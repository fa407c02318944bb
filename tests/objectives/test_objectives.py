"""What holds for every objective."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from distgen.objectives.base_classes import BaseClasses, BaseClassesConfig
from distgen.objectives.causal_lm import CausalLM, CausalLMConfig
from distgen.objectives.masked_lm import MaskedLM, MaskedLMConfig


@pytest.mark.parametrize("kind", ["masked_lm", "causal_lm", "base_classes"])
def test_no_shape_of_a_loss_follows_from_numbers_for_which_the_host_would_wait(small, kind):
    if kind == "masked_lm":
        objective = MaskedLM(MaskedLMConfig(kind="masked_lm"))
    elif kind == "causal_lm":
        objective = CausalLM(CausalLMConfig(kind="causal_lm"))
    else:
        objective = BaseClasses(BaseClassesConfig(kind="base_classes", track="genes"), small)
    with FakeTensorMode():  # where there are shapes and no numbers
        logits_BOL = torch.zeros(2, objective.out_channels, 64, requires_grad=True)
        if kind == "masked_lm":
            target, valid = torch.zeros(2, 64, dtype=torch.int64), torch.zeros(2, 64)
        elif kind == "causal_lm":
            target, valid = torch.zeros(2, 64, dtype=torch.int64), torch.zeros(2, 64, dtype=torch.bool)
        else:
            target = torch.zeros(2, 64, objective.out_channels, dtype=torch.uint8)
            valid = torch.zeros(2, 64, dtype=torch.bool)
        total, count = objective.loss(logits_BOL, target, valid)
        total.backward()
    assert total.shape == count.shape == ()
    assert logits_BOL.grad.shape == logits_BOL.shape
