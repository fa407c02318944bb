"""Classes at every base (or bin), each an independent yes or no: a base may code on both strands."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from distgen.config import Section
from distgen.config.file import Strings
from distgen.errors import ConfigError, suggest
from distgen.loader.batch import Batch
from distgen.models.context import Context
from distgen.objectives import along, yes_no
from distgen.objectives.known import counts
from distgen.objectives.mean import mean
from distgen.objectives.options import Focal
from distgen.objectives.source import Stores, named_track

NEITHER = "neither"  # of the classes: what metrics call it


class BaseClassesConfig(Section):
    """`track` names a track of classes in the store, `classes` those of its columns that are learned (all if left out).

    `positive_weight` is what a yes weighs. With `focal` above 0 an answer weighs (1 - p) ** focal, where p is what the model
    gives to it (Lin et al. 2017): of few sites among many bases, what is learned already weighs less. Validation measures
    without both.
    """

    kind: Literal["base_classes"]
    track: str
    classes: Strings = ()
    positive_weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    focal: Focal = 0.0


class BaseClasses:
    """Four input channels (one-hot), one output per class."""

    inputs: tuple[str, ...] = ("A", "C", "G", "T")
    in_channels = 4
    window: int | None = None
    tracks: tuple[str, ...]
    swap: tuple[tuple[str, str], ...] | None

    def __init__(self, config: BaseClassesConfig, store: Stores, context: Context | None = None):
        """Raises ConfigError: there is no such track, or it holds signals."""
        track = named_track(config.track, store, "objective.track")
        if not track.is_classes:
            raise ConfigError(
                f'track "{track.name}" holds signals, not classes: "base_classes" cannot learn them',
                key="objective.track",
            )
        self._config, self.tracks = config, (track.name,)
        self.outputs = config.classes or track.columns
        for name in self.outputs:
            if name not in track.columns:
                problem = f'track "{track.name}" has no class "{name}". {suggest(name, track.columns)}'
                raise ConfigError(problem, key="objective.classes")
        self.out_channels = len(self.outputs)
        self.bin_bp, self._context = track.bin_bp, context
        self._columns = [track.columns.index(name) for name in self.outputs]
        self._all = self._columns == list(range(len(track.columns)))
        other = dict(along.swapped(track))
        # A class whose other strand is not learned has no place to go to.
        whole = all(other[name] in self.outputs for name in self.outputs)
        self.swap = tuple((name, other[name]) for name in self.outputs) if whole else None

    def lacks(self, batches: Iterable[Batch]) -> str:
        """Classes that a part has nowhere, or everywhere."""

        def answers(batch: Batch) -> tuple[Tensor, Tensor]:
            values_BTC, known_BT1 = along.answers(batch, self.tracks[0])
            return values_BTC[..., self._columns].flatten(0, 1), known_BT1.flatten(0, 1)

        yes, known = counts(answers, batches, self.out_channels, until_mixed=True)
        return yes_no.one_sided(self.outputs, yes, known, "base" if self.bin_bp == 1 else "bin")

    def encode(self, batch: Batch, dtype: torch.dtype, *, evaluating: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        x_BCL, target_BTC, valid_BT1 = along.encode(batch, self.tracks[0], self.bin_bp, dtype, self._context)
        if not self._all:
            target_BTC = torch.stack([target_BTC[..., column] for column in self._columns], dim=-1)
        return x_BCL, target_BTC, valid_BT1[..., 0]

    def loss(self, logits_BOL: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        config, scores_BTO = self._config, _scores(logits_BOL, target.shape[1], self.bin_bp)
        weight_BT1 = valid[..., None].float()
        if config.positive_weight == 1 and not config.focal:
            loss = F.binary_cross_entropy_with_logits(scores_BTO, target.float(), weight_BT1, reduction="sum")
            return loss, valid.sum() * self.out_channels
        losses_BTO = yes_no.losses(scores_BTO, target, focal=config.focal)
        weight_BTO = weight_BT1 * torch.where(target > 0, config.positive_weight, 1.0)
        return (losses_BTO * weight_BTO).sum(), weight_BTO.sum()

    def average(self, logits_MBOL: Tensor) -> Tensor:
        """The logits of the mean probability of each class."""
        return yes_no.average(logits_MBOL)

    def predictions(self, logits_BOL: Tensor, bins: int) -> Tensor:
        return _scores(logits_BOL, bins, self.bin_bp)

    def logits(self, values_BTO: Tensor) -> Tensor:
        return values_BTO.float().transpose(1, 2).repeat_interleave(self.bin_bp, 2)

    def metrics(self, device: torch.device) -> BaseClassesMetrics:
        return BaseClassesMetrics(self.outputs, self.bin_bp, device)


class BaseClassesMetrics:
    """AUROC and average precision of each class and of "neither", over all bases (no binning of scores), and of each class,
    both strands together, the share of its sites among as many highest scores; a class that all bases have, or none, has
    neither."""

    def __init__(self, classes: tuple[str, ...], bin_bp: int, device: torch.device):
        self._bin_bp = bin_bp
        # Imported where a metric is wanted: it takes as long as importing torch does, and the first step waits for neither.
        from torchmetrics.classification import BinaryAUROC, BinaryAveragePrecision

        from distgen.objectives.top_k import BinaryTopK

        self._classes, self._strands = classes, _strands(classes)
        self._top_k = {name: BinaryTopK().to(device) for name in self._strands}
        self._loss = mean(device)
        self._auroc = {name: BinaryAUROC().to(device) for name in (*classes, NEITHER)}
        self._auprc = {name: BinaryAveragePrecision().to(device) for name in (*classes, NEITHER)}
        self._share = {name: mean(device) for name in (*classes, NEITHER)}

    def update(self, logits_BOL: Tensor, target: Tensor, valid: Tensor) -> None:
        scores, truth = _scores(logits_BOL, target.shape[1], self._bin_bp)[valid], target[valid]
        self._loss.update(F.binary_cross_entropy_with_logits(scores, truth.float(), reduction="none"))
        p = torch.cat([scores.sigmoid(), (1 - scores.sigmoid()).prod(1, keepdim=True)], 1)
        y = torch.cat([truth.long(), (truth.sum(1, keepdim=True) == 0).long()], 1)
        for column, name in enumerate(self._auroc):
            self._auroc[name].update(p[:, column], y[:, column])
            self._auprc[name].update(p[:, column], y[:, column])
            self._share[name].update(y[:, column].double())
        for name, columns in self._strands.items():
            self._top_k[name].update(scores[:, columns].flatten().sigmoid(), truth[:, columns].flatten().long())

    def compute(self) -> dict[str, float | dict[str, float]]:
        mixed = [name for name, share in self._share.items() if 0 < float(share.compute()) < 1]
        return {
            "loss": float(self._loss.compute()),
            "auroc": {name: float(self._auroc[name].compute()) for name in mixed},
            "auprc": {name: float(self._auprc[name].compute()) for name in mixed},
            "top_k": {
                name: float(self._top_k[name].compute())
                for name, columns in self._strands.items()
                if any(self._classes[column] in mixed for column in columns)
            },
        }


def _strands(classes: tuple[str, ...]) -> dict[str, list[int]]:
    """The columns that are one class on two strands, by the name without + and -; every other column by its own."""
    found: dict[str, list[int]] = {}
    for column, name in enumerate(classes):
        both = {f"{name[:-1]}+", f"{name[:-1]}-"} <= set(classes)
        found.setdefault(name[:-1] if both else name, []).append(column)
    return found


def _scores(logits_BOL: Tensor, bins: int, bin_bp: int) -> Tensor:
    """float32 (B, T, classes), of the bins of a target that lies centred in the window; a bin carries a class where any of its
    bases does, so its score is the highest of its bases."""
    return along.middle(logits_BOL, bins, bin_bp).amax(3).transpose(1, 2).float()
