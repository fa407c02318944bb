"""The windows of a run in words: what `distgen info --windows` and the report say of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:
    from distgen.errors import ConfigError
    from distgen.loader.loader import GenomeLoader
    from distgen.loader.mixture import MixtureLoader
    from distgen.train.run import Run, Stores

_CLASSES = 8  # that are named
_STORES = 10  # of a collection that have tables of their own

Rows = list[tuple[str, str]]


def describe(
    run: Run, source: Stores, loaders: Mapping[str, GenomeLoader | MixtureLoader | ConfigError]
) -> dict[str, Any]:
    """What there is to say of a run's windows, as what JSON can hold.

    Args:
        run: as read from its file.
        source: that it trains on: a store, an export of one, or a collection.
        loaders: of the parts of its split; see `Run.loaders`.

    Returns:
        As `summarize` or `summarize_mixture`, with `run`, `store`, `split` and `batch_size`; `model`, its family, how many
        parameters it has and the bases that an output can see (None: the whole window); `homology`, the report of the
        build where the split was made without what resembles a held-out part, else None (an export does not know); and
        `search`, the command that looks for such sequence, where STORE is what was exported, or any of a collection's stores
        (and OTHER another one of them).

    Raises:
        ConfigError, StoreError: a store of a collection does not fit, or is not what was indexed.
    """
    from distgen.errors import ConfigError
    from distgen.loader.loader import GenomeLoader
    from distgen.loader.mixture import MixtureLoader
    from distgen.loader.source import homology
    from distgen.loader.summary import summarize
    from distgen.loader.together import summarize_mixture
    from distgen.store.collection import Collection
    from distgen.store.reader import Store

    split = run.data.split
    search = f"distgen info {source.path if isinstance(source, Store) else 'STORE'} --leakage {split}"
    search += " [--against OTHER]" * isinstance(source, Collection)
    about = {"run": run.name, "store": str(source.path), "split": split, "batch_size": run.data.batch_size}
    about |= {"model": _model(run, source)}
    if isinstance(source, Collection):
        mixtures = {p: loader for p, loader in loaders.items() if isinstance(loader, MixtureLoader | ConfigError)}
        with run.at("data"):
            return about | summarize_mixture(mixtures) | {"search": search}
    own = {part: loader for part, loader in loaders.items() if isinstance(loader, GenomeLoader | ConfigError)}
    plans = {part: loader.plan if isinstance(loader, GenomeLoader) else loader for part, loader in own.items()}
    return about | summarize(plans) | {"homology": homology(source, split), "search": search}


def _model(run: Run, source: Stores) -> dict[str, Any]:
    from distgen.train.model import schema_of, shapes

    sizes = shapes(run.model, schema_of(run.build_objective(source))).values()
    sees = run.model.receptive_field
    return {"family": run.model.family, "parameters": sum(map(math.prod, sizes)), "receptive_field": sees}


def families() -> dict[str, Any]:
    """Every family of models with the sizes it has by default: {"window", "families": as "model" of `describe`}, for one
    answer to windows of 1,024 bases."""
    from distgen.loader.plan import WINDOW
    from distgen.models import FAMILIES
    from distgen.models.schema import Schema
    from distgen.train.model import shapes

    schema, found = Schema(("A", "C", "G", "T"), ("answer",), WINDOW, ()), []
    kind: Any
    for kind in FAMILIES:
        (name,) = get_args(kind.model_fields["family"].annotation)
        config = kind(family=name)
        sizes = shapes(config, schema).values()
        sees = config.receptive_field
        found.append({"family": name, "parameters": sum(map(math.prod, sizes)), "receptive_field": sees})
    return {"window": WINDOW, "families": found}


def _said_of_model(model: dict[str, Any]) -> str:
    sees = "the whole window" if model["receptive_field"] is None else f"{model['receptive_field']:,} bases"
    return f"{model['family']}, {model['parameters']:,} parameters; an output sees {sees}"


def tables(found: dict[str, Any]) -> list[tuple[str, Rows]]:
    """What `describe` found as tables, each with what it is about: the windows of a run; of a collection all together, then
    those of each of the stores that serve most."""
    stores: dict[str, Any] = found.get("stores", {})
    name = f"windows of {found['store']}, split {found['split']}"
    model = [("model", _said_of_model(found["model"]))]
    if not stores:
        return [(name, [*model, *rows(found)])]
    most = serve_most(found, _STORES)
    said = []
    for store in most:
        search = f"distgen info {stores[store]['path']} --leakage {found['split']}"
        own = rows(stores[store] | {"search": search, "batch_size": found["batch_size"]})
        said.append((f"store {store}", [("batches", _served(stores[store]["parts"], found["parts"])), *own]))
    told = [f"{found['members']:,}"]
    told += [f"{len(stores):,} at equal distances are counted here"] * (len(stores) < found["members"])
    told += [f"the {len(most)} that serve most follow, --json has all"] * (len(most) < len(stores))
    return [(name, [*model, *rows(found), ("stores", "; ".join(told))]), *said]


def serve_most(found: dict[str, Any], count: int) -> list[str]:
    """Names of so many stores of a collection, or of all, those first that serve most of what is trained on."""

    def share(name: str) -> float:
        return float(found["stores"][name]["parts"].get("train", {}).get("share", 0))

    return sorted(found["stores"], key=share, reverse=True)[:count]


def _served(parts: dict[str, Any], together: dict[str, Any]) -> str:
    """How much of an epoch of a mixture comes from one store."""
    return "; ".join(
        f"{part} {entry['served']:,} of {together[part]['epoch_batches']:,} of the first epoch, {entry['share']:.2%} of all"
        for part, entry in parts.items()
    )


def rows(found: dict[str, Any]) -> Rows:
    """What `describe` found as rows of name and value."""
    said: Rows = []
    for part, entry in found["parts"].items():
        stages = entry.get("stages", [])
        if not stages:
            said.append((part, entry["problem"]))
        for number, stage in enumerate(stages):
            name = f"{part}{_epochs(stages, number)}"
            said.append((name, _stage(stage, entry, found["batch_size"])))
            for pool, windows in stage["pools"].items():
                said += _pool(name, pool, windows, stage)
    across = [f"{o['part']} reads {o['bases']:,} bases of {o['other']}" for o in found["overlaps"] if o["bases"]]
    said.append(("shared bases", "; ".join(across) or "0: no window reads a base of another part"))
    apart = [store["homology"] is not None for store in found["stores"].values()] if "stores" in found else []
    known = f"{sum(apart):,} of {len(apart):,} stores: without what resembles a held-out part; " * any(apart)
    known += f"{homology(found['homology'])}; " if found.get("homology") else ""
    return [*said, ("similar sequence", f"{known}{found['search']} looks for it")]


def homology(report: dict[str, Any]) -> str:
    """What a build says of a split whose parts were to share nothing that resembles another."""
    if "families" in report:
        return f"{report['families']:,} families of sequences, each in one part (the largest: {report['largest']:,})"
    moved = [f"{part} lost {report['dropped'][part] + report['moved'][part]:,}" for part in report["dropped"]]
    return f"without what resembles a held-out part: {', '.join(moved)}"


def _epochs(stages: list[dict[str, Any]], number: int) -> str:
    """Of a curriculum, the epochs that have a stage's lengths."""
    if len(stages) == 1:
        return ""
    first = stages[number]["first_epoch"]
    if number + 1 == len(stages):
        return f", epochs {first}-"
    last = stages[number + 1]["first_epoch"] - 1
    return f", epoch {first}" if first == last else f", epochs {first}-{last}"


def _stage(stage: dict[str, Any], part: dict[str, Any], batch_size: int) -> str:
    windows, target, stride = stage["windows"], stage["target_length"], stage["stride"]
    rows = f"in {stage['rows']:,} rows " * (stage["rows"] != stage["samples"])
    length = f"of {stage['window']:,} bases" if stage["window"] else "of several lengths"
    lengths = f"{_some(windows, 'window')} {rows}{length}"
    lengths += f", {target:,} of them target" if target not in (None, stage["window"]) else ""
    lengths += f", one every {stride:,}" if stride not in (None, target) else ""
    lengths += f", in {_some(part['stores'], 'store')}" if "stores" in part else ""
    samples = f"{stage['samples']:,} samples in " * (stage["samples"] != windows)
    epoch = f"an epoch is {samples}{_some(stage['batches'], 'batch', 'es')} of {batch_size:,}"
    if part.get("epoch_batches", stage["batches"]) != stage["batches"]:  # as the run says, or as another stage has
        own = f"{samples}{_some(stage['batches'], 'batch', 'es')}"
        epoch = f"an epoch is {_some(part['epoch_batches'], 'batch', 'es')} of {batch_size:,}, one of each store {own}"
    return (
        f"{lengths}; {epoch}; {_n(stage)}; "
        f"targets cover {stage['covered']:,} of {part['bases']:,} bases ({stage['covered'] / part['bases']:.1%})"
    )


def _n(found: dict[str, Any]) -> str:
    """How much N there is, or what is known of it."""
    if found["ambiguous"] is None:
        return f"{found['outside']:.2%} lies outside the part and reads as N, how much else does is not in the index"
    return f"{found['ambiguous']:.2%} reads as N"


def _pool(name: str, pool: str, windows: dict[str, Any], stage: dict[str, Any]) -> Rows:
    said = []
    if pool:
        name = f"{name}, {pool}"
        share = f"{windows['samples'] / stage['samples']:.2%} of samples, from {_some(windows['windows'], 'window')}"
        said.append((name, f"{share}; {_n(windows)}; targets cover {windows['covered']:,} bases"))
    # Every sequence of a table is in one part, and so outside the others.
    left_out = {why: n for why, n in windows["left_out"].items() if not (windows["labels"] and why == "outside")}
    if left_out:
        from distgen.loader.windows import WHY

        said.append((f"{name}, left out", ", ".join(f"{count:,} {WHY[why]}" for why, count in left_out.items())))
    if windows["labels"]:
        said.append((f"{name}, labels", _labels(windows["labels"])))
    return said


def _labels(labels: dict[str, Any]) -> str:
    if labels["kind"] == "regression":
        return f"{labels['columns']:,} values each, {labels['known']:.1%} of them known"
    classes = labels["classes"]
    counts = [f"{label} {count:,}" for label, count in list(classes.items())[:_CLASSES]]
    more = f", ... ({len(classes):,} in all)" * (len(classes) > _CLASSES)
    return f"{', '.join(counts)}{more}" + f"; {labels['missing']:,} missing" * bool(labels["missing"])


def _some(count: int, what: str, more: str = "s") -> str:
    return f"{count:,} {what}{more * (count != 1)}"
