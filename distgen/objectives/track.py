"""Signals along a window: coverage, accessibility, occupancy.

A model that answers at every base is taken together to the bins of the track. Losses are those of Basenji (Kelley et al. 2018:
Poisson), BPNet (Avsec et al. 2021: where in the window, and how much in all) and Borzoi (Linder et al. 2025: both as Poisson and
multinomial likelihoods), as deviances: what is lost against knowing the signal, 0 at best.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from distgen.config import Section
from distgen.config.file import TableError
from distgen.errors import ConfigError, some
from distgen.loader.batch import Batch
from distgen.models.context import Context
from distgen.objectives import along
from distgen.objectives.mean import mean
from distgen.objectives.source import Stores, named_track

_LEAST = 1e-6  # is added to a rate, in units of `scale`: its logarithm stays finite, and its gradient is not lost


class TrackConfig(Section):
    """`track` names a track of signals in the store, all of whose columns are predicted.

    - `poisson`: each bin is a count by itself.
    - `multinomial`: how the total of a window falls on its bins, and, `total_weight` times, how much that is: as a count
      (`total = "poisson"`), or by the squared difference of log(1 + mean) (`"log"`). `total_weight` belongs to it alone.
    - `mse`: the squared difference of each bin; values may be negative, and outputs are taken as they are.

    Counts are softplus of the model's outputs, whose `reduce` over a bin's bases is the prediction. `scale` is the value that
    stands for 1 while learning: about the track's mean, so that outputs near 0 are a good beginning. Predictions and metrics
    are in the track's own units.
    """

    kind: Literal["track"]
    track: str
    loss: Literal["poisson", "multinomial", "mse"] = "poisson"
    total: Literal["poisson", "log"] = "poisson"
    total_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.2
    reduce: Literal["mean", "sum"] = "mean"
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

    @model_validator(mode="after")
    def _check(self) -> TrackConfig:
        for key in ("total", "total_weight") if self.loss != "multinomial" else ():
            if getattr(self, key) != type(self).model_fields[key].default:
                raise TableError(f'is of loss = "multinomial", not of "{self.loss}": leave it out', key)
        return self


class TrackSignal:
    """Four input channels (one-hot), one output for each column of the track."""

    inputs: tuple[str, ...] = ("A", "C", "G", "T")
    in_channels = 4
    window: int | None = None
    tracks: tuple[str, ...]
    swap: tuple[tuple[str, str], ...] | None

    def __init__(self, config: TrackConfig, store: Stores, context: Context | None = None):
        """Raises ConfigError: there is no such track, it holds classes, or workers cannot share a window of this loss."""
        track = named_track(config.track, store, "objective.track")
        if track.is_classes:
            problem = f'track "{track.name}" holds classes, not signals. Use kind = "base_classes"'
            raise ConfigError(problem, key="objective.track")
        if context is not None and config.loss == "multinomial":
            problem = 'loss = "multinomial" needs all of a window at one worker. Use "poisson" or "mse"'
            raise ConfigError(problem, key="objective.loss")
        self._config, self._context, self.bin_bp = config, context, track.bin_bp
        self.tracks, self.outputs, self.out_channels = (track.name,), track.columns, len(track.columns)
        self.swap = along.swapped(track)

    def lacks(self, batches: Iterable[Batch]) -> str:
        """Columns of which a part knows nothing."""
        known = torch.zeros(self.out_channels, dtype=torch.bool)
        for batch in batches:
            known |= along.answers(batch, self.tracks[0])[1].flatten(0, 1).any(0)
            if bool(known.all()):
                return ""
        unknown = [name for name, there in zip(self.outputs, known.tolist(), strict=True) if not there]
        return f"no bin of {some(unknown)} is known"

    def encode(self, batch: Batch, dtype: torch.dtype, *, evaluating: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        return along.encode(batch, self.tracks[0], self.bin_bp, dtype, self._context)

    def loss(self, logits_BOL: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        losses_BTC = losses(self._config, self.predicted(logits_BOL, target.shape[1]), target, valid)
        return losses_BTC.sum(), valid.sum()

    def predicted(self, logits_BOL: Tensor, bins: int) -> Tensor:
        """float32 (B, T, C), in units of `scale`: the bins of a target that lies centred in the window."""
        values = logits_BOL.float() if self._config.loss == "mse" else F.softplus(logits_BOL.float())
        inside = along.middle(values, bins, self.bin_bp)
        return (inside.mean(3) if self._config.reduce == "mean" else inside.sum(3)).transpose(1, 2)

    def average(self, logits_MBOL: Tensor) -> Tensor:
        """The outputs whose prediction is the mean of all members' at every base."""
        if self._config.loss == "mse":
            return logits_MBOL.float().mean(0)
        return _before_softplus(F.softplus(logits_MBOL.float()).mean(0))

    def predictions(self, logits_BOL: Tensor, bins: int) -> Tensor:
        return self.predicted(logits_BOL, bins) * self._config.scale

    def logits(self, values_BTO: Tensor) -> Tensor:
        rate_BTC = values_BTO.float() / self._config.scale
        if self._config.reduce == "sum":
            rate_BTC = rate_BTC / self.bin_bp
        if self._config.loss != "mse":
            rate_BTC = _before_softplus(rate_BTC.clamp(min=_LEAST))
        return rate_BTC.transpose(1, 2).repeat_interleave(self.bin_bp, 2)

    def metrics(self, device: torch.device) -> TrackMetrics:
        return TrackMetrics(self, self._config, device)


def losses(config: TrackConfig, rate_BTC: Tensor, target_BTC: Tensor, valid_BTC: Tensor) -> Tensor:
    """What each bin loses, float32 (B, T, C), 0 where it is not known.

    Args:
        rate_BTC: as predicted, in units of `scale`.
        target_BTC: in the track's units, 0 where unknown.
        valid_BTC: bool.
    """
    known_BTC = valid_BTC.float()
    y_BTC = target_BTC.float() / config.scale * known_BTC
    if config.loss == "mse":
        return (rate_BTC - y_BTC).square() * known_BTC
    y_BTC, rate_BTC = y_BTC.clamp(min=0), rate_BTC + _LEAST
    if config.loss == "poisson":
        return deviance(y_BTC, rate_BTC) * known_BTC
    rate_BTC = rate_BTC * known_BTC
    count_B1C, total_B1C, found_B1C = (x.sum(1, keepdim=True) for x in (known_BTC, y_BTC, rate_BTC))
    # A Poisson deviance of bins with predictions that have the window's true total is the multinomial's.
    fitted_BTC = rate_BTC * (total_B1C / found_B1C.clamp(min=_LEAST)) + _LEAST
    where_BTC = deviance(y_BTC, fitted_BTC) * known_BTC
    seen_B1C = count_B1C.clamp(min=1)
    if config.total == "poisson":
        much_B1C = deviance(total_B1C, found_B1C.clamp(min=_LEAST)) / seen_B1C
    else:
        much_B1C = (torch.log1p(total_B1C / seen_B1C) - torch.log1p(found_B1C / seen_B1C)).square()
    return where_BTC + config.total_weight * much_B1C * known_BTC


def _before_softplus(rate: Tensor) -> Tensor:
    return rate + torch.log(-torch.expm1(-rate))


def deviance(y: Tensor, rate: Tensor) -> Tensor:
    """Half the Poisson deviance of each value: y log(y / rate) - y + rate, at least 0."""
    return torch.xlogy(y, y) - y * rate.log() - y + rate


class TrackMetrics:
    """Pearson's and Spearman's correlation, R2 and the explained share of the Poisson deviance (not for "mse") over all known bins
    of each column, exact; and Pearson's over windows, of their means. A column without two different values has none."""

    def __init__(self, objective: TrackSignal, config: TrackConfig, device: torch.device):
        from torchmetrics import CatMetric  # slow to import, and the first step needs none

        self._objective, self._config, self._loss = objective, config, mean(device)
        kinds = ("prediction", "truth", "window prediction", "window truth")
        self._of = {name: [CatMetric(nan_strategy="disable").to(device) for _ in kinds] for name in objective.outputs}

    def update(self, logits_BOL: Tensor, target: Tensor, valid: Tensor) -> None:
        rate_BTC = self._objective.predicted(logits_BOL, target.shape[1])
        self._loss.update(losses(self._config, rate_BTC, target, valid)[valid])
        found_BTC, count_BC = rate_BTC * self._config.scale, valid.sum(1)
        means = [(x * valid).sum(1) / count_BC.clamp(min=1) for x in (found_BTC, target.float())]
        for column, lists in enumerate(self._of.values()):
            known_BT, some_B = valid[..., column], count_BC[:, column] > 0
            values = [x[..., column][known_BT] for x in (found_BTC, target.float())]
            for metric, value in zip(lists, [*values, *(x[some_B, column] for x in means)], strict=True):
                metric.update(value)

    def compute(self) -> dict[str, float | dict[str, float]]:
        found: dict[str, dict[str, float]] = {
            "pearson": {},
            "spearman": {},
            "r2": {},
            "deviance": {},
            "pearson_window": {},
        }
        for name, lists in self._of.items():
            prediction, truth, of_windows, true_windows = (torch.as_tensor(x.compute()).double() for x in lists)
            if len(truth) < 2 or truth.min() == truth.max():
                continue
            found["pearson"][name] = _pearson(prediction, truth)
            found["spearman"][name] = _pearson(ranks(prediction), ranks(truth))
            found["r2"][name] = 1 - float((prediction - truth).square().sum() / (truth - truth.mean()).square().sum())
            if self._config.loss != "mse" and truth.min() >= 0:
                lost, most = (deviance(truth, x).sum() for x in (prediction.clamp(min=_LEAST), truth.mean()))
                found["deviance"][name] = 1 - float(lost / most)
            if len(true_windows) > 1:
                found["pearson_window"][name] = _pearson(of_windows, true_windows)
        return {"loss": float(self._loss.compute())} | {kind: values for kind, values in found.items() if values}


def _pearson(x: Tensor, y: Tensor) -> float:
    """Pearson's correlation of two float64 (n,); 0 where one of them is all alike."""
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / (x.norm() * y.norm()).clamp(min=1e-300))


def ranks(x: Tensor) -> Tensor:
    """float64 (n,): the ranks of values from 0 on, the mean of theirs where some are alike."""
    _, which, counts = x.unique(return_inverse=True, return_counts=True)
    mean_C: Tensor = counts.cumsum(0).double() - (counts + 1) / 2
    return mean_C[which]
