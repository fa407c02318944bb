"""Measure a checkpoint, or an ensemble of some, on one part of its split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from distgen.errors import ConfigError
from distgen.evaluate.metrics import Units, collect, measure
from distgen.evaluate.strands import BothStrands, check_strands
from distgen.ingest.objects import locate
from distgen.loader.loader import GenomeLoader
from distgen.loader.mixture import MixtureLoader
from distgen.loader.sampled import Sampled
from distgen.objectives import Calibrated, Objective
from distgen.train import ensemble
from distgen.train.beside import Beside, Comparison
from distgen.train.checkpoint import Checkpoint, open_checkpoint
from distgen.train.finetune import start_model
from distgen.train.heap import keep_heap
from distgen.train.model import schema_of
from distgen.train.run import Run, Stores, named_part
from distgen.train.weights import load_weights, trained_checkpoint


@dataclass(frozen=True)
class Trained:
    """A model, and what it was trained on.

    Args:
        folder: the run directory, or that of an ensemble.
        run: what it was trained by; of an ensemble the first member's.
        model: on `device`.
        said: which checkpoint, of which step; lists of an ensemble.
    """

    folder: Path
    run: Run
    store: Stores
    objective: Objective
    model: nn.Module
    device: torch.device
    said: dict[str, Any]


def open_trained(path: Path) -> Trained:
    """The model of a run directory (its best checkpoint), of one checkpoint in it, or of an ensemble.

    Raises:
        CheckpointError: there is no whole checkpoint, or the store has changed since.
        ConfigError: there is no such run, or members of an ensemble were not asked the same.
    """
    keep_heap()
    if not (path / ensemble.FILE).is_file():
        return _open_one(path)
    first, *others = members = [_open_one(member) for member in ensemble.Ensemble.find(path).paths()]
    for other in others:
        ensemble.refuse_unlike(first.folder, _asked(first), other.folder, _asked(other))
    averaged = ensemble.Averaged([member.model for member in members], first.objective)
    said = {key: [member.said[key] for member in members] for key in first.said}
    return Trained(path, first.run, first.store, first.objective, averaged, first.device, said)


def _open_one(path: Path) -> Trained:
    folder, found = trained_checkpoint(path)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return _open_checkpoint(Run.read(folder / "run.toml"), folder, found, device)


def _open_checkpoint(run: Run, folder: Path, found: Checkpoint, device: torch.device) -> Trained:
    store = run.open_store()
    objective = run.build_objective(store)
    found.expect(store=run.identity(store, objective))
    model = start_model(run, schema_of(objective), begins=False).to(device)
    load_weights(found, model.state_dict())
    return Trained(
        folder, run, store, objective, model, device, {"checkpoint": str(found.path), "step": found.state["step"]}
    )


def validate(run: Run, path: str, device: torch.device) -> dict[str, Any]:
    """What the validation of a training finds, by one process and of a checkpoint.

    Args:
        run: what is trained.
        path: of the checkpoint; a URI in an object store.
        device: where it is measured.

    Returns:
        {"valid": values}, and "train" of a sample of the training part where `log.gap_batches` asks for it.
    """
    if run.train.threads:
        torch.set_num_threads(run.train.threads)
    place = locate(path)
    found = _open_checkpoint(run, Path(), open_checkpoint(place), device)
    parts = validation_loaders(run, found.store, found.objective, device=device)
    model = asked_model(run, found.model, found.objective)
    return {part: measure(model, found.objective, loader, run.precision(device)) for part, loader in parts.items()}


def asked_model(run: Run, model: nn.Module, objective: Objective) -> nn.Module:
    """What the validation of a run asks: a model, or both strands by it."""
    return BothStrands(model, schema_of(objective), objective) if run.train.both_strands else model


def validation_loaders(
    run: Run, store: Stores, objective: Objective, **ranks: Any
) -> dict[str, GenomeLoader | MixtureLoader | Sampled]:
    """What is measured at each validation: the validation part, if there is one, and a sample of the training part beside it,
    as that is: not shuffled, hidden or turned as in training, whose loss is another.

    Args:
        ranks: `rank`, `world_size` and `device` of `Run.loader`.
    """
    if not run.has("valid", store):
        return {}
    valid = run.loader(store, objective, "valid", **ranks)
    if not run.log.gap_batches:
        return {"valid": valid}
    whole = run.loader(store, objective, "train", **ranks)
    return {"valid": valid, "train": Sampled(whole, min(run.log.gap_batches, len(valid)))}


def _asked(trained: Trained) -> dict[str, Any]:
    """What models that are averaged are asked alike: the same question, of the same windows of the same bases."""
    run = trained.run
    data = run.resolved()["data"]
    geometry = (
        "window",
        "target_length",
        "stride",
        "strand",
        "regions",
        "pool",
        "measured",
        "exclude",
        "max_ambiguous",
    )
    return {
        "data.split": run.data.split,
        "store": run.identity(trained.store, trained.objective),
        "objective": run.resolved()["objective"],
        "outputs": trained.objective.out_channels,
        **{f"data.{key}": data.get(key) for key in geometry},
    }


_NOTHING = Beside()


def evaluate(
    path: Path, part: str, *, by_contig: bool = False, both_strands: bool | None = None, beside: Beside = _NOTHING
) -> tuple[Path, dict[str, Any]]:
    """Metrics of a checkpoint, or of an ensemble, on one part of the split it was trained on.

    Args:
        path: a run directory (its best checkpoint is taken), one checkpoint in it, or an ensemble's directory.
        part: "train", "valid" or "test".
        by_contig: also measure each contig by itself; see `distgen.evaluate.metrics.Units`.
        both_strands: ask each window and its reverse complement, and average; None: as the run validates.
        beside: what else is measured.

    Returns:
        The directory, and {"split", "checkpoint", "step", "metrics", "both_strands" where these were asked, "reliability" of
        probabilities (see `distgen.objectives.Calibrated`), "units" and "by_unit" where asked for}; and what is beside
        it: {"intervals": {metric: [low, high]}, "baselines": {name: {"metrics", "intervals", "difference", "p"}} (always of
        language models), "without_leaks": {"k", "windows", "leaked", and the same once more}}. Metrics by name there are
        "auroc.NAME" of one output, and "auroc" of their mean; a difference is what the model is above a baseline.

    Raises:
        CheckpointError: there is no whole checkpoint, or the store has changed since.
        ConfigError: there is no such run or part, or what is asked has an answer on one strand alone.
    """
    asked = named_part(part)
    found = open_trained(path)
    run, store = found.run, found.store
    loader = run.loader(store, found.objective, asked, device=found.device)
    if by_contig and run.data.packed:
        raise run.error("data.packed", "rows that hold several samples cannot be told apart by contig")
    model, both_strands = found.model, run.train.both_strands if both_strands is None else both_strands
    if both_strands:
        try:
            check_strands(schema_of(found.objective), run.data.strand)
        except ConfigError as error:
            raise ConfigError(f"both strands cannot be asked: {error.problem}") from None
        model = BothStrands(model, schema_of(found.objective), found.objective)
    units = Units(loader) if by_contig else None
    comparison = Comparison(run, store, found.objective, asked, loader, beside, units)
    keep = [*([units] if units else []), *comparison.keep]
    metrics = collect(model, found.objective, loader, run.precision(found.device), keep)
    values = metrics.compute()
    result: dict[str, Any] = {"split": part, **found.said, "metrics": values}
    result |= {"both_strands": True} if both_strands else {}
    if isinstance(metrics, Calibrated):
        result["reliability"] = metrics.reliability()
    if units:
        result |= {"units": units.kind, "by_unit": units.compute()}
    result |= comparison.result(values)
    return found.folder, result
