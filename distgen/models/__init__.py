"""Model families: one file each. A model takes (B, inputs, L) and gives (B, outputs, L), or one answer for a whole window:
(B, outputs, 1).

A family is a config (`distgen.models.family`) and a module. The config has a key `causal` if the model can keep its outputs from
what comes after them. The module has its repeated parts in `.blocks`, which are compiled, recomputed and sharded one by one,
and calls its first layer `stem` and its last `head`.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from torch import nn

from distgen.models.boltzmann import Boltzmann, BoltzmannConfig
from distgen.models.cnn import Cnn, CnnConfig
from distgen.models.context import Context
from distgen.models.dilated import Dilated, DilatedConfig
from distgen.models.family import Family
from distgen.models.hopfield import Hopfield, HopfieldConfig
from distgen.models.longconv import LongConv, LongConvConfig
from distgen.models.mlp import Mlp, MlpConfig
from distgen.models.recurrent import Recurrent, RecurrentConfig
from distgen.models.schema import Schema
from distgen.models.ssm import Ssm, SsmConfig
from distgen.models.strands import check_schema
from distgen.models.transformer import Transformer, TransformerConfig

ModelConfig = Annotated[
    BoltzmannConfig
    | CnnConfig
    | DilatedConfig
    | HopfieldConfig
    | LongConvConfig
    | MlpConfig
    | RecurrentConfig
    | SsmConfig
    | TransformerConfig,
    Field(discriminator="family"),
]

FAMILIES: dict[type[Family], Any] = {
    BoltzmannConfig: Boltzmann,
    CnnConfig: Cnn,
    DilatedConfig: Dilated,
    HopfieldConfig: Hopfield,
    LongConvConfig: LongConv,
    MlpConfig: Mlp,
    RecurrentConfig: Recurrent,
    SsmConfig: Ssm,
    TransformerConfig: Transformer,
}


def build(config: ModelConfig, schema: Schema, context: Context | None = None) -> nn.Module:
    """The model that a run's `[model]` describes, freshly initialised from torch's generator.

    Args:
        config: of a family.
        schema: what goes in and comes out, as the objective has it.
        context: the workers that share each window, of which each takes and gives a slice; None: whole windows.

    Raises:
        ConfigError: both strands are to be alike, and cannot; names the key.
    """
    if getattr(config, "rc", None):
        check_schema(schema, config.multiple, getattr(config, "causal", False))
    model: nn.Module = FAMILIES[type(config)](config, schema, context)
    return model


def parameter_count(model: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
