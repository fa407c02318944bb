"""`distgen sweep` and `ensemble`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distgen.cli.app import Json, app, expect_free, local
from distgen.errors import ConfigError

if TYPE_CHECKING:
    from distgen.train.trial import Trial


@app.command()
def sweep(
    file: Annotated[
        Path, typer.Argument(help="A sweep file (TOML).", show_default=False, parser=local, metavar="SWEEP")
    ],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value", show_default=False)] = None,
    out: Annotated[
        Path | None, typer.Option(help="The sweep's directory. [default: sweeps/NAME]", parser=local, metavar="DIR")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on with what the directory has of this sweep.")] = False,
    json_: Json = False,
) -> None:
    """Train a run with many configurations, seeds and folds, and say which is best."""
    from distgen.config import Sweep, read
    from distgen.report.sweep import add_verdicts, leaderboard_rows, remarks, write_leaderboard
    from distgen.train import leaderboard
    from distgen.train.sweep import sweep as train_all

    asked = read(file, Sweep, overrides)
    folder = out or Path("sweeps") / (asked.name or file.stem)
    expect_free(folder, resume)
    began = time.perf_counter()
    trials = train_all(asked, folder, _Told(asked.metric, quiet=json_))
    found = leaderboard.leaderboard(asked, trials)
    add_verdicts(folder, found)
    (folder / leaderboard.FILE).write_text(json.dumps(found, indent=1) + "\n")
    page = write_leaderboard(folder, found)
    if json_:
        typer.echo(json.dumps(found))
        return
    _columns(leaderboard_rows(found))
    typer.echo("\n".join(remarks(found)))
    for one in found["trials"]:
        if "error" in one:
            typer.echo(f"{one['trial']} failed: {one['error']}")
    typer.echo(
        f"{len(trials)} trials in {time.perf_counter() - began:.0f} s; leaderboard {folder / leaderboard.FILE}, report {page}"
    )


@app.command()
def ensemble(
    members: Annotated[
        list[Path],
        typer.Argument(
            help="Run directories or checkpoints; with --top, one sweep's directory.",
            show_default=False,
            metavar="DIR",
            parser=local,
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="The ensemble's directory.", parser=local, metavar="DIR", show_default=False)
    ],
    top: Annotated[
        int | None, typer.Option(min=2, help="So many of the best trials of a sweep, by its validation part.")
    ] = None,
) -> None:
    """Make one model of several, which predicts the mean of what they predict; distgen evaluate measures it."""
    from distgen.train import ensemble as ensembles
    from distgen.train.evaluation import open_trained
    from distgen.train.leaderboard import FILE, best_trials

    if out.exists():
        raise ConfigError(f"{out} exists. Give another --out")
    if top is not None:
        if len(members) != 1 or not (members[0] / FILE).is_file():
            raise ConfigError(f"--top needs the directory of one sweep, with its {FILE}")
        folder, members = members[0], best_trials(members[0], top)
        if len(members) < top:
            raise ConfigError(f"the leaderboard of {folder} has {len(members)} trials with a value, not {top}")
    if len(members) < 2:
        raise ConfigError(f"an ensemble has two members or more, not {len(members)}")
    ensembles.refuse_twice(members)
    ensembles.write(members, out)
    try:
        open_trained(out)  # they fit each other
    except Exception:
        (out / ensembles.FILE).unlink()
        out.rmdir()
        raise
    for member in members:
        typer.echo(f"member    {member}")
    typer.echo(f"ensemble  {out}  (distgen evaluate {out})")


class _Told:
    """A line when a trial ends, and for its validations at most one in ten seconds."""

    def __init__(self, metric: str, quiet: bool):
        self._metric, self._quiet, self._printed = metric, quiet, 0.0

    def __call__(self, trial: Trial, outcome: dict[str, Any]) -> None:
        ended = "state" in outcome
        if self._quiet or (not ended and time.monotonic() - self._printed < 10):
            return
        self._printed = time.monotonic()
        parts = [trial.out.name, outcome.get("state", "")]
        parts += [f"step {outcome['step']:,}", f"{self._metric} {outcome['value']:.4f}"] if "value" in outcome else []
        print("  ".join(part for part in [*parts, outcome.get("error", "")] if part), flush=True)


def _columns(rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        typer.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
