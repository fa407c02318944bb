"""How many floating-point operations a step takes, and how many a device can do: what MFU is the ratio of."""

from __future__ import annotations

import copy
import time
from typing import Any, Literal

import torch
from torch import nn

# Dense multiplications with tensor cores, without sparsity and at the boost clock, as the makers' data sheets have them.
# TFLOP/s in bfloat16 and float16 by how a device's name begins; of several that fit, the longest. A device that is not here
# has no MFU unless the run says what it can do (log.peak_tflops). float32 is left out: convolutions run it as TF32 by
# default and matrix products do not, so no one figure is the peak.
PEAK_TFLOPS = {
    "NVIDIA A100": {"bf16": 312.0, "fp16": 312.0},
    "NVIDIA H100 80GB HBM3": {"bf16": 989.4, "fp16": 989.4},
    "NVIDIA H100 PCIe": {"bf16": 756.5, "fp16": 756.5},
    "NVIDIA H100 NVL": {"bf16": 835.5, "fp16": 835.5},
    "NVIDIA H200": {"bf16": 989.4, "fp16": 989.4},
    "NVIDIA H200 NVL": {"bf16": 835.5, "fp16": 835.5},
    "NVIDIA L4": {"bf16": 121.0, "fp16": 121.0},
    "NVIDIA L40S": {"bf16": 362.0, "fp16": 362.0},
    "Tesla T4": {"fp16": 65.0},
    "Tesla V100-SXM2": {"fp16": 125.0},
}
_NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16"}
_SIDE = 2048  # of the matrices that are multiplied to measure a device
_SECONDS = 0.5


class Flops:
    """Floating-point operations of forward and backward on one row: multiplications and additions of convolutions, matrix
    products and attention, counted by torch as it walks a twin of the model without numbers (on the meta device).

    What is computed twice to save memory counts once, and what frozen parameters spare is not counted: MFU as Chowdhery et
    al. 2022 (PaLM, appendix B) define it.

    Args:
        model: as it was made, before it is compiled or sharded.
        in_channels: of its input, which is (rows, in_channels, bases).
        context: the workers that share each window, as the model knows them; the twin takes whole windows.
    """

    def __init__(self, model: nn.Module, in_channels: int, context: object = None):
        # What deepcopy finds in its memo it does not copy: no parameter is in memory twice.
        memo: dict[int, Any] = {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in model.parameters()}
        memo |= {id(b): b.detach().to("meta") for b in model.buffers()} | {id(context): None}
        self._twin, self._channels = copy.deepcopy(model, memo), in_channels
        self._counted: dict[int, int] = {}

    def __call__(self, length: int) -> int:
        """Of one row of so many bases."""
        if length not in self._counted:
            from torch.utils.flop_counter import FlopCounterMode  # imports Triton: a third of a second

            x_1CL = torch.empty(1, self._channels, length, device="meta")
            with FlopCounterMode(display=False) as counter:
                self._twin(x_1CL).sum().backward()
            self._twin.zero_grad()
            self._counted[length] = counter.get_total_flops()
        return self._counted[length]


def peak_flops(
    device: torch.device, dtype: torch.dtype, said: float | Literal["measure"] | None = None
) -> float | None:
    """Operations a second that a device can do; None if it is not in `PEAK_TFLOPS`.

    Args:
        device, dtype: what computes, in what.
        said: TFLOP/s that it can do, or "measure": those of a product of large matrices, which takes half a second.
    """
    if said == "measure":
        return _measured(device, dtype)
    if said is None and device.type == "cuda":
        said = _listed(torch.cuda.get_device_name(device), dtype)
    return None if said is None else said * 1e12


def _listed(name: str, dtype: torch.dtype) -> float | None:
    """TFLOP/s by the name of a device; a slice of one (MIG) has its name and less."""
    if " MIG " in name:
        return None
    fitting = [known for known in PEAK_TFLOPS if name == known or name.startswith((f"{known} ", f"{known}-"))]
    return PEAK_TFLOPS[max(fitting, key=len)].get(_NAMES.get(dtype, "")) if fitting else None


def _measured(device: torch.device, dtype: torch.dtype) -> float:
    """The fastest of some products of square matrices."""
    a, b = (torch.ones(_SIDE, _SIDE, device=device, dtype=dtype) for _ in range(2))
    torch.mm(a, b)
    best, until = float("inf"), time.perf_counter() + _SECONDS
    while time.perf_counter() < until:
        _finish(device)
        began = time.perf_counter()
        torch.mm(a, b)
        _finish(device)
        best = min(best, time.perf_counter() - began)
    return 2 * _SIDE**3 / best


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
