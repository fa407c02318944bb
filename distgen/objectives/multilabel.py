"""One yes or no for each window, or several that are independent of one another."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from distgen import kernels
from distgen.config import Sample, Section
from distgen.errors import ConfigError, some
from distgen.loader.batch import Batch
from distgen.objectives import yes_no
from distgen.objectives.classes import matthews
from distgen.objectives.known import MOST, Served, constants, counts, weights_of
from distgen.objectives.mean import mean
from distgen.objectives.options import Focal, Weight
from distgen.objectives.source import POOL, Stores, answers

if TYPE_CHECKING:
    from distgen.objectives.calibration import Calibration


class MultilabelConfig(Section):
    """`target` says what the answers are: `labels` of a table of sequences, or `track:NAME`, whose one bin a window predicts;
    of `binary` also `pool`, where there are two: windows of the first are a yes.

    `smoothing` is the share of each answer that is taken to be drawn evenly from yes and no (Szegedy et al. 2016). With
    `focal` above 0 an answer weighs (1 - p) ** focal, where p is what the model gives to it: what is learned already weighs
    less (Lin et al. 2017). `positive_weight` is what a yes weighs; "balanced": as much as makes all that are known of the
    training part together weigh as all noes, question by question, a hundredfold at most. `weights` says what questions weigh
    among others, 1 if they are not named. Validation measures without any of them.
    """

    kind: Literal["binary", "multilabel"]
    target: str = "labels"
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    focal: Focal = 0.0
    positive_weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["balanced"] = 1.0
    weights: dict[str, Weight] = Field(default_factory=dict)


class Multilabel:
    """Four input channels (one-hot), one output for each question."""

    inputs: tuple[str, ...] = ("A", "C", "G", "T")
    in_channels = 4
    bin_bp = 1
    window: int | None
    swap: tuple[tuple[str, str], ...] | None

    def __init__(self, config: MultilabelConfig, store: Stores, data: Sample, served: Served):
        """Raises ConfigError: the store has no such answers, or something is said of other questions than there are."""
        self._pools = config.kind == "binary" and config.target == POOL
        kinds = ("classes",) if self._pools else ("binary",) if config.kind == "binary" else ("multilabel", "binary")
        self._answers = answers(config.target, store, data, kinds)
        self._config, self.tracks, self.window = config, self._answers.tracks, self._answers.window
        self.swap = self._answers.swap
        # Of a binary label, `columns` are what 0 and 1 mean.
        names = self._answers.columns
        self.outputs = names[1:] if self._answers.kind == "binary" else names
        if self._pools:
            if len(names) != 2:
                problem = f'"pool" is a yes or no between two, and there are {len(names)}: {some(list(names))}'
                raise ConfigError(f'{problem}. Use kind = "classes"', key="objective.target")
            self.outputs = names[:1]
        self.out_channels = len(self.outputs)
        self._weights = weights_of(config.weights, self.outputs)
        asked = config.positive_weight
        self._positive = (asked,) * self.out_channels if asked != "balanced" else self._balanced(data, served)

    def _balanced(self, data: Sample, served: Served) -> tuple[float, ...]:
        """What a yes of each question weighs to make all of them weigh as much as all noes. Pools are drawn by their shares."""
        if self._pools:
            return (data.pool[1].share / data.pool[0].share,)
        yes, known = counts(self._answers.of, served(self, "train"), self.out_channels)
        return tuple(((known - yes) / yes.clamp(min=1)).clamp(1 / MOST, MOST).tolist())

    def lacks(self, batches: Iterable[Batch]) -> str:
        """Questions that a part answers one way only, or never."""
        if self._pools:  # an empty pool is refused by who draws from it
            return ""
        yes, known = counts(self._answers.of, batches, self.out_channels, until_mixed=True)
        return yes_no.one_sided(self.outputs, yes, known, "window")

    def encode(self, batch: Batch, dtype: torch.dtype, *, evaluating: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        target_BO, valid_BO = self._answers.of(batch)
        if self._pools:
            target_BO, valid_BO = (target_BO == 0).to(torch.uint8)[:, None], valid_BO[:, None]
        return kernels.one_hot(**batch.packed, dtype=dtype), target_BO, valid_BO

    def loss(self, logits_BOL: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        scores_BO = logits_BOL[..., 0].float()
        losses_BO = yes_no.losses(scores_BO, target, self._config.smoothing, self._config.focal)
        weight_BO = valid * torch.where(target > 0, constants(self._positive, scores_BO), 1.0)
        weight_BO = weight_BO * constants(self._weights, scores_BO)
        return (losses_BO * weight_BO).sum(), weight_BO.sum()

    def average(self, logits_MBOL: Tensor) -> Tensor:
        """The logits of the mean probability of each yes."""
        return yes_no.average(logits_MBOL)

    def metrics(self, device: torch.device) -> MultilabelMetrics:
        return MultilabelMetrics(self.outputs, self._config.kind == "binary", device)


class MultilabelMetrics:
    """AUROC, average precision, Matthews' correlation of p > 1/2, and expected calibration error in 15 bins, of each question
    that was answered both ways; of "binary" plain numbers."""

    def __init__(self, names: tuple[str, ...], binary: bool, device: torch.device):
        # Imported where a metric is wanted: it takes as long as importing torch does, and the first step waits for neither.
        from torchmetrics import MetricCollection
        from torchmetrics.classification import BinaryAUROC, BinaryAveragePrecision, BinaryConfusionMatrix

        from distgen.objectives.calibration import Calibration

        kinds = {
            "auroc": BinaryAUROC,
            "auprc": BinaryAveragePrecision,
            "mcc": BinaryConfusionMatrix,
            "ece": Calibration,
        }
        self._binary, self._loss = binary, mean(device)
        self._of = {name: MetricCollection({k: kind() for k, kind in kinds.items()}).to(device) for name in names}
        # torchmetrics' own accuracy takes no batch of which nothing is known.
        self._share, self._right = ({name: mean(device) for name in names} for _ in range(2))

    def update(self, logits_BOL: Tensor, target: Tensor, valid: Tensor) -> None:
        scores_BO = logits_BOL[..., 0].float()
        self._loss.update(F.binary_cross_entropy_with_logits(scores_BO[valid], target[valid].float(), reduction="none"))
        for column, name in enumerate(self._of):
            known_B = valid[:, column]  # also where it is none: all ranks must have collected the same kinds of numbers
            truth = target[known_B, column].long()
            p = scores_BO[known_B, column].sigmoid()
            self._of[name].update(p, truth)
            self._right[name].update(((p > 0.5) == truth).double())
            self._share[name].update(truth.double())

    def compute(self) -> dict[str, float | dict[str, float]]:
        mixed = [name for name, share in self._share.items() if 0 < float(share.compute()) < 1]
        by_name = {name: self._of[name].compute() | {"accuracy": self._right[name].compute()} for name in mixed}
        found: dict[str, float | dict[str, float]] = {"loss": float(self._loss.compute())}
        for kind in ("auroc", "auprc", "mcc", "accuracy", "ece"):
            # torchmetrics' own is far from 0 where only one answer is ever given.
            of_one: Callable[[Tensor], float] = _matthews if kind == "mcc" else float
            values = {name: of_one(by_name[name][kind]) for name in mixed}
            found |= {kind: next(iter(values.values()))} if self._binary and values else {kind: values}
        return found

    def reliability(self) -> dict[str, dict[str, list[float]]]:
        """Bins of the probability of a yes, by question."""
        by_name = {name: cast("Calibration", of["ece"]).bins() for name, of in self._of.items()}
        return {name: bins for name, bins in by_name.items() if bins["count"]}


def _matthews(found_22: Tensor) -> float:
    return matthews(found_22.double())
