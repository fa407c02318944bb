"""How many of k sites are among the k highest scores: the top-k accuracy of SpliceAI (Jaganathan et al. 2019).

Imported where a metric is wanted: torchmetrics takes as long to import as torch does.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.classification import BinaryPrecisionRecallCurve
from torchmetrics.utilities.data import dim_zero_cat


class BinaryTopK(BinaryPrecisionRecallCurve):
    """The share of all positives that are among as many highest scores as there are positives, exact over all ranks; of
    scores that tie for the last places, their share of positives counts."""

    def compute(self) -> Tensor:  # type: ignore[override]
        return share_on_top(dim_zero_cat(self.preds), dim_zero_cat(self.target))


def share_on_top(scores: Tensor, truth: Tensor) -> Tensor:
    """float64 (): of scores (n,) and truth (n,), integers 0 and 1; NaN where there is no positive."""
    positive, count = truth > 0, truth.sum()
    if not count:
        return torch.tensor(torch.nan, dtype=torch.float64)
    last = scores.topk(int(count), sorted=False).values.min()
    above, level = scores > last, scores == last
    places = (count - above.sum()).double() / level.sum()
    return ((positive & above).sum() + (positive & level).sum() * places) / count
