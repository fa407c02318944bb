"""Model families: one file each. A model takes (B, channels, L) and gives (B, outputs, L).

A family is a config and a module. The config says what lengths of windows are a `multiple` of and, where it is finite, the
`receptive_field`; the module has its repeated parts in `.blocks`, which are compiled, recomputed and sharded one by one.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import nn

from distgen.models.context import Context
from distgen.models.dilated import Dilated, DilatedConfig
from distgen.models.transformer import Transformer, TransformerConfig

ModelConfig = Annotated[DilatedConfig | TransformerConfig, Field(discriminator="family")]


def build(
    config: DilatedConfig | TransformerConfig, in_channels: int, out_channels: int, context: Context | None = None
) -> nn.Module:
    """The model that a run's `[model]` describes, freshly initialised from torch's generator.

    Args:
        config: of a family.
        in_channels, out_channels: as the objective has them.
        context: the workers that share each window, of which each takes and gives a slice; None: whole windows.
    """
    if isinstance(config, TransformerConfig):
        return Transformer(config, in_channels, out_channels, context)
    return Dilated(config, in_channels, out_channels, context)


def parameter_count(model: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
