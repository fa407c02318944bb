"""Mixed precision: what is computed in how many bits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from distgen.train.parallel import local, total_norm

# Powers of two, so that scaling changes no bit of float32 and bfloat16 gradients.
_FIRST, _LEAST, _MOST = 2.0**16, 2.0**-24, 2.0**24
_GROWS_AFTER = 2000  # steps in which nothing overflowed


class Precision:
    """How a step computes.

    Gradients are those of the loss summed over targets; float16 holds them only if the sum is scaled down to about a mean,
    and then up again by a factor that follows what overflows (Micikevicius et al. 2018).

    Args:
        dtype: of what goes through the model: bfloat16, float16 or float32.
        device: where.
        targets: about how many a global batch has.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device, targets: int):
        self.dtype, self._device = dtype, device
        self._sum = 2.0 ** -(max(targets, 1).bit_length() - 1)
        self._scale = _FIRST if dtype == torch.float16 else 1.0
        self._good = 0

    def autocast(self) -> Any:
        """Around everything that goes through the model."""
        return torch.autocast(self._device.type, self.dtype, enabled=self.dtype != torch.float32)

    def scaled(self, total: Tensor) -> Tensor:
        """The loss to go backward from."""
        return total * (self._sum * self._scale)

    def mean(self, parameters: list[nn.Parameter], count: Tensor, clip_norm: float) -> Tensor:
        """Make gradients of `scaled` losses those of the mean over `count` targets, no longer than `clip_norm`; the norm they
        had. Where nobody has a target nothing moves."""
        factor = (1 / count).nan_to_num(posinf=0) / (self._sum * self._scale)
        gradients = [p.grad for p in parameters if p.grad is not None]
        torch._foreach_mul_([local(g) for g in gradients], factor.float())
        norm = total_norm(gradients)
        torch._foreach_mul_([local(g) for g in gradients], (clip_norm / (norm + 1e-6)).clamp(max=1.0))
        return norm

    def fits(self, norm: Tensor) -> bool:
        """Whether the gradients can be used. In float16 it waits for them, and scales the next ones otherwise."""
        if self.dtype != torch.float16:
            return True
        finite = bool(norm.isfinite())
        self._good = self._good + 1 if finite else 0
        if not finite:
            self._scale = max(self._scale / 2, _LEAST)
        elif self._good % _GROWS_AFTER == 0:
            self._scale = min(self._scale * 2, _MOST)
        return finite

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps of it."""
        return {"scale": self._scale, "good": self._good}

    def load(self, state: dict[str, float]) -> None:
        """Go on as `state` says."""
        self._scale, self._good = state["scale"], int(state["good"])
