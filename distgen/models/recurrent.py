"""Convolution and pooling, then layers that remember: DanQ (Quang and Xie 2016), with LSTM (Hochreiter and Schmidhuber 1997)
or GRU (Cho et al. 2014), pre-normalised and residual where there are several."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor, nn

from distgen.config import Positive
from distgen.config.file import TableError
from distgen.models.context import Context
from distgen.models.family import Dropout, Family
from distgen.models.heads import head
from distgen.models.layers import Convolution, fitted, highest, positions
from distgen.models.schema import Schema

_POOL = 4


class RecurrentConfig(Family):
    """Sizes: `channels` find motifs of `width` bases, of which the highest of `pool` positions each goes on.

    `depth` layers of `cell`s remember in `size` numbers for each direction. With `causal` they go from left to right only,
    the convolution looks back, and nothing is pooled: an output sees its base and what is before it. `pool` is 4 if it is
    left out, or 1 if `causal`. `dropout` is the share of what goes into the recurrent layers and the last that is left out
    in training.
    """

    # A position needs the state that all before it leave: workers would wait for each other.
    shares_windows: ClassVar[bool] = False

    family: Literal["recurrent"]
    channels: Positive = 128
    width: Positive = 15
    pool: Positive | None = None
    cell: Literal["lstm", "gru"] = "lstm"
    size: Positive = 64
    depth: Positive = 1
    causal: bool = False
    dropout: Dropout = 0.1

    @model_validator(mode="after")
    def _check(self) -> RecurrentConfig:
        if self.causal and self.multiple > 1:
            raise TableError(f"of {self.pool} bases that are pooled, the first would see the last. Use 1", "pool")
        return self

    @property
    def multiple(self) -> int:
        """What lengths of windows are multiples of, where every base has an answer."""
        return self.pool or (1 if self.causal else _POOL)


class Recurrent(nn.Module):
    """(B, inputs, L) to (B, outputs, L), where L is a multiple of `pool`; or to (B, outputs, 1) where a whole window has one
    answer.

    Args:
        config: its sizes.
        schema: what goes in and comes out.
        context: None, windows are not shared.
    """

    def __init__(self, config: RecurrentConfig, schema: Schema, context: Context | None = None):
        super().__init__()
        if context is not None:
            raise ValueError("recurrent layers share no windows")
        D, self._pool, self._pads = config.channels, config.multiple, schema.window is not None
        remembered = config.size * (1 if config.causal else 2)
        self.stem = Convolution(len(schema.inputs), D, config.width, causal=config.causal)
        self.blocks = nn.ModuleList(_Layer(remembered if n else D, config) for n in range(config.depth))
        # Where every base has an answer, what was found at it comes back to what is remembered of all that are pooled.
        seen = remembered if self._pads else remembered + D
        self.norm, self.dropout = nn.LayerNorm(seen), nn.Dropout(config.dropout)
        self.head = head(seen, schema)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x_BCL: Tensor) -> Tensor:
        x_BCL = fitted(x_BCL, self._pool, self._pads)
        x_BD1L = self.stem(x_BCL.unsqueeze(2).contiguous(memory_format=torch.channels_last))
        found_BLD = positions(F.gelu(x_BD1L, approximate="tanh"))
        x_BLR = highest(found_BLD, self._pool)
        for block in self.blocks:
            x_BLR = block(x_BLR)
        if not self._pads:
            each_BLR = x_BLR.unsqueeze(2).expand(-1, -1, self._pool, -1).flatten(1, 2)
            x_BLR = torch.cat([each_BLR, found_BLD], dim=-1)
        logits_BLO: Tensor = self.head(self.dropout(self.norm(x_BLR)))
        return logits_BLO.transpose(1, 2)


class _Layer(nn.Module):
    """(B, T, from) to (B, T, to): skip(x) + cells(norm(x)), to the right and, unless causal, to the left."""

    def __init__(self, size: int, config: RecurrentConfig):
        super().__init__()
        wider = config.size * (1 if config.causal else 2)
        kind = nn.LSTM if config.cell == "lstm" else nn.GRU
        self.norm, self.dropout = nn.LayerNorm(size), nn.Dropout(config.dropout)
        self.cells = kind(size, config.size, batch_first=True, bidirectional=not config.causal)
        self.skip = nn.Identity() if size == wider else nn.Linear(size, wider)
        if config.cell == "lstm":
            with torch.no_grad():  # so that cells begin with remembering (Gers et al. 2000)
                for name, bias in self.cells.named_parameters():
                    if name.startswith("bias_ih"):
                        bias[config.size : 2 * config.size] = 1

    def forward(self, x_BTD: Tensor) -> Tensor:
        normed_BTD = self.dropout(self.norm(x_BTD))
        remembered_BTR, _ = self.cells(normed_BTD)
        added: Tensor = self.skip(x_BTD) + remembered_BTR
        return added
