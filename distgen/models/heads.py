"""How families end: with an answer for every position, or with one for the whole window."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distgen.models.layers import Linear
from distgen.models.schema import Schema
from distgen.models.strands import Last, other_outputs


def head(size: int, schema: Schema, shared: bool = False) -> nn.Module:
    """The last layer: (B, L, size) to the outputs (B, L, O), or (B, 1, O) where a whole window has one answer; with weights
    that both strands may share."""
    order = other_outputs(schema) if shared else None
    if schema.window is None:
        return Linear(size, len(schema.outputs), shared=None if order is None else Last(order))
    return Pooled(size, len(schema.outputs), order)


class Pooled(Linear):
    """(B, L, size) to (B, 1, outputs), from the mean and the highest of all positions.

    Args:
        order: which output takes the place of each on the other strand, if both share the weights.
    """

    def __init__(self, size: int, outputs: int, order: tuple[int, ...] | None = None):
        super().__init__(2 * size, outputs, shared=None if order is None else Last(order, of=2))

    def forward(self, x_BLD: Tensor) -> Tensor:
        return super().forward(torch.cat([x_BLD.mean(1, keepdim=True), x_BLD.amax(1, keepdim=True)], dim=-1))
