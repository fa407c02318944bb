"""Classes at every base (or bin), each an independent yes or no: a base may code on both strands."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from distgen import kernels
from distgen.config import Section
from distgen.errors import ConfigError
from distgen.loader.batch import Batch
from distgen.models.context import Context
from distgen.objectives.mean import mean
from distgen.objectives.source import Stores, named_track


class BaseClassesConfig(Section):
    """`track` names a track of classes in the store."""

    kind: Literal["base_classes"]
    track: str


class BaseClasses:
    """Four input channels (one-hot), one output per class."""

    inputs: tuple[str, ...] = ("A", "C", "G", "T")
    in_channels = 4
    window: int | None = None
    swap: tuple[tuple[str, str], ...] | None

    def __init__(self, config: BaseClassesConfig, store: Stores, context: Context | None = None):
        """Raises ConfigError: there is no such track, or it holds signals."""
        track = named_track(config.track, store, "objective.track")
        if not track.is_classes:
            raise ConfigError(
                f'track "{track.name}" holds signals, not classes: "base_classes" cannot learn them',
                key="objective.track",
            )
        self.tracks: tuple[str, ...] = (track.name,)
        self.outputs = track.columns
        self.out_channels = len(track.columns)
        self.bin_bp, self._context = track.bin_bp, context
        self.swap = tuple((name, track.columns[other]) for name, other in zip(track.columns, track.swap, strict=True))

    def encode(self, batch: Batch, dtype: torch.dtype, *, evaluating: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        (track,) = self.tracks
        target_BTC, valid_BT = batch.targets[track], batch.mask[track][..., 0] & (batch.weight[:, None] > 0)
        if self._context is None:
            return kernels.one_hot(**batch.packed, dtype=dtype), target_BTC, valid_BT
        first, end = self._context.part(batch.length)
        margin = (batch.length - batch.target_length) // 2 // self.bin_bp  # where nothing is known
        part = slice(first // self.bin_bp, end // self.bin_bp)
        target_BTC = F.pad(target_BTC, (0, 0, margin, margin))[:, part]
        valid_BT = F.pad(valid_BT, (margin, margin))[:, part]
        return kernels.one_hot(**batch.stretch(first, end), dtype=dtype), target_BTC, valid_BT

    def loss(self, logits_BOL: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        scores_BTO, weight_BT1 = _scores(logits_BOL, target, self.bin_bp), valid[..., None].float()
        loss = F.binary_cross_entropy_with_logits(scores_BTO, target.float(), weight_BT1, reduction="sum")
        return loss, valid.sum() * self.out_channels

    def average(self, logits_MBOL: Tensor) -> Tensor:
        """The logits of the mean probability of each class."""
        yes, no = (F.logsigmoid(sign * logits_MBOL.float()).logsumexp(0) for sign in (1, -1))
        return yes - no

    def metrics(self, device: torch.device) -> BaseClassesMetrics:
        return BaseClassesMetrics(self.outputs, self.bin_bp, device)


class BaseClassesMetrics:
    """AUROC and average precision of each class and of "neither", over all bases (no binning of scores); a class that all
    bases have, or none, has neither."""

    def __init__(self, classes: tuple[str, ...], bin_bp: int, device: torch.device):
        self._bin_bp = bin_bp
        # Imported where a metric is wanted: it takes as long as importing torch does, and the first step waits for neither.
        from torchmetrics.classification import BinaryAUROC, BinaryAveragePrecision

        self._loss = mean(device)
        self._auroc = {name: BinaryAUROC().to(device) for name in (*classes, "neither")}
        self._auprc = {name: BinaryAveragePrecision().to(device) for name in (*classes, "neither")}
        self._share = {name: mean(device) for name in (*classes, "neither")}

    def update(self, logits_BOL: Tensor, target: Tensor, valid: Tensor) -> None:
        scores, truth = _scores(logits_BOL, target, self._bin_bp)[valid], target[valid]
        self._loss.update(F.binary_cross_entropy_with_logits(scores, truth.float(), reduction="none"))
        p = torch.cat([scores.sigmoid(), (1 - scores.sigmoid()).prod(1, keepdim=True)], 1)
        y = torch.cat([truth.long(), (truth.sum(1, keepdim=True) == 0).long()], 1)
        for column, name in enumerate(self._auroc):
            self._auroc[name].update(p[:, column], y[:, column])
            self._auprc[name].update(p[:, column], y[:, column])
            self._share[name].update(y[:, column].double())

    def compute(self) -> dict[str, float | dict[str, float]]:
        mixed = [name for name, share in self._share.items() if 0 < float(share.compute()) < 1]
        return {
            "loss": float(self._loss.compute()),
            "auroc": {name: float(self._auroc[name].compute()) for name in mixed},
            "auprc": {name: float(self._auprc[name].compute()) for name in mixed},
        }


def _scores(logits_BOL: Tensor, target: Tensor, bin_bp: int) -> Tensor:
    """float32 (B, T, classes), of the bins of a target that lies centred in the window; a bin carries a class where any of its
    bases does, so its score is the highest of its bases."""
    length = target.shape[1] * bin_bp
    crop = (logits_BOL.shape[2] - length) // 2
    return F.max_pool1d(logits_BOL[:, :, crop : crop + length], bin_bp).transpose(1, 2).float()
