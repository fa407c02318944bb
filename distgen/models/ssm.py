"""Selective state spaces: Mamba (Gu and Dao 2023), in the form of Mamba-2 (Dao and Gu 2024), where all channels of a head
forget at one rate, so that most of a scan is products of matrices. From both ends as in Caduceus (Schiff et al. 2024).

What each position writes into the state, how long that is kept and what is read depend on the position. The scan here is
plain torch and runs anywhere; on CUDA the kernels of the package mamba-ssm take its place where that is installed.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor, nn

from distgen.config import Positive
from distgen.config.file import TableError
from distgen.models.context import Context
from distgen.models.family import Dropout, Family
from distgen.models.heads import head
from distgen.models.layers import Convolution, fitted, highest, positions, rows
from distgen.models.schema import Schema

CHUNK = 64  # positions between which the scan looks at every pair


class SsmConfig(Family):
    """Sizes: `channels` for each base, of which the highest of `pool` go on; the first convolution is `stem_width` wide.

    `depth` layers scan positions with `expansion` times as many channels, in `heads` groups that forget at one rate each,
    and `states` numbers for each channel; before that, `width` positions are mixed. Of what it reads the first head starts
    by forgetting about all but 1 / e in one position, the last in `reach`, and those between in between. Layers scan from both
    ends, with the same weights if `tied`; `causal` ones from the first base only, so that the answer at a base depends on
    it and those before it alone. `dropout` is the share of what layers add that is left out in training.
    """

    shares_windows: ClassVar[bool] = False

    family: Literal["ssm"]
    channels: Positive = 64
    stem_width: Positive = 9
    pool: Positive = 1
    depth: Positive = 4
    expansion: Positive = 2
    heads: Positive = 8
    states: Positive = 16
    width: Positive = 4
    reach: Positive = 256
    tied: bool = True
    dropout: Dropout = 0.0
    causal: bool = False

    @model_validator(mode="after")
    def _check(self) -> SsmConfig:
        if self.inner % self.heads:
            good = max(n for n in range(1, self.heads) if self.inner % n == 0)
            raise TableError(
                f"{self.inner} channels (expansion * channels) make no {self.heads} heads. Use {good}", "heads"
            )
        if self.causal and self.pool > 1:
            raise TableError("bases that are pooled see each other, also those that come later. Use 1", "pool")
        return self

    @property
    def inner(self) -> int:
        """Channels that are scanned."""
        return self.expansion * self.channels

    @property
    def multiple(self) -> int:
        """What lengths of windows are multiples of."""
        return self.pool


class Ssm(nn.Module):
    """(B, inputs, L) to (B, outputs, L), where L is a multiple of `pool`; or to (B, outputs, 1) where a whole window has one
    answer.

    Args:
        config: its sizes.
        schema: what goes in and comes out.
        context: must be None: a scan needs what all of the window before it has left.
    """

    def __init__(self, config: SsmConfig, schema: Schema, context: Context | None = None):
        super().__init__()
        if context is not None:
            raise ValueError("a scan takes whole windows: workers cannot share them")
        D = config.channels
        self._pool, self._pads = config.pool, schema.window is not None
        self.stem = Convolution(len(schema.inputs), D, config.stem_width, causal=config.causal)
        self.blocks = nn.ModuleList(_Layer(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(D)
        self.head = head(D, schema)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x_BCL: Tensor) -> Tensor:
        x_BCL = fitted(x_BCL, self._pool, self._pads)
        x_BD1L = self.stem(x_BCL.unsqueeze(2).contiguous(memory_format=torch.channels_last))
        x_BLD = positions(F.gelu(x_BD1L, approximate="tanh"))
        x_BTD = highest(x_BLD, self._pool)
        for block in self.blocks:
            x_BTD = block(x_BTD)
        if self._pool > 1 and not self._pads:  # each base is told apart from those it was pooled with
            x_BTD = x_BLD + x_BTD.repeat_interleave(self._pool, dim=1)
        logits_BLO: Tensor = self.head(self.norm(x_BTD))
        return logits_BLO.transpose(1, 2)


class _Layer(nn.Module):
    """x + what scans of norm(x) find, on (B, T, D)."""

    def __init__(self, config: SsmConfig):
        super().__init__()
        self.norm = nn.LayerNorm(config.channels)
        self.forward_scan = _Scan(config)
        self._both = not config.causal
        self.backward_scan = _Scan(config) if self._both and not config.tied else None
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTD: Tensor) -> Tensor:
        normed_BTD = self.norm(x_BTD)
        if not self._both:
            found_BTD = self.forward_scan(normed_BTD)
        else:
            turned_BTD = normed_BTD.flip(1)
            if self.backward_scan is None:
                both_2BTD = self.forward_scan(torch.cat([normed_BTD, turned_BTD]))
                found_BTD, back_BTD = both_2BTD.unflatten(0, (2, -1)).unbind()
            else:
                found_BTD, back_BTD = self.forward_scan(normed_BTD), self.backward_scan(turned_BTD)
            found_BTD = found_BTD + back_BTD.flip(1)
        added: Tensor = self.dropout(found_BTD)
        return x_BTD + added


class _Scan(nn.Module):
    """(B, T, D) to (B, T, D), where a position sees itself and what is before it: Mamba-2's block without its norm and sum."""

    def __init__(self, config: SsmConfig):
        super().__init__()
        D, E, N, H = config.channels, config.inner, config.states, config.heads
        self._sizes, self._heads, self._kernel = [E, E + 2 * N, H], H, _kernel()
        self.enter = nn.Linear(D, 2 * E + 2 * N + H, bias=False)
        self.short = Convolution(E + 2 * N, E + 2 * N, config.width, causal=True, groups=E + 2 * N)
        # What has one axis neither decays nor is made orthogonal.
        step_H = config.reach ** -torch.linspace(0, 1, H)
        self.step = nn.Parameter(step_H.expm1().log())  # softplus of it is the step
        self.log_rate = nn.Parameter(torch.zeros(H))
        self.skip = nn.Parameter(torch.ones(H))
        self.norm = nn.RMSNorm(E)
        self.out = nn.Linear(E, D, bias=False)
        # What is written and read is multiplied: each has to start with about the variance of what comes in, or the scan
        # adds next to nothing to what it skips.
        nn.init.normal_(self.enter.weight, std=D**-0.5)
        nn.init.normal_(self.short.weight, std=config.width**-0.5)
        with torch.no_grad():  # so that the sum over all layers starts with the variance of one
            self.out.weight /= math.sqrt(config.depth * (2 - config.causal))

    def forward(self, x_BTD: Tensor) -> Tensor:
        gate_BTE, mixed_BTF, step_BTH = self.enter(x_BTD).split(self._sizes, dim=-1)
        mixed_BTF = F.silu(positions(self.short(rows(mixed_BTF))))
        E, N = self._sizes[0], (self._sizes[1] - self._sizes[0]) // 2
        x_BTE, write_BTN, read_BTN = mixed_BTF.split([E, N, N], dim=-1)
        x_BTHP = x_BTE.unflatten(-1, (self._heads, -1))
        with torch.autocast(x_BTD.device.type, enabled=False):
            wide = torch.promote_types(x_BTD.dtype, torch.float32)
            step_BTH = F.softplus(step_BTH.to(wide) + self.step.to(wide))
            rate_H = -self.log_rate.to(wide).exp()
            if self._kernel and x_BTD.is_cuda and not torch.are_deterministic_algorithms_enabled():
                y_BTHP = by_kernel(self._kernel, x_BTHP, step_BTH, rate_H, write_BTN, read_BTN)
            else:
                y_BTHP = scan(x_BTHP, step_BTH, rate_H, write_BTN, read_BTN)
        y_BTE = (y_BTHP + self.skip[:, None] * x_BTHP).flatten(2)
        out_BTD: Tensor = self.out(self.norm(y_BTE * F.silu(gate_BTE)))
        return out_BTD


def scan(x_BTHP: Tensor, step_BTH: Tensor, rate_H: Tensor, write_BTN: Tensor, read_BTN: Tensor) -> Tensor:
    """y[t] = read[t] · h[t], where h[t] = exp(step[t] * rate) * h[t - 1] + step[t] * write[t] x[t] for each channel of a head.

    In chunks of at most 64 positions: pairs of positions by products of matrices, and from chunk to chunk by the states at
    their ends (Dao and Gu 2024, section 6). What is kept of x[s] at t is exp of the sum of step * rate between both, which
    is a difference of two sums: these are taken in float64, for they may be a million times what is between them. No
    exponent is above 0, so nothing overflows, however quickly a head forgets.

    For each position, head and other position of its chunk it takes some five numbers at most and keeps two for the
    gradient, and the state once for each chunk: of 8 heads of 16 channels and 16 states 15 KB a position, measured forward
    and backward on 65,536.

    Args:
        x_BTHP: (B, T, H, P), P channels in each of H heads.
        step_BTH: (B, T, H), above 0.
        rate_H: (H,), below 0.
        write_BTN, read_BTN: (B, T, N), the same for all heads.

    Returns:
        (B, T, H, P) of x's dtype; sums are float32, or float64 if x is.
    """
    T, wide = x_BTHP.shape[1], torch.promote_types(x_BTHP.dtype, torch.float32)
    chunks = -(-T // CHUNK)
    c = -(-T // chunks)

    def cut(part: Tensor) -> Tensor:
        """(B, T, …) as (B, K, c, …): steps of 0 at the end keep everything and write nothing."""
        ends = (0, 0) * (part.ndim - 2) + (0, chunks * c - T)
        pieces: Tensor = F.pad(part.to(wide), ends).unflatten(1, (chunks, c))
        return pieces

    step_BKcH, write_BKcN, read_BKcN = cut(step_BTH), cut(write_BTN), cut(read_BTN)
    x_BKHcP = (cut(x_BTHP) * step_BKcH[..., None]).transpose(2, 3)
    until_BKHc = _sums((step_BKcH * rate_H).transpose(2, 3))
    later_cc = torch.ones(c, c, dtype=torch.bool, device=x_BTHP.device).triu(1)
    between_BKHcc = (until_BKHc[..., :, None] - until_BKHc[..., None, :]).to(wide)
    kept_BKHcc = between_BKHcc.masked_fill(later_cc, -math.inf).exp()
    alike_BK1cc = (read_BKcN @ write_BKcN.transpose(-1, -2))[:, :, None]
    y_BKHcP = (kept_BKHcc * alike_BK1cc) @ x_BKHcP
    if chunks > 1:
        # What each chunk but the last leaves to those after it.
        left_BKHPN = (x_BKHcP * kept_BKHcc[..., -1, :, None])[:, :-1].transpose(-1, -2) @ write_BKcN[:, :-1, None]
        all_BKH11 = until_BKHc[:, :-1, :, -1, None, None].to(wide).exp()
        state_BKHPN = accumulated(all_BKH11, left_BKHPN)
        found_BKHcP = read_BKcN[:, 1:, None] @ state_BKHPN.transpose(-1, -2)
        found_BKHcP = found_BKHcP * until_BKHc[:, 1:, :, :, None].to(wide).exp()
        y_BKHcP = y_BKHcP + F.pad(found_BKHcP, (0, 0) * 3 + (1, 0))
    y_BTHP: Tensor = y_BKHcP.transpose(2, 3).flatten(1, 2)[:, :T]
    return y_BTHP.to(x_BTHP.dtype)


def _sums(x_BKHc: Tensor) -> Tensor:
    """Of the first 1, 2, 3, … numbers of the last axis, in float64."""
    # Not cumsum: on the GPU it is none of the deterministic algorithms.
    ones_cc = torch.ones(x_BKHc.shape[-1], x_BKHc.shape[-1], dtype=torch.float64, device=x_BKHc.device).triu()
    return x_BKHc.double() @ ones_cc


def accumulated(decay_BK: Tensor, x_BK: Tensor) -> Tensor:
    """h[k] = decay[k] * h[k - 1] + x[k], along the second axis: a tree of depth log2 K with 2 K products (Blelloch 1990).

    Args:
        decay_BK: (B, K, …).
        x_BK: (B, K, …); the rest of their shapes is broadcast.

    Returns:
        As x.
    """
    K = x_BK.shape[1]
    if K == 1:
        return x_BK
    even_decay, odd_decay = decay_BK[:, 0 : K - 1 : 2], decay_BK[:, 1::2]
    odd = accumulated(even_decay * odd_decay, odd_decay * x_BK[:, 0 : K - 1 : 2] + x_BK[:, 1::2])
    later = decay_BK[:, 2::2] * odd[:, : (K - 1) // 2] + x_BK[:, 2::2]
    even = torch.cat([x_BK[:, :1], later], dim=1)
    woven = torch.stack([even[:, : K // 2], odd], dim=2).flatten(1, 2)
    return woven if K % 2 == 0 else torch.cat([woven, even[:, -1:]], dim=1)


Kernel = Callable[..., Any]


def _kernel() -> Kernel | None:
    """The scan of the package mamba-ssm, where it is installed and there is a GPU for it."""
    if not torch.cuda.is_available() or importlib.util.find_spec("mamba_ssm") is None:
        return None
    kernel: Kernel = importlib.import_module("mamba_ssm.ops.triton.ssd_combined").mamba_chunk_scan_combined
    return kernel


def by_kernel(
    kernel: Kernel, x_BTHP: Tensor, step_BTH: Tensor, rate_H: Tensor, write_BTN: Tensor, read_BTN: Tensor
) -> Tensor:
    """As `scan`, by mamba-ssm, but for rounding: it adds up gradients in no fixed order, and states in x's dtype."""
    y_BTHP: Tensor = kernel(
        x_BTHP.contiguous(),
        step_BTH.contiguous(),
        rate_H,
        write_BTN[:, :, None].contiguous(),
        read_BTN[:, :, None].contiguous(),
        CHUNK,
    )
    return y_BTHP
