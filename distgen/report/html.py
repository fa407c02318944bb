"""DIR/report.html: one page with its figures inside, nothing loaded from elsewhere."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distgen.errors import ConfigError, DistgenError
from distgen.report import curves
from distgen.report.evaluations import evaluation_rows, flat
from distgen.report.figures import BARS, LINES, Bar, contig_bars, coverage_figure, reliability_figure, shown, store_bar
from distgen.report.verdict import judge
from distgen.report.windows import describe, serve_most, tables
from distgen.train.records import read_records

if TYPE_CHECKING:
    from distgen.loader.base import Loader
    from distgen.loader.loader import GenomeLoader
    from distgen.loader.windows import Windows
    from distgen.train.run import Stores

_COUNTED = 100  # stores of a collection, at most: a training does not end with many minutes of counting
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .25rem .8rem; text-align: left }
th { border-bottom: 1px solid #999 } tr:nth-child(even) td { background: #f4f4f4 }
td { vertical-align: top } td:first-child { white-space: nowrap }
td:not(:first-child) { font-variant-numeric: tabular-nums } pre { background: #f4f4f4; padding: 1rem; overflow-x: auto }
svg { max-width: 100%; height: auto }
"""


def write_report(out: Path) -> Path:
    """Write DIR/report.html from what a run directory holds.

    Args:
        out: a run directory with run.toml and metrics.jsonl, and evaluate-*.json where there was an evaluation.

    Returns:
        The page's path.
    """
    records = read_records(out)
    steps = [record for record in records if "loss" in record]
    verdict = judge(records)
    parts = [f"<p><strong>{verdict.word[0].upper()}{verdict.word[1:]}.</strong> {html.escape(verdict.said)}</p>"]
    parts += ["<h2>Learning</h2>", curves.learning_figure(records), curves.metrics_figure(records), _last(records)]
    parts += ["<h2>Learning rate and gradient</h2>", curves.rate_figure(steps)] if "lr" in (steps or [{}])[-1] else []
    parts += ["<h2>Throughput</h2>", curves.speed_figure(steps), curves.split_figure(steps), _throughput(steps)]
    parts += ["<h2>Memory</h2>", curves.memory_figure(steps)] if "memory_bytes" in (steps or [{}])[-1] else []
    parts += ["<h2>Checkpoints</h2>", _checkpoints(out, records)]
    for path in sorted(out.glob("evaluate-*.json")):
        evaluation = json.loads(path.read_text())
        parts.append(f"<h2>Evaluation on {html.escape(str(evaluation['split']))}</h2>")
        parts.append(table(("metric", "value"), evaluation_rows(evaluation)))
        parts += _reliability(evaluation.get("reliability", {}))
    parts += ["<h2>Windows</h2>", _windows(out / "run.toml")]
    parts += ["<h2>Run</h2>", f"<pre>{html.escape((out / 'run.toml').read_text())}</pre>"]
    return page(out, parts)


def page(out: Path, parts: list[str]) -> Path:
    """Write DIR/report.html of elements of HTML; returns its path."""
    path, name = out / "report.html", html.escape(out.name)
    path.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title>'
        f"<style>{_STYLE}</style><body><h1>{name}</h1>{''.join(parts)}</body></html>\n"
    )
    return path


def _reliability(found: dict[str, Any]) -> list[str]:
    """How far the confidence of answers can be trusted."""
    found = {name: bins for name, bins in found.items() if bins["count"]}
    if not found:
        return []
    less = len(found) - LINES
    rest = f"<p>{less:,} questions that fewer windows answered are not shown.</p>" if less > 0 else ""
    return ["<h3>Reliability</h3>", reliability_figure(found), rest]


def _windows(run_file: Path) -> str:
    """What windows there are, and where; if the store or a file of the run is no longer there, that."""
    from distgen.store.collection import Collection
    from distgen.train.run import Run

    try:
        run = Run.read(run_file)
        store = run.open_store()
        if isinstance(store, Collection) and len(store) > _COUNTED:
            raise ConfigError(f"{len(store):,} stores are many. Run: distgen info --windows {run_file.parent}")
        loaders = run.loaders(store)
        (_, own), *stores = tables(found := describe(run, store, loaders))
        bars, rest = _bars(store, loaders, found)
        figure = coverage_figure(bars) if bars else ""
    except DistgenError as error:
        return f"<p>Not shown: {html.escape(str(error))}</p>"
    said = [table(("part", "windows"), own), figure, f"<p>{html.escape(rest)}</p>" * bool(rest)]
    said += [f"<h3>{html.escape(name)}</h3>{table(('part', 'windows'), rows)}" for name, rows in stores]
    return "".join(said)


def _bars(store: Stores, loaders: Mapping[str, Loader | ConfigError], found: dict[str, Any]) -> tuple[list[Bar], str]:
    """What targets cover along the longest contigs, or along those stores of a collection that serve most; and what is not
    shown. A table's thousands of sequences, each in one part, are no picture."""
    from distgen.loader.loader import GenomeLoader
    from distgen.loader.mixture import MixtureLoader
    from distgen.loader.summary import served
    from distgen.store.collection import Collection

    def held(of: Mapping[str, GenomeLoader]) -> dict[str, list[Windows]]:
        return {part: list(served(loader.plan.stages[-1][1]).values()) for part, loader in of.items()}

    if not isinstance(store, Collection):
        if store.is_table:
            return [], ""
        own = {part: loader for part, loader in loaders.items() if isinstance(loader, GenomeLoader)}
        return contig_bars(store.contigs, held(own)), shown(store.contigs)
    mixtures = {part: loader for part, loader in loaders.items() if isinstance(loader, MixtureLoader)}
    bars = []
    for name in serve_most(found, BARS):
        row = store.index(name)
        of = {part: loader.loader(row) for part, loader in mixtures.items() if row in loader.members}
        if not store.store(row).is_table:
            bars.append(store_bar(name, store.store(row).contigs, held(of)))
    less = len(found["stores"]) - BARS
    return bars, f"{less:,} stores that serve less are not shown" * (less > 0)


def _last(records: list[dict[str, Any]]) -> str:
    """The metrics of the last validation and of the best, on both parts."""
    valid = [record for record in records if "valid" in record]
    if not valid:
        return "<p>Nothing was validated: train.valid_every, and a split with a part for it, say when.</p>"
    best = min(valid, key=lambda record: record["valid"]["loss"])
    columns = {f"step {valid[-1]['step']:,}, the last": valid[-1]}
    columns |= {f"step {best['step']:,}, the best": best} if best is not valid[-1] else {}
    head, cells = ["metric"], []
    for name, record in columns.items():
        for part in ("valid", "train"):
            if part in record:
                head.append(f"{part}, {name}")
                cells.append(dict(flat(record[part])))
    rows = [(metric, *(f"{column[metric]:.4f}" if metric in column else "" for column in cells)) for metric in cells[0]]
    return table(tuple(head), rows)


def _throughput(steps: list[dict[str, Any]]) -> str:
    if not steps:
        return "<p>No step was recorded.</p>"
    speeds = sorted(record["bases_per_second"] for record in steps)
    waits = [record["wait_share"] for record in steps]
    rows = [
        ("bases per second, median", f"{speeds[len(speeds) // 2]:,.0f}"),
        ("bases per second, slowest and fastest", f"{speeds[0]:,.0f} to {speeds[-1]:,.0f}"),
        ("share of time waiting for data, mean", f"{sum(waits) / len(waits):.1%}"),
    ]
    if busy := sorted(record["mfu"] for record in steps if "mfu" in record):
        rows.append(("model FLOPs utilization, median", f"{busy[len(busy) // 2]:.1%}"))
    if binds := curves.bound(steps):
        word, shares = binds
        rows.append(("what binds", f"{word} ({', '.join(f'{name} {share:.1%}' for name, share in shares.items())})"))
    return table(("", "value"), [*rows, ("steps", f"{steps[-1]['step']:,}")])


def _checkpoints(out: Path, records: list[dict[str, Any]]) -> str:
    """Those that are kept, with the validation loss that each had."""
    folder = out / "checkpoints"
    kept = sorted(path for path in folder.glob("step-*") if path.is_dir()) if folder.is_dir() else []
    if not kept:
        return f"<p>None in {html.escape(str(folder))}; train.checkpoints may name another place.</p>"
    links = {name: (folder / name).resolve().name for name in ("last", "best") if (folder / name).exists()}
    losses = {record["step"]: record["valid"]["loss"] for record in records if "valid" in record}
    rows = []
    for path in kept:
        loss = losses.get(int(path.name.removeprefix("step-"))) if path.name.removeprefix("step-").isdigit() else None
        names = ", ".join(name for name, target in links.items() if target == path.name)
        rows.append((path.name, "" if loss is None else f"{loss:.4f}", names))
    return table(("checkpoint", "validation loss", ""), rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of HTML from plain text."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return f"<table>{line(head, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"
