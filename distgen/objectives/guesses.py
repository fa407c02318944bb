"""What language models share: each guesses bases, and is judged by the bits that these cost it (Shannon 1951)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from distgen import kernels
from distgen.objectives.mean import mean

KINDS = ("masked_lm", "causal_lm")


class BaseGuesses:
    """Four outputs for each base: how probable A, C, G and T are there."""

    outputs: tuple[str, ...] = ("A", "C", "G", "T")
    out_channels = 4
    tracks: tuple[str, ...] = ()
    bin_bp = 1
    window: int | None = None

    def loss(self, logits_BOL: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        losses_BL = F.cross_entropy(logits_BOL.float(), target, ignore_index=kernels.IGNORE_INDEX, reduction="none")
        return (losses_BL * valid).sum(), valid.sum()

    def average(self, logits_MBOL: Tensor) -> Tensor:
        """The logarithms of the mean probabilities of the four bases."""
        return logits_MBOL.float().log_softmax(2).logsumexp(0) - math.log(len(logits_MBOL))

    def metrics(self, device: torch.device) -> BitsPerBase:
        return BitsPerBase(device)


class BitsPerBase:
    """Bits per base that was to be guessed, and the share guessed right."""

    def __init__(self, device: torch.device) -> None:
        self._bits, self._right = mean(device), mean(device)

    def update(self, logits_BOL: Tensor, target: Tensor, valid: Tensor) -> None:
        counts = valid > 0
        chosen = logits_BOL.transpose(1, 2)[counts].float()
        self._bits.update(F.cross_entropy(chosen, target[counts], reduction="none") / math.log(2))
        self._right.update((chosen.argmax(1) == target[counts]).float())

    def compute(self) -> dict[str, float | dict[str, float]]:
        bits = float(self._bits.compute())
        return {"loss": bits * math.log(2), "bits_per_base": bits, "accuracy": float(self._right.compute())}
