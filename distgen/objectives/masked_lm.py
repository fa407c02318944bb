"""Masked language modelling: guess hidden bases from both sides."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor
from torchmetrics import MeanMetric

from distgen import kernels
from distgen.config import Rate, Section
from distgen.loader.batch import Batch


class MaskedLMConfig(Section):
    """`rate` of the bases are hidden; of these, `mask` become the mask, `random` another base, the rest stay."""

    kind: Literal["masked_lm"]
    rate: Rate = 0.15
    mask: Annotated[float, Field(ge=0, le=1)] = 0.8
    random: Annotated[float, Field(ge=0, le=1)] = 0.1

    @model_validator(mode="after")
    def _check(self) -> MaskedLMConfig:
        if self.mask + self.random > 1:
            raise ValueError(f"mask {self.mask} and random {self.random} are more than 1 together")
        return self


class MaskedLM:
    """Five input channels: A, C, G, T and the mask; an ambiguous base is all zeros."""

    in_channels = 5
    out_channels = 4
    tracks: tuple[str, ...] = ()

    def __init__(self, config: MaskedLMConfig):
        self._config = config
        self._channels = torch.tensor([0, 1, 2, 3, kernels.MASK_ID], dtype=torch.uint8)

    def encode(self, batch: Batch, dtype: torch.dtype, *, evaluating: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Evaluation hides every chosen base, so that nothing is scored that the model could see."""
        config = self._config
        codes_BL = kernels.tokens(**batch.packed)
        shares = {"mask": 1.0, "random": 0.0} if evaluating else {"mask": config.mask, "random": config.random}
        inputs_BL, target_BL = kernels.mask_tokens(codes_BL, batch.keys, config.rate, **shares)
        channels = self._channels.to(inputs_BL.device)
        x_BCL = (inputs_BL[:, None, :] == channels[:, None]).to(dtype)
        valid_BL = (target_BL >= 0) & (batch.weight[:, None] > 0)
        crop = (batch.length - batch.target_length) // 2  # only the window's middle is this window's to score
        valid_BL[:, :crop] = False
        valid_BL[:, crop + batch.target_length :] = False
        return x_BCL, target_BL, valid_BL

    def loss(self, logits_BOL: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        chosen = logits_BOL.transpose(1, 2)[valid]
        return F.cross_entropy(chosen.float(), target[valid], reduction="sum"), valid.sum()

    def metrics(self, device: torch.device) -> MaskedLMMetrics:
        return MaskedLMMetrics(device)


class MaskedLMMetrics:
    """Bits per hidden base and the share guessed right."""

    def __init__(self, device: torch.device) -> None:
        self._bits, self._right = MeanMetric().to(device), MeanMetric().to(device)

    def update(self, logits_BOL: Tensor, target: Tensor, valid: Tensor) -> None:
        chosen = logits_BOL.transpose(1, 2)[valid].float()
        self._bits.update(F.cross_entropy(chosen, target[valid], reduction="none") / math.log(2))
        self._right.update((chosen.argmax(1) == target[valid]).float())

    def compute(self) -> dict[str, float | dict[str, float]]:
        bits = float(self._bits.compute())
        return {"loss": bits * math.log(2), "bits_per_base": bits, "accuracy": float(self._right.compute())}
