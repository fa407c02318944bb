"""Dilated residual convolutions, as in BPNet (Avsec et al. 2021) with pre-normalisation (Xiong et al. 2020)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from distgen.config import Positive
from distgen.models.context import Context
from distgen.models.family import Dropout, Family
from distgen.models.heads import head
from distgen.models.layers import Convolution, LayerNorm, Residual, positions
from distgen.models.schema import Schema
from distgen.models.strands import Inside, check_sizes, other_inputs


class DilatedConfig(Family):
    """Sizes: `dilations` has one entry for each residual block; `dropout` is the share of what blocks add that is left out in
    training. `causal`: a base sees itself and what is before it. With `rc = "share"` a window and its reverse complement have
    the same answers (`distgen.models.strands`)."""

    family: Literal["dilated"]
    channels: Positive = 64
    stem_width: Positive = 9
    width: Positive = 3
    dilations: Annotated[tuple[Positive, ...], Field(strict=False, min_length=1)] = (1, 2, 4, 8, 16, 32, 64, 128, 1, 3)
    dropout: Dropout = 0.0
    causal: bool = False
    rc: Literal["share"] | None = None

    @model_validator(mode="after")
    def _check(self) -> DilatedConfig:
        if self.rc:
            kernels = [("width", self.width, dilation) for dilation in self.dilations]
            check_sizes({"channels": self.channels}, [("stem_width", self.stem_width, 1), *kernels], self.causal)
        return self

    @property
    def receptive_field(self) -> int | None:
        """Bases that one output can see; None where that is the whole window."""
        return self.stem_width + (self.width - 1) * sum(self.dilations)


class Dilated(nn.Module):
    """(B, inputs, L) to (B, outputs, L), or to (B, outputs, 1) where a whole window has one answer.

    Args:
        config: its sizes.
        schema: what goes in and comes out.
        context: the workers that share each window, of which this one takes and gives a slice; None: whole windows.
    """

    def __init__(self, config: DilatedConfig, schema: Schema, context: Context | None = None):
        super().__init__()
        D, depth, shared = config.channels, len(config.dilations), config.rc == "share"
        strands = Inside(order=other_inputs(schema)) if shared else None
        sides: dict[str, Any] = {"context": context, "causal": config.causal}
        self.stem = Convolution(len(schema.inputs), D, config.stem_width, **sides, shared=strands)
        self.blocks = nn.ModuleList(
            Residual(D, config.width, d, depth, **sides, shared=shared, dropout=config.dropout)
            for d in config.dilations
        )
        self.norm = LayerNorm(D, shared)
        self.head = head(D, schema, shared)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x_BCL: Tensor) -> Tensor:
        x_BD1L = self.stem(x_BCL.unsqueeze(2).contiguous(memory_format=torch.channels_last))
        for block in self.blocks:
            x_BD1L = block(x_BD1L)
        logits_BLO: Tensor = self.head(self.norm(positions(x_BD1L)))
        return logits_BLO.transpose(1, 2)
