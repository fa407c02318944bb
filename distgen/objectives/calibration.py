"""Are answers that are given with confidence p right in a share p of all cases? Reliability by bins of p (Niculescu-Mizil and
Caruana 2005), and the expected calibration error (Naeini et al. 2015)."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric  # slow to import: who measures imports this module when it does

BINS = 15


class Calibration(Metric):
    """Sums over `BINS` equal bins of confidence, exact over all ranks; `compute` is the expected calibration error."""

    full_state_update = False
    count: Tensor
    confidence: Tensor
    right: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("count", "confidence", "right"):
            self.add_state(name, torch.zeros(BINS, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, confidence_N: Tensor, right_N: Tensor) -> None:
        """Add probabilities (N,), and whether each answer was right."""
        p_N = confidence_N.double()
        bin_N = (p_N * BINS).long().clamp(0, BINS - 1)
        self.count.index_add_(0, bin_N, torch.ones_like(p_N))
        self.confidence.index_add_(0, bin_N, p_N)
        self.right.index_add_(0, bin_N, right_N.double())

    def compute(self) -> Tensor:
        return (self.confidence - self.right).abs().sum() / self.count.sum()

    def bins(self) -> dict[str, list[float]]:
        """Mean "confidence", "share" of right answers and "count" of each bin that has any."""
        with self.sync_context():
            held = self.count > 0
            count, confidence, right = (part[held] for part in (self.count, self.confidence, self.right))
            return {
                "confidence": (confidence / count).tolist(),
                "share": (right / count).tolist(),
                "count": count.long().tolist(),
            }
