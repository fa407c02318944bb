"""One command per job, no logic of its own. Heavy imports wait until a command needs them."""

from __future__ import annotations

import atexit
import json
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distgen.errors import ConfigError, DistgenError, StoreError

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.progress import Progress

    from distgen.config import Collection, Recipe
    from distgen.ingest.objects import Place
    from distgen.store.work import Execute

app = typer.Typer(
    help="Train deep-learning models on whole genomes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
Workers = Annotated[
    int,
    typer.Option(
        min=0,
        help="Spread the work over so many Ray workers. [default: none; with --ray-address one for each of its cores]",
        show_default=False,
    ),
]
RayAddress = Annotated[str, typer.Option(help="A Ray cluster to use; every node sees the same files.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command()
def build(
    recipes: Annotated[list[Path], typer.Argument(help="Recipe files (TOML).", show_default=False)],
    out: Annotated[
        str | None, typer.Option(help="Where the store goes: a path, or s3://… [default: shards/store/NAME.zarr]")
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
        _build_all(work, place, force, *_executor(workers, ray_address))
        _index_all(indexes, place, force)  # afterwards: the stores may just have been built
    for recipe in work if prune and not dry_run else ():
        _prune(place or default_out(recipe))


def _executor(workers: int, ray_address: str) -> tuple[Execute, int]:
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

    stop = threading.Event()

    def one(recipe: Recipe, progress: Progress) -> str:
        target = out or default_out(recipe)
        task = progress.add_task(recipe.name, total=None, amount=0)
        began = time.perf_counter()

        def advance(amount: int, read: int = 0) -> None:
            if stop.is_set():
                raise KeyboardInterrupt
            _advance(progress, task, amount, read)

        expect = partial(_expect, progress, task)
        bases = build(recipe, target, advance, expect=expect, force=force, execute=execute, parallel=max(workers, 1))
        seconds = time.perf_counter() - began
        progress.update(task, visible=False)
        if not bases:
            return f"{target}: up to date"
        return f"{target}: {bases:,} bases in {seconds:.2f} s ({bases / seconds / 1e6:.0f} Mbases/s)"

    failed: list[DistgenError] = []
    at_once = min(len(recipes), max(1, min(4 * workers, 16), 8 * all(map(is_small, recipes))))
    with _progress("bases") as progress, _threads(at_once, stop) as submit:
        for result in [submit(one, recipe, progress) for recipe in recipes]:
            try:
                typer.echo(result())
            except DistgenError as error:
                failed.append(error)
    for other in failed[:-1]:
        _say_error(other)
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
        with _progress("stores") as progress:
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
    _table(recipe.name, rows)


@app.command()
def info(
    store: Annotated[str, typer.Argument(help="A store: a path, or s3://…", show_default=False)],
    leakage: Annotated[
        str | None, typer.Option(metavar="SPLIT", help="How much of each part of a split resembles another part.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(metavar="STORE", help="With --leakage: what resembles this other store.")
    ] = None,
    json_: Json = False,
) -> None:
    """Say what is in a store, or in the index of a collection."""
    from distgen.store.collection import is_index
    from distgen.store.reader import open_store
    from distgen.store.verify import describe

    if against is not None and leakage is None:
        raise ConfigError("--against needs a split of the first store: add --leakage SPLIT")
    if "://" not in store and is_index(Path(store)):
        _say_collection(Path(store), json_)
        return
    if leakage is not None and against is not None:
        _say_leakage_against(store, leakage, against, json_)
        return
    if leakage is not None:
        _say_leakage(store, leakage, json_)
        return
    found = describe(open_store(store))
    if json_:
        typer.echo(json.dumps(found))
        return
    contigs = found.pop("contigs")
    longest = sorted(contigs.items(), key=lambda item: -item[1])[:5]
    rows = [(key, f"{found[key]:,}") for key in ("bases", "ambiguous", "softmasked", "bytes")]
    rows.append(("contigs", f"{len(contigs):,}: " + ", ".join(f"{n} ({size:,})" for n, size in longest)))
    for name, track in found["tracks"].items():
        rows.append((f"track {name}", f"{_few(track['columns'])}; {track['bins']:,} bins of {track['bin_bp']} bp"))
    for name, parts in found["splits"].items() if not found["labels"] else ():
        rows.append((f"split {name}", ", ".join(f"{part} {size:,}" for part, size in parts.items())))
    for name, matrix in found["matrices"].items():
        rows.append((f"matrix {name}", f"{matrix['regions']:,} regions by {_few(matrix['conditions'])}"))
    for name, variants in found["variants"].items():
        samples = f"genotypes of {_few(variants['samples'])}" if variants["samples"] else "no genotypes"
        counts = variants["counts"].items()
        others = [f"{kind} {count:,}" for kind, count in counts if count and kind not in ("records", "substitutions")]
        rows.append((f"variants {name}", "; ".join([f"{variants['rows']:,} substitutions", samples, *others])))
    rows += _label_rows(found["labels"]) if found["labels"] else []
    for name, report in found["homology"].items():
        if "families" in report:
            families = f"{report['families']:,} families of sequences, each in one part"
            rows.append((f"split {name}", f"{families} (the largest: {report['largest']:,})"))
            continue
        moved = [f"{part} lost {report['dropped'][part] + report['moved'][part]:,}" for part in report["dropped"]]
        rows.append((f"split {name}", f"without what resembles a held-out part: {', '.join(moved)}"))
    if found["unused"]:
        rows.append(("unused", f"{_few(found['unused'])}; distgen build RECIPE --prune removes them"))
    for name, source in found["sources"].items():
        version = next((f"{key} {source[key]}" for key in ("blake3", "etag", "modified") if key in source), "")
        rows.append((f"source {name.rsplit('/', 1)[-1]}", f"{source['bytes']:,} bytes, {version}"))
    _table(f"{found['assembly']} ({found['store']})", rows)


def _label_rows(labels: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [("labels", f"{labels['kind']}: {_few(labels['names'])}; {labels['missing']:,} missing")]
    if labels["repeated"] is not None:
        rows.append(("names", f'row numbers, since "{labels["repeated"]}" comes twice'))
    for name, parts in labels["splits"].items():
        for part, found in parts.items():
            classes = ", ".join(f"{label} {count:,}" for label, count in list(found.get("classes", {}).items())[:6])
            rows.append((f"split {name}/{part}", f"{found['sequences']:,} sequences{f' ({classes})' * bool(classes)}"))
    return rows


def _say_leakage(store: str, split: str, json_: bool) -> None:
    from distgen.store.leaks import leaks
    from distgen.store.reader import open_store

    found = leaks(open_store(store), split)
    if json_:
        typer.echo(json.dumps(found))
        return
    rows = []
    for pair in found["pairs"]:
        how = (
            f"{pair['bases']:,} bases"
            if "bases" in pair
            else f"{len(pair['exact']):,} stand there, {len(pair['similar']):,} more resemble one"
        )
        rows.append((f"{pair['part']} in {pair['other']}", f"{pair['share']:.2%}: {how}"))
    _table(
        f"{store}, split {split}: what of a part resembles another, at an identity of {found['likeness']['identity']:g} or more",
        rows,
    )


def _say_leakage_against(store: str, split: str, other: str, json_: bool) -> None:
    from distgen.store.leaks import leaks_against
    from distgen.store.reader import open_store

    found = leaks_against(open_store(store), open_store(other), split)
    if json_:
        typer.echo(json.dumps(found))
        return
    rows = []
    for part in found["parts"]:
        here = f"{part['share']:.2%} ({part['found']:,} {found['unit']})"
        there = f"{part['other_share']:.2%} of the other store ({part['other_found']:,} {found['other_unit']})"
        rows.append((part["part"], f"{here} and {there} resemble each other"))
    if found["short"]:
        rows.append(("not searched", f"{found['short']:,} sequences, too short; only the same ones are found"))
    identity = f"at an identity of {found['likeness']['identity']:g} or more"
    _table(f"{store}, split {split}, against {other}, {identity}", rows)


def _say_collection(index: Path, json_: bool) -> None:
    from distgen.store.collection import describe, open_collection

    found = describe(open_collection(index))
    if json_:
        typer.echo(json.dumps(found))
        return
    stores = found["stores"]
    rows = [(key, f"{found[key]:,}") for key in ("bases", "contigs")] + [("stores", f"{len(stores):,}")]
    for name, store in sorted(stores.items(), key=lambda item: -item[1]["weight"])[:10]:
        rows.append(
            (f"store {name}", f"{store['weight']:.3%} of the samples; {store['bases']:,} bases; {store['path']}")
        )
    if len(stores) > 10:
        rows.append(("...", f"{len(stores) - 10:,} stores that are drawn from less"))
    _table(f"{found['name']} ({found['collection']})", rows)


@app.command()
def verify(
    store: Annotated[str, typer.Argument(help="A store: a path, or s3://…", show_default=False)],
    deep: Annotated[
        Path | None, typer.Option("--deep", metavar="RECIPE", help="Read the sources again, and compare.")
    ] = None,
    json_: Json = False,
) -> None:
    """Check every byte of a store against its checksums."""
    from distgen.config import Recipe, read
    from distgen.ingest.objects import locate
    from distgen.store.reader import open_store
    from distgen.store.repair import compare
    from distgen.store.verify import verify

    with _progress("bytes") as progress:
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
    recipe: Annotated[Path, typer.Argument(help="The recipe of the store.", show_default=False)],
    out: Annotated[str | None, typer.Option(help="Where the store is. [default: shards/store/NAME.zarr]")] = None,
) -> None:
    """Build the damaged shards of a store again, and nothing else."""
    from distgen.config import Recipe, read
    from distgen.ingest.objects import locate
    from distgen.store.build import default_out
    from distgen.store.repair import repair

    what = read(recipe, Recipe)
    target = default_out(what) if out is None else locate(out)
    with _progress("bytes") as progress:
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
    execute, _ = _executor(workers, ray_address)
    with _progress("windows") as progress:
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
            expect=partial(_expect, progress, task),
            execute=execute,
        )
    size = sum(entry["bytes"] for entry in found.index["shards"])
    windows = ", ".join(f"{name} {count:,}" for name, count in found.parts.items())
    typer.echo(f"{out}: {windows} windows in {len(found.shards):,} shards, {size:,} bytes")


@app.command()
def train(
    run: Annotated[Path, typer.Argument(help="A run file (TOML).", show_default=False)],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value", show_default=False)] = None,
    out: Annotated[Path | None, typer.Option(help="The run directory. [default: runs/NAME]")] = None,
    workers: Annotated[int | None, typer.Option(help="Ray Train workers; 0 trains in this process.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the newest checkpoint of the run directory.")] = False,
) -> None:
    """Train what a run file describes."""
    from distgen.report.html import write_report
    from distgen.train.ray import launch
    from distgen.train.run import Run

    extra = [] if workers is None else [f"cluster.workers={workers}"]
    parsed = Run.read(run, [*(overrides or []), *extra])
    folder = out or Path("runs") / parsed.name
    if folder.exists() and not (folder.is_dir() and (resume or not any(folder.iterdir()))):
        raise ConfigError(f"{folder} exists. Give --resume to go on with it, or another --out.")
    began = time.perf_counter()
    with _progress("steps") as progress:
        launch(parsed, folder, _Display(progress, parsed.name))
    typer.echo(f"trained {parsed.name} in {time.perf_counter() - began:.0f} s: {_summary(_last(folder))}")
    _say_paths(folder, write_report(folder))


@app.command()
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="A run directory, or one of its checkpoints.", show_default=False)],
    split: Annotated[str, typer.Option(help="Which part: train, valid or test.")] = "test",
    json_: Json = False,
) -> None:
    """Measure a trained model on held-out sequence, beside simple baselines."""
    from distgen.report.html import evaluation_rows, write_report
    from distgen.train.evaluation import evaluate

    folder, found = evaluate(checkpoint, split)
    (folder / f"evaluate-{split}.json").write_text(json.dumps(found, indent=1) + "\n")
    page = write_report(folder)
    if json_:
        typer.echo(json.dumps(found))
        return
    _table(f"{folder.name} on {split}", evaluation_rows(found))
    for name, bits in found.get("baselines", {}).items():
        if bits <= found["metrics"]["bits_per_base"]:
            typer.echo(
                f"The network loses to the baseline {name}: {found['metrics']['bits_per_base']:.4f} against {bits:.4f} bits."
            )
    _say_paths(folder, page)


@app.command()
def schema(kind: Annotated[str, typer.Argument(help="recipe, run or collection", show_default=False)]) -> None:
    """Print the JSON schema of recipe, run or collection files, for editors."""
    from distgen.config import Collection, Recipe
    from distgen.errors import suggest
    from distgen.train.run import Run

    schemas: dict[str, type[BaseModel]] = {"recipe": Recipe, "run": Run, "collection": Collection}
    if kind not in schemas:
        raise ConfigError(f'there is no schema "{kind}". {suggest(kind, schemas)}')
    typer.echo(json.dumps(schemas[kind].model_json_schema(), indent=1))


# ---- what a person sees ---------------------------------------------------------------------


def print_record(record: dict[str, Any]) -> None:
    """One line for one metrics record."""
    print(f"step {record['step']:,}/{record['steps']:,}  {_summary(record)}", flush=True)


class _Display:
    """A live line in a terminal; elsewhere a line every ten seconds and at the end."""

    def __init__(self, progress: Progress, name: str):
        self._progress, self._name = progress, name
        self._task: Any = None
        self._printed = 0.0

    def __call__(self, record: dict[str, Any]) -> None:
        if not self._progress.disable:
            if self._task is None:
                self._task = self._progress.add_task(self._name, total=record["steps"])
            self._progress.update(self._task, completed=record["step"], description=_summary(record))
        elif time.monotonic() - self._printed > 10 or record["step"] == record["steps"]:
            self._printed = time.monotonic()
            print_record(record)


def _summary(record: dict[str, Any]) -> str:
    parts = [f"loss {record['loss']:.4f}"] if "loss" in record else []
    if "bits_per_base" in record:
        parts.append(f"{record['bits_per_base']:.4f} bits/base")
    if "valid" in record:
        parts.append(f"valid loss {record['valid']['loss']:.4f}")
    if "bases_per_second" in record:
        parts += [f"{record['bases_per_second'] / 1e3:,.0f} kbases/s", f"waiting {record['wait_share']:.1%}"]
    return "  ".join(parts)


def _last(folder: Path) -> dict[str, Any]:
    """The last value of everything in a run's metrics."""
    last: dict[str, Any] = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        last |= json.loads(line)
    return last


def _say_paths(folder: Path, page: Path) -> None:
    typer.echo(f"checkpoint  {folder / 'checkpoints' / 'best'}")
    typer.echo(f"metrics     {folder / 'metrics.jsonl'}")
    typer.echo(f"report      {page}")


def _few(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f", ... ({len(names)} in all)" if len(names) > 6 else "")


def _table(title: str, rows: list[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in rows)
    typer.echo(title)
    for name, value in rows:
        typer.echo(f"  {name:<{width}}  {value}")


def _advance(progress: Progress, task: Any, amount: int, read: int = 0) -> None:
    """So much more is done: of what the speed is told in, and of what the total is told in."""
    progress.update(task, advance=read, amount=progress.tasks[task].fields["amount"] + amount)


def _expect(progress: Progress, task: Any, total: int) -> None:
    progress.update(task, total=total)


def _progress(unit: str) -> Progress:
    """A progress bar on standard error, silent where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.table import Column
    from rich.text import Text

    class Speed(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed or 0
            if "amount" in task.fields:
                speed = task.fields["amount"] / (task.elapsed or 1)
            return Text(f"{speed / 1e6:.1f} M{unit}/s" if speed > 1e5 else f"{speed:.1f} {unit}/s")

    class Left(TimeRemainingColumn):
        def render(self, task: Task) -> Text:
            left = super().render(task)
            return Text.assemble(left, " left", style=left.style) if task.total is not None else left

    console = Console(stderr=True)
    name = TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"))
    columns = (name, BarColumn(bar_width=24), Speed(), Left(compact=True, elapsed_when_finished=True))
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=True, expand=True)


def main() -> None:
    """Run a command and leave the process with its status."""
    status = run(sys.argv[1:])
    # Everything is written. Native threads of the libraries have been seen to abort a process that goes down after
    # a training of minutes ("terminate called without an active exception"): leave before their destructors run.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def run(arguments: list[str]) -> int:
    """Run a command; an error is one line and an exit status: 2 asked wrongly, 1 failed."""
    debug = "--debug" in arguments
    logging.basicConfig(format="%(message)s", level=logging.INFO if debug else logging.WARNING)
    try:
        app([argument for argument in arguments if argument != "--debug"])
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (DistgenError, OSError) as error:
        if debug:
            traceback.print_exc()
        if isinstance(error, DistgenError):
            _say_error(error)
            return error.exit_status
        print(f"error: {error.filename or 'the system'}: {error.strerror or error}", file=sys.stderr)
        return 1
    return 0


def _say_error(error: DistgenError) -> None:
    said = [str(error).rstrip("."), *getattr(error, "__notes__", ())]
    print(f"error: {'. '.join(said) if len(said) > 1 else error}", file=sys.stderr)


if __name__ == "__main__":
    main()
