"""How families end: with an answer for every position, or with one for the whole window."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distgen.models.schema import Schema


def head(size: int, schema: Schema) -> nn.Module:
    """The last layer: (B, L, size) to the outputs (B, L, O), or (B, 1, O) where a whole window has one answer."""
    if schema.window is None:
        return nn.Linear(size, len(schema.outputs))
    return Pooled(size, len(schema.outputs))


class Pooled(nn.Linear):
    """(B, L, size) to (B, 1, outputs), from the mean and the highest of all positions."""

    def __init__(self, size: int, outputs: int):
        super().__init__(2 * size, outputs)

    def forward(self, x_BLD: Tensor) -> Tensor:
        return super().forward(torch.cat([x_BLD.mean(1, keepdim=True), x_BLD.amax(1, keepdim=True)], dim=-1))
