"""Model families: one file each. A model takes (B, channels, L) and gives (B, outputs, L)."""

from __future__ import annotations

from torch import nn

from distgen.models.dilated import Dilated, DilatedConfig

ModelConfig = DilatedConfig


def build(config: ModelConfig, in_channels: int, out_channels: int) -> nn.Module:
    """The model that a run's `[model]` describes, freshly initialised from torch's generator."""
    return Dilated(config, in_channels, out_channels)


def parameter_count(model: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
