"""`distgen build`: stores and indexes, one after another or at the same time."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distgen.cli import show
from distgen.cli.app import DEFAULT_OUT, RayAddress, Workers, app, local, say_error
from distgen.errors import ConfigError, DistgenError

if TYPE_CHECKING:
    from rich.progress import Progress

    from distgen.config import Collection, Recipe
    from distgen.ingest.objects import Place
    from distgen.store.work import Execute


@app.command()
def build(
    recipes: Annotated[
        list[Path], typer.Argument(help="Recipe files (TOML).", show_default=False, parser=local, metavar="RECIPES")
    ],
    out: Annotated[
        str | None, typer.Option(help=f"Where the store goes: a path, or s3://… [default: {DEFAULT_OUT}]")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Build also what is up to date, such as a damaged store.")
    ] = False,
    workers: Workers = 0,
    ray_address: RayAddress = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would take, and build nothing.")] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove arrays that only an earlier recipe used; nothing may read them.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON, a line for each recipe, from --dry-run.")] = False,
) -> None:
    """Build the stores that recipes describe, or what is missing of them; and the indexes of collections."""
    from distgen.config import Collection, Recipe, is_collection, read
    from distgen.ingest.objects import locate
    from distgen.store.build import default_out

    if out is not None and len(recipes) > 1:
        raise ConfigError("--out names one store; give one recipe")
    work = [read(path, Recipe) for path in recipes if not is_collection(path)]
    indexes = [read(path, Collection) for path in recipes if is_collection(path)]
    place = None if out is None else locate(out)
    for recipe in work if dry_run else ():
        _say_estimate(recipe, place, max(workers, 1), json_)
    for config in indexes if dry_run else ():
        typer.echo(f"{config.collection.name}: an index, for which the manifest of every store is read")
    if not dry_run:
        _build_all(work, place, force, *executor(workers, ray_address))
        _index_all(indexes, place, force)  # afterwards: the stores may just have been built
    for recipe in work if prune and not dry_run else ():
        _prune(place or default_out(recipe))


def executor(workers: int, ray_address: str) -> tuple[Execute, int]:
    """What carries out tasks, and the number of its workers; 0 for this process."""
    from distgen.cluster import Pool
    from distgen.store.work import in_this_process

    if ray_address:
        os.environ["RAY_ADDRESS"] = ray_address
    if not (workers or ray_address):
        return in_this_process, 0
    pool = Pool(workers)
    return pool.execute, pool.workers


def _build_all(recipes: list[Recipe], out: Place | None, force: bool, execute: Execute, workers: int) -> None:
    """Build stores, at the same time if there are workers; what fails stops no other."""
    from distgen.store.build import build, default_out, is_small
    from distgen.store.reader import open_store

    stop = threading.Event()

    def one(recipe: Recipe, progress: Progress) -> str:
        target = out or default_out(recipe)
        task = progress.add_task(recipe.name, total=None, amount=0)
        began = time.perf_counter()

        def advance(amount: int, read: int = 0) -> None:
            if stop.is_set():
                raise KeyboardInterrupt
            show.advance(progress, task, amount, read)

        expect = partial(show.expect, progress, task)
        bases = build(recipe, target, advance, expect=expect, force=force, execute=execute, parallel=max(workers, 1))
        seconds = time.perf_counter() - began
        progress.update(task, visible=False)
        if not bases:
            return f"{target}: up to date"
        speed = f"{bases / seconds / 1e6:.0f} Mbases/s" if bases > 1e6 * seconds else f"{bases / seconds:,.0f} bases/s"
        said = "".join(f"; contigs left out: {sentence}" for sentence in show.left_out(open_store(target).left_out))
        return f"{target}: {bases:,} bases in {seconds:.2f} s ({speed}){said}"

    failed: list[DistgenError] = []
    at_once = max(1, min(len(recipes), max(4 * workers, 8 * all(map(is_small, recipes))), 16))
    with show.progress("bases") as progress, _threads(at_once, stop) as submit:
        for result in [submit(one, recipe, progress) for recipe in recipes]:
            try:
                typer.echo(result())
            except DistgenError as error:
                failed.append(error)
    for other in failed[:-1]:
        say_error(other)
    if failed:
        raise failed[-1]


@contextmanager
def _threads(count: int, stop: threading.Event) -> Iterator[Callable[..., Callable[[], Any]]]:
    """What has a function called, and returns what waits for its result: in so many threads; one is this one.

    Whoever presses Ctrl-C waits for no thread: `stop` is set, upon which none may publish anything.
    """
    from concurrent.futures import Future, ThreadPoolExecutor, wait

    def awaited(future: Future[Any]) -> Any:
        # Libraries (polars) have system calls begun again after a signal: only a wait that ends by itself hears of one.
        while not wait([future], timeout=0.2).done:
            pass
        return future.result()

    pool = ThreadPoolExecutor(count)
    try:
        yield partial if count == 1 else lambda *call: partial(awaited, pool.submit(*call))
    except KeyboardInterrupt:
        stop.set()
        print("interrupted: nothing more is published; the same command goes on from here", file=sys.stderr)
        raise
    finally:
        pool.shutdown(wait=not stop.is_set(), cancel_futures=True)


def _prune(place: Place) -> None:
    from distgen.store.verify import prune

    for key in prune(place):
        typer.echo(f"{place / key}: removed")


def _index_all(collections: list[Collection], out: Place | None, force: bool) -> None:
    from distgen.store.collection import open_collection
    from distgen.store.index import build_index

    for config in collections:
        if not (out is None or isinstance(out, Path)):
            raise ConfigError(f"{out}: the index of a collection can only be built in a folder")
        with show.progress("stores") as progress:
            task = progress.add_task(config.collection.name, total=None)
            index = build_index(config, out, partial(progress.advance, task), force=force)
        found = open_collection(index)
        typer.echo(f"{index}: {len(found):,} stores, {found.bases.sum():,} bases")


def _say_estimate(recipe: Recipe, out: Place | None, workers: int, json_: bool) -> None:
    from distgen.store.build import default_out
    from distgen.store.estimate import estimate

    found, target = estimate(recipe, workers), out or default_out(recipe)
    if json_:
        totals = {"store": str(target), "bytes": found.bytes, "seconds": found.seconds, "memory": found.memory}
        typer.echo(json.dumps({"name": recipe.name, **asdict(found), **totals}))
        return
    each = " for each worker" if workers > 1 else ""
    rows = [("bases", f"about {found.bases:,}")]
    rows += [(part.name, f"at most {part.bytes / 1e6:,.1f} MB, about {part.seconds:,.1f} s") for part in found.parts]
    rows.append(("store", f"at most {found.bytes / 1e6:,.1f} MB, in {target}"))
    rows += [("fetched", f"{found.fetched / 1e6:,.1f} MB of remote sources")] if found.fetched else []
    rows.append(("time", f"about {found.seconds:,.1f} s" + (f" with {workers} workers" if workers > 1 else "")))
    rows.append(("memory", f"at most {found.memory / 1e6:,.0f} MB{each}"))
    show.table(recipe.name, rows)
