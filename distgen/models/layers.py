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
from distgen.models.strands import Inside, Shared


def positions(x_BD1L: Tensor) -> Tensor:
    """(B, D, 1, L) as (B, L, D), a view."""
    return x_BD1L.squeeze(2).transpose(1, 2)


def rows(x_BLD: Tensor) -> Tensor:
    """(B, L, D) as (B, D, 1, L), a view."""
    return x_BLD.transpose(1, 2).unsqueeze(2)


def margins(length: int, unit: int, alike: bool = False) -> tuple[int, int]:
    """How many N before and after it make the length of a window a multiple of `unit`: all after it; or as many before as
    after, where it has to be `alike` from both strands.

    Raises:
        ValueError: that cannot be: an odd number of bases has no middle between positions of an even number.
    """
    missing = -length % unit
    if not alike:
        return 0, missing
    missing += unit * (missing % 2)
    if missing % 2:
        raise ValueError(f"{length} bases have no middle between positions of {unit}")
    return missing // 2, missing // 2


def fitted(x_BCL: Tensor, unit: int, pads: bool, alike: bool = False) -> Tensor:
    """A window whose length is a multiple of `unit`; where it `pads`, made so by `margins` of N (all channels 0).

    Raises:
        ValueError: it is no multiple, and must not be longer.
    """
    if pads:
        return F.pad(x_BCL, margins(x_BCL.shape[2], unit, alike))
    if x_BCL.shape[2] % unit:
        raise ValueError(f"{x_BCL.shape[2]} bases are no multiple of {unit}")
    return x_BCL


def highest(x_BTD: Tensor, pool: int) -> Tensor:
    """The highest of each `pool` positions, which T is a multiple of."""
    # Not max_pool: its gradient on the GPU is summed in no fixed order.
    return x_BTD if pool == 1 else x_BTD.unflatten(1, (-1, pool)).amax(2)


class Linear(nn.Linear):
    """(..., in_features) to (..., out_features).

    Args:
        shared: how both strands share the weights, of which `weight` and `bias` are then a part; None: they are all.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, shared: Shared | None = None):
        super().__init__(in_features, out_features, bias)
        self.shared = shared
        if shared is not None:
            self.weight = shared.keep(self.weight)
            if bias and isinstance(shared, Inside):  # of a head every output has one
                self.bias = shared.keep(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.shared is None:
            return super().forward(x)
        bias = None if self.bias is None else self.shared.whole(self.bias)
        return F.linear(x, self.shared.whole(self.weight), bias)


class LayerNorm(nn.LayerNorm):
    """(..., size) likewise, of mean 0 and variance 1 at each position, scaled and moved.

    Args:
        shared: both strands share scale and offset, of which `weight` and `bias` are then a half.
    """

    def __init__(self, size: int, shared: bool = False):
        super().__init__(size)
        self.shared = Inside() if shared else None
        if self.shared is not None:
            self.weight, self.bias = self.shared.keep(self.weight), self.shared.keep(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.shared is None:
            return super().forward(x)
        return F.layer_norm(
            x, self.normalized_shape, self.shared.whole(self.weight), self.shared.whole(self.bias), self.eps
        )


class Convolution(nn.Conv2d):
    """(B, in_channels, 1, L) to (B, out_channels, 1, L), with zeros beyond the window's ends.

    Args:
        width, dilation: of the kernel, in positions.
        context: the workers that share each window; None where each has whole ones.
        causal: a position sees itself and what is before it.
        groups: of channels, each of which becomes as many others and sees none of the other groups.
        shared: how both strands share the kernels, of which `weight` and `bias` are then a half.
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
        shared: Inside | None = None,
    ):
        super().__init__(in_channels, out_channels, (1, width), padding="same", dilation=(1, dilation), groups=groups)
        reach = dilation * (width - 1)
        left = reach if causal else reach // 2  # as padding="same" has it: the last of an odd number is on the right
        self.context, self._sides, self._plain, self.shared = context, (left, reach - left), not causal, shared
        if shared is not None:
            assert self.bias is not None
            self.weight, self.bias = shared.keep(self.weight), shared.keep(self.bias)

    @property
    def both_strands(self) -> bool:
        """Each filter of `weight` is read on both strands."""
        return self.shared is not None

    def forward(self, x_BC1L: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        if self.shared is not None:
            assert bias is not None
            weight, bias = self.shared.whole(weight), self.shared.whole(bias)
        if self._sides == (0, 0) or (self.context is None and self._plain):
            y_BD1L: Tensor = self._conv_forward(x_BC1L, weight, bias)
            return y_BD1L
        wide = F.pad(x_BC1L, self._sides) if self.context is None else self._widened(x_BC1L)
        return F.conv2d(wide, weight, bias, dilation=self.dilation, groups=self.groups)

    def _widened(self, x_BC1L: Tensor) -> Tensor:
        assert self.context is not None
        return rows(self.context.widen(positions(x_BC1L), *self._sides))


class Residual(nn.Module):
    """x + dropout(mix(gelu(conv(norm(x))))), on (B, channels, 1, L).

    Args:
        depth: how many such blocks there are: what each adds is scaled down so that the sum starts with the variance of one.
        causal: a position sees itself and what is before it.
        shared: both strands share the weights.
        dropout: the share of what the block adds that is left out in training.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        dilation: int,
        depth: int,
        context: Context | None = None,
        causal: bool = False,
        shared: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.norm = LayerNorm(channels, shared)
        self.conv = Convolution(
            channels, channels, width, dilation, context, causal, shared=Inside() if shared else None
        )
        self.mix = Convolution(channels, channels, 1, shared=Inside() if shared else None)
        self.dropout = nn.Dropout(dropout)
        with torch.no_grad():
            self.mix.weight /= math.sqrt(depth)
            nn.init.zeros_(self.mix.bias)  # type: ignore[arg-type]

    def forward(self, x_BD1L: Tensor) -> Tensor:
        normed = rows(self.norm(positions(x_BD1L)))
        added: Tensor = self.dropout(self.mix(F.gelu(self.conv(normed), approximate="tanh")))
        return x_BD1L + added
