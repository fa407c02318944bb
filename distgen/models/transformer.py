"""Attention among pooled positions, between convolutions that go down to them and back up to single bases.

As in Enformer (Avsec et al. 2021) a tower of convolutions halves the sequence until attention can look at all of it, and as
in Borzoi (Linder et al. 2025) it comes back up with skip connections from where it went down (Ronneberger et al. 2015).
Pre-normalisation (Xiong et al. 2020), rotary positions (Su et al. 2021), SwiGLU (Shazeer 2020).
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from distgen.config import Positive
from distgen.config.file import TableError
from distgen.models.context import Context
from distgen.models.family import Dropout, Family
from distgen.models.heads import head
from distgen.models.layers import Convolution, LayerNorm, Linear, Residual, fitted, highest, positions, rows
from distgen.models.schema import Schema
from distgen.models.strands import Inside, check_sizes, other_inputs


class TransformerConfig(Family):
    """Sizes: `channels` for each single base; `pool` bases, a power of two, become a position with `dim`.

    Convolutions are `width` wide, the first one `stem_width`. `depth` layers attend from all positions to all with `heads`
    heads; their angles turn with frequencies from 1 to 1 / `rotary_base`. The inner layer of each feed-forward part is
    `expansion` times as wide, and of "swiglu" two thirds of that, which has as many weights. `dropout` is the share of
    what layers add that is left out in training. `causal`: a base sees itself and what is before it; `pool` is then 1, as
    bases that share a position would see one another. With `rc = "share"` a window and its reverse complement have the same
    answers (`distgen.models.strands`).
    """

    family: Literal["transformer"]
    channels: Positive = 64
    stem_width: Positive = 9
    width: Positive = 5
    pool: Positive = 16
    dim: Positive = 128
    depth: Positive = 4
    heads: Positive = 4
    mlp: Literal["swiglu", "gelu"] = "swiglu"
    expansion: Positive = 4
    rotary_base: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 10_000.0
    dropout: Dropout = 0.0
    causal: bool = False
    rc: Literal["share"] | None = None

    @model_validator(mode="after")
    def _check(self) -> TransformerConfig:
        if self.causal and self.pool > 1:
            raise TableError(f"of {self.pool} bases that share a position, the first would see the last. Use 1", "pool")
        if self.pool & (self.pool - 1):
            below = 1 << (self.pool.bit_length() - 1)
            raise TableError(f"{self.pool} is no power of two. Use {below} or {2 * below}", "pool")
        if self.dim % (2 * self.heads):
            unit = 2 * self.heads
            below = self.dim // unit * unit
            good = f"{below} or {below + unit}" if below else f"{unit}"
            problem = (
                f"{self.dim} does not divide into {self.heads} heads of an even size (angles turn pairs). Use {good}"
            )
            raise TableError(problem, "dim")
        if self.rc:
            kernels = [("stem_width", self.stem_width, 1), ("width", self.width, 1)]
            check_sizes({"channels": self.channels}, kernels, self.causal)
        return self

    @property
    def levels(self) -> list[int]:
        """Channels from single bases down to where attention is: a geometric series, in eights."""
        halvings = self.pool.bit_length() - 1
        between = (self.channels * (self.dim / self.channels) ** (n / halvings) for n in range(1, halvings))
        return [self.channels, *(max(8, round(size / 8) * 8) for size in between), *[self.dim] * (halvings > 0)]

    @property
    def hidden(self) -> int:
        """Width of the feed-forward part's inner layer: of SwiGLU in sixteens, as tensor cores want it."""
        wide = self.expansion * self.dim
        return wide if self.mlp == "gelu" else max(16, round(2 * wide / 3 / 16) * 16)

    @property
    def multiple(self) -> int:
        """What lengths of windows are multiples of."""
        return self.pool


class Transformer(nn.Module):
    """(B, inputs, L) to (B, outputs, L), where L is a multiple of `pool`; or to (B, outputs, 1) where a whole window has one
    answer.

    Args:
        config: its sizes.
        schema: what goes in and comes out.
        context: the workers that share each window, of which this one takes and gives a slice; None: whole windows.
    """

    def __init__(self, config: TransformerConfig, schema: Schema, context: Context | None = None):
        super().__init__()
        D, sizes = config.channels, config.levels
        self._pool, self._halvings, self._pads = config.pool, len(sizes) - 1, schema.window is not None
        self._shared = shared = config.rc == "share"
        strands = Inside(order=other_inputs(schema)) if shared else None
        sides: dict[str, Any] = {"context": context, "causal": config.causal}
        self.stem = Convolution(len(schema.inputs), D, config.stem_width, **sides, shared=strands)
        same = self._halvings or config.dim == D
        self.enter = nn.Identity() if same else Linear(D, config.dim, shared=Inside() if shared else None)
        steps = list(pairwise(sizes))
        blocks: list[nn.Module] = [_Down(*step, config.width, 2 * len(steps), context, shared) for step in steps]
        blocks += [_Layer(config, context) for _ in range(config.depth)]
        blocks += [_Up(*step, config.width, 2 * len(steps), context, shared) for step in reversed(steps)]
        self.blocks = nn.ModuleList(blocks)
        out = D if self._halvings else config.dim
        self.norm = LayerNorm(out, shared)
        self.head = head(out, schema, shared)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x_BCL: Tensor) -> Tensor:
        x_BCL = fitted(x_BCL, self._pool, self._pads, self._shared)
        n, blocks = self._halvings, list(self.blocks)
        x_BLD = positions(self.stem(x_BCL.unsqueeze(2).contiguous(memory_format=torch.channels_last)))
        skips: list[Tensor] = []
        for down in blocks[:n]:
            x_BLD, skip_BLD = down(x_BLD)
            skips.append(skip_BLD)
        x_BTD = self.enter(x_BLD)  # T positions of `pool` bases
        for layer in blocks[n : len(blocks) - n]:
            x_BTD = layer(x_BTD)
        x_BLD = x_BTD
        for up in blocks[len(blocks) - n :]:
            x_BLD = up(x_BLD, skips.pop())
        logits_BLO: Tensor = self.head(self.norm(x_BLD))
        return logits_BLO.transpose(1, 2)


class _Down(nn.Module):
    """(B, L, from) to (B, L / 2, to), each the higher of two positions; and what it was before, to come back to."""

    def __init__(self, size: int, wider: int, width: int, depth: int, context: Context | None, shared: bool):
        super().__init__()
        self.residual = Residual(size, width, 1, depth, context, shared=shared)
        self.mix = Linear(size, wider, shared=Inside() if shared else None)

    def forward(self, x_BLD: Tensor) -> tuple[Tensor, Tensor]:
        skip_BLD = positions(self.residual(rows(x_BLD)))
        return highest(self.mix(skip_BLD), 2), skip_BLD


class _Up(nn.Module):
    """(B, L / 2, from) to (B, L, to): each position twice, plus what was there on the way down."""

    def __init__(self, size: int, wider: int, width: int, depth: int, context: Context | None, shared: bool):
        super().__init__()
        self.mix = Linear(wider, size, shared=Inside() if shared else None)
        self.residual = Residual(size, width, 1, depth, context, shared=shared)

    def forward(self, x_BlD: Tensor, skip_BLD: Tensor) -> Tensor:
        twice_BLD = self.mix(x_BlD).unsqueeze(2).expand(-1, -1, 2, -1).flatten(1, 2)
        return positions(self.residual(rows(twice_BLD + skip_BLD)))


class _Layer(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x)), on (B, T, dim)."""

    def __init__(self, config: TransformerConfig, context: Context | None):
        super().__init__()
        D, self._gated = config.dim, config.mlp == "swiglu"
        self.context, self._heads, self._base = context, config.heads, config.rotary_base
        self._causal = config.causal
        shared, H = config.rc == "share", config.heads
        self.norm, self.mlp_norm = LayerNorm(D, shared), LayerNorm(D, shared)
        # Reversed positions turn a head's pairs (e, e + E/2) by opposite angles. As numbers x_e + i x_(e + E/2) they become
        # their conjugates; to swap the halves is that, times i, and products of queries and keys stay what they are.
        # Values swap halves inside heads as well: each head has its own weights.
        into, back = (Inside(groups=H), Inside(of=H)) if shared else (None, None)
        self.query, self.key, self.value = (Linear(D, D, bias=False, shared=into) for _ in range(3))
        self.out = Linear(D, D, bias=False, shared=back)
        gates = 1 + self._gated
        self.rise = Linear(D, config.hidden * gates, shared=Inside(groups=gates) if shared else None)
        self.fall = Linear(config.hidden, D, shared=Inside() if shared else None)
        self.dropout = nn.Dropout(config.dropout)
        with torch.no_grad():  # so that the sum over all layers starts with the variance of one
            for last in (self.out, self.fall):
                last.weight /= math.sqrt(2 * config.depth)
            nn.init.zeros_(self.fall.bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        x_BTD = x_BTD + self.dropout(self._attention(self.norm(x_BTD)))
        inner_BTF = self.rise(self.mlp_norm(x_BTD))
        if self._gated:
            gate_BTF, inner_BTF = inner_BTF.chunk(2, dim=-1)
            inner_BTF = F.silu(gate_BTF) * inner_BTF
        else:
            inner_BTF = F.gelu(inner_BTF, approximate="tanh")
        added: Tensor = self.dropout(self.fall(inner_BTF))
        return x_BTD + added

    def _attention(self, x_BTD: Tensor) -> Tensor:
        first = 0 if self.context is None else self.context.rank * x_BTD.shape[1]
        query_BTD, key_BTD = (rotated(part(x_BTD), self._heads, first, self._base) for part in (self.query, self.key))
        value_BTD = self.value(x_BTD)
        if self.context is not None:  # one exchange for both
            both = self.context.whole(torch.cat([key_BTD, value_BTD], dim=-1))
            key_BTD, value_BTD = both.chunk(2, dim=-1)
        query_BHTE, key_BHTE, value_BHTE = (
            part.unflatten(-1, (self._heads, -1)).transpose(1, 2) for part in (query_BTD, key_BTD, value_BTD)
        )
        before_TS = None
        if self._causal and first:  # `is_causal` counts queries and keys from the same first position
            before_TS = torch.ones(x_BTD.shape[1], key_BTD.shape[1], dtype=torch.bool, device=x_BTD.device).tril(first)
        plain = self._causal and before_TS is None
        seen_BHTE = F.scaled_dot_product_attention(query_BHTE, key_BHTE, value_BHTE, before_TS, is_causal=plain)
        out: Tensor = self.out(seen_BHTE.transpose(1, 2).flatten(2))
        return out


def rotated(x_BTD: Tensor, heads: int, first: int, base: float) -> Tensor:
    """Turn the pairs (e, e + E/2) of each head by an angle that grows with the position (Su et al. 2021).

    Args:
        x_BTD: (B, T, heads * E).
        first: the position of the first, in the window.
        base: frequencies fall from 1 to about 1 / base.

    Returns:
        Likewise; the product of two depends on how far apart they are, and on nothing else of where they are.
    """
    one_BTHE, other_BTHE = x_BTD.unflatten(-1, (heads, -1)).chunk(2, dim=-1)
    # In float64: at position a million, float32 is off by up to 0.03.
    position_T = torch.arange(first, first + x_BTD.shape[1], device=x_BTD.device, dtype=torch.float64)
    half = one_BTHE.shape[-1]
    frequency_E = base ** (-torch.arange(half, device=x_BTD.device, dtype=torch.float64) / half)
    angle_T1E = (position_T[:, None, None] * frequency_E).remainder(2 * math.pi)
    angle_T1E = angle_T1E.to(torch.promote_types(x_BTD.dtype, torch.float32))
    cos, sin = angle_T1E.cos(), angle_T1E.sin()
    turned = torch.cat([one_BTHE * cos - other_BTHE * sin, other_BTHE * cos + one_BTHE * sin], dim=-1)
    return turned.flatten(2).to(x_BTD.dtype)
