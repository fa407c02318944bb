"""Classes at every base (or bin), each an independent yes or no: a base may code on both strands."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanMetric
from torchmetrics.classification import BinaryAUROC, BinaryAveragePrecision

from distgen import kernels
from distgen.config import Section
from distgen.errors import ConfigError
from distgen.loader.batch import Batch
from distgen.store.reader import Store


class BaseClassesConfig(Section):
    """`track` names a track of classes in the store."""

    kind: Literal["base_classes"]
    track: str


class BaseClasses:
    """Four input channels (one-hot), one output per class."""

    in_channels = 4

    def __init__(self, config: BaseClassesConfig, store: Store):
        track = store.track(config.track)
        if track.bin_bp != 1:
            raise ConfigError(
                f'objective.track: track "{track.name}" has bin_bp {track.bin_bp}, base_classes predicts single bases (bin_bp 1)'
            )
        self.tracks: tuple[str, ...] = (track.name,)
        self.classes = track.classes
        self.out_channels = len(track.classes)

    def encode(self, batch: Batch, dtype: torch.dtype, *, evaluating: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        x_BCL = kernels.one_hot(
            batch.plane,
            batch.starts,
            batch.length,
            reverse=batch.reverse,
            ambiguous=batch.ambiguous,
            limits=batch.limits,
            dtype=dtype,
        )
        (track,) = self.tracks
        return x_BCL, batch.targets[track], batch.mask[track] & (batch.weight[:, None] > 0)

    def loss(self, logits_BOL: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        scores, truth = _chosen(logits_BOL, target, valid)
        return F.binary_cross_entropy_with_logits(
            scores, truth.float(), reduction="sum"
        ), valid.sum() * self.out_channels

    def metrics(self) -> BaseClassesMetrics:
        return BaseClassesMetrics(self.classes)


class BaseClassesMetrics:
    """AUROC and average precision of each class and of "neither", over all bases (no binning of scores)."""

    def __init__(self, classes: tuple[str, ...]):
        self._loss = MeanMetric()
        self._auroc = {name: BinaryAUROC() for name in (*classes, "neither")}
        self._auprc = {name: BinaryAveragePrecision() for name in (*classes, "neither")}

    def update(self, logits_BOL: Tensor, target: Tensor, valid: Tensor) -> None:
        scores, truth = _chosen(logits_BOL, target, valid)
        self._loss.update(F.binary_cross_entropy_with_logits(scores, truth.float(), reduction="none"))
        p = torch.cat([scores.sigmoid(), (1 - scores.sigmoid()).prod(1, keepdim=True)], 1)
        y = torch.cat([truth.long(), (truth.sum(1, keepdim=True) == 0).long()], 1)
        for column, name in enumerate(self._auroc):
            self._auroc[name].update(p[:, column], y[:, column])
            self._auprc[name].update(p[:, column], y[:, column])

    def compute(self) -> dict[str, float | dict[str, float]]:
        return {
            "loss": float(self._loss.compute()),
            "auroc": {name: float(metric.compute()) for name, metric in self._auroc.items()},
            "auprc": {name: float(metric.compute()) for name, metric in self._auprc.items()},
        }


def _chosen(logits_BOL: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Scores and truth (N, classes) of the valid bases of the target, which lies centred in the window."""
    crop = (logits_BOL.shape[2] - target.shape[1]) // 2
    scores_BTO = logits_BOL[:, :, crop : crop + target.shape[1]].transpose(1, 2)
    return scores_BTO[valid].float(), target[valid]
