"""Build a store from a recipe: planes and tracks in units, the manifest last.

What a unit was made of is in its id, so a build that was stopped goes on where it was, and a recipe that
gains a track builds that track alone. The same recipe and sources give the same bytes.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import distgen
from distgen.config import Recipe, Sequences, digest
from distgen.errors import ConfigError, StoreError, suggest
from distgen.genome import ALIGNMENT, Contigs
from distgen.ingest import fasta
from distgen.ingest.fasta import Header, Index
from distgen.ingest.open import blake3, is_gzip, sha256
from distgen.store import contigs, format, matrices, planes, rows, sequences, splits, tracks, variants
from distgen.store.contigs import Wanted
from distgen.store.format import FORMAT, MANIFEST, Array, Entry
from distgen.store.planes import PER_BYTE, Packer, Progress, Start, plane_layout
from distgen.store.reader import Store, open_store, read_contigs
from distgen.store.work import Work, link, sync

Task = Callable[[Progress], Any]
Execute = Callable[[Sequence[Task], Progress], list[Any]]


def in_this_process(tasks: Sequence[Task], progress: Progress) -> list[Any]:
    """Carry out tasks one after another."""
    return [task(progress) for task in tasks]


def build(
    recipe: Recipe,
    out: Path,
    progress: Progress = lambda bases: None,
    *,
    force: bool = False,
    execute: Execute = in_this_process,
    parallel: int = 1,
) -> int:
    """Build the store that a recipe describes, or what is missing of it.

    Args:
        recipe: as read from its file.
        out: where the store is to be.
        progress: called with the number of bases read since the last call.
        force: build everything anew, also what is up to date, such as a store that is damaged.
        execute: carries out tasks; they can be pickled, and done in any order and more than once.
        parallel: into how many tasks the reading of one file may be cut.

    Returns:
        The bases kept in the store (padding left out); 0 if `out` was up to date.

    Raises:
        ConfigError, SourceError: the recipe or a source is wrong, `out` is something else, or another build runs.
        StoreError: the disk failed; what is finished is kept, and the next build goes on from there.
    """
    provenance = _provenance(recipe)
    if out.exists() and not (out / MANIFEST).exists():
        raise ConfigError(f"{out} exists and is no store (it has no manifest): give another --out, or move it away")
    _recover(out)
    old = None if force else _published(out)
    if old and old.manifest["provenance"] == provenance:
        return 0
    work = Work(out)
    with work.locked():
        _recover(out)
        if recipe.sequences:
            base = _build_sequences(recipe, recipe.sequences, provenance, work, old, progress, execute)
        else:
            base = _base(recipe, _build_planes(recipe, provenance, work, old, progress, execute, parallel), work, old)
        parts = _splits(recipe, base.contigs)
        built = {inputs: entry["key"] for inputs, entry in old.manifest["inputs"]["tracks"].items()} if old else {}
        blocks = tracks.plan(recipe, provenance["sources"], base.contigs, built)
        execute(
            [partial(tracks.write_block, block, base.contigs, work) for block in blocks if block.key is None], progress
        )
        tables = _tables(recipe, provenance, base)
        missing = [table for table in tables if table.inputs not in rows.standing(old)]
        execute([partial(rows.write, table, work) for table in missing], progress)
        _publish(base, blocks, tables, parts, provenance, work, old)
    work.remove()
    return int(base.contigs.lengths.sum())


def default_out(recipe: Recipe) -> Path:
    """Where a recipe's store goes unless told: `store/` beside the folder of recipes."""
    out = recipe.path.resolve().parent.parent / "store" / f"{recipe.name}.zarr"
    return out.relative_to(Path.cwd()) if out.is_relative_to(Path.cwd()) else out


def _published(out: Path) -> Store | None:
    """The store that is there; None if there is none or its manifest is damaged."""
    try:
        return open_store(out)
    except (StoreError, ConfigError):
        return None


def _provenance(recipe: Recipe) -> dict[str, Any]:
    """What the store is made of: nothing in it depends on when or where it was built."""
    sources = {}
    for source, key in recipe.files().items():
        path = recipe.resolve(source, key)
        if not path.is_file():
            near = [str(other.name) for other in path.parent.glob("*")] if path.parent.is_dir() else []
            raise recipe.error(key, f"there is no file {path}. {suggest(path.name, near)}")
        sources[source] = {"blake3": blake3(path), "bytes": path.stat().st_size}
    if recipe.assembly and recipe.assembly.sha256 is not None:
        found = sha256(recipe.resolve(recipe.assembly.fasta, "assembly.fasta"))
        if found != recipe.assembly.sha256:
            problem = f"{recipe.assembly.fasta} has {found}; fetch it again or correct the recipe"
            raise recipe.error("assembly.sha256", problem)
    return {"distgen": distgen.__version__, "recipe": recipe.text, "sources": sources}


def _splits(recipe: Recipe, table: Contigs) -> dict[str, splits.Parts]:
    found: dict[str, splits.Parts] = {}
    own = {} if recipe.sequences and recipe.sequences.is_split else {"default": recipe.split}
    for name, split in (own | recipe.splits).items():
        key = "split" if name == "default" else f"splits.{name}"
        try:
            made = splits.resolve(name, split, table, partial(recipe.resolve, key=key))
            for parts in made.values() if recipe.sequences else ():
                sequences.assign(parts, table)
            found |= made
        except ConfigError as error:
            part, _, problem = str(error).partition(": ")
            raise recipe.error(f"{key}.{part}", problem) from None
    return found


# ---- planes ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Built:
    """The planes as they were built (`receipts` of the units) or as they stand in the store (`receipts` None)."""

    inputs: str
    contigs: Contigs
    receipts: list[dict[str, Any]] | None


def _build_planes(
    recipe: Recipe,
    provenance: dict[str, Any],
    work: Work,
    old: Store | None,
    progress: Progress,
    execute: Execute,
    parallel: int,
) -> Built:
    used = [path for path in (recipe.genome.fasta, recipe.contigs.aliases) if path]
    sums = [provenance["sources"][path]["blake3"] for path in used]
    inputs = digest(
        [
            "planes/1",
            sums,
            recipe.contigs.model_dump(mode="json", exclude={"aliases"}),
            recipe.name,
            planes.UNIT,
        ]
    )
    if old and old.manifest["inputs"]["planes"] == inputs:
        return Built(inputs, old.contigs, None)
    path = recipe.resolve(recipe.genome.fasta, "assembly.fasta")
    cuttable = parallel > 1 and not is_gzip(path) and path.stat().st_size > planes.UNIT
    wanted, starts = Wanted.of(recipe), [Start()]
    if cuttable or recipe.contigs.min_length:
        cuts: list[int | None] = [*fasta.cut_lines(path, parallel * 4 if cuttable else 1), None]
        parts = [partial(_scan, path, begin or 0, end) for begin, end in itertools.pairwise(cuts)]
        index = fasta.join(execute(parts, lambda bases: None))
        wanted = wanted.long_enough(index.contigs)
        starts = _starts(wanted, index) if cuttable else starts
    tasks: list[Task] = []
    for number, start in enumerate(starts):
        count = None if number == len(starts) - 1 else 1
        tasks.append(partial(_pack, path, wanted, work, inputs, start, count))
    execute(tasks, progress)
    receipts = _receipts(work, inputs)
    fasta.refuse_doubles(path, contigs.headers(receipts))
    return Built(inputs, contigs.table(recipe, wanted, receipts), receipts)


def _unit(inputs: str, number: int) -> str:
    return f"{inputs}-{number}"


def _scan(path: Path, begin: int, end: int | None, progress: Progress) -> Index:
    return fasta.scan_fasta(path, begin, end)


def _pack(
    path: Path,
    wanted: Callable[[Header], bool],
    work: Work,
    inputs: str,
    start: Start,
    count: int | None,
    progress: Progress,
) -> None:
    """Write units from `start` on, leaving out those that are finished."""
    number, unit = start.flat // planes.UNIT, partial(_unit, inputs)
    while (receipt := work.receipt(unit(number))) is not None:
        if count is not None or receipt["last"]:
            return
        start, number = Start.from_json(receipt["end"]), number + 1
        progress(planes.UNIT)
    Packer(path, wanted, work, unit, start, count, progress).run()


def _starts(kept: Callable[[Header], bool], index: Index) -> list[Start]:
    """Where each unit begins: the last mark before its first base."""
    sizes = np.array([-(-bases // ALIGNMENT) * ALIGNMENT if kept(header) else 0 for header, bases in index.contigs])
    offsets = np.cumsum(sizes) - sizes
    rows = np.cumsum(sizes > 0) - 1
    # A mark in a contig that is left out stands for the place where the next one begins.
    flats = [int(offsets[i]) + (place.bases if sizes[i] else 0) for i, place in index.marks]
    starts = []
    for flat in range(0, int(sizes.sum()), planes.UNIT):
        last = max(int(np.searchsorted(flats, flat, side="right")) - 1, 0)
        number, place = index.marks[last]
        starts.append(Start(place, int(rows[number]), int(offsets[number]), flat) if flat else Start())
    return starts


def _receipts(work: Work, inputs: str) -> list[dict[str, Any]]:
    receipts: list[dict[str, Any]] = []
    while not receipts or not receipts[-1]["last"]:
        receipt = work.receipt(_unit(inputs, len(receipts)))
        if receipt is None:
            raise StoreError(f"{work.folder}: unit {len(receipts)} of the planes is missing")
        receipts.append(receipt)
    return receipts


# ---- what all else stands on ------------------------------------------------------------------


@dataclass(frozen=True)
class Base:
    """Planes and contigs, and of a table of sequences the labels: in the store to be, or in the one that is there.

    Args:
        inputs: an id of what they were made of.
        contigs: the contig table.
        folder: where they lie.
        arrays: their manifest entries by key.
        labels: what the manifest says of the labels, or None.
        fresh: `folder` is that of a whole new store.
    """

    inputs: str
    contigs: Contigs
    folder: Path
    arrays: dict[str, Entry]
    labels: dict[str, Any] | None
    fresh: bool

    @classmethod
    def of(cls, old: Store) -> Base:
        arrays = {
            k: v for k, v in old.manifest["arrays"].items() if k.split("/")[0] in (*PER_BYTE, "contigs", "labels")
        }
        inputs = old.manifest["inputs"]["planes"]
        return cls(inputs, old.contigs, old.path, arrays, old.manifest.get("labels"), False)


def _base(recipe: Recipe, built: Built, work: Work, old: Store | None) -> Base:
    if built.receipts is None:
        assert old is not None
        return Base.of(old)
    folder = work.folder / "store"
    arrays = _place_planes(built, work, folder)
    _name_store(recipe, folder, built.contigs)
    return Base(built.inputs, built.contigs, folder, arrays, None, True)


def _build_sequences(
    recipe: Recipe,
    table: Sequences,
    provenance: dict[str, Any],
    work: Work,
    old: Store | None,
    progress: Progress,
    execute: Execute,
) -> Base:
    inputs = sequences.inputs(recipe, table, provenance["sources"])
    if old and old.manifest["inputs"]["planes"] == inputs:
        return Base.of(old)
    execute([partial(sequences.write, recipe, table, work, inputs)], progress)
    folder = work.folder / "store"
    shutil.rmtree(folder, ignore_errors=True)
    arrays, labels = sequences.place(work, inputs, folder)
    made = read_contigs(lambda key: Array(folder / key, arrays[key]))
    _name_store(recipe, folder, made)
    return Base(inputs, made, folder, arrays, labels, True)


def _name_store(recipe: Recipe, folder: Path, table: Contigs) -> None:
    length = _flat_length(table)
    attributes = {"format": FORMAT, "assembly": recipe.name, "length": length, "alignment": ALIGNMENT}
    format.write_group(folder, {"distgen": attributes})


def _tables(recipe: Recipe, provenance: dict[str, Any], base: Base) -> list[rows.Table]:
    """Matrices and variants."""
    bases = variants.Bases(base.contigs, base.folder, base.arrays)
    return [
        *matrices.plan(recipe, provenance["sources"], base.contigs),
        *variants.plan(recipe, provenance["sources"], base.inputs, bases),
    ]


# ---- publishing -----------------------------------------------------------------------------


def _publish(
    base: Base,
    blocks: list[tracks.Block],
    tables: list[rows.Table],
    parts: dict[str, splits.Parts],
    provenance: dict[str, Any],
    work: Work,
    old: Store | None,
) -> None:
    """Put everything under its key, then the manifest; only then anything of it can be seen.

    New tracks of a store that keeps its planes go into that store; otherwise a whole new store takes its place.
    """
    folder, arrays = base.folder, dict(base.arrays)
    placed = [(block, *tracks.place(block, base.contigs, work, folder, old)) for block in blocks]
    arrays |= {key: entry for _, key, entry, _ in placed}
    said: dict[str, dict[str, Any]] = {table.kind: {} for table in tables}
    for table in tables:
        entries, said[table.kind][table.name] = rows.place(table, work, folder, old)
        arrays |= entries
    split_arrays, split_tables = _split_tables(base, parts, old)
    manifest = {
        "format": FORMAT,
        "generation": 1 if base.fresh or old is None else old.manifest["generation"] + 1,
        "group": format.read_json(folder / "zarr.json"),
        "arrays": arrays | split_arrays,
        "tracks": tracks.describe(placed),
        **said,
        "labels": base.labels,
        "splits": split_tables,
        "inputs": {
            "planes": base.inputs,
            "tracks": {block.inputs: {"key": key, "skipped": skipped} for block, key, _, skipped in placed},
            "tables": {table.inputs: said[table.kind][table.name] for table in tables},
        },
        "provenance": provenance,
    }
    format.write_json(folder / f"{MANIFEST}.new", manifest | {"checksum": digest(manifest)})
    (folder / f"{MANIFEST}.new").rename(folder / MANIFEST)
    if base.fresh:
        _swap(folder, work.out)
    sync(work.out.parent if base.fresh else work.out)


def _split_tables(
    base: Base, parts: dict[str, splits.Parts], old: Store | None
) -> tuple[dict[str, Entry], dict[str, Any]]:
    """What the manifest says of all splits, and the arrays of those of a table of sequences."""
    if base.labels is None:
        return {}, {name: splits.table(split) for name, split in parts.items()}
    arrays: dict[str, Entry] = {}
    said = {"default": sequences.own_split(base.labels, base.arrays)} if base.labels["parts"] else {}
    known = old.manifest["arrays"] if old and not base.fresh else {}
    for name, split in parts.items():
        entries, said[name] = sequences.place_split(name, split, base.contigs, base.folder, known)
        arrays |= entries
    return arrays, said


def _flat_length(table: Contigs) -> int:
    return int(table.offsets[-1]) + -(-int(table.lengths[-1]) // ALIGNMENT) * ALIGNMENT


def _place_planes(built: Built, work: Work, folder: Path) -> dict[str, Entry]:
    """The planes' and the contig table's arrays in `folder`; returns their manifest entries."""
    assert built.receipts is not None
    shutil.rmtree(folder, ignore_errors=True)
    arrays, length = {}, _flat_length(built.contigs)
    units = [receipt for receipt in built.receipts if receipt["arrays"]]
    for plane in PER_BYTE:
        layout = plane_layout(plane, length)
        for number in range(len(units)):
            shard = work.path(_unit(built.inputs, number)) / plane
            if shard.exists():
                link(shard, folder / plane / layout.key(number))
        arrays[plane] = format.finish_array(folder / plane, layout, [unit["arrays"][plane] for unit in units])
    format.write_group(folder / "contigs", {})
    for name, column in contigs.columns(built.contigs, units).items():
        arrays[f"contigs/{name}"] = format.write_array(folder / "contigs" / name, column)
    return arrays


def _replaced(out: Path) -> Path:
    return out.with_name(f".{out.name}.old")


def _swap(folder: Path, out: Path) -> None:
    """Put the finished folder in the place of `out`; a store that was there goes away afterwards."""
    if out.exists():
        out.rename(_replaced(out))
    folder.rename(out)
    sync(out.parent)
    shutil.rmtree(_replaced(out), ignore_errors=True)


def _recover(out: Path) -> None:
    """Finish what a builder left that died between the two renames of `_swap`."""
    if _replaced(out).exists():
        if out.exists():
            shutil.rmtree(_replaced(out), ignore_errors=True)
        else:
            _replaced(out).rename(out)
