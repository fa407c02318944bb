"""The first convolution on one core: conv_stem beside one_hot and torch's conv1d, forward and with gradients: python -m benchmarks.stem

A case is timed only after its result equals torch's. One-hot windows for torch come from this package's own op, so that
convolutions are compared, not encodings.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import machine, median_seconds, table
from distgen import kernels

BASES, WINDOW, ROWS, TAPS = 1 << 24, 8192, 8, 15
CASES = [(64, "none", 1), (256, "none", 1), (64, "gelu", 1), (256, "gelu", 4)]  # features, activation, pool


def works(features: int, activation: str, pool: int, dtype: torch.dtype) -> dict[str, Callable[[], Tensor]]:
    """The stem by each way, from packed bases to what the next layer takes."""
    generator = torch.Generator().manual_seed(0)
    plane = torch.randint(0, 256, (BASES // 4,), dtype=torch.uint8, generator=generator)
    starts = torch.randint(0, BASES - WINDOW, (ROWS,), generator=generator)
    weight = torch.randn(features, 4, TAPS, generator=generator).to(dtype).requires_grad_()
    bias = torch.randn(features, generator=generator).to(dtype).requires_grad_()

    def by_torch() -> Tensor:
        y = F.conv1d(kernels.one_hot(plane, starts, WINDOW, dtype=dtype), weight, bias, padding="same")
        y = F.gelu(y) if activation == "gelu" else y
        return F.max_pool1d(y, pool) if pool > 1 else y

    def by_stem() -> Tensor:
        return kernels.conv_stem(plane, starts, WINDOW, weight, bias, activation=activation, pool=pool)

    return {"torch": by_torch, "conv_stem": by_stem}


def milliseconds(work: Callable[[], Tensor], *, backward: bool) -> float:
    def step() -> None:
        out = work()
        if backward:
            out.backward(torch.ones_like(out))

    with torch.set_grad_enabled(backward):
        return median_seconds(step, 9) * 1e3


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        for features, activation, pool in CASES:
            ways = works(features, activation, pool, dtype)
            tolerance = 1e-4 if dtype == torch.float32 else 5e-2
            torch.testing.assert_close(ways["conv_stem"](), ways["torch"](), rtol=tolerance, atol=tolerance)
            name = f"{str(dtype).removeprefix('torch.')}, {features} features, {activation}, pool {pool}"
            row = [name]
            for backward in (False, True):
                one, other = (milliseconds(work, backward=backward) for work in ways.values())
                row += [f"{one:.1f}", f"{other:.1f}", f"{one / other:.1f}"]
            rows.append(tuple(row))
    print(machine(), "\n")
    table(
        (
            "one core",
            "forward: torch, ms",
            "conv_stem, ms",
            "times",
            "with gradients: torch, ms",
            "conv_stem, ms",
            "times",
        ),
        rows,
    )


if __name__ == "__main__":
    main()
