"""Trained weights without the training: of a run directory, of one of its checkpoints, or exported.

An export is a folder of two files. `model.safetensors` has the model's tensors by their names, averaged ones where the
training kept them, and low-rank sums added. `config.json` says what they are: the model's sizes, what goes in and comes out,
how its windows were cut, and where it comes from. Where it is asked for there is `model.pt2` as well: model and encoder
as a program of torch.export. Nothing here reads it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import distgen
from distgen import models
from distgen.config import Finetune
from distgen.errors import CheckpointError, ConfigError
from distgen.ingest.objects import Place
from distgen.ingest.open import sha256
from distgen.loader.plan import WINDOW
from distgen.models.schema import Schema
from distgen.train.checkpoint import Checkpoint, open_checkpoint
from distgen.train.model import adapt, build_model, merge, outputs
from distgen.train.run import Run

_FORMAT, _CONFIG, _TENSORS, _PROGRAM = 1, "config.json", "model.safetensors", "model.pt2"


@dataclass(frozen=True)
class Weights:
    """Trained weights that lie somewhere.

    Args:
        path: the checkpoint, or the export.
        config: what `config.json` says of them.
        model, schema, finetune: what they are the weights of.
        read: fills tensors by name, with averaged weights where it is told to and there are some; returns whether they are.
    """

    path: Place
    config: dict[str, Any]
    model: models.ModelConfig
    schema: Schema
    finetune: Finetune
    read: Callable[[dict[str, Tensor], bool], bool]

    def load(self, *, averaged: bool = True) -> tuple[nn.Module, dict[str, Any]]:
        """The plain model in evaluation mode, on the CPU, and its configuration; torch's generator stays where it was.

        Args:
            averaged: with the averaged weights, where there are some.

        Raises:
            CheckpointError: they are damaged.
        """
        with torch.random.fork_rng(devices=[]):
            model = build_model(self.model, self.schema)
            adapt(model, self.finetune, outputs(self.model, self.schema))
        found = self.read(dict(model.state_dict()), averaged)
        merge(model)
        return model.requires_grad_(True).eval(), self.config | {"averaged": found}


def load_model(path: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """A trained model; no store is needed.

    Args:
        path: what `distgen export-weights` wrote, a run directory (its best checkpoint), or one checkpoint in it.

    Returns:
        The model in evaluation mode, float32 on the CPU: (B, inputs, L) to logits (B, outputs, L), or (B, outputs, 1) where
        its configuration has "per_window". And that configuration: "inputs" and "outputs" name the channels,
        "model" and "objective" are those of the run, "window" and "target_length" count bases, and "per_window" those of
        windows that have one answer each; "strand" says how windows were read, "swap" which outputs change places on the
        other strand, "program" what one beside the weights takes; "units" of regression say what answers are
        in the store's unit (`shift + scale * v`).

    Raises:
        CheckpointError: it is damaged. ConfigError: there are no weights.
    """
    return open_weights(Path(path)).load()


def export_weights(path: Path, out: Path, *, averaged: bool = True, program: bool = False) -> dict[str, Any]:
    """Write the weights of a training for others to load.

    Args:
        path: a run directory (its best checkpoint), or one checkpoint in it.
        out: a new folder.
        averaged: take the averaged weights, where there are some.
        program: also write model and encoder as one program; see `distgen.train.program`.

    Returns:
        What `config.json` says.

    Raises:
        ConfigError: there is no such training, `out` exists, or there is no such program.
        CheckpointError: the checkpoint is damaged.
    """
    if out.exists():
        raise ConfigError(f"{out} exists. Give another --out")
    weights = open_weights(path)
    model, config = weights.load(averaged=averaged)
    draft = out.with_name(f".{out.name}.writing")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, draft / _TENSORS)
    config |= {"sha256": sha256(draft / _TENSORS)}
    if program:
        from distgen.train.program import save_program  # torch.export takes a second to import

        length = config["window"] or WINDOW
        try:
            takes = save_program(model, weights.schema, length, draft / _PROGRAM)
        except ConfigError:
            shutil.rmtree(draft)
            raise
        config |= {"program": {"takes": takes, "length": length, "sha256": sha256(draft / _PROGRAM)}}
    (draft / _CONFIG).write_text(json.dumps(config, indent=1) + "\n")
    for file in draft.iterdir():
        file.chmod((draft / _CONFIG).stat().st_mode)  # safetensors lets its owner alone read a file
    draft.rename(out)
    return config


def open_weights(path: Path) -> Weights:
    """Find weights, and what they are, without reading them.

    Args:
        path: an export, a run directory (its best checkpoint), or one checkpoint in it.

    Raises:
        ConfigError: there are none. CheckpointError: they are damaged, or cannot be understood.
    """
    return _exported(path) if (path / _CONFIG).is_file() else _trained(path)


def trained_checkpoint(path: Path) -> tuple[Path, Checkpoint]:
    """A run directory and its best checkpoint, or the one in it that was named.

    Raises:
        ConfigError: it is neither. CheckpointError: it is damaged.
    """
    folder = path if (path / "run.toml").is_file() else path.parent.parent
    if not (folder / "run.toml").is_file():
        raise ConfigError(f"{path} is no run directory (it has no run.toml) and no checkpoint in one")
    here = path if path != folder else Run.read(folder / "run.toml").checkpoints(folder) / "best"
    return folder, open_checkpoint(here)


def load_weights(found: Checkpoint, tensors: dict[str, Tensor], averaged: bool = True) -> bool:
    """Fill a model's tensors, by name, from a checkpoint: with averaged weights where it has some and they are asked for.
    Whether they are."""
    there = found.names()
    names = {name: f"ema/{name}" if averaged and f"ema/{name}" in there else f"model/{name}" for name in tensors}
    found.load({names[name]: tensor for name, tensor in tensors.items()})
    return any(name.startswith("ema/") for name in names.values())


def _trained(path: Path) -> Weights:
    folder, found = trained_checkpoint(path)
    run, schema = Run.read(folder / "run.toml"), Schema.read(found.state["schema"])
    config = {
        "format": _FORMAT,
        "name": run.name,
        "model": run.model.model_dump(mode="json", exclude_none=True),
        "objective": run.objective.model_dump(mode="json", exclude_none=True),
        "inputs": schema.inputs,
        "outputs": schema.outputs,
        "per_window": schema.window,
        "swap": schema.swap,
        "units": found.state.get("units"),
        "window": schema.window or run.data.window,
        "target_length": run.data.target_length or run.data.window,
        "strand": run.data.strand,
        "step": found.state["step"],
        "run": found.state["run"],
        "store": found.state["store"],
        "distgen": distgen.__version__,
        "torch": torch.__version__,
    }

    def read(tensors: dict[str, Tensor], averaged: bool) -> bool:
        return load_weights(found, tensors, averaged)

    return Weights(found.path, config, run.model, schema, run.finetune, read)


def _exported(path: Path) -> Weights:
    try:
        config = json.loads((path / _CONFIG).read_bytes())
        if config["format"] != _FORMAT:
            raise CheckpointError(f"{path / _CONFIG} has format {config['format']}: this distgen reads {_FORMAT}")
        model: models.ModelConfig = TypeAdapter(models.ModelConfig).validate_python(config["model"])
        schema = Schema.read(config | {"window": config.get("per_window")})
        averaged, expected = config["averaged"], config["sha256"]
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise CheckpointError(f"{path / _CONFIG} is not what distgen export-weights writes: {error!r}") from None

    def read(tensors: dict[str, Tensor], _: bool) -> bool:
        file = path / _TENSORS
        if not file.is_file() or sha256(file) != expected:
            raise CheckpointError(f"{file} is missing, or damaged: it has not the checksum that {_CONFIG} says")
        there = load_file(file)
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(there[name])
        return bool(averaged)

    return Weights(path, config, model, schema, Finetune(), read)
