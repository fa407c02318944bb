"""Metrics of ranks of which one saw nothing that is known: its rows only padded, or have no answers."""

import pytest
import torch

from distgen.objectives.base_classes import BaseClassesMetrics
from distgen.objectives.classes import ClassesMetrics
from distgen.objectives.multilabel import MultilabelMetrics
from distgen.objectives.regression import RegressionMetrics
from tests.train.ranks import on_ranks

CPU = torch.device("cpu")
MADE = {
    "base_classes": lambda: BaseClassesMetrics(("a", "b"), 1, CPU),
    "classes": lambda: ClassesMetrics(("a", "b"), 1, CPU),
    "multilabel": lambda: MultilabelMetrics(("a", "b"), False, CPU),
    "regression": lambda: RegressionMetrics(("a", "b"), "mse", (1.0, 1.0), CPU),
}


def batch(kind):
    drawn = torch.Generator().manual_seed(0)
    logits = torch.randn(12, 2, 5 if kind == "base_classes" else 1, generator=drawn)
    if kind == "classes":
        return logits, torch.tensor([0, 1] * 6), torch.ones(12, dtype=torch.bool)
    if kind == "regression":
        return logits, torch.randn(12, 2, generator=drawn), torch.ones(12, 2, dtype=torch.bool)
    target = torch.randint(0, 2, (12, 5, 2) if kind == "base_classes" else (12, 2), generator=drawn, dtype=torch.uint8)
    return logits, target, torch.ones(target.shape[:2], dtype=torch.bool)


def found(metrics):
    return metrics.compute(), metrics.reliability() if hasattr(metrics, "reliability") else {}


def on_rank(worker):
    values = {}
    for kind, made in MADE.items():
        metrics, (logits, target, valid) = made(), batch(kind)
        metrics.update(logits, target, valid & (worker.rank == 0))
        values[kind] = found(metrics)
    return values


def test_a_rank_that_knows_nothing_changes_nothing(tmp_path):
    ranks = on_ranks(2, tmp_path, on_rank)
    for kind, made in MADE.items():
        alone = made()
        alone.update(*batch(kind))
        values, bins = found(alone)
        for rank in ranks:
            assert rank[kind][0].keys() == values.keys()
            for name, value in values.items():
                assert rank[kind][0][name] == pytest.approx(value, rel=1e-5)
            assert rank[kind][1] == bins
