"""Convolutions and pooling by turns, then layers that see all of the window: DeepSEA (Zhou and Troyanskaya 2015), Basset
(Kelley et al. 2016), with residual mixing between them (He et al. 2016) and pre-normalisation (Xiong et al. 2020)."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from distgen.config import Positive
from distgen.config.file import TableError
from distgen.models.context import Context
from distgen.models.family import Dropout, Family
from distgen.models.layers import Convolution, LayerNorm, Linear, fitted, highest, margins, positions, rows
from distgen.models.schema import Schema
from distgen.models.strands import Inside, Last, check_sizes, other_inputs, other_outputs

Widths = Annotated[tuple[Positive, ...], Field(strict=False, min_length=1)]


class CnnConfig(Family):
    """Sizes: `channels`, `widths` and `pools` have one entry for each convolution, of which the first finds motifs.

    After it, the highest of `pools` positions each goes on. `hidden` units see all that is left of a window that has one
    answer; where every base has one, they see one position each. `dropout` is the share of what goes into them that is left
    out in training, and half of it of what goes into the convolutions after the first. With `rc = "share"` a window and its
    reverse complement have the same answers (`distgen.models.strands`).
    """

    family: Literal["cnn"]
    channels: Widths = (128, 128, 128)
    widths: Widths = (15, 5, 5)
    pools: Widths = (4, 4, 2)
    hidden: Positive = 128
    dropout: Dropout = 0.3
    rc: Literal["share"] | None = None

    @model_validator(mode="after")
    def _check(self) -> CnnConfig:
        for key in ("widths", "pools"):
            if len(getattr(self, key)) != len(self.channels):
                raise TableError(
                    f"has {len(getattr(self, key))} entries and channels {len(self.channels)}: one each", key
                )
        if self.rc:
            sizes = {"hidden": self.hidden} | {f"channels.{n}": size for n, size in enumerate(self.channels)}
            check_sizes(sizes, [(f"widths.{n}", width, 1) for n, width in enumerate(self.widths)])
        return self

    @property
    def multiple(self) -> int:
        """What lengths of windows are multiples of, where every base has an answer."""
        return math.prod(self.pools)

    @property
    def resolution(self) -> int:
        """Bases that share one answer, where every base has one."""
        return self.multiple

    @property
    def receptive_field(self) -> int | None:
        """Bases that one position after all pooling can see; None where that is the whole window."""
        sees, step = 1, 1
        for width, pool in zip(self.widths, self.pools, strict=True):
            sees += (width - 1) * step + (pool - 1) * step
            step *= pool
        return sees


class Cnn(nn.Module):
    """(B, inputs, L) to (B, outputs, 1) where a whole window has one answer; else to (B, outputs, L), all bases that are
    pooled together alike.

    Args:
        config: its sizes.
        schema: what goes in and comes out.
        context: the workers that share each window, of which this one takes and gives a slice; None: whole windows.
    """

    def __init__(self, config: CnnConfig, schema: Schema, context: Context | None = None):
        super().__init__()
        first, sizes, H = config.channels[0], list(zip(config.widths, config.pools, strict=True)), config.hidden
        self._multiple, self._first_pool, self._window = config.multiple, config.pools[0], schema.window
        self._shared = shared = config.rc == "share"
        strands = Inside(order=other_inputs(schema)) if shared else None
        self.stem = Convolution(len(schema.inputs), first, config.widths[0], context=context, shared=strands)
        self.blocks = nn.ModuleList(
            _Block(*channels, width, pool, config.dropout / 2, context, shared)
            for channels, (width, pool) in zip(pairwise(config.channels), sizes[1:], strict=True)
        )
        left = 1
        if schema.window is not None:
            left = (schema.window + sum(margins(schema.window, self._multiple, shared))) // self._multiple
        self.norm = LayerNorm(config.channels[-1], shared)
        self.dropout = nn.Dropout(config.dropout)
        self.hidden = Linear(config.channels[-1] * left, H, shared=Inside(of=left, turned=True) if shared else None)
        self.head = Linear(H, len(schema.outputs), shared=Last(other_outputs(schema)) if shared else None)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x_BCL: Tensor) -> Tensor:
        x_BCL = fitted(x_BCL, self._multiple, self._window is not None, self._shared)
        x_BD1L = self.stem(x_BCL.unsqueeze(2).contiguous(memory_format=torch.channels_last))
        x_BTD = highest(positions(F.gelu(x_BD1L, approximate="tanh")), self._first_pool)
        for block in self.blocks:
            x_BTD = block(x_BTD)
        x_BTD = self.norm(x_BTD)
        if self._window is not None:
            x_BTD = x_BTD.flatten(1).unsqueeze(1)
        hidden_BTH = F.gelu(self.hidden(self.dropout(x_BTD)), approximate="tanh")
        logits_BTO: Tensor = self.head(self.dropout(hidden_BTH))
        if self._window is None:
            logits_BTO = logits_BTO.repeat_interleave(self._multiple, dim=1)
        return logits_BTO.transpose(1, 2)


class _Block(nn.Module):
    """(B, T, from) to (B, T / pool, to): highest(skip(x) + gelu(conv(norm(x))))."""

    def __init__(
        self, size: int, wider: int, width: int, pool: int, dropout: float, context: Context | None, shared: bool
    ):
        super().__init__()
        self._pool = pool
        self.norm, self.dropout = LayerNorm(size, shared), nn.Dropout(dropout)
        self.conv = Convolution(size, wider, width, context=context, shared=Inside() if shared else None)
        self.skip = nn.Identity() if size == wider else Linear(size, wider, shared=Inside() if shared else None)

    def forward(self, x_BTD: Tensor) -> Tensor:
        normed_BD1T = rows(self.dropout(self.norm(x_BTD)))
        found_BTD = positions(F.gelu(self.conv(normed_BD1T), approximate="tanh"))
        return highest(self.skip(x_BTD) + found_BTD, self._pool)
