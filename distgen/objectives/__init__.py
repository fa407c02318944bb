"""Questions: one file each, with what goes into the model, the loss and the metrics."""

from __future__ import annotations

from typing import Annotated, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor

from distgen.config import Sample
from distgen.loader.batch import Batch
from distgen.models.context import Context
from distgen.objectives.base_classes import BaseClasses, BaseClassesConfig
from distgen.objectives.causal_lm import CausalLM, CausalLMConfig
from distgen.objectives.classes import Classes, ClassesConfig
from distgen.objectives.contrastive import Contrastive, ContrastiveConfig
from distgen.objectives.known import Answered, Served
from distgen.objectives.masked_lm import MaskedLM, MaskedLMConfig
from distgen.objectives.multilabel import Multilabel, MultilabelConfig
from distgen.objectives.regression import Regression, RegressionConfig
from distgen.objectives.source import Stores
from distgen.objectives.track import TrackConfig, TrackSignal

__all__ = ["Answered", "Binned", "Calibrated", "Measured", "Metrics", "Objective", "ObjectiveConfig", "build"]

ObjectiveConfig = Annotated[
    BaseClassesConfig
    | CausalLMConfig
    | ClassesConfig
    | ContrastiveConfig
    | MaskedLMConfig
    | MultilabelConfig
    | RegressionConfig
    | TrackConfig,
    Field(discriminator="kind"),
]


class Metrics(Protocol):
    """Collects predictions of a whole split; `compute` gives the exact value over all ranks."""

    def update(self, logits_BOL: Tensor, target: Tensor, valid: Tensor) -> None:
        """Add a batch: float logits (B, O, L), or (B, O, 1) for windows that have one answer each, and targets and their
        validity as `Objective.encode` gives them."""

    def compute(self) -> dict[str, float | dict[str, float]]:
        """Metrics by name, some of them by class; "loss" (nats per target) is always among them."""


@runtime_checkable
class Calibrated(Protocol):
    """Metrics of answers that are given with a probability."""

    def reliability(self) -> dict[str, dict[str, list[float]]]:
        """By question, for bins of confidence that hold any: mean "confidence", "share" of right answers, "count"."""


@runtime_checkable
class Measured(Protocol):
    """A question whose answers are numbers in a unit of their own."""

    @property
    def units(self) -> dict[str, tuple[float, ...]]:
        """ "shift" and "scale" of each output: an answer v (of rates: whose exponential is v) is `shift + scale * v`."""


@runtime_checkable
class Binned(Protocol):
    """A question along windows, one answer for each bin."""

    def predictions(self, logits_BOL: Tensor, bins: int) -> Tensor:
        """What a model says of the bins of a target that lies centred in the window, float32 (B, bins, O): logits of classes,
        signals in the track's own units."""

    def logits(self, values_BTO: Tensor) -> Tensor:
        """The outputs float32 (B, O, T * bin_bp) whose predictions are some values."""


class Objective(Protocol):
    """What training, evaluation and prediction need to know of a question.

    Attributes:
        inputs, outputs: names of the model's channels.
        in_channels, out_channels: how many these are.
        tracks: names of the tracks the loader must serve.
        bin_bp: bases that one target is of, where every base has an answer.
        window: bases of the windows that have one answer each; None: every base has one.
        swap: see `distgen.models.schema.Schema`.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    in_channels: int
    out_channels: int
    tracks: tuple[str, ...]
    bin_bp: int
    window: int | None
    swap: tuple[tuple[str, str], ...] | None

    def encode(self, batch: Batch, dtype: torch.dtype, *, evaluating: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """The model's input (B, in_channels, L), the targets, and which of them count (or how much); of windows that several
        workers share, those of this one's slice."""

    def loss(self, logits_BOL: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """The loss in nats summed over valid targets, and their number (or weight)."""

    def average(self, logits_MBOL: Tensor) -> Tensor:
        """Of the logits of M models, the float32 logits (B, O, L) of their mean prediction: probabilities are averaged."""

    def metrics(self, device: torch.device) -> Metrics:
        """New, empty metrics that take predictions on a device."""


def build(
    config: ObjectiveConfig,
    store: Stores,
    data: Sample,
    served: Served,
    context: Context | None = None,
) -> Objective:
    """The objective that a run's `[objective]` describes.

    Args:
        config: of a question.
        store: whose tracks or labels are meant, or a collection's.
        data: `[data]` of the run.
        served: serves a part of its split, that of training as it is trained on, for what is to be known of its answers.
        context: the workers that share each window, of which each encodes a slice; None: whole windows.

    Raises:
        ConfigError: there is nothing in the store that answers it; names the key.
    """
    if isinstance(config, MultilabelConfig):
        return Multilabel(config, store, data, served)
    if isinstance(config, ClassesConfig):
        return Classes(config, store, data, served)
    if isinstance(config, RegressionConfig):
        return Regression(config, store, data, served)
    if isinstance(config, CausalLMConfig):
        return CausalLM(config, context)
    if isinstance(config, ContrastiveConfig):
        return Contrastive(store, data)
    if isinstance(config, MaskedLMConfig):
        return MaskedLM(config, context)
    if isinstance(config, TrackConfig):
        return TrackSignal(config, store, context)
    return BaseClasses(config, store, context)
