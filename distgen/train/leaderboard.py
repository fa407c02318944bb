"""Which configuration of a sweep is best, by how much, and whether that is more than chance. Never by the test part."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from distgen.config import Sweep
from distgen.errors import CheckpointError
from distgen.evaluate.bootstrap import FEWEST, holm, paired, resampled_means
from distgen.evaluate.metrics import named_value
from distgen.train.records import read_records
from distgen.train.trial import Trial, measured

FILE = "leaderboard.json"
_RESAMPLES = 10_000  # of many comparisons each p is multiplied: it has to be small to begin with


def leaderboard(asked: Sweep, trials: list[Trial]) -> dict[str, Any]:
    """Rank the configurations of a sweep by the validation part.

    Each trial's best checkpoint is measured; what was not is now. A configuration has the mean of its trials, their standard
    deviation (over seeds and folds), and how it differs from the best on the same seeds and folds, by a bootstrap over contigs:
    `p` is of that comparison, `p_of_all` allows for how many there are.

    Args:
        trials: all of the sweep.

    Returns:
        What DIR/leaderboard.json holds.
    """
    tables: dict[str, dict[str, Any]] = {}
    damaged = {}
    for trial in (trial for trial in trials if trial.ended):
        try:
            tables[trial.out.name] = measured(trial.out)
        except CheckpointError as error:  # of one trial: the others are ranked
            damaged[trial.out.name] = {"error": str(error)}
    rows = [_row(asked, trial, tables.get(trial.out.name)) | damaged.get(trial.out.name, {}) for trial in trials]
    configurations = []
    for number in sorted({trial.number for trial in trials}):
        own = [row for row in rows if row["configuration"] == number]
        values = [row["value"] for row in own if row["value"] is not None]
        configurations.append(
            {
                "configuration": number,
                "values": next(trial.point for trial in trials if trial.number == number),
                "trials": len(own),
                "ended": len(values),
                "mean": statistics.fmean(values) if values else None,
                "sd": statistics.stdev(values) if len(values) > 1 else None,
                "gap": _mean([row["gap"] for row in own]),
                "stopped": sum(row["state"] == "stopped" for row in own),
            }
        )
    sign = 1 if asked.better == "min" else -1
    # What lacks a fold or a seed is not compared by its mean: the others may be the harder ones.
    configurations.sort(key=lambda c: (c["ended"] < c["trials"], math.inf if c["mean"] is None else sign * c["mean"]))
    best = configurations[0]["configuration"]
    for rank, configuration in enumerate(configurations, 1):
        one = [trial for trial in trials if trial.number == configuration["configuration"]]
        other = [trial for trial in trials if trial.number == best]
        against = _difference(asked, one, other, tables) if rank > 1 else None
        configuration |= {"rank": rank, "against_best": against}
    compared = [found for configuration in configurations if (found := configuration["against_best"])]
    for found, p in zip(compared, holm([found["p"] for found in compared]), strict=True):
        found["p_of_all"] = p
    rows.sort(key=lambda row: math.inf if row["value"] is None else sign * row["value"])
    return {
        "metric": asked.metric,
        "mode": asked.better,
        "split": "valid",
        "resamples": _RESAMPLES,
        "configurations": configurations,
        "trials": rows,
    }


def best_trials(folder: Path, count: int) -> list[Path]:
    """The run directories of a sweep's best trials, by its leaderboard."""
    found = json.loads((folder / FILE).read_text())
    ranked = [row["trial"] for row in found["trials"] if row["value"] is not None]
    return [folder / "trials" / name for name in ranked[:count]]


def _row(asked: Sweep, trial: Trial, found: dict[str, Any] | None) -> dict[str, Any]:
    outcome = trial.outcome or {"state": "not trained"}
    training, validation = _losses(trial.out)
    return {
        "trial": trial.out.name,
        "configuration": trial.number,
        **trial.repeat,
        "state": outcome["state"],
        "step": found and found["step"],
        "value": found and named_value(found["metrics"], asked.metric),
        "train_loss": training,
        "valid_loss": validation,
        "gap": None if training is None or validation is None else validation - training,
        **({"error": outcome["error"]} if "error" in outcome else {}),
    }


def _losses(out: Path) -> tuple[float | None, float | None]:
    """The loss on a sample of the training part and on the validation part, measured alike, at the last validation."""
    last: dict[str, Any] = next((record for record in reversed(read_records(out)) if "valid" in record), {})
    training, validation = (last.get(part, {}).get("loss") for part in ("train", "valid"))
    return training, validation


def _mean(values: list[Any]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _difference(
    asked: Sweep, one: list[Trial], other: list[Trial], tables: dict[str, dict[str, Any]]
) -> dict[str, Any] | None:
    """How much one configuration is above another on the trials both have; None where nothing can be said."""
    mine, theirs = (
        {json.dumps(t.repeat, sort_keys=True): t.out.name for t in some if t.out.name in tables}
        for some in (one, other)
    )
    shared = sorted(mine.keys() & theirs.keys())
    left = _by_unit(asked, [tables[mine[repeat]] for repeat in shared])
    right = _by_unit(asked, [tables[theirs[repeat]] for repeat in shared])
    units = sorted(left.keys() & right.keys())
    if len(units) < FEWEST:
        return None
    (a, n), (b, m) = (np.array([side[unit] for unit in units]).T for side in (left, right))
    targets = (n + m) / 2  # the same unless windows differ
    found = paired(*(resampled_means(values, targets, resamples=_RESAMPLES) for values in (a, b)))
    if found is None:
        return None
    there = tables[mine[shared[0]]]
    kind = there["units"] if any(unit in there["by_unit"] for unit in units) else "contigs"
    return found._asdict() | {"units": len(units), "of": kind, "trials": len(shared)}


def _by_unit(asked: Sweep, tables: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """The metric of each unit where it is defined, its mean over seeds and folds by targets, and how many those are. Where all
    folds together have contigs enough, these are the units, though one fold alone had to be cut into blocks."""
    names = {unit: unit for table in tables for unit in table.get("by_unit", {})}
    contigs = {unit: unit.rpartition(":")[0] for unit in names}
    if all(table.get("units") == "blocks" for table in tables) and len(set(contigs.values())) >= FEWEST:
        names = contigs
    found: dict[str, list[tuple[float, float]]] = {}
    for table in tables:
        for unit, values in table.get("by_unit", {}).items():
            if (value := named_value(values, asked.metric)) is not None:
                found.setdefault(names[unit], []).append((value, values["targets"]))
    return {
        unit: (sum(value * n for value, n in pairs) / sum(n for _, n in pairs), sum(n for _, n in pairs))
        for unit, pairs in found.items()
    }
