"""Mixed precision: what is computed in how many bits."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn

from distgen.errors import ConfigError
from distgen.train.parallel import local, total_norm

log = logging.getLogger("distgen")

# Powers of two, so that scaling changes no bit of float32 and bfloat16 gradients. A gradient of the mean itself that
# float16 cannot hold is no longer a matter of scale.
_FIRST, _LEAST, _MOST = 2.0**16, 1.0, 2.0**24
_GROWS_AFTER = 2000  # steps in which nothing overflowed


class Precision:
    """How a step computes.

    Gradients are those of the loss summed over targets; float16 holds them only if the sum is scaled down to about a mean,
    and then up again by a factor that follows what overflows (Micikevicius et al. 2018): a step whose gradient is not
    finite is left out and halves the factor, and 2,000 in a row that are finite double it.

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

    @property
    def scale(self) -> float:
        """What the loss is multiplied by; 1 but in float16."""
        return self._scale

    def autocast(self) -> Any:
        """Around everything that goes through the model."""
        return torch.autocast(self._device.type, self.dtype, enabled=self.dtype != torch.float32)

    def scaled(self, total: Tensor) -> Tensor:
        """The loss to go backward from."""
        return total * (self._sum * self._scale)

    def mean(self, parameters: list[nn.Parameter], count: Tensor, clip_norm: float) -> Tensor:
        """Make gradients of `scaled` losses those of the mean over `count` targets, no longer than `clip_norm`. Where nobody
        has a target nothing moves.

        Returns:
            The norm they had, of all parameters on all workers.
        """
        gradients = [p.grad for p in parameters if p.grad is not None]
        factor = (1 / count).nan_to_num(posinf=0).float() / (self._sum * self._scale)
        norm = total_norm(gradients) * factor
        torch._foreach_mul_([local(g) for g in gradients], factor * (clip_norm / (norm + 1e-6)).clamp(max=1))
        return norm

    def skips(self, total: Tensor, norm: Tensor) -> bool:
        """Whether a step is left out because its gradient overflowed. Only float16 asks, and waits for the device: another
        scale may make the next one finite. Not where none would, since the loss `total` itself is not finite or the
        scale the least: then numbers are left as they are for who looks at them."""
        if self.dtype != torch.float16:
            return False
        if bool(norm.isfinite()):
            self._good += 1
            if self._good % _GROWS_AFTER == 0:
                self._scale = min(self._scale * 2, _MOST)
            return False
        if self._scale <= _LEAST or not bool(total.isfinite()):
            return False
        self._good, self._scale = 0, self._scale / 2
        return True

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps of it."""
        return {"scale": self._scale, "good": self._good}

    def load(self, state: dict[str, float]) -> None:
        """Go on as `state` says."""
        self._scale, self._good = state["scale"], int(state["good"])


def multiplied(device: torch.device) -> list[str]:
    """The precisions that a device has multipliers for; it emulates others, or lacks them."""
    if device.type == "cuda":
        least = {"fp16": (7, 0), "bf16": (8, 0), "fp8": (8, 9)}
        capability = torch.cuda.get_device_capability(device)
        return ["fp32", *(name for name, needed in least.items() if capability >= needed)]
    features = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    found = (name for name in ("fp16", "bf16") if features.get(f"avx512_{name}") or features.get(f"amx_{name}"))
    return ["fp32", *found]


def check_precision(asked: str, device: torch.device) -> None:
    """Refuse a precision that a device lacks, and warn of one that it emulates.

    Raises:
        ConfigError: what the device is, and what would work there.
    """
    has = multiplied(device)
    if asked in ("auto", *has):
        return
    name = "the CPU"
    if device.type == "cuda":
        name = f"{torch.cuda.get_device_name(device)} (compute capability {'.'.join(map(str, torch.cuda.get_device_capability(device)))})"
    if asked == "fp8":
        raise ConfigError(f'{name} cannot multiply "fp8", which takes compute capability 8.9. Use {" or ".join(has)}.')
    log.warning("%s has no multipliers for %s and computes it slowly; it has them for %s", name, asked, ", ".join(has))
