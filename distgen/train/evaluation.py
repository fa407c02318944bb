"""Measure a checkpoint on one part of its split."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, cast

import torch

from distgen.errors import ConfigError, suggest
from distgen.evaluate.baselines import baselines
from distgen.evaluate.metrics import measure
from distgen.store.reader import Store
from distgen.store.splits import PARTS
from distgen.train.finetune import start_model
from distgen.train.model import Schema
from distgen.train.run import Run
from distgen.train.weights import load_weights, trained_checkpoint


def evaluate(path: Path, part: str) -> tuple[Path, dict[str, Any]]:
    """Metrics of a checkpoint on one part of the split it was trained on.

    Args:
        path: a run directory (its best checkpoint is taken) or one checkpoint in it.
        part: "train", "valid" or "test".

    Returns:
        The run directory, and {"split", "checkpoint", "step", "metrics", "baselines" for masked_lm}.

    Raises:
        CheckpointError: there is no whole checkpoint, or the store has changed since.
        ConfigError: there is no such run or part.
    """
    if part not in PARTS:
        raise ConfigError(f'there is no part "{part}" of a split. {suggest(part, PARTS)}')
    folder, found = trained_checkpoint(path)
    run = Run.read(folder / "run.toml")
    store = run.open_store()
    objective = run.build_objective(store)
    found.expect(store=run.identity(store, objective))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = start_model(run, Schema.of(objective), begins=False).to(device)
    load_weights(found, model.state_dict())
    loader = run.loader(store, objective, cast(Literal["train", "valid", "test"], part), device=device)
    result: dict[str, Any] = {
        "split": part,
        "checkpoint": str(found.path),
        "step": found.state["step"],
        "metrics": measure(model, objective, loader, run.precision(device)),
    }
    # An export has no other bases than those of its windows: nothing to count in; and of many stores, none is the one.
    if run.objective.kind == "masked_lm" and isinstance(store, Store):
        regions = {p: store.regions(p, run.data.split) for p in ("train", part)}
        result["baselines"] = baselines(store, regions["train"], regions[part])
    return folder, result
