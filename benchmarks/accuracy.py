"""What comes out of the runs that come with distgen, beside baselines: python -m benchmarks.accuracy ROW ... [--seeds 3]

Each row of `ROWS` builds its store where that is missing, trains its run once for each seed (and fold), and measures the best
checkpoint, by its validation part, on the test part; the test part says nothing before. What was found is kept in
benchmarks/results/accuracy/ROW.json: metrics, not weights. `--table` prints all that is there as Markdown.

Needs $DISTGEN_DATA.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import machine, table

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results/accuracy"


@dataclass(frozen=True)
class Row:
    """One question.

    Args:
        recipe, run: files of shards/recipes and launch/runs, without ".toml".
        shown: metrics of the table, by their dotted names.
        folds: splits that are trained and tested one after another.
        options: of `distgen evaluate`.
        overrides: of the run.
    """

    recipe: str
    run: str
    shown: tuple[str, ...]
    folds: tuple[str, ...] = ("default",)
    options: tuple[str, ...] = ("--baseline",)
    overrides: tuple[str, ...] = ()


_TF = ("auroc", "mcc")
_LEAKS = ("--baseline", "--without-leaks")
ROWS = {
    "gue-tf0": Row("gue-tf0", "gue-tf0", _TF, options=_LEAKS),
    "gue-tf1": Row("gue-tf1", "gue-tf0", _TF, options=_LEAKS),
    "gue-tf2": Row("gue-tf2", "gue-tf0", _TF, options=_LEAKS),
    "gue-tata": Row("gue-prom-core-tata", "gue-tf0", _TF, options=_LEAKS),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    if unknown := [name for name in asked.rows if name not in ROWS]:
        parser.error(f"there is no row {', '.join(unknown)}: there are {', '.join(ROWS)}")
    for name in asked.rows:
        measure(name, ROWS[name], asked.seeds)
    if asked.table:
        show()


def measure(name: str, row: Row, seeds: int) -> None:
    """Train and test a row, and keep what was found."""
    store = ROOT / f"shards/store/{row.recipe}.zarr"
    if not store.exists():
        distgen("build", f"shards/recipes/{row.recipe}.toml", "--out", store)
    found = []
    for seed in range(seeds):
        for fold in row.folds:
            out = ROOT / f"runs/accuracy/{name}/{fold}-{seed}"
            began = time.perf_counter()
            asked = (f"data.store={store}", f"data.split={fold}", f"data.seed={seed}", *row.overrides)
            if not (out / "run.toml").exists():
                distgen("train", f"launch/runs/{row.run}.toml", *asked, "--out", out)
            seconds = time.perf_counter() - began
            measured = json.loads(distgen("evaluate", out, "--json", *row.options))
            kept = {key: value for key, value in measured.items() if key not in ("checkpoint", "by_unit")}
            found.append({"seed": seed, "fold": fold, "seconds": round(seconds, 1), **kept})
            print(f"{name} {fold} seed {seed}, {seconds:.0f} s: {_said(row, measured['metrics'])}", flush=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    result = {"row": name, "run": row.run, "overrides": row.overrides, "machine": machine(), "found": found}
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")


def show() -> None:
    """Print what is kept: of each metric the mean over seeds (of folds: of the means over folds), and its standard deviation."""
    for file in sorted(RESULTS.glob("*.json")):
        result = json.loads(file.read_text())
        row, found = ROWS[result["row"]], result["found"]
        columns = {"distgen": [one["metrics"] for one in found]}
        for name in found[0].get("baselines", {}):
            columns[name] = [one["baselines"][name]["metrics"] for one in found]
        if "without_leaks" in found[0]:
            columns["without leaks"] = [one["without_leaks"]["metrics"] for one in found]
        print(f"\n### {result['row']} ({result['run']}, {result['machine']})\n")
        seeds = [one["seed"] for one in found]
        rows = [(name, *(_spread(values, seeds, key) for key in row.shown)) for name, values in columns.items()]
        table(("", *row.shown), rows)


def _spread(values: list[dict[str, Any]], seeds: list[int], key: str) -> str:
    by_seed = [
        statistics.mean(_value(v, key) for v, s in zip(values, seeds, strict=True) if s == seed)
        for seed in sorted(set(seeds))
    ]
    spread = f" ± {statistics.stdev(by_seed):.4f}" if len(by_seed) > 1 else ""
    return f"{statistics.mean(by_seed):.4f}{spread}"


def _value(metrics: dict[str, Any], key: str) -> float:
    """One metric by its dotted name, the mean over columns of one that has several."""
    for part in key.split("."):
        metrics = metrics[part]
    return float(statistics.mean(metrics.values()) if isinstance(metrics, dict) else metrics)


def _said(row: Row, metrics: dict[str, Any]) -> str:
    return ", ".join(f"{key} {_value(metrics, key):.4f}" for key in row.shown)


def distgen(*arguments: object) -> str:
    """What the command prints; its progress and errors go to the terminal."""
    command = [sys.executable, "-m", "distgen.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
