"""Answers that are each an independent yes or no."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from distgen.errors import some


def losses(scores: Tensor, target: Tensor, smoothing: float = 0.0, focal: float = 0.0) -> Tensor:
    """The binary cross entropy of each answer, float32.

    Args:
        scores: logits of a yes, float32.
        target: above 0 where the answer is yes.
        smoothing: the share of each answer that is taken to be drawn evenly from yes and no (Szegedy et al. 2016).
        focal: an answer weighs (1 - p) ** focal, where p is what the model gives to it (Lin et al. 2017).
    """
    yes = (target > 0).float()
    found = F.binary_cross_entropy_with_logits(scores, yes * (1 - smoothing) + smoothing / 2, reduction="none")
    if not focal:
        return found
    return found * torch.sigmoid(torch.where(target > 0, -scores, scores)) ** focal


def average(logits_M: Tensor) -> Tensor:
    """Of the logits (M, ...) of M models, those of the mean probability of a yes, float32 (...)."""
    yes, no = (F.logsigmoid(sign * logits_M.float()).logsumexp(0) for sign in (1, -1))
    return yes - no


def one_sided(names: Sequence[str], yes: Tensor, known: Tensor, what: str) -> str:
    """Which questions are answered one way only, or never; "" if none is.

    Args:
        names: of the questions.
        yes, known: (questions,) how often the answer is yes, and how often it is known.
        what: has an answer.
    """
    rows = list(zip(names, yes.tolist(), known.tolist(), strict=True))
    never = [name for name, said, _ in rows if not said]
    always = [name for name, said, of in rows if said == of and said]
    said = [f"no {what} is a yes to {some(never)}"] * bool(never) + [f"every one is to {some(always)}"] * bool(always)
    return "; ".join(said)
