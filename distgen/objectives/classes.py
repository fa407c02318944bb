"""Which one of several classes each window is of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from distgen import kernels
from distgen.config import Positive, Sample, Section
from distgen.errors import ConfigError, some
from distgen.loader.batch import Batch
from distgen.objectives.known import MOST, Served, constants, counts
from distgen.objectives.mean import mean
from distgen.objectives.options import Focal, Weight
from distgen.objectives.source import POOL, Stores, answers


class ClassesConfig(Section):
    """`target` says what the classes are: `labels` of a table of sequences, or `pool`, by the names of `[[data.pool]]`.

    `smoothing` is the share of each answer that is taken to be drawn evenly from all classes (Szegedy et al. 2016). With
    `focal` above 0 an answer weighs (1 - p) ** focal, where p is what the model gives to it (Lin et al. 2017).
    `class_weights` are what windows of each class weigh, in the order of the classes; "balanced": each class as much as any
    other in the training part. Validation measures without any of them. `top_k`: also the share of windows whose class is
    among the k most probable ones.
    """

    kind: Literal["classes"]
    target: str = "labels"
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    focal: Focal = 0.0
    class_weights: Literal["balanced"] | Annotated[tuple[Weight, ...], Field(strict=False)] | None = None
    top_k: Positive | None = None


class Classes:
    """Four input channels (one-hot), one output for each class."""

    inputs: tuple[str, ...] = ("A", "C", "G", "T")
    in_channels = 4
    bin_bp = 1
    window: int | None
    swap: tuple[tuple[str, str], ...] | None = ()

    def __init__(self, config: ClassesConfig, store: Stores, data: Sample, served: Served):
        """Raises ConfigError: the store has no such answers, or something is said of other classes than there are."""
        self._answers = answers(config.target, store, data, ("classes", "binary"))
        self._config, self.tracks, self.window = config, self._answers.tracks, self._answers.window
        self.outputs = self._answers.columns
        self.out_channels = len(self.outputs)
        if config.top_k is not None and config.top_k >= self.out_channels:
            problem = f"the class of every window is among the first {config.top_k} of {self.out_channels}"
            raise ConfigError(f"{problem}: use less, or leave it out", key="objective.top_k")
        self._weights: tuple[float, ...] | None = None
        if config.class_weights == "balanced":
            self._weights = self._balanced([p.share for p in data.pool] if config.target == POOL else None, served)
        elif config.class_weights is not None:
            self._weights = config.class_weights
            if len(self._weights) != self.out_channels:
                problem = f"are {len(self._weights)}, and there are {self.out_channels} classes"
                raise ConfigError(f"{problem}: {some(list(self.outputs))}", key="objective.class_weights")

    def _balanced(self, shares: list[float] | None, served: Served) -> tuple[float, ...]:
        """What makes all classes weigh the same, and a window 1 in the mean. Pools are drawn by their shares."""
        held = torch.tensor(shares) if shares else self._counts(served(self, "train"))
        even = held.sum().double() / (held > 0).sum()
        return tuple((even / held.clamp(min=even / MOST)).tolist())

    def _counts(self, batches: Iterable[Batch], *, until_mixed: bool = False) -> Tensor:
        """How many windows are of each class."""
        classes = self._answers.kind == "classes"
        columns = len(self.outputs) if classes else 1
        yes, known = counts(self._answers.of, batches, columns, classes=classes, until_mixed=until_mixed)
        return yes if classes else torch.cat([known - yes, yes])

    def lacks(self, batches: Iterable[Batch]) -> str:
        """Classes that no window of a part is of."""
        if self._config.target == POOL:  # an empty pool is refused by who draws from it
            return ""
        held = self._counts(batches, until_mixed=True).tolist()
        absent = [name for name, count in zip(self.outputs, held, strict=True) if not count]
        return f"no window is of class {some(absent)}" if absent else ""

    def encode(self, batch: Batch, dtype: torch.dtype, *, evaluating: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        target, valid = self._answers.of(batch)
        if self._answers.kind == "binary":
            target, valid = target[:, 0], valid[:, 0]
        return kernels.one_hot(**batch.packed, dtype=dtype), target.long(), valid

    def loss(self, logits_BOL: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        config, logp_BO = self._config, F.log_softmax(logits_BOL[..., 0].float(), 1)
        own_B = logp_BO.gather(1, target[:, None])[:, 0]
        losses_B = -(1 - config.smoothing) * own_B - config.smoothing * logp_BO.mean(1)
        if config.focal:
            losses_B = losses_B * (1 - own_B.exp()) ** config.focal
        weight_B = valid.float()
        if self._weights is not None:
            weight_B = weight_B * constants(self._weights, logits_BOL)[target]
        return (losses_B * weight_B).sum(), weight_B.sum()

    def average(self, logits_MBOL: Tensor) -> Tensor:
        """The logs of the mean probability of each class."""
        return F.log_softmax(logits_MBOL.float(), 2).logsumexp(0)

    def metrics(self, device: torch.device) -> ClassesMetrics:
        return ClassesMetrics(self.outputs, self._config.top_k, device)


class ClassesMetrics:
    """Accuracy, Matthews' correlation of all classes, calibration of what is most probable; of each class that some windows
    are of and others not, AUROC against all others, and the `error`: per cent of its windows that are taken for another."""

    def __init__(self, names: tuple[str, ...], top_k: int | None, device: torch.device):
        # Imported where a metric is wanted: it takes as long as importing torch does, and the first step waits for neither.
        from torchmetrics.classification import BinaryAUROC, MulticlassConfusionMatrix

        from distgen.objectives.calibration import Calibration

        self._names, self._top_k, self._loss, self._top = names, top_k, mean(device), mean(device)
        self._confusion = MulticlassConfusionMatrix(len(names)).to(device)
        self._auroc = {name: BinaryAUROC().to(device) for name in names}
        self._calibration = Calibration().to(device)

    def update(self, logits_BOL: Tensor, target: Tensor, valid: Tensor) -> None:
        # Also where none is known: all ranks must have collected the same kinds of numbers.
        scores_NO, truth_N = logits_BOL[..., 0].float()[valid], target[valid]
        p_NO = scores_NO.softmax(1)
        self._loss.update(F.cross_entropy(scores_NO, truth_N, reduction="none"))
        self._confusion.update(scores_NO.argmax(1), truth_N)
        for column, metric in enumerate(self._auroc.values()):
            metric.update(p_NO[:, column], (truth_N == column).long())
        most = p_NO.max(1)
        self._calibration.update(most.values, most.indices == truth_N)
        if self._top_k:
            self._top.update((scores_NO.topk(self._top_k).indices == truth_N[:, None]).any(1).double())

    def compute(self) -> dict[str, float | dict[str, float]]:
        found_CC = self._confusion.compute().double()  # rows are what windows are, columns what they are taken for
        held, right = found_CC.sum(1), found_CC.diagonal()
        mixed = [column for column, count in enumerate(held.tolist()) if 0 < count < float(held.sum())]
        top = {f"top{self._top_k}_accuracy": float(self._top.compute())} if self._top_k else {}
        error = (100 * (1 - right / held)).tolist()
        auroc = list(self._auroc.values())
        return {
            "loss": float(self._loss.compute()),
            "accuracy": float(right.sum() / held.sum()),
            **top,
            "mcc": matthews(found_CC),
            "ece": float(self._calibration.compute()),
            "auroc": {self._names[column]: float(auroc[column].compute()) for column in mixed},
            "error": {self._names[column]: error[column] for column in mixed},
        }

    def reliability(self) -> dict[str, dict[str, list[float]]]:
        """Bins of the probability of the class that is most probable."""
        return {"most probable class": self._calibration.bins()}


def matthews(found_CC: Tensor) -> float:
    """Matthews' correlation of a confusion matrix (Gorodkin 2004); 0 where one class is all there is, or all that is said."""
    n, truth_C, said_C = found_CC.sum(), found_CC.sum(1), found_CC.sum(0)
    both = n * found_CC.diagonal().sum() - truth_C @ said_C
    scale = ((n * n - truth_C @ truth_C) * (n * n - said_C @ said_C)).sqrt()
    return float(both / scale) if scale else 0.0
