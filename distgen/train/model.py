"""The model of a run: whoever needs it makes it here, so that all have the same parameters."""

from __future__ import annotations

import math
from dataclasses import replace
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from distgen import models
from distgen.config import Finetune
from distgen.models.context import Context
from distgen.models.schema import Schema
from distgen.objectives import Objective

Layer = nn.Linear | nn.Conv1d | nn.Conv2d


def schema_of(objective: Objective) -> Schema:
    """What an objective asks of its model."""
    return Schema(objective.inputs, objective.outputs, objective.window, objective.swap)


class LowRank(nn.Module):
    """weight + alpha / rank * up @ down, where up and down learn (LoRA, Hu et al. 2021).

    It changes the weight and not the layer: whatever computes with `layer.weight` stays as it is, and the sum, taken once
    more when weights leave, gives the same outputs to the bit. Of a convolution all input channels and positions of the
    kernel are one axis.

    Args:
        weight: (out, ...) of the layer.
        rank: of the product.
        alpha: the product is scaled by alpha / rank.
    """

    def __init__(self, weight: Tensor, rank: int, alpha: float):
        super().__init__()
        self.up = nn.Parameter(weight.new_zeros(len(weight), rank))
        self.down = nn.Parameter(weight.new_empty(rank, weight[0].numel()))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        self._scale = alpha / rank

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            return weight + (self.up @ self.down).view(weight.shape) * self._scale


def build_model(config: models.ModelConfig, schema: Schema, context: Context | None = None) -> nn.Module:
    """The plain model of `[model]`, freshly drawn from torch's generator; `context`: of workers that share windows."""
    return models.build(config, schema, context)


def adapt(model: nn.Module, finetune: Finetune, head: set[str]) -> None:
    """Say which parameters of a plain model learn, and give it those of `LowRank`.

    Args:
        finetune: `[finetune]` of the run; its globs match something.
        head: the names of the parameters that give the outputs, see `outputs`.
    """
    for name, parameter in model.named_parameters():
        frozen = not (finetune.new_head and name in head) if finetune.lora_rank else matches(name, finetune.freeze)
        parameter.requires_grad_(not frozen)
    if finetune.lora_rank:
        for name, layer in layers(model, finetune, head).items():
            if matches(name, finetune.lora):
                low = LowRank(layer.weight, finetune.lora_rank, finetune.lora_alpha)
                parametrize.register_parametrization(layer, "weight", low)


def merge(model: nn.Module) -> None:
    """Add every `LowRank` to the weight it changes: names and shapes are again those of the plain model."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)


def layers(model: nn.Module, finetune: Finetune, head: set[str]) -> dict[str, Layer]:
    """The layers that may learn by a `LowRank`, by name; a new head learns whole."""
    found = {name: layer for name, layer in model.named_modules() if isinstance(layer, Layer)}
    return {name: layer for name, layer in found.items() if not (finetune.new_head and f"{name}.weight" in head)}


def matches(name: str, globs: tuple[str, ...]) -> bool:
    """Whether a name matches one of some globs."""
    return any(fnmatchcase(name, glob) for glob in globs)


def shapes(config: models.ModelConfig, schema: Schema) -> dict[str, tuple[int, ...]]:
    """The shapes of a plain model's tensors, by name; no memory is taken."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in build_model(config, schema).state_dict().items()}


def outputs(config: models.ModelConfig, schema: Schema) -> set[str]:
    """The names of the tensors that give the outputs: their shapes follow how many there are."""
    return set(_following(config, schema, replace(schema, outputs=(*schema.outputs, ""))))


def inputs(config: models.ModelConfig, schema: Schema) -> dict[str, int]:
    """The tensors that take input channels, by name, and the axis that has one entry for each."""
    return _following(config, schema, replace(schema, inputs=(*schema.inputs, "")))


def _following(config: models.ModelConfig, schema: Schema, other: Schema) -> dict[str, int]:
    there = shapes(config, other)
    pairs = ((name, list(zip(shape, there[name], strict=True))) for name, shape in shapes(config, schema).items())
    return {
        name: next(axis for axis, (n, m) in enumerate(pair) if n != m)
        for name, pair in pairs
        if any(n != m for n, m in pair)
    }
