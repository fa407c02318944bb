"""The leaderboard of a sweep, and the members of an ensemble, as rows and as a page."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

from distgen.report.evaluations import evaluation_rows
from distgen.report.html import page, table
from distgen.report.verdict import judge
from distgen.train.records import read_records

_HEAD = ("rank", "configuration", "mean", "sd", "trials", "gap", "against the best", "95 % interval", "p")


def leaderboard_rows(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """A row for each configuration, the best first; the first row is the head."""
    rows: list[tuple[str, ...]] = [_HEAD]
    for one in found["configurations"]:
        against = one["against_best"]
        values = ", ".join(f"{key} {value}" for key, value in one["values"].items()) or "the run as it is"
        trials = f"{one['ended']} of {one['trials']}" + (f", {one['stopped']} stopped" if one["stopped"] else "")
        rows.append(
            (
                str(one["rank"]),
                f"{one['configuration']:03d}: {values}",
                _number(one["mean"]),
                _number(one["sd"]),
                trials,
                _number(one["gap"]),
                _number(against and against["value"], sign="+"),
                f"{against['low']:+.4f} to {against['high']:+.4f}" if against else "",
                f"{against['p_of_all']:.4f}" if against else "",
            )
        )
    return rows


def add_verdicts(folder: Path, found: dict[str, Any]) -> None:
    """Say of each trial of a leaderboard what became of it: over- or underfitting; see `distgen.report.verdict`."""
    for row in found["trials"]:
        row["verdict"] = judge(read_records(folder / "trials" / row["trial"]))._asdict()


def remarks(found: dict[str, Any]) -> list[str]:
    """What is to be known of the numbers of a leaderboard, in sentences."""
    said = [
        f"{found['metric']} of each trial's best checkpoint on the validation part; "
        f"{'lower' if found['mode'] == 'min' else 'higher'} is better. The test part was not looked at."
    ]
    compared = [one["against_best"] for one in found["configurations"] if one["against_best"]]
    if compared:
        said.append(
            f"Differences from the best: {found['resamples']:,} resamples of {compared[0]['units']} "
            f"{compared[0]['of']} on the same seeds and folds; p allows for {len(compared)} comparisons (Holm). The best was "
            "chosen on the same bases: it may be less good elsewhere."
        )
    if any(one["of"] == "blocks" for one in compared):
        said.append("There are too few contigs to resample: blocks of them are, whose neighbours resemble each other.")
    if len(found["configurations"]) > len(compared) + 1:
        said.append(
            "Without a difference: a configuration that did not end, or has no six contigs or blocks with the metric."
        )
    said.append(
        "gap: the loss on the validation part less that on a sample of the training part, measured alike at the last validation."
    )
    if any(one["stopped"] for one in found["configurations"]):
        said.append("What was stopped early was trained less than others.")
    return said


def write_leaderboard(folder: Path, found: dict[str, Any]) -> Path:
    """Write DIR/report.html of a sweep."""
    head, *rows = leaderboard_rows(found)
    parts = ["<h2>Configurations</h2>", table(head, rows)]
    parts += [f"<p>{html.escape(sentence)}</p>" for sentence in remarks(found)]
    trials = [
        (
            one["trial"],
            one["state"],
            _number(one["value"]),
            str(one["step"] or ""),
            _number(one["train_loss"]),
            _number(one["valid_loss"]),
            _number(one["gap"]),
            one.get("error", f"{one['verdict']['word']}: {one['verdict']['said']}"),
        )
        for one in found["trials"]
    ]
    head = (
        "trial",
        "state",
        found["metric"],
        "best step",
        "training loss",
        "validation loss",
        "gap",
        "what became of it",
    )
    parts += ["<h2>Trials</h2>", table(head, trials)]
    parts += ["<h2>Sweep</h2>", f"<pre>{html.escape((folder / 'sweep.toml').read_text())}</pre>"]
    return page(folder, parts)


def write_ensemble(folder: Path) -> Path:
    """Write DIR/report.html of an ensemble from its evaluate-*.json."""
    parts = []
    for path in sorted(folder.glob("evaluate-*.json")):
        found = json.loads(path.read_text())
        parts += [f"<h2>Evaluation on {html.escape(str(found['split']))}</h2>"]
        parts += [table(("metric", "value"), evaluation_rows(found))]
        members = [(str(path), f"{step:,}") for path, step in zip(found["checkpoint"], found["step"], strict=True)]
    return page(folder, [*parts, "<h2>Members</h2>", table(("checkpoint", "step"), members)])


def _number(value: float | None, sign: str = "") -> str:
    return "" if value is None else f"{value:{sign}.4f}"
