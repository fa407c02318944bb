"""Causal language modelling: guess the next base from those before it (Shannon 1951; of genomes, Nguyen et al. 2023)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from distgen import kernels
from distgen.config import Section
from distgen.genome import AMBIGUOUS
from distgen.loader.batch import Batch
from distgen.models.context import Context
from distgen.objectives.guesses import BaseGuesses


class CausalLMConfig(Section):
    """It has no options; the model's `causal` must be true.

    The bases in a window's middle, `data.target_length` of them, are scored: with overlapping windows each base once, and
    each with as much before it as a window has before its middle. Where the middle is all of the window, its first base
    has nothing before it and is not scored.
    """

    kind: Literal["causal_lm"]


class CausalLM(BaseGuesses):
    """Four input channels (one-hot); what comes out at a base says what the next one is."""

    inputs: tuple[str, ...] = ("A", "C", "G", "T")
    in_channels = 4
    # What is before a base on one strand is after it on the other: no answer there follows from the answer here.
    swap: tuple[tuple[str, str], ...] | None = None

    def __init__(self, config: CausalLMConfig, context: Context | None = None):
        self._context = context

    def encode(self, batch: Batch, dtype: torch.dtype, *, evaluating: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        next_BL = F.pad(kernels.tokens(**batch.packed)[:, 1:], (0, 1), value=AMBIGUOUS)
        target_BL = torch.where(next_BL < AMBIGUOUS, next_BL.long(), kernels.IGNORE_INDEX)
        valid_BL = (next_BL < AMBIGUOUS) & (batch.weight[:, None] > 0)
        crop = (batch.length - batch.target_length) // 2  # only the window's middle is this window's to score
        valid_BL[:, : max(crop - 1, 0)] = False
        valid_BL[:, max(crop - 1 + batch.target_length, 0) :] = False
        if self._context is None:
            return kernels.one_hot(**batch.packed, dtype=dtype), target_BL, valid_BL
        first, end = self._context.part(batch.length)
        x_BCL = kernels.one_hot(**batch.stretch(first, end), dtype=dtype)
        return x_BCL, target_BL[:, first:end], valid_BL[:, first:end]
