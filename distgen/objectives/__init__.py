"""Questions: one file each, with what goes into the model, the loss and the metrics."""

from __future__ import annotations

from typing import Annotated, Protocol

import torch
from pydantic import Field
from torch import Tensor

from distgen.loader.batch import Batch
from distgen.models.context import Context
from distgen.objectives.base_classes import BaseClasses, BaseClassesConfig, Tracked
from distgen.objectives.masked_lm import MaskedLM, MaskedLMConfig

ObjectiveConfig = Annotated[MaskedLMConfig | BaseClassesConfig, Field(discriminator="kind")]


class Metrics(Protocol):
    """Collects predictions of a whole split; `compute` gives the exact value over all ranks."""

    def update(self, logits_BOL: Tensor, target: Tensor, valid: Tensor) -> None:
        """Add a batch: float logits (B, O, L), and targets and their validity as `Objective.encode` gives them."""

    def compute(self) -> dict[str, float | dict[str, float]]:
        """Metrics by name, some of them by class; "loss" (nats per target) is always among them."""


class Objective(Protocol):
    """What training, evaluation and prediction need to know of a question.

    Attributes:
        inputs, outputs: names of the model's channels.
        in_channels, out_channels: how many these are.
        tracks: names of the tracks the loader must serve.
        bin_bp: bases that one target is of.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    in_channels: int
    out_channels: int
    tracks: tuple[str, ...]
    bin_bp: int

    def encode(self, batch: Batch, dtype: torch.dtype, *, evaluating: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """The model's input (B, in_channels, L), the targets, and which of them count (or how much); of windows that several
        workers share, those of this one's slice."""

    def loss(self, logits_BOL: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """The loss in nats summed over valid targets, and their number (or weight)."""

    def average(self, logits_MBOL: Tensor) -> Tensor:
        """Of the logits of M models, the float32 logits (B, O, L) of their mean prediction: probabilities are averaged."""

    def metrics(self, device: torch.device) -> Metrics:
        """New, empty metrics that take predictions on a device."""


def build(config: MaskedLMConfig | BaseClassesConfig, store: Tracked, context: Context | None = None) -> Objective:
    """The objective that a run's `[objective]` describes.

    Args:
        config: of a question.
        store: whose tracks are meant, or a collection's.
        context: the workers that share each window, of which each encodes a slice; None: whole windows.

    Raises:
        ConfigError: there is no such track, or it is none of classes.
    """
    if isinstance(config, MaskedLMConfig):
        return MaskedLM(config, context)
    return BaseClasses(config, store, context)
