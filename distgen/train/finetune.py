"""What a training begins with instead of random weights, and which of its parameters learn: `[finetune]` of a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from distgen.errors import some, suggest
from distgen.evaluate.filters import begin_as
from distgen.evaluate.motifs import Motifs
from distgen.models.context import Context
from distgen.models.schema import Schema
from distgen.train import model as of
from distgen.train.run import Run
from distgen.train.weights import Weights, open_weights


def start_model(run: Run, schema: Schema, *, begins: bool, context: Context | None = None) -> nn.Module:
    """The model that a training changes, drawn from torch's generator.

    Args:
        schema: what the run's objective asks of it.
        begins: with the weights that `finetune.init_from` names, or the filters of `finetune.motifs`; otherwise a checkpoint
            is about to fill it.
        context: of the workers that share windows.

    Raises:
        ConfigError: those weights don't fit; names the tensors. CheckpointError: there are none, or they are damaged.
    """
    model = of.build_model(run.model, schema, context)
    if begins and run.finetune.init_from:
        _fill(model, run, schema, _source(run))
    if begins and run.finetune.motifs:
        _begin_as_motifs(model, run, schema)
    of.adapt(model, run.finetune, of.outputs(run.model, schema))
    return model


def check(run: Run, schema: Schema, *, begins: bool) -> None:
    """Find out before anything is written whether `[finetune]` fits the model, and the weights that it begins with.

    Args:
        schema: what the run's objective asks of its model.
        begins: there is no checkpoint to go on from; otherwise nobody needs the weights to begin with any more.

    Raises:
        ConfigError: the file, key and what would fit. CheckpointError: there are no such weights, or they are damaged.
    """
    finetune, head = run.finetune, of.outputs(run.model, schema)
    with torch.device("meta"):
        model = of.build_model(run.model, schema)
    parameters, layers = [name for name, _ in model.named_parameters()], of.layers(model, finetune, head)
    for key, globs, names, what in (
        ("freeze", finetune.freeze, parameters, "parameter"),
        ("lora", finetune.lora if finetune.lora_rank else (), list(layers), "linear or convolutional layer"),
    ):
        for glob in globs:
            if not any(of.matches(name, (glob,)) for name in names):
                raise run.error(f"finetune.{key}", f'no {what} matches "{glob}". {suggest(glob, names)}')
    if all(of.matches(name, finetune.freeze) for name in parameters):
        raise run.error("finetune.freeze", "all parameters are frozen, and none is left that learns. Freeze fewer")
    if kept := [name for name in sorted(head) if finetune.new_head and of.matches(name, finetune.freeze)]:
        raise run.error("finetune.freeze", f"{some(kept)} of the new head would stay as drawn. Freeze what is not new")
    if begins and finetune.motifs:
        _begin_as_motifs(model, run, schema)
    if begins and finetune.init_from:
        _refuse_misfits(run, schema, _source(run))


def _source(run: Run) -> Weights:
    with run.at("finetune.init_from"):
        return open_weights(Path(run.resolved()["finetune"]["init_from"]))


def _fill(model: nn.Module, run: Run, schema: Schema, weights: Weights) -> None:
    """Copy weights into a plain model: of the input channels those it reads, and all but a new head."""
    _refuse_misfits(run, schema, weights)
    there, mine, takes = weights.load()[0].state_dict(), model.state_dict(), of.inputs(run.model, schema)
    channels = torch.tensor([weights.schema.inputs.index(name) for name in schema.inputs])
    kept = of.outputs(run.model, schema) if run.finetune.new_head else set()
    with torch.no_grad():
        for name in mine.keys() - kept:
            mine[name].copy_(there[name].index_select(takes[name], channels) if name in takes else there[name])


def _begin_as_motifs(model: nn.Module, run: Run, schema: Schema) -> None:
    """Let the first filters of a plain model be those that `finetune.motifs` names."""
    with run.at("finetune.motifs"):
        begin_as(model, schema.inputs, Motifs.read(Path(run.resolved()["finetune"]["motifs"])))


def _refuse_misfits(run: Run, schema: Schema, weights: Weights) -> None:
    """Raise ConfigError where weights don't fit a run. Which store they were trained on does not matter."""
    there = weights.schema
    if lacking := [name for name in schema.inputs if name not in there.inputs]:
        problem = (
            f"the model of {weights.path} reads {', '.join(there.inputs)}, and this run {', '.join(lacking)} as well"
        )
        raise run.error("finetune.init_from", f"{problem}. Begin with one that does")
    if not run.finetune.new_head and there.outputs != schema.outputs:
        problem = f"the head of {weights.path} gives {some(there.outputs)}, and this run's {some(schema.outputs)}"
        raise run.error("finetune.new_head", f"{problem}. With new_head = true it begins with a new one")
    # Asked for the same channels, what differs is the sizes of the models, and of what they see all of a window with.
    asked = replace(schema, window=there.window)
    mine, other = of.shapes(run.model, schema), of.shapes(weights.model, asked)
    if run.finetune.new_head:
        new = of.outputs(run.model, schema) | of.outputs(weights.model, asked)
        mine, other = ({name: n for name, n in shapes.items() if name not in new} for shapes in (mine, other))
    differ = [
        f"{name} is {other.get(name, 'not')} there and {mine.get(name, 'not')} here"
        for name in mine | other
        if mine.get(name) != other.get(name)
    ]
    if differ:
        what = "has another model"
        if there.window != schema.window and weights.model == run.model:
            what = f"answers for {_answered(there.window)}, and this run for {_answered(schema.window)}"
        raise run.error("finetune.init_from", f"{weights.path} {what}: {some(differ, 3)}")


def _answered(window: int | None) -> str:
    return "single bases" if window is None else f"windows of {window}"
