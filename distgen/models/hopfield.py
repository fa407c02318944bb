"""Modern Hopfield networks (Ramsauer et al. 2021): what looks like a state pattern is retrieved from many stored ones.

Of a window that has one answer, motif instances are the stored patterns, and learned states retrieve what is asked from
among all of them, as in DeepRC (Widrich et al. 2020). Where every base has an answer, it is the other way round: bases are
the states, and what they retrieve is learned, a memory of motifs.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from distgen.config import Positive
from distgen.config.file import TableError
from distgen.models.context import Context
from distgen.models.family import Dropout, Family
from distgen.models.layers import Convolution, Residual, positions, rows
from distgen.models.schema import Schema


class HopfieldConfig(Family):
    """Sizes: a convolution of `stem_width` and `depth` residual ones of `width` make a pattern of `channels` numbers at each
    base, whose receptive field that is.

    Patterns are compared in `heads` heads of `dim` numbers together; `patterns` are learned for each: states where a window
    has one answer, stored patterns where every base has one. `beta` is how sharply the most alike is told from the others:
    0 takes the mean of all, much takes one; if it is left out, 1 / sqrt(numbers of a head). States move `updates` times towards
    what is stored, and then read it. `hidden` units see what was retrieved. `dropout` is the share of what goes into them
    and out of them that is left out in training.
    """

    family: Literal["hopfield"]
    channels: Positive = 128
    stem_width: Positive = 15
    width: Positive = 5
    depth: Annotated[int, Field(ge=0)] = 1
    heads: Positive = 4
    dim: Positive = 128
    patterns: Positive = 8
    beta: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    updates: Annotated[int, Field(ge=0)] = 0
    hidden: Positive = 128
    dropout: Dropout = 0.3

    @model_validator(mode="after")
    def _check(self) -> HopfieldConfig:
        if self.dim % self.heads:
            below = self.dim // self.heads * self.heads
            good = f"{below} or {below + self.heads}" if below else f"{self.heads}"
            raise TableError(f"{self.dim} does not divide into {self.heads} heads. Use {good}", "dim")
        return self

    @property
    def receptive_field(self) -> int | None:
        """Bases that one pattern is of."""
        return self.stem_width + self.depth * (self.width - 1)


class Hopfield(nn.Module):
    """(B, inputs, L) to (B, outputs, L), or to (B, outputs, 1) where a whole window has one answer.

    Args:
        config: its sizes.
        schema: what goes in and comes out.
        context: the workers that share each window, of which this one takes and gives a slice; None: whole windows.
    """

    def __init__(self, config: HopfieldConfig, schema: Schema, context: Context | None = None):
        super().__init__()
        D, depth = config.channels, config.depth
        self.stem = Convolution(len(schema.inputs), D, config.stem_width, context=context)
        self.blocks = nn.ModuleList(Residual(D, config.width, 1, depth, context) for _ in range(depth))
        self.norm, self.dropout = nn.LayerNorm(D), nn.Dropout(config.dropout)
        self.association: nn.Module = _Memory(config) if schema.window is None else _Pooling(config)
        seen = D if schema.window is None else config.patterns * config.dim
        self.hidden = nn.Linear(seen, config.hidden)
        self.head = nn.Linear(config.hidden, len(schema.outputs))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x_BCL: Tensor) -> Tensor:
        x_BD1L = self.stem(x_BCL.unsqueeze(2).contiguous(memory_format=torch.channels_last))
        x_BLD = F.gelu(positions(x_BD1L), approximate="tanh")
        for block in self.blocks:
            x_BLD = positions(block(rows(x_BLD)))
        retrieved_BSR = self.association(self.norm(x_BLD))  # S: of each base, or one of the window
        hidden_BSH = F.gelu(self.hidden(self.dropout(retrieved_BSR)), approximate="tanh")
        logits_BSO: Tensor = self.head(self.dropout(hidden_BSH))
        return logits_BSO.transpose(1, 2)


class _Pooling(nn.Module):
    """Stored patterns (B, L, channels) to what learned states retrieve of them, (B, 1, patterns * dim)."""

    def __init__(self, config: HopfieldConfig):
        super().__init__()
        self._config = config
        self.states = nn.Parameter(torch.randn(config.patterns, config.dim))
        self.key, self.value = nn.Linear(config.channels, config.dim), nn.Linear(config.channels, config.dim)

    def forward(self, x_BLD: Tensor) -> Tensor:
        config = self._config
        states_BPE = self.states.to(x_BLD.dtype).expand(x_BLD.shape[0], -1, -1)
        found_BPE = retrieve(states_BPE, self.key(x_BLD), self.value(x_BLD), config.heads, config.beta, config.updates)
        return found_BPE.flatten(1).unsqueeze(1)


class _Memory(nn.Module):
    """States (B, L, channels) to themselves and what they retrieve of learned stored patterns, likewise."""

    def __init__(self, config: HopfieldConfig):
        super().__init__()
        self._config = config
        self.query, self.out = nn.Linear(config.channels, config.dim), nn.Linear(config.dim, config.channels)
        self.keys = nn.Parameter(torch.randn(config.patterns, config.dim))
        self.values = nn.Parameter(torch.randn(config.patterns, config.dim))

    def forward(self, x_BLD: Tensor) -> Tensor:
        config = self._config
        query_BLE = self.query(x_BLD)
        keys_BPE, values_BPE = (
            learned.to(query_BLE.dtype).expand(x_BLD.shape[0], -1, -1) for learned in (self.keys, self.values)
        )
        found_BLE = retrieve(query_BLE, keys_BPE, values_BPE, config.heads, config.beta, config.updates)
        added: Tensor = x_BLD + self.out(found_BLE)
        return added


def retrieve(
    states_BSE: Tensor, keys_BPE: Tensor, values_BPE: Tensor, heads: int, beta: float | None = None, updates: int = 0
) -> Tensor:
    """What states retrieve: softmax(beta * states @ keys^T) @ values, in each head by itself.

    Args:
        states_BSE: (B, S, E) state patterns; heads are stretches of E.
        keys_BPE: (B, P, E) stored patterns.
        values_BPE: (B, P, E) what is read where a stored pattern is met.
        heads: of E / heads numbers each.
        beta: the inverse temperature; None: 1 / sqrt(E / heads).
        updates: how often states are first replaced by what they retrieve of the stored patterns themselves, which makes
            them more alike to one, or to a mean of some (Ramsauer et al. 2021, equation 3).

    Returns:
        (B, S, E).
    """
    state, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (states_BSE, keys_BPE, values_BPE))
    scale = 1 / math.sqrt(state.shape[-1]) if beta is None else beta
    for _ in range(updates):
        state = F.scaled_dot_product_attention(state, key, key, scale=scale)
    found_BHSE = F.scaled_dot_product_attention(state, key, value, scale=scale)
    return found_BHSE.transpose(1, 2).flatten(2)
