"""`distgen verify`, `repair` and `export`: what is done with a store that is there."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from distgen.cli import show
from distgen.cli.app import DEFAULT_OUT, Json, RayAddress, Workers, app, local
from distgen.cli.build import executor
from distgen.errors import ConfigError, StoreError


@app.command()
def verify(
    store: Annotated[str, typer.Argument(help="A store: a path, or s3://…", show_default=False)],
    deep: Annotated[
        Path | None,
        typer.Option("--deep", metavar="RECIPE", parser=local, help="Read the sources again, and compare."),
    ] = None,
    json_: Json = False,
) -> None:
    """Check every byte of a store against its checksums."""
    from distgen.config import Recipe, read
    from distgen.ingest.objects import locate
    from distgen.store.reader import open_store
    from distgen.store.repair import compare
    from distgen.store.verify import verify

    with show.progress("bytes") as progress:
        task = progress.add_task("verify", total=None)
        found = verify(open_store(store), partial(progress.advance, task))
        if deep and not found.damage:
            found.damage = [("", None, line) for line in compare(read(deep, Recipe), locate(store))]
    if json_:
        typer.echo(json.dumps(asdict(found)))
    elif not found.damage:
        checked = f"{found.chunks:,} chunks of {found.arrays} arrays, {found.bytes:,} bytes"
        typer.echo(f"{store}: whole ({checked})" + (", and what its sources say" if deep else ""))
    if found.damage:
        raise StoreError("\n".join(sentence for _, _, sentence in found.damage))


@app.command()
def repair(
    recipe: Annotated[
        Path, typer.Argument(help="The recipe of the store.", show_default=False, parser=local, metavar="RECIPE")
    ],
    out: Annotated[str | None, typer.Option(help=f"Where the store is. [default: {DEFAULT_OUT}]")] = None,
) -> None:
    """Build the damaged shards of a store again, and nothing else."""
    from distgen.config import Recipe, read
    from distgen.ingest.objects import locate
    from distgen.store.build import default_out
    from distgen.store.repair import repair

    what = read(recipe, Recipe)
    target = default_out(what) if out is None else locate(out)
    with show.progress("bytes") as progress:
        task = progress.add_task("verify", total=None)
        found = repair(what, target, partial(progress.advance, task))
    for _, _, sentence in found.damage:
        typer.echo(sentence.replace("; run distgen repair RECIPE", ""))
    typer.echo(f"{target}: whole" + (f", {len(found.damage)} mended" if found.damage else ""))


@app.command()
def export(
    store: Annotated[str, typer.Argument(help="A store: a path, or s3://…", show_default=False)],
    out: Annotated[str, typer.Option(help="The folder to make, or s3://…", show_default=False)],
    format_: Annotated[str, typer.Option("--format", help="webdataset: tar shards and an index.")] = "webdataset",
    window: Annotated[int, typer.Option(help="Bases per window.")] = 1024,
    target_length: Annotated[
        int | None, typer.Option(help="Bases in the window's middle that targets cover. [default: the window]")
    ] = None,
    stride: Annotated[
        int | None, typer.Option(help="Bases from one target to the next. [default: target length]")
    ] = None,
    split: Annotated[str, typer.Option(help="Name of a split.")] = "default",
    part: Annotated[str, typer.Option(help="Parts of it, such as train,valid. [default: all]")] = "",
    tracks: Annotated[str, typer.Option(help="Tracks to write as targets, such as genes,mnase.")] = "",
    shard_bytes: Annotated[int, typer.Option(help="About how many bytes a shard has.")] = 256_000_000,
    workers: Workers = 0,
    ray_address: RayAddress = "",
) -> None:
    """Write the windows of a store as tar shards, for other tools to train on; or what is missing of them."""
    from distgen.errors import suggest
    from distgen.ingest.objects import locate
    from distgen.store.reader import open_store
    from distgen.store.webdataset import export

    if format_ != "webdataset":
        raise ConfigError(f'there is no format "{format_}" to export to. {suggest(format_, ["webdataset"])}')
    execute, _ = executor(workers, ray_address)
    with show.progress("windows") as progress:
        place = locate(out)
        task = progress.add_task(place.name, total=None)
        found = export(
            open_store(store),
            place,
            window=window,
            target_length=target_length,
            stride=stride,
            split=split,
            parts=tuple(part.split(",")) if part else (),
            tracks=tuple(tracks.split(",")) if tracks else (),
            shard_bytes=shard_bytes,
            progress=lambda windows, read=0: progress.advance(task, windows),
            expect=partial(show.expect, progress, task),
            execute=execute,
        )
    size = sum(entry["bytes"] for entry in found.index["shards"])
    windows = ", ".join(f"{name} {count:,}" for name, count in found.parts.items())
    typer.echo(f"{out}: {windows} windows in {len(found.shards):,} shards, {size:,} bytes")
