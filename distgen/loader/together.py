"""What windows the stores of a mixture have together, and each of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from distgen.errors import ConfigError
from distgen.loader.mixture import MixtureLoader
from distgen.loader.plan import Plan
from distgen.loader.source import homology
from distgen.loader.summary import summarize

Table = dict[str, Any]


def summarize_mixture(loaders: Mapping[str, MixtureLoader | ConfigError]) -> Table:
    """What `distgen info --windows` says of a collection, as what JSON can hold; stores are opened one after another.

    Args:
        loaders: of each part of one split of a collection, or why there is none.

    Returns:
        `parts` and `overlaps` as `summarize`, all stores together: counts are sums, shares of N go by how often rows of a store
        are served, and lengths that differ are None. A part has, besides, how many `stores` serve it, and how many global
        batches an epoch of the mixture has (`epoch_batches`). `members`, how many stores there are; and `stores`, for each by
        its name (of more than 1,000: for as many at equal distances) its `path`, its `homology` and all that `summarize`
        says, where a part has its `share` of all batches and how many the first epoch of the mixture takes (`served`).

    Raises:
        ConfigError, StoreError: a store does not fit, is missing or has changed; names it.
    """
    known = {part: loader for part, loader in loaders.items() if isinstance(loader, MixtureLoader)}
    first = next(iter(known.values()))
    first_epochs = {part: loader.plan.schedule.before(loader.plan.epoch) for part, loader in known.items()}
    weights: dict[str, list[list[float]]] = {part: [] for part in known}
    stores: dict[str, Table] = {}
    for row in sorted({row for loader in known.values() for row in loader.members}):
        own = {part: loader.loader(row) for part, loader in known.items() if row in loader.members}
        found = summarize({part: loader.plan for part, loader in own.items()})
        for part, entry in found["parts"].items():
            entry["share"], plan = float(known[part].plan.schedule.shares[row]), own[part].plan
            entry["served"] = int(first_epochs[part][row])
            weights[part].append([entry["share"] * _filled(plan, epoch) for epoch, _ in plan.stages])
        store, (split, _) = first.collection.store(row), first.split
        about = {"path": str(store.path), "homology": homology(store, split)}
        stores[first.collection.names[row]] = about | found
    parts: dict[str, Table] = {}
    for part, loader in loaders.items():
        if isinstance(loader, ConfigError):
            parts[part] = {"problem": loader.problem}
            continue
        entries = [store["parts"][part] for store in stores.values() if part in store["parts"]]
        parts[part] = _part(entries, weights[part]) | {"stores": len(entries), "epoch_batches": loader.plan.epoch}
    shared = Counter[tuple[str, str]]()
    for found in stores.values():
        shared.update({(overlap["part"], overlap["other"]): overlap["bases"] for overlap in found["overlaps"]})
    overlaps = [{"part": part, "other": other, "bases": bases} for (part, other), bases in shared.items()]
    return {"parts": parts, "overlaps": overlaps, "members": len(first.collection), "stores": stores}


def _filled(plan: Plan, epoch: int) -> float:
    """How many rows of a batch are no padding, on average."""
    count, rows = plan.batches(epoch), len(plan.sampling(epoch))
    return rows / count if plan.asked.last == "pad" else plan.asked.batch_size


def _part(entries: Sequence[Table], weights: Sequence[Sequence[float]]) -> Table:
    """One part of all stores, whose rows of each stage weigh so much: (stores, stages)."""
    stages = zip(*(entry["stages"] for entry in entries), strict=True)
    return {
        "bases": sum(entry["bases"] for entry in entries),
        "stages": [_stage(stage, own) for stage, own in zip(stages, zip(*weights, strict=True), strict=True)],
    }


def _stage(stages: Sequence[Table], weights: Sequence[float]) -> Table:
    pools = {
        name: _pool(
            [stage["pools"][name] for stage in stages],
            [weight * s["pools"][name]["samples"] / s["samples"] for weight, s in zip(weights, stages, strict=True)],
        )
        for name in stages[0]["pools"]
    }
    return {
        "first_epoch": stages[0]["first_epoch"],  # of a store's own
        **{key: _alike(stages, key) for key in ("window", "target_length", "stride")},
        **{key: sum(stage[key] for stage in stages) for key in ("samples", "rows", "batches", "windows", "covered")},
        **{key: _mean(stages, key, weights) for key in ("ambiguous", "outside")},
        "pools": pools,
    }


def _pool(pools: Sequence[Table], weights: Sequence[float]) -> Table:
    left_out = sum((Counter(pool["left_out"]) for pool in pools), Counter[str]())
    return {
        **{key: sum(pool[key] for pool in pools) for key in ("windows", "samples", "covered")},
        **{key: _mean(pools, key, weights) for key in ("ambiguous", "outside")},
        "left_out": dict(left_out),
        "labels": _labels(pools),
    }


def _labels(pools: Sequence[Table]) -> Table | None:
    """None where there are none, or stores have labels of several kinds."""
    labels = [pool["labels"] for pool in pools]
    if None in labels or len({(found["kind"], found.get("columns")) for found in labels}) > 1:
        return None
    if labels[0]["kind"] == "regression":
        known = _mean(labels, "known", [pool["windows"] for pool in pools])
        return {"kind": "regression", "columns": labels[0]["columns"], "known": known}
    counts = Counter[str]()
    for found in labels:
        counts.update(found["classes"])
    return {"kind": labels[0]["kind"], "classes": dict(counts), "missing": sum(found["missing"] for found in labels)}


def _alike(stages: Sequence[Table], key: str) -> int | None:
    """A length that all have that have one; None where they differ."""
    lengths = {stage[key] for stage in stages} - {None}
    return lengths.pop() if len(lengths) == 1 else None


def _mean(found: Sequence[Table], key: str, weights: Sequence[float]) -> float:
    total = sum(weight * entry[key] for weight, entry in zip(weights, found, strict=True))
    return float(total / sum(weights))
