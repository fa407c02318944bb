"""A model's metrics over a whole split."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import nn

from distgen.loader.base import Loader
from distgen.loader.sampled import Sampled
from distgen.objectives import Objective

Values: TypeAlias = dict[str, "float | dict[str, float]"]


@torch.no_grad()
def measure(model: nn.Module, objective: Objective, loader: Loader | Sampled, precision: torch.dtype) -> Values:
    """Metrics over one epoch of a loader, exact over all ranks (predictions are pooled, not averaged).

    Args:
        model: in any mode; left in the mode it was in.
        objective: says what is predicted.
        loader: with `order="sequential"` and `last="pad"`, so that every window counts once; or a sample of its batches.
        precision: bfloat16 runs the model under autocast.
    """
    was_training = model.training
    model.eval()
    metrics = objective.metrics(loader.device)
    loader.epoch, loader.position = 0, 0
    for batch in loader:
        x, target, valid = objective.encode(batch, precision, evaluating=True)
        with torch.autocast(loader.device.type, precision, enabled=precision != torch.float32):
            logits = model(x)
        metrics.update(logits.float(), target, valid)
    model.train(was_training)
    return metrics.compute()
