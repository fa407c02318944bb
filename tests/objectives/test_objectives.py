"""What holds for every objective."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from distgen.config import Sample
from distgen.objectives import build
from distgen.objectives.base_classes import BaseClassesConfig
from distgen.objectives.causal_lm import CausalLMConfig
from distgen.objectives.classes import ClassesConfig
from distgen.objectives.masked_lm import MaskedLMConfig
from distgen.objectives.multilabel import MultilabelConfig
from distgen.objectives.regression import RegressionConfig
from tests.conftest import served, table_store

KINDS = {
    "masked_lm": MaskedLMConfig(kind="masked_lm"),
    "causal_lm": CausalLMConfig(kind="causal_lm"),
    "base_classes": BaseClassesConfig(kind="base_classes", track="genes"),
    "multilabel": MultilabelConfig(
        kind="multilabel", target="track:genes", positive_weight="balanced", weights={"cds+": 2}
    ),
    "classes": ClassesConfig(kind="classes", class_weights="balanced", focal=1.0),
    "regression": RegressionConfig(kind="regression"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_shape_of_a_loss_follows_from_numbers_for_which_the_host_would_wait(small, tmp_path, kind):
    store, data = small, Sample(window=9, target_length=1)
    if kind in ("classes", "regression"):
        rows = [("ACGT", "1"), ("ACGT", "2")]
        store, data = table_store(tmp_path, kind, {"train": rows}), Sample()
    options = {} if store.is_table else {"window": 9, "target_length": 1}
    objective = build(KINDS[kind], store, data, served(store, **options))
    targets = {
        "masked_lm": (torch.int64, (2, 64)),
        "causal_lm": (torch.int64, (2, 64)),
        "base_classes": (torch.uint8, (2, 64, 2)),
        "multilabel": (torch.uint8, (2, 2)),
        "classes": (torch.int64, (2,)),
        "regression": (torch.float32, (2, 1)),
    }
    dtype, shape = targets[kind]
    with FakeTensorMode():  # where there are shapes and no numbers
        length = 64 if objective.window is None else 1
        logits_BOL = torch.zeros(2, objective.out_channels, length, requires_grad=True)
        known = {"masked_lm": shape, "base_classes": (2, 64)}.get(kind, shape)
        valid = torch.zeros(known, dtype=torch.float32 if kind == "masked_lm" else torch.bool)
        total, count = objective.loss(logits_BOL, torch.zeros(shape, dtype=dtype), valid)
        total.backward()
    assert total.shape == count.shape == ()
    assert logits_BOL.grad.shape == logits_BOL.shape
