"""What comes out of the runs that come with distgen, beside baselines: python -m benchmarks.accuracy ROW ... [--seeds 3]

Each row of `ROWS` builds its store where that is missing, trains its run once for each seed (and fold), and measures the best
checkpoint, by its validation part, on the test part; the test part says nothing before. What was found is kept in
benchmarks/results/accuracy/ROW.json: metrics, not weights. `--table` prints all that is there as Markdown.

Needs $DISTGEN_DATA.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import machine, table
from distgen.evaluate.metrics import named_value

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results/accuracy"
_LEFT_OUT = ("checkpoint", "step", "reliability", "by_unit", "units")


@dataclass(frozen=True)
class Row:
    """One question.

    Args:
        recipe: a file of shards/recipes, without ".toml".
        runs: files of launch/runs, likewise; several are averaged.
        shown: metrics of the table, by their dotted names.
        folds: splits that are trained and tested one after another; "" is the run's own.
        options: of `distgen evaluate`.
        overrides: of the runs.
        motif: instead of an evaluation, which of the known motifs its filters are compared with.
    """

    recipe: str
    runs: tuple[str, ...]
    shown: tuple[str, ...]
    folds: tuple[str, ...] = ("",)
    options: tuple[str, ...] = ("--baseline",)
    overrides: tuple[str, ...] = ()
    motif: str = ""


_KNOWN = "shards/sources/known-motifs.meme"
_LEAKS = ("--baseline", "--without-leaks")
_FAMILIES = ("hopfield", "longconv", "mlp", "recurrent", "ssm", "transformer")
_TEN = tuple(f"default-{fold}" for fold in range(10))
_GUE: dict[str, Any] = {
    "runs": ("gue-tf0", "gue-tf0-mlp", "gue-tf0-hopfield"),
    "shown": ("auroc", "mcc"),
    "options": _LEAKS,
    "overrides": ("data.strand=random",),
}
_ENHANCERS: dict[str, Any] = {"runs": ("ienhancer", "ienhancer-mlp"), "shown": ("accuracy", "auroc"), "options": _LEAKS}
_MOTIFS = ("--baseline", "--motifs", _KNOWN)
ROWS = {
    "uci-splice": Row("uci-splice", ("uci-splice",), ("error.N", "error.EI", "error.IE"), _TEN),
    "ienhancer": Row("ienhancer", **_ENHANCERS),
    "ienhancer-held": Row("ienhancer", **_ENHANCERS, overrides=("data.split=held",)),
    "gue-tf0": Row("gue-tf0", **_GUE),
    "gue-tf1": Row("gue-tf1", **_GUE),
    "gue-tf2": Row("gue-tf2", **_GUE),
    "gue-tata": Row("gue-prom-core-tata", ("gue-tata",), ("auroc", "mcc"), options=_LEAKS),
    "yeast-promoters": Row("yeast-promoters", ("yeast-promoters",), ("pearson", "spearman"), _TEN),
    "chr20-splice": Row("chr20-splice", ("chr20-splice",), ("top_k", "auprc")),
    "chr20-ctcf": Row("chr20-ctcf", ("chr20-ctcf",), ("auprc", "auroc"), options=_MOTIFS),
    "ctcf-motifs": Row("human-chr20", ("ctcf-motifs",), ("p",), motif="CTCF"),
    "chr20-factors": Row("chr20-factors", ("chr20-factors",), ("auroc", "auprc"), options=_MOTIFS),
    "chr20-factors-mlp": Row("chr20-factors", ("chr20-factors-mlp",), ("auroc", "auprc"), options=_MOTIFS),
    "yeast-mnase": Row("sacCer3-mnase", ("yeast-mnase", "yeast-mnase-recurrent"), ("pearson", "spearman")),
    "yeast-masked-lm": Row("sacCer3", ("yeast-masked-lm",), ("bits_per_base",)),
    "yeast-causal-lm": Row("sacCer3", ("yeast-causal-lm",), ("bits_per_base",)),
    **{f"gue-tf0-{family}": Row("gue-tf0", (f"gue-tf0-{family}",), ("auroc", "mcc")) for family in _FAMILIES},
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
    # Nothing to do where it is as the recipe says.
    distgen("build", f"shards/recipes/{row.recipe}.toml", "--out", store)
    RESULTS.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"row": name, "runs": row.runs, "overrides": row.overrides, "machine": machine()}
    found: list[dict[str, Any]] = []
    members: dict[str, list[Path]] = {fold: [] for fold in row.folds}
    for seed in range(seeds):
        for fold in row.folds:
            members[fold] += (own := trained(name, row, store, seed, fold))
            measured = looked_for(row, one_of(own)) if row.motif else evaluated(row, one_of(own))
            found.append({"seed": seed, "fold": fold, **measured})
            print(f"{name} {fold} seed {seed}: {_said(row, measured['metrics'])}", flush=True)
            keep(result | {"found": found})
    if seeds > 1 and not row.motif:
        together = [{"fold": fold, **evaluated(row, one_of(members[fold]))} for fold in row.folds]
        for one in together:
            print(f"{name} {one['fold']} all seeds together: {_said(row, one['metrics'])}", flush=True)
        keep(result | {"found": found, "together": together})


def keep(result: dict[str, Any]) -> None:
    """Write what was found of a row."""
    (RESULTS / f"{result['row']}.json").write_text(json.dumps(result, indent=1) + "\n")


def trained(name: str, row: Row, store: Path, seed: int, fold: str) -> list[Path]:
    """The directories of a row's runs, trained."""
    folder = ROOT / "runs/accuracy" / name / f"{fold}-{seed}".lstrip("-")
    asked = [f"data.store={store}", f"data.seed={seed}", *row.overrides, *([f"data.split={fold}"] if fold else [])]
    members = [folder / run for run in row.runs]
    for run, out in zip(row.runs, members, strict=True):
        distgen("train", f"launch/runs/{run}.toml", *asked, "--out", out, *["--resume"] * (out / "run.toml").exists())
    return members


def one_of(members: list[Path]) -> Path:
    """A run's directory, or that of the ensemble of several."""
    if len(members) == 1:
        return members[0]
    out = members[0].parent / f"mean-of-{len(members)}"
    shutil.rmtree(out, ignore_errors=True)
    distgen("ensemble", *members, "--out", out)
    return out


def evaluated(row: Row, out: Path) -> dict[str, Any]:
    """What the test part says of a run, or of an ensemble."""
    measured = json.loads(distgen("evaluate", out, "--json", *row.options))
    return {key: value for key, value in measured.items() if key not in _LEFT_OUT}


def looked_for(row: Row, out: Path) -> dict[str, Any]:
    """Which filter is most like a known motif, and how probable that is by chance."""
    found = json.loads(distgen("motifs", out, "--out", out / "motifs.meme", "--compare", _KNOWN, "--json"))
    alike = [motif for motif in found["motifs"] if row.motif in motif["match"]]
    best = min(alike, key=lambda motif: motif["p"], default={"p": 1.0})
    return {"metrics": {"p": best["p"]}, "filter": best, "filters": len(found["motifs"])}


def show() -> None:
    """Print what is kept: of each metric the mean over seeds (of folds: of the means over folds), and its standard deviation."""
    for file in sorted(RESULTS.glob("*.json")):
        result = json.loads(file.read_text())
        row, found = ROWS[result["row"]], result["found"]
        columns = _columns(found)
        for name, values in _columns(result.get("together", [])).items():
            if name.startswith("distgen"):  # baselines are the same
                columns[f"{name}, all seeds together"] = values
        print(f"\n### {result['row']} ({', '.join(result['runs'])}; {result['machine']})\n")
        table(("", *row.shown), [(name, *(_spread(of, key) for key in row.shown)) for name, of in columns.items()])


def _columns(found: list[dict[str, Any]]) -> dict[str, list[tuple[int, dict[str, Any]]]]:
    """Seeds and metrics, by what they are of."""
    columns: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for one in found:
        for where, some in (("", one), (", without leaks", one.get("without_leaks"))):
            if some is None:
                continue
            every = {"distgen": some, **some.get("baselines", {})}
            for name, values in every.items():
                columns.setdefault(name + where, []).append((one.get("seed", 0), values["metrics"]))
    return columns


def _spread(values: list[tuple[int, dict[str, Any]]], key: str) -> str:
    seeds = sorted({seed for seed, _ in values})
    by_seed = [statistics.mean(_number(metrics, key) for own, metrics in values if own == seed) for seed in seeds]
    spread = f" ± {_text(statistics.stdev(by_seed))}" if len(set(by_seed)) > 1 else ""
    return f"{_text(statistics.mean(by_seed))}{spread}"


def _number(metrics: dict[str, Any], key: str) -> float:
    """One metric, NaN where there is none; baselines have those of columns by their dotted names."""
    found = metrics[key] if isinstance(metrics.get(key), float) else named_value(metrics, key)
    return math.nan if found is None else found


def _text(value: float) -> str:
    return f"{value:.1e}" if 0 < value < 1e-4 else f"{value:.4f}"


def _said(row: Row, metrics: dict[str, Any]) -> str:
    return ", ".join(f"{key} {_text(_number(metrics, key))}" for key in row.shown)


def distgen(*arguments: object) -> str:
    """What the command prints; its progress and errors go to the terminal."""
    command = [sys.executable, "-m", "distgen.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
