"""`distgen train` and `evaluate`, and the schemas of the files people write."""

from __future__ import annotations

import json
import logging
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distgen.cli import show, watch
from distgen.cli.app import Json, RayAddress, Trained, app, expect_free, local
from distgen.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.progress import Progress


@app.command()
def train(
    run: Annotated[Path, typer.Argument(help="A run file (TOML).", show_default=False, parser=local, metavar="RUN")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value", show_default=False)] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run directory. [default: runs/NAME]", parser=local, metavar="DIR")
    ] = None,
    workers: Annotated[
        str | None,
        typer.Option(
            help="Ray Train workers: N, or FEWEST-MOST of them; 0 trains in this process.", show_default=False
        ),
    ] = None,
    ray_address: RayAddress = "",
    resume: Annotated[bool, typer.Option(help="Go on from the newest checkpoint of the run directory.")] = False,
    init_from: Annotated[
        Path | None,
        typer.Option(
            help="Begin with the weights of a run directory, a checkpoint or an export.", parser=local, metavar="DIR"
        ),
    ] = None,
) -> None:
    """Train what a run file describes.

    SIGTERM or SIGUSR1: a checkpoint is kept, and the exit status is 75; --resume goes on from there.
    """
    asked = [*(overrides or []), *_cluster(workers, ray_address)]
    asked += [] if init_from is None else [f"finetune.init_from={json.dumps(str(init_from.absolute()))}"]
    if most := watch.restarts(run, asked):
        options = [*(["--out", str(out)] if out else []), *["--resume"] * resume]
        options += ["--debug"] * logging.getLogger("distgen").isEnabledFor(logging.INFO)
        raise typer.Exit(watch.watch([str(run), *asked, *options], most))
    from distgen.report.html import write_report
    from distgen.train.checkpoint import newest
    from distgen.train.launch import launch
    from distgen.train.run import Run

    parsed = Run.read(run, asked)
    if ray_address and parsed.cluster.workers == 0:
        raise ConfigError("--ray-address is where Ray's workers train, and there are none: give --workers as well")
    folder = out or Path("runs") / parsed.name
    expect_free(folder, resume)
    if parsed.train.checkpoints and not resume and (found := newest(parsed.checkpoints(folder), deep=False)):
        problem = f"{found.path} is there. Give --resume to go on from it, or keep these elsewhere."
        raise parsed.error("train.checkpoints", problem)
    began = time.perf_counter()
    with show.progress("steps") as progress:
        leads = launch(parsed, folder, _Display(progress, parsed.name))
    if not leads:
        return
    typer.echo(f"trained {parsed.name} in {time.perf_counter() - began:.0f} s: {_summary(_last(folder))}")
    _say_paths(folder, write_report(folder))


def _cluster(workers: str | None, ray_address: str) -> list[str]:
    """What the options of `train` say, as overrides."""
    found = [f'cluster.address="{ray_address}"'] if ray_address else []
    if workers is None:
        return found
    if not (given := re.fullmatch(r"(\d+)(?:-(\d+))?", workers)):
        raise ConfigError(f'--workers "{workers}" is no number. Write 4, or 2-4 for two to four, or 0 for this process')
    fewest, most = given.groups()
    return [*found, f"cluster.workers={fewest if most is None else f'[{fewest}, {most}]'}"]


@app.command()
def evaluate(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="A run directory, one of its checkpoints, or an ensemble.",
            show_default=False,
            parser=local,
            metavar="DIR",
        ),
    ],
    split: Annotated[str, typer.Option(help="Which part: train, valid or test.")] = "test",
    by_contig: Annotated[
        bool, typer.Option(help="Also measure each contig by itself (with --json, or in DIR).")
    ] = False,
    both_strands: Annotated[
        bool | None,
        typer.Option(
            help="Ask each window and its reverse complement, and average. [default: as the run's train.both_strands]",
            show_default=False,
        ),
    ] = None,
    baseline: Annotated[
        bool,
        typer.Option(
            "--baseline", help="Beside what anyone can fit in a minute: k-mer regression, or Markov models, mixed."
        ),
    ] = False,
    motifs: Annotated[
        Path | None,
        typer.Option(
            help="Beside a scan with the motif matrices of a file (JASPAR or MEME).", parser=local, metavar="FILE"
        ),
    ] = None,
    without_leaks: Annotated[
        bool,
        typer.Option("--without-leaks", help="Also without windows that share --leak-k bases with the training part."),
    ] = False,
    leak_k: Annotated[int | None, typer.Option(help="On either strand; 8 to 31, and 31 by default.")] = None,
    json_: Json = False,
) -> None:
    """Measure a trained model on held-out sequence, beside simple baselines."""
    from distgen.report.evaluations import evaluation_rows, lost
    from distgen.report.html import write_report
    from distgen.report.sweep import write_ensemble
    from distgen.train.beside import Beside
    from distgen.train.ensemble import FILE
    from distgen.train.evaluation import evaluate

    if leak_k is None and without_leaks:
        leak_k = 31
    elif leak_k is not None and not without_leaks:
        raise ConfigError("--leak-k is how much windows share that --without-leaks leaves out: give that as well")
    beside = Beside(intervals=True, baseline=baseline, motifs=motifs, leak_k=leak_k)
    folder, found = evaluate(checkpoint, split, by_contig=by_contig, both_strands=both_strands, beside=beside)
    kept = folder / f"evaluate-{split}{'-both-strands' * found.get('both_strands', False)}.json"
    kept.write_text(json.dumps(found, indent=1) + "\n")
    page = write_ensemble(folder) if (folder / FILE).is_file() else write_report(folder)
    if json_:
        typer.echo(json.dumps(found))
        return
    show.table(f"{folder.name} on {split}", evaluation_rows(found))
    for line in lost(found):
        typer.echo(line)
    if by_contig:
        typer.echo(f"{found['units']:<10}  {kept}")
    if (folder / FILE).is_file():
        typer.echo(f"report      {page}")
        return
    _say_paths(folder, page)


@app.command("export-weights")
def export_weights(
    checkpoint: Trained,
    out: Annotated[Path, typer.Option(help="A new folder.", show_default=False, parser=local, metavar="DIR")],
    trained: Annotated[
        bool, typer.Option("--trained", help="The trained weights, also where averaged ones are kept.")
    ] = False,
    program: Annotated[
        bool, typer.Option("--program", help="Also model.pt2: model and encoder by torch.export, from packed bases on.")
    ] = False,
    json_: Json = False,
) -> None:
    """Write a trained model as model.safetensors and config.json."""
    from distgen.train.weights import export_weights

    config = export_weights(checkpoint, out, averaged=not trained, program=program)
    if json_:
        typer.echo(json.dumps(config))
        return
    kind = "averaged" if config["averaged"] else "trained"
    typer.echo(f"{out}: the {kind} weights of {config['name']} after step {config['step']:,}")


@app.command()
def samples(
    run: Annotated[
        Path, typer.Argument(help="A run file or a run directory.", show_default=False, parser=local, metavar="RUN")
    ],
    step: Annotated[int, typer.Option(min=1, help="Of the training, as metrics.jsonl counts; 1 is the first.")],
    json_: Json = False,
) -> None:
    """Say which windows a step of a training saw, or will see."""
    from distgen.train.run import Run

    parsed = Run.find(run)
    store = parsed.open_store()
    loader = parsed.loader(store, parsed.build_objective(store), "train", training=True)
    epoch, position = loader.plan.at_step(step - 1)
    found = [
        {
            "sample": sample,
            "contig": place.contig,
            "start": place.start,
            "end": place.end,
            "strand": place.strand,
            "store": loader.source(epoch, position),
        }
        for sample, place in zip(*loader.places(epoch, position), strict=True)
    ]
    if json_:
        typer.echo(json.dumps({"step": step, "epoch": epoch, "samples": found}))
        return
    for row in found:
        typer.echo("\t".join(map(str, row.values())))


@app.command()
def schema(kind: Annotated[str, typer.Argument(help="recipe, run, sweep or collection", show_default=False)]) -> None:
    """Print the JSON schema of recipe, run, sweep or collection files, for editors."""
    from distgen.config import Collection, Recipe, Sweep
    from distgen.errors import suggest
    from distgen.train.run import Run

    schemas: dict[str, type[BaseModel]] = {"recipe": Recipe, "run": Run, "sweep": Sweep, "collection": Collection}
    if kind not in schemas:
        raise ConfigError(f'there is no schema "{kind}". {suggest(kind, schemas)}')
    typer.echo(json.dumps(schemas[kind].model_json_schema(), indent=1))


class _Display:
    """A live line in a terminal; elsewhere a line every ten seconds and at the end. What was told last of anything stays."""

    def __init__(self, progress: Progress, name: str):
        self._progress = progress
        self._task = progress.add_task(f"{name}: starting", total=None)
        self._known: dict[str, Any] = {}
        self._printed = 0.0
        self._first: tuple[int, float] | None = None  # step and time of the first record: nobody knows how long it took

    def __call__(self, record: dict[str, Any]) -> None:
        now, step, steps = time.monotonic(), record["step"], record["steps"]
        self._known |= record
        if self._first is None:
            self._first = step, now
            self._progress.reset(self._task, total=steps, completed=step)
        self._progress.update(self._task, completed=step, description=_summary(self._known))
        if self._progress.disable and (now - self._printed >= 10 or step == steps):
            self._printed = now
            first, since = self._first
            left = (now - since) / (step - first) * (steps - step) if step > first else 0.0
            print(f"step {step:,}/{steps:,}  {_summary(self._known)}{_left(left)}", flush=True)


def _left(seconds: float) -> str:
    """How much longer it takes, if that is known and more than nothing."""
    minutes, hours = round(seconds / 60), round(seconds / 3600, 1)
    said = f"{hours:.1f} h" if minutes >= 100 else f"{minutes} min" if minutes >= 2 else f"{seconds:.0f} s"
    return f"  {said} left" if seconds >= 0.5 else ""


def _summary(record: dict[str, Any]) -> str:
    parts = [f"loss {record['loss']:.4f}"] if "loss" in record else []
    if "bits_per_base" in record:
        parts.append(f"{record['bits_per_base']:.4f} bits/base")
    if "valid" in record:
        parts.append(f"valid loss {record['valid']['loss']:.4f}")
    if "bases_per_second" in record:
        parts += [f"{record['bases_per_second'] / 1e3:,.0f} kbases/s", f"waiting {record['wait_share']:.1%}"]
    if "mfu" in record:
        parts.append(f"MFU {record['mfu']:.1%}")
    return "  ".join(parts)


def _last(folder: Path) -> dict[str, Any]:
    """The last value of everything in a run's metrics."""
    from distgen.train.records import read_records

    last: dict[str, Any] = {}
    for record in read_records(folder):
        last |= record
    return last


def _say_paths(folder: Path, page: Path) -> None:
    from distgen.train.run import Run

    typer.echo(f"checkpoint  {Run.find(folder).checkpoints(folder) / 'best'}")
    typer.echo(f"metrics     {folder / 'metrics.jsonl'}")
    typer.echo(f"report      {page}")
