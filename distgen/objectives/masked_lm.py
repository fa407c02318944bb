"""Masked language modelling: guess hidden bases from both sides."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from distgen import kernels
from distgen.config import Positive, Rate, Section
from distgen.loader.batch import Batch
from distgen.models.context import Context
from distgen.objectives.guesses import BaseGuesses


class MaskedLMConfig(Section):
    """`rate` of the bases are hidden; of these, `mask` become the mask, `random` another base, the rest stay.

    Bases are hidden in stretches of `span`. Of soft-masked bases (repeats), `softmask_rate` are hidden in training, and
    each weighs `softmask_weight` in the loss; validation hides and weighs all alike.
    """

    kind: Literal["masked_lm"]
    rate: Rate = 0.15
    mask: Annotated[float, Field(ge=0, le=1)] = 0.8
    random: Annotated[float, Field(ge=0, le=1)] = 0.1
    span: Positive = 1
    softmask_rate: Annotated[float, Field(ge=0, lt=1)] | None = None
    softmask_weight: Annotated[float, Field(ge=0, le=1)] = 1.0

    @model_validator(mode="after")
    def _check(self) -> MaskedLMConfig:
        if self.mask + self.random > 1:
            raise ValueError(f"mask {self.mask} and random {self.random} are more than 1 together")
        return self


class MaskedLM(BaseGuesses):
    """Five input channels: A, C, G, T and the mask; an ambiguous base is all zeros."""

    inputs: tuple[str, ...] = ("A", "C", "G", "T", "mask")
    in_channels = 5
    swap: tuple[tuple[str, str], ...] | None = (("A", "T"), ("C", "G"))

    def __init__(self, config: MaskedLMConfig, context: Context | None = None):
        self._config, self._context = config, context

    def encode(self, batch: Batch, dtype: torch.dtype, *, evaluating: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Evaluation hides every chosen base, so that nothing is scored that the model could see."""
        config = self._config
        codes_BL = kernels.tokens(**batch.packed)
        mask, random = (1.0, 0.0) if evaluating else (config.mask, config.random)
        softmask_BL = None if evaluating else self._softmask(batch)
        rate = None if softmask_BL is None else config.rate if config.softmask_rate is None else config.softmask_rate
        inputs_BL, target_BL = kernels.mask_tokens(
            codes_BL,
            batch.keys,
            config.rate,
            mask=mask,
            random=random,
            softmask=softmask_BL,
            softmask_rate=rate,
            span=config.span,
        )
        weight_BL = (target_BL >= 0) * (batch.weight[:, None] > 0).float()
        if softmask_BL is not None:
            weight_BL = torch.where(softmask_BL, weight_BL * config.softmask_weight, weight_BL)
        crop = (batch.length - batch.target_length) // 2  # only the window's middle is this window's to score
        weight_BL[:, :crop] = 0
        weight_BL[:, crop + batch.target_length :] = 0
        if self._context is not None:
            # Draws are keyed by where a base stands in its window: all are made, a byte each, and only a slice is spread.
            part = slice(*self._context.part(batch.length))
            inputs_BL, target_BL, weight_BL = inputs_BL[:, part], target_BL[:, part], weight_BL[:, part]
        # Made where they are compared: to copy them there, the host would wait for the device.
        channels = torch.arange(self.in_channels, dtype=torch.uint8, device=inputs_BL.device)
        channels[4:] = kernels.MASK_ID
        return (inputs_BL[:, None, :] == channels[:, None]).to(dtype), target_BL, weight_BL

    def _softmask(self, batch: Batch) -> Tensor | None:
        """bool (B, L), where soft-masked bases fare otherwise than the others and there are any."""
        config = self._config
        if batch.softmask is None or (config.softmask_rate in (None, config.rate) and config.softmask_weight == 1):
            return None
        return kernels.bits(batch.softmask, batch.starts, batch.length, reverse=batch.reverse, limits=batch.limits)
