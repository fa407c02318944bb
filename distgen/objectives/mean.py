"""The mean of all that a split has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torchmetrics import MeanMetric


def mean(device: torch.device) -> MeanMetric:
    """A metric that is the mean of what all ranks give it, NaN if any of that is, summed in float64: a split has more
    bases than float32 can count."""
    from torchmetrics import MeanMetric  # slow to import, and the first step needs none

    # By default it leaves out what is NaN: a model that is broken at some bases would look better than it is.
    found = MeanMetric(nan_strategy="disable")
    found.set_dtype(torch.float64).to(device)
    return found
