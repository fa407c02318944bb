"""The command line itself, and what its commands have in common."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

import distgen
from distgen.errors import ConfigError, DistgenError, redact

app = typer.Typer(
    help="Train deep-learning models on whole genomes.",
    epilog="--debug, with any command: log more, and show where an error comes from.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # markup would swallow [default: ...]
)


def local(text: str) -> Path:
    """A path on this machine, where nothing else can be read or written."""
    if "://" in text:
        raise ConfigError(f"{redact(text)} is a URI, and only a path on this machine can stand here")
    return Path(text).expanduser()


def expect_free(folder: Path, resume: bool) -> None:
    """Raise ConfigError: something is there already, which `--resume` does not ask to go on with."""
    if folder.exists() and not (folder.is_dir() and (resume or not any(folder.iterdir()))):
        raise ConfigError(f"{folder} exists. Give --resume to go on with it, or another --out.")


def say_error(error: DistgenError) -> None:
    """What was wrong, and what is said beside it, in one line."""
    said = [str(error).rstrip("."), *getattr(error, "__notes__", ())]
    print(f"error: {'. '.join(said) if len(said) > 1 else error}", file=sys.stderr)


def _say_version(asked: bool) -> None:
    if asked:
        typer.echo(f"distgen {distgen.__version__}")
        raise typer.Exit


DEFAULT_OUT = "NAME.zarr beside the recipe; ../store/NAME.zarr if that lies in a folder called recipes"
Workers = Annotated[
    int,
    typer.Option(
        min=0,
        help="Spread the work over so many Ray workers. [default: none; with --ray-address one for each of its cores]",
        show_default=False,
    ),
]
RayAddress = Annotated[str, typer.Option(help="A Ray cluster to use; every node sees the same files.")]
Trained = Annotated[
    Path,
    typer.Argument(help="A run directory, or one of its checkpoints.", show_default=False, parser=local, metavar="DIR"),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_say_version)
    ] = False,
) -> None:
    """What is asked before any command."""
