"""Numbers for each window: expression, activity of a reporter, the signal of a bin."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from distgen import kernels
from distgen.config import Sample, Section
from distgen.errors import ConfigError, some
from distgen.loader.batch import Batch
from distgen.objectives.known import Moments, Served, constants, moments, weights_of
from distgen.objectives.mean import mean
from distgen.objectives.options import Weight
from distgen.objectives.source import Stores, answers


class RegressionConfig(Section):
    """`target` says what the numbers are: `labels` of a table of sequences, `matrix:NAME`, at whose regions the windows lie,
    or `track:NAME`, whose one bin a window predicts.

    What is learned is how many standard deviations a value lies from the mean, both of the training part, column by column.
    `loss` is the square of the distance (`mse`), or that up to one standard deviation and a straight line beyond (`huber`,
    Huber 1964). `poisson` is of counts: the model says the log of a rate, in units of the column's mean. `weights` says
    what columns weigh, 1 if they are not named.
    """

    kind: Literal["regression"]
    target: str = "labels"
    loss: Literal["mse", "huber", "poisson"] = "mse"
    weights: dict[str, Weight] = Field(default_factory=dict)


class Regression:
    """Four input channels (one-hot), one output for each column.

    Attributes:
        shift, scale: of each column: an answer v is a value `shift + scale * v` of the store.
    """

    inputs: tuple[str, ...] = ("A", "C", "G", "T")
    in_channels = 4
    bin_bp = 1
    window: int | None
    swap: tuple[tuple[str, str], ...] | None

    def __init__(self, config: RegressionConfig, store: Stores, data: Sample, served: Served):
        """Raises ConfigError: the store has no such answers, or the training part says too little of a column."""
        self._answers = answers(config.target, store, data, ("regression",))
        self._config, self.tracks, self.window = config, self._answers.tracks, self._answers.window
        self.swap = self._answers.swap
        self.outputs = self._answers.columns
        self.out_channels = len(self.outputs)
        self._weights = weights_of(config.weights, self.outputs)
        found = moments(self._answers, served(self, "train"))
        if problem := self._useless(found):
            raise ConfigError(f'part "train": {problem}', key="objective.target")
        if config.loss == "poisson":
            if negative := [name for name, low in zip(self.outputs, found.least.tolist(), strict=True) if low < 0]:
                problem = f'"poisson" is of counts, and {some(negative)} has values below 0. Use "mse" or "huber"'
                raise ConfigError(problem, key="objective.loss")
            self.shift, self.scale = (0.0,) * self.out_channels, tuple(found.mean.tolist())
        else:
            self.shift, self.scale = tuple(found.mean.tolist()), tuple(found.deviation.tolist())

    @property
    def units(self) -> dict[str, tuple[float, ...]]:
        """What a model that leaves its store takes along: see `distgen.objectives.Measured`."""
        return {"shift": self.shift, "scale": self.scale}

    def _useless(self, found: Moments) -> str:
        """Columns whose values all are the same, or none."""
        rows = zip(self.outputs, found.known.tolist(), found.least.tolist(), found.most.tolist(), strict=True)
        same = [name if known else f"{name} (of none)" for name, known, low, high in rows if not low < high]
        return f"windows do not differ in {some(same)}" if same else ""

    def lacks(self, batches: Iterable[Batch]) -> str:
        """Columns of whose values a part says nothing."""
        return self._useless(moments(self._answers, batches))

    def encode(self, batch: Batch, dtype: torch.dtype, *, evaluating: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """The targets are answers as the model gives them: float32 (B, O), in units of `scale`."""
        values_BO, valid_BO = self._answers.of(batch)
        target_BO = (values_BO.float() - constants(self.shift, values_BO)) / constants(self.scale, values_BO)
        return kernels.one_hot(**batch.packed, dtype=dtype), target_BO, valid_BO

    def loss(self, logits_BOL: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        weight_BO = valid * constants(self._weights, logits_BOL)
        return (_losses(self._config.loss, logits_BOL[..., 0].float(), target) * weight_BO).sum(), weight_BO.sum()

    def average(self, logits_MBOL: Tensor) -> Tensor:
        """The mean of what models say; of rates the log of the mean."""
        if self._config.loss == "poisson":
            return logits_MBOL.float().logsumexp(0) - math.log(len(logits_MBOL))
        return logits_MBOL.float().mean(0)

    def values(self, logits_BOL: Tensor) -> Tensor:
        """What a model says, as the store has it: float32 (B, O)."""
        return _said(self._config.loss, logits_BOL) * constants(self.scale, logits_BOL) + constants(
            self.shift, logits_BOL
        )

    def metrics(self, device: torch.device) -> RegressionMetrics:
        return RegressionMetrics(self.outputs, self._config.loss, self.scale, device)


class RegressionMetrics:
    """Pearson's and Spearman's correlation, R2 and the root of the mean squared error (in the store's own unit) of each column
    that has two values or more; plain numbers if there is one column. `loss` is that of the training, unweighted."""

    def __init__(self, names: tuple[str, ...], loss: str, scale: tuple[float, ...], device: torch.device):
        # Imported where a metric is wanted: it takes as long as importing torch does, and the first step waits for neither.
        from torchmetrics import (
            MeanSquaredError,
            MetricCollection,
            PearsonCorrCoef,
            R2Score,
            SpearmanCorrCoef,
            SumMetric,
        )

        kinds = {"pearson": PearsonCorrCoef, "spearman": SpearmanCorrCoef, "r2": R2Score}
        self._kind, self._scale, self._loss = loss, scale, mean(device)
        with warnings.catch_warnings():
            # That it keeps what is said of every window: ranks are exact only so.
            warnings.filterwarnings("ignore", "Metric `SpearmanCorrcoef` will save all")
            # They share no state: groups of metrics would find out by comparing values, which differ by rounding.
            self._of = {
                name: MetricCollection(
                    {kind: metric() for kind, metric in kinds.items()} | {"rmse": MeanSquaredError(squared=False)},
                    compute_groups=False,
                ).to(device)
                for name in names
            }
        self._known = {name: SumMetric().to(device) for name in names}

    def update(self, logits_BOL: Tensor, target: Tensor, valid: Tensor) -> None:
        losses_BO = _losses(self._kind, logits_BOL[..., 0].float(), target)
        self._loss.update(losses_BO[valid])
        said_BO = _said(self._kind, logits_BOL)
        for column, name in enumerate(self._of):
            known_B = valid[:, column]
            self._known[name].update(known_B)
            if known_B.any():
                self._of[name].update(said_BO[known_B, column], target[known_B, column])

    def compute(self) -> dict[str, float | dict[str, float]]:
        found: dict[str, float | dict[str, float]] = {"loss": float(self._loss.compute())}
        by_name = {}
        for (name, metrics), scale in zip(self._of.items(), self._scale, strict=True):
            if self._known[name].compute() > 1:
                values = {kind: float(value) for kind, value in metrics.compute().items()}
                by_name[name] = values | {"rmse": values["rmse"] * scale}
        for kind in ("pearson", "spearman", "r2", "rmse"):
            of = {name: values[kind] for name, values in by_name.items()}
            found |= {kind: next(iter(of.values()))} if of and len(self._of) == 1 else {kind: of}
        return found


def _losses(kind: str, scores_BO: Tensor, target_BO: Tensor) -> Tensor:
    if kind == "poisson":
        return F.poisson_nll_loss(scores_BO, target_BO, log_input=True, reduction="none")
    loss = F.huber_loss if kind == "huber" else F.mse_loss
    return loss(scores_BO, target_BO, reduction="none")


def _said(kind: str, logits_BOL: Tensor) -> Tensor:
    """float32 (B, O), in units of a column's scale."""
    scores_BO = logits_BOL[..., 0].float()
    return scores_BO.exp() if kind == "poisson" else scores_BO
