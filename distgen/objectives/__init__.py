"""Questions: one file each, with what goes into the model, the loss and the metrics."""

from __future__ import annotations

from typing import Annotated, Protocol

import torch
from pydantic import Field
from torch import Tensor

from distgen.config import Sample
from distgen.loader.batch import Batch
from distgen.models.context import Context
from distgen.objectives.base_classes import BaseClasses, BaseClassesConfig
from distgen.objectives.contrastive import Contrastive, ContrastiveConfig
from distgen.objectives.masked_lm import MaskedLM, MaskedLMConfig
from distgen.objectives.multilabel import Multilabel, MultilabelConfig
from distgen.objectives.source import Stores

ObjectiveConfig = Annotated[
    BaseClassesConfig | ContrastiveConfig | MaskedLMConfig | MultilabelConfig,
    Field(discriminator="kind"),
]


class Metrics(Protocol):
    """Collects predictions of a whole split; `compute` gives the exact value over all ranks."""

    def update(self, logits_BOL: Tensor, target: Tensor, valid: Tensor) -> None:
        """Add a batch: float logits (B, O, L), or (B, O, 1) for windows that have one answer each, and targets and their
        validity as `Objective.encode` gives them."""

    def compute(self) -> dict[str, float | dict[str, float]]:
        """Metrics by name, some of them by class; "loss" (nats per target) is always among them."""


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


def build(config: ObjectiveConfig, store: Stores, data: Sample, context: Context | None = None) -> Objective:
    """The objective that a run's `[objective]` describes.

    Args:
        config: of a question.
        store: whose tracks or labels are meant, or a collection's.
        data: `[data]` of the run.
        context: the workers that share each window, of which each encodes a slice; None: whole windows.

    Raises:
        ConfigError: there is nothing in the store that answers it; names the key.
    """
    if isinstance(config, MultilabelConfig):
        return Multilabel(config, store, data)
    if isinstance(config, ContrastiveConfig):
        return Contrastive(store, data)
    if isinstance(config, MaskedLMConfig):
        return MaskedLM(config, context)
    return BaseClasses(config, store, context)
