"""Convolutions as long as the window between gates: Hyena (Poli et al. 2023), on DNA HyenaDNA (Nguyen et al. 2023).

A filter is not a table of weights but a small network that is asked for each distance, times an exponential that falls with
it: any window has as many parameters as any other. It is applied by the fast Fourier transform, in O(L log L). Between the
long convolutions, pre-normalisation (Xiong et al. 2020) and feed-forward parts as in a transformer.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distgen.config import Positive
from distgen.models.context import Context
from distgen.models.family import Dropout, Family
from distgen.models.heads import head
from distgen.models.layers import Convolution, positions, rows
from distgen.models.schema import Schema


class LongConvConfig(Family):
    """Sizes: `channels` for each base; the first convolution is `stem_width` wide, those before each gate `width`.

    `depth` layers have one long filter for each channel. What it makes of a distance falls by 1 / e in 1 base for the first
    channel, in `reach` bases for the last, and in between for those between; the network that draws filters has
    `filter_units` units, and sees a distance by sines and cosines of `bands` periods. The inner layer of each feed-forward
    part is `expansion` times as wide. `dropout` is the share of what layers add that is left out in training. With `causal`
    the answer at a base depends on it and those before it alone.
    """

    family: Literal["longconv"]
    channels: Positive = 64
    stem_width: Positive = 9
    width: Positive = 3
    depth: Positive = 4
    reach: Positive = 1024
    filter_units: Positive = 32
    bands: Positive = 8
    expansion: Positive = 2
    dropout: Dropout = 0.0
    causal: bool = False


class LongConv(nn.Module):
    """(B, inputs, L) to (B, outputs, L), or to (B, outputs, 1) where a whole window has one answer.

    Args:
        config: its sizes.
        schema: what goes in and comes out.
        context: the workers that share each window, of which this one takes and gives a slice; None: whole windows.
    """

    def __init__(self, config: LongConvConfig, schema: Schema, context: Context | None = None):
        super().__init__()
        D = config.channels
        self.stem = Convolution(len(schema.inputs), D, config.stem_width, context=context, causal=config.causal)
        self.blocks = nn.ModuleList(_Layer(config, context) for _ in range(config.depth))
        self.norm = nn.LayerNorm(D)
        self.head = head(D, schema)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x_BCL: Tensor) -> Tensor:
        x_BD1L = self.stem(x_BCL.unsqueeze(2).contiguous(memory_format=torch.channels_last))
        x_BLD = positions(F.gelu(x_BD1L, approximate="tanh"))
        for block in self.blocks:
            x_BLD = block(x_BLD)
        logits_BLO: Tensor = self.head(self.norm(x_BLD))
        return logits_BLO.transpose(1, 2)


class _Layer(nn.Module):
    """x + gated long convolution of norm(x), then x + feed-forward(norm(x)), on (B, L, D)."""

    def __init__(self, config: LongConvConfig, context: Context | None):
        super().__init__()
        D, self.context = config.channels, context
        self.norm, self.mlp_norm = nn.LayerNorm(D), nn.LayerNorm(D)
        self.enter = nn.Linear(D, 3 * D)
        self.short = Convolution(3 * D, 3 * D, config.width, context=context, causal=config.causal, groups=3 * D)
        self.filter = Filter(config)
        self.skip = nn.Parameter(torch.ones(D))
        self.out = nn.Linear(D, D)
        self.rise = nn.Linear(D, config.expansion * D)
        self.fall = nn.Linear(config.expansion * D, D)
        self.dropout = nn.Dropout(config.dropout)
        with torch.no_grad():  # so that the sum over all layers starts with the variance of one
            for last in (self.out, self.fall):
                last.weight /= math.sqrt(2 * config.depth)
                nn.init.zeros_(last.bias)

    def forward(self, x_BLD: Tensor) -> Tensor:
        x_BLD = x_BLD + self.dropout(self._mixed(self.norm(x_BLD)))
        inner_BLF = F.gelu(self.rise(self.mlp_norm(x_BLD)), approximate="tanh")
        added: Tensor = self.dropout(self.fall(inner_BLF))
        return x_BLD + added

    def _mixed(self, x_BLD: Tensor) -> Tensor:
        gate_BLD, other_BLD, value_BLD = positions(self.short(rows(self.enter(x_BLD)))).chunk(3, dim=-1)
        value_BLD = value_BLD * other_BLD
        whole_BLD = value_BLD if self.context is None else self.context.whole(value_BLD)
        length = whole_BLD.shape[1]
        seen_BLD = convolved(whole_BLD, self.filter(length))
        if self.context is not None:
            seen_BLD = seen_BLD[:, slice(*self.context.part(length))]
        out: Tensor = self.out(gate_BLD * (seen_BLD + self.skip * value_BLD))
        return out


class Filter(nn.Module):
    """A filter for each channel, as long as asked for.

    At a distance of t bases channel c has network(t)[c] * exp(-|t| / reach_c), scaled so that what it makes of independent
    positions of variance one starts with about that variance. The network sees sin and cos of 2 pi t / period for periods
    from 4 bases to 4 * `reach`, and its units are sines, as in Hyena.
    """

    def __init__(self, config: LongConvConfig):
        super().__init__()
        self._bands, self._reach, self._causal = config.bands, config.reach, config.causal
        self._channels, units = config.channels, config.filter_units
        self.rise = nn.Linear(2 * config.bands, units)
        self.mix = nn.Linear(units, units)
        self.fall = nn.Linear(units, config.channels, bias=False)
        for layer in (self.rise, self.mix, self.fall):  # what a sine gives has about half the variance of its input
            nn.init.normal_(layer.weight, std=1.5 / math.sqrt(layer.in_features))
        for layer in (self.rise, self.mix):
            nn.init.uniform_(layer.bias, -math.pi, math.pi)

    def forward(self, length: int) -> Tensor:
        """Of all distances within a window of so many bases: (F, D) float32, of 0 to length - 1 if causal, else of
        1 - length to length - 1."""
        device = self.fall.weight.device
        # In float64: at a distance of a million, float32 would not tell the phase of short periods.
        t_F1 = torch.arange(0 if self._causal else 1 - length, length, device=device, dtype=torch.float64)[:, None]
        period_K = 4 * _spaced(self._reach, self._bands, device)
        turn_FK = (t_F1 / period_K).remainder(1).float() * (2 * math.pi)
        reach_D = _spaced(self._reach, self._channels, device)
        squares_D = 1 / -torch.expm1(-2 / reach_D)  # of the exponential, summed over 0, 1, 2, … bases
        if not self._causal:
            squares_D = 2 * squares_D - 1
        fall_FD = ((-t_F1.abs() / reach_D).exp() / squares_D.sqrt()).float()
        with torch.autocast(device.type, enabled=False):
            first, second, last = (layer.weight.float() for layer in (self.rise, self.mix, self.fall))
            seen = F.linear(torch.cat([turn_FK.sin(), turn_FK.cos()], dim=-1), first, self.rise.bias.float())
            seen = F.linear(seen.sin(), second, self.mix.bias.float())
            drawn_FD: Tensor = F.linear(seen.sin(), last) * fall_FD
        return drawn_FD


def _spaced(last: int, number: int, device: torch.device) -> Tensor:
    """So many numbers from 1 to `last`, each as many times the one before it; float64."""
    return last ** torch.linspace(0, 1, number, device=device, dtype=torch.float64)


def convolved(x_BLD: Tensor, filter_FD: Tensor) -> Tensor:
    """y[i] = sum over j of filter[i - j] * x[j], channel by channel, with zeros beyond the window's ends.

    By FFTs of at least 2 * L - 1 numbers, in float32 whatever comes in (float64 stays that). They round sums together: what
    a causal filter does not see is seen by some 1e-7 of what it does. They take about 75 bytes a base and channel, measured
    forward and backward on 65,536 bases and filters of both sides.

    Args:
        x_BLD: (B, L, D).
        filter_FD: (F, D) of the distances 0 to L - 1 (F = L: what is after a position is not seen), or of 1 - L to L - 1
            (F = 2 * L - 1).

    Returns:
        (B, L, D) of x's dtype.
    """
    length, taps = x_BLD.shape[1], filter_FD.shape[0]
    n = quick(2 * length - 1)  # so that what wraps around falls on positions that are cut off
    with torch.autocast(x_BLD.device.type, enabled=False):
        # Transforms of numbers that lie side by side take less than half the time.
        wide = torch.promote_types(x_BLD.dtype, torch.float32)
        x_BDL, filter_DF = x_BLD.to(wide).transpose(1, 2).contiguous(), filter_FD.to(wide).T.contiguous()
        y_BDn = torch.fft.irfft(torch.fft.rfft(x_BDL, n) * torch.fft.rfft(filter_DF, n), n)
    y_BLD: Tensor = y_BDn[..., taps - length : taps].transpose(1, 2)
    return y_BLD.to(x_BLD.dtype)


def quick(least: int) -> int:
    """A power of two, or three times one, of at least so much: what is transformed quickly."""
    power = 1 << (least - 1).bit_length()
    return power // 4 * 3 if power // 4 * 3 >= least else power
