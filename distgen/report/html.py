"""DIR/report.html: one page with its figures inside, nothing loaded from elsewhere."""

from __future__ import annotations

import html
import io
import json
from pathlib import Path
from typing import Any

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .25rem .8rem; text-align: left }
th { border-bottom: 1px solid #999 } tr:nth-child(even) td { background: #f4f4f4 }
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
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [record for record in records if "loss" in record]
    parts = [f"<h1>{html.escape(out.name)}</h1>", "<h2>Loss</h2>", _loss_figure(records)]
    parts += ["<h2>Throughput</h2>", _table(("", "value"), _throughput(steps))]
    for path in sorted(out.glob("evaluate-*.json")):
        evaluation = json.loads(path.read_text())
        parts.append(f"<h2>Evaluation on {html.escape(str(evaluation['split']))}</h2>")
        parts.append(_table(("metric", "value"), evaluation_rows(evaluation)))
    parts += ["<h2>Run</h2>", f"<pre>{html.escape((out / 'run.toml').read_text())}</pre>"]
    page = out / "report.html"
    page.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(out.name)}</title>'
        f"<style>{_STYLE}</style><body>{''.join(parts)}</body></html>\n"
    )
    return page


def evaluation_rows(evaluation: dict[str, Any]) -> list[tuple[str, str]]:
    """An evaluation as rows of name and value, nested metrics as "auroc cds+"."""
    rows = []
    for name, value in evaluation["metrics"].items():
        nested = value.items() if isinstance(value, dict) else [("", value)]
        rows += [(f"{name} {inner}".strip(), f"{number:.4f}") for inner, number in nested]
    rows += [(f"bits_per_base, {name}", f"{bits:.4f}") for name, bits in evaluation.get("baselines", {}).items()]
    return rows


def _throughput(steps: list[dict[str, Any]]) -> list[tuple[str, str]]:
    if not steps:
        return []
    speeds = sorted(record["bases_per_second"] for record in steps)
    waits = [record["wait_share"] for record in steps]
    return [
        ("bases per second, median", f"{speeds[len(speeds) // 2]:,.0f}"),
        ("bases per second, slowest and fastest", f"{speeds[0]:,.0f} to {speeds[-1]:,.0f}"),
        ("share of time waiting for data, mean", f"{sum(waits) / len(waits):.1%}"),
        ("steps", f"{steps[-1]['step']:,}"),
    ]


def _table(head: tuple[str, ...], rows: list[tuple[str, str]]) -> str:
    def line(cells: tuple[str, ...], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return f"<table>{line(head, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"


def _loss_figure(records: list[dict[str, Any]]) -> str:
    """The loss curve as inline SVG: training, and validation where there is any."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    steps = [r for r in records if "loss" in r]
    valid = [r for r in records if "valid" in r]
    bits = bool(steps) and "bits_per_base" in steps[0]
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(
        [r["step"] for r in steps], [r["bits_per_base" if bits else "loss"] for r in steps], lw=1, label="training"
    )
    if valid:
        values = [r["valid"]["bits_per_base" if bits else "loss"] for r in valid]
        axes.plot([r["step"] for r in valid], values, "o-", label="validation")
    axes.set_xlabel("step")
    axes.set_ylabel("bits per base" if bits else "loss (nats)")
    axes.grid(alpha=0.3)
    axes.legend()
    text = io.StringIO()
    FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]
