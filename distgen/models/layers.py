"""What several families are made of.

Sequences go through convolutions as (B, D, 1, L), the last axis of a 2-d convolution with one row, in channels-last order:
on the CPU that runs about three times as fast as Conv1d (oneDNN blocks over channels), and on the GPU it is the order that
tensor cores want. The same memory is (B, L, D) to everything that works on each position.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distgen.models.context import Context


def positions(x_BD1L: Tensor) -> Tensor:
    """(B, D, 1, L) as (B, L, D), a view."""
    return x_BD1L.squeeze(2).transpose(1, 2)


def rows(x_BLD: Tensor) -> Tensor:
    """(B, L, D) as (B, D, 1, L), a view."""
    return x_BLD.transpose(1, 2).unsqueeze(2)


def whole(x_BCL: Tensor, unit: int) -> Tensor:
    """A window with as many N after it (all channels 0) as make its length a multiple of `unit`."""
    return F.pad(x_BCL, (0, -x_BCL.shape[2] % unit))


class Convolution(nn.Conv2d):
    """(B, in_channels, 1, L) to (B, out_channels, 1, L), with zeros beyond the window's ends.

    Args:
        width, dilation: of the kernel, in positions.
        context: the workers that share each window; None where each has whole ones.
        causal: a position sees itself and what is before it.
        groups: of channels, each of which becomes as many others and sees none of the other groups.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int,
        dilation: int = 1,
        context: Context | None = None,
        causal: bool = False,
        groups: int = 1,
    ):
        super().__init__(in_channels, out_channels, (1, width), padding="same", dilation=(1, dilation), groups=groups)
        reach = dilation * (width - 1)
        left = (
            reach if causal else reach // 2
        )  # as padding="same" has it: of an odd number, the last stands on the right
        self.context, self._sides, self._plain = context, (left, reach - left), not causal

    def forward(self, x_BC1L: Tensor) -> Tensor:
        if self._sides == (0, 0) or (self.context is None and self._plain):
            return super().forward(x_BC1L)
        wide = F.pad(x_BC1L, self._sides) if self.context is None else self._widened(x_BC1L)
        return F.conv2d(wide, self.weight, self.bias, dilation=self.dilation, groups=self.groups)

    def _widened(self, x_BC1L: Tensor) -> Tensor:
        assert self.context is not None
        return rows(self.context.widen(positions(x_BC1L), *self._sides))


class Residual(nn.Module):
    """x + mix(gelu(conv(norm(x)))), on (B, channels, 1, L).

    Args:
        depth: how many such blocks there are: what each adds is scaled down so that the sum starts with the variance of one.
        causal: a position sees itself and what is before it.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        dilation: int,
        depth: int,
        context: Context | None = None,
        causal: bool = False,
    ):
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.conv = Convolution(channels, channels, width, dilation, context, causal)
        self.mix = nn.Conv2d(channels, channels, 1)
        with torch.no_grad():
            self.mix.weight /= math.sqrt(depth)
            nn.init.zeros_(self.mix.bias)  # type: ignore[arg-type]

    def forward(self, x_BD1L: Tensor) -> Tensor:
        normed = rows(self.norm(positions(x_BD1L)))
        mixed: Tensor = self.mix(F.gelu(self.conv(normed), approximate="tanh"))
        return x_BD1L + mixed
