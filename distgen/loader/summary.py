"""What windows a run has: how many, of which classes, what is left out, and what the parts of its split know of each other."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations
from typing import Any

import numpy as np

from distgen.errors import ConfigError
from distgen.genome import MISSING, bases_in
from distgen.loader.classes import Balanced
from distgen.loader.coverage import ambiguous, covered
from distgen.loader.exclusions import NONE
from distgen.loader.negatives import Matched
from distgen.loader.packed import Packed
from distgen.loader.plan import Plan
from distgen.loader.regions import CONTIGS, MATRIX
from distgen.loader.sampling import Copied, Ordered, Sampling
from distgen.loader.source import genome
from distgen.loader.windows import Numbered, Windows


def summarize(plans: Mapping[str, Plan | ConfigError]) -> dict[str, Any]:
    """What `distgen info --windows` says, as what JSON can hold.

    Args:
        plans: the samples of each part of one split of a store, or why it has none.

    Returns:
        `parts`: for each its `bases`, and `stages` (an epoch's windows have the lengths of one of them; the last stays)
        or the `problem`; and `overlaps`: for each two parts how many `bases` of `other` windows of `part` read, wherever
        jitter puts them. A stage has `first_epoch`; in bases `window`, `target_length` and `stride` (None where no window
        follows another); `samples`, `rows` (fewer, where samples share them) and global `batches` of an epoch; `windows`;
        the share of N in them before jitter (`ambiguous`; None where only the shards of an export would say), and how much
        of that they read `outside` their part; how many bases targets hold at least once (`covered`); and `pools`: the last
        four by class (by "" if there are none), with `samples` of the first epoch, what is `left_out` by reason, and
        `labels` where windows have some.
    """
    known = {name: plan for name, plan in plans.items() if isinstance(plan, Plan)}
    overlaps = [
        {"part": one, "other": other, "bases": _overlap(known[one], known[other])}
        for one, other in permutations(known, 2)
    ]
    parts = {name: _part(plan) if isinstance(plan, Plan) else {"problem": plan.problem} for name, plan in plans.items()}
    return {"parts": parts, "overlaps": overlaps}


def served(sampling: Sampling | Packed) -> dict[str, Windows]:
    """The windows of the first epoch, each once: by class, or by "" where there are no classes."""
    return {
        name: pool.cycle(0) if isinstance(pool, Matched) else _once(pool) for name, pool in _pools(sampling).items()
    }


def _part(plan: Plan) -> dict[str, Any]:
    return {"bases": bases_in(plan.stretches), "stages": [_stage(plan, *stage) for stage in plan.stages]}


def _stage(plan: Plan, first_epoch: int, sampling: Sampling | Packed) -> dict[str, Any]:
    geometry, found, samples = sampling.geometry, served(sampling), _samples(sampling)
    pools: dict[str, dict[str, Any]] = {
        name: {
            "windows": len(windows),
            "samples": samples[name],
            "left_out": {reason: count for reason, count in windows.left_out.items() if count},
            "ambiguous": None if plan.store.unknown is None else ambiguous(windows, plan.store.unknown),
            "outside": ambiguous(windows, NONE),
            "covered": int(covered([windows], plan.stretches).sum()),
            "labels": _labels(plan, windows),
        }
        for name, windows in found.items()
    }
    return {
        "first_epoch": first_epoch,
        "window": geometry.window,
        "target_length": geometry.target_length,
        "stride": geometry.stride if any((windows.runs.counts > 1).any() for windows in found.values()) else None,
        "samples": sum(samples.values()),
        "rows": len(sampling),
        "batches": plan.batches(first_epoch),
        "windows": sum(pool["windows"] for pool in pools.values()),
        "ambiguous": _in_rows("ambiguous", pools, len(sampling)),
        "outside": _in_rows("outside", pools, len(sampling)),
        "covered": int(covered(list(found.values()), plan.stretches).sum()),
        "pools": pools,
    }


def _in_rows(key: str, pools: dict[str, dict[str, Any]], rows: int) -> float | None:
    """A share of N of all rows, by that of the windows in them; what windows leave of a row that they share is N."""
    if any(pool[key] is None for pool in pools.values()):
        return None
    return float(1 - sum((1 - pool[key]) * pool["samples"] for pool in pools.values()) / rows)


def _samples(sampling: Sampling | Packed) -> dict[str, int]:
    """Samples of the first epoch by class."""
    if isinstance(sampling, Sampling) and isinstance(sampling.pool, Balanced):
        return sampling.pool.samples()
    return {"": len(sampling.windows if isinstance(sampling, Packed) else sampling)}


def _pools(sampling: Sampling | Packed) -> dict[str, Numbered | Matched]:
    if isinstance(sampling, Packed):
        return {"": sampling.windows}
    pool = sampling.pool
    assert isinstance(pool, (Ordered, Balanced))
    return pool.pools if isinstance(pool, Balanced) else {"": pool.windows}


def _once(windows: Numbered) -> Windows:
    """Each window once, however often it is served."""
    once = windows.windows if isinstance(windows, Copied) else windows
    assert isinstance(once, Windows)
    return once


def _overlap(plan: Plan, other: Plan) -> int:
    """How many bases of another part any window reads."""
    everywhere = [
        pool.places if isinstance(pool, Matched) else _once(pool)
        for _, sampling in plan.stages
        for pool in _pools(sampling).values()
    ]
    return int(covered(everywhere, other.stretches, "reach").sum())


def _labels(plan: Plan, windows: Windows) -> dict[str, Any] | None:
    """What windows are labelled with: how many have each class, or which share of their values is known."""
    if plan.rows_of is None:
        return None
    _, source = plan.rows_of
    store = genome(plan.store, "a window of a table", "regions")
    if source == CONTIGS:
        labels = store.labels
        kind, names, values = labels.kind, labels.names, labels.values
    else:
        matrix = store.matrix(source.removeprefix(MATRIX))
        kind, names, values = "regression", matrix.conditions, matrix.values
    runs = windows.runs
    assert runs.rows is not None
    times = np.zeros(len(values), np.int64)  # how many windows each row has
    np.add.at(times, runs.rows, runs.counts)
    rows = np.flatnonzero(times)
    times, values = times[rows], values[rows].reshape(len(rows), -1)
    if kind == "regression":
        known = int((~np.isnan(values)).sum(axis=1) @ times)
        return {"kind": kind, "columns": len(names), "known": known / (len(windows) * values.shape[1])}
    missing = (values < 0) if kind == "classes" else (values == MISSING)
    if kind == "multilabel":
        counts = (times @ (values == 1)).tolist()
    else:
        counts = [int((values[:, 0] == number) @ times) for number in range(len(names))]
    return {
        "kind": kind,
        "classes": dict(zip(names, counts, strict=True)),
        "missing": int(missing.any(axis=1) @ times),
    }
