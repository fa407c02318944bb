"""The windows of a run in words: what `distgen info --windows` and the report say of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distgen.errors import ConfigError
    from distgen.loader.plan import Plan
    from distgen.loader.source import Source
    from distgen.train.run import Run

_CLASSES = 8  # that are named


def describe(run: Run, source: Source, plans: Mapping[str, Plan | ConfigError]) -> dict[str, Any]:
    """What there is to say of a run's windows, as what JSON can hold.

    Args:
        run: as read from its file.
        source: that it trains on: a store, or an export of one.
        plans: of the parts of its split; see `Run.plans`.

    Returns:
        As `summarize`, with `run`, `store`, `split` and `batch_size`; `homology`, the report of the build where the split
        was made without what resembles a held-out part, else None (an export does not know); and `search`, the command that
        looks for such sequence, where STORE is what was exported.
    """
    from distgen.loader.summary import summarize

    split = run.data.split
    return {
        "run": run.name,
        "store": str(source.path),
        "split": split,
        "batch_size": run.data.batch_size,
        **summarize(plans),
        **_similar(source, split),
    }


def _similar(source: Source, split: str) -> dict[str, Any]:
    """What the build of a store knows of sequence that parts share, and what would look for it."""
    from distgen.store.reader import Store

    if isinstance(source, Store):
        known = source.manifest["homology"].get(split, {}).get("report")
        return {"homology": known, "search": f"distgen info {source.path} --leakage {split}"}
    return {"homology": None, "search": f"distgen info STORE --leakage {split}"}


def rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    """What `describe` found as rows of name and value."""
    said: list[tuple[str, str]] = []
    for part, entry in found["parts"].items():
        stages = entry.get("stages", [])
        if not stages:
            said.append((part, entry["problem"]))
        for number, stage in enumerate(stages):
            name = f"{part}{_epochs(stages, number)}"
            said.append((name, _stage(stage, entry["bases"], found["batch_size"])))
            for pool, windows in stage["pools"].items():
                said += _pool(name, pool, windows, stage)
    across = [f"{o['part']} reads {o['bases']:,} bases of {o['other']}" for o in found["overlaps"] if o["bases"]]
    said.append(("shared bases", "; ".join(across) or "0: no window reads a base of another part"))
    known = f"{homology(found['homology'])}; " if found["homology"] else ""
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


def _stage(stage: dict[str, Any], bases: int, batch_size: int) -> str:
    windows, target, stride = stage["windows"], stage["target_length"], stage["stride"]
    rows = f"in {stage['rows']:,} rows " * (stage["rows"] != stage["samples"])
    lengths = f"{_some(windows, 'window')} {rows}of {stage['window']:,} bases"
    lengths += f", {target:,} of them target" * (target != stage["window"])
    lengths += f", one every {stride:,}" if stride not in (None, target) else ""
    samples = f"{stage['samples']:,} samples in " * (stage["samples"] != windows)
    epoch = f"an epoch is {samples}{_some(stage['batches'], 'batch', 'es')} of {batch_size:,}"
    return (
        f"{lengths}; {epoch}; {_n(stage)}; "
        f"targets cover {stage['covered']:,} of {bases:,} bases ({stage['covered'] / bases:.1%})"
    )


def _n(found: dict[str, Any]) -> str:
    """How much N there is, or what is known of it."""
    if found["ambiguous"] is None:
        return f"{found['outside']:.2%} lies outside the part and reads as N, how much else does is not in the index"
    return f"{found['ambiguous']:.2%} reads as N"


def _pool(name: str, pool: str, windows: dict[str, Any], stage: dict[str, Any]) -> list[tuple[str, str]]:
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
