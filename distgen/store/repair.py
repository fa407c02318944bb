"""Build again the shards of a store that are damaged, and compare a store with its sources."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from distgen.config import Recipe
from distgen.errors import StoreError
from distgen.ingest.objects import Place
from distgen.store import assembly, base, format, matrices, rows, tracks, variants
from distgen.store.array import Array
from distgen.store.base import Base
from distgen.store.build import plan_tables
from distgen.store.format import MANIFEST, Entry
from distgen.store.planes import PER_BYTE, Units
from distgen.store.reader import Store, open_store
from distgen.store.sources import Sources, examine
from distgen.store.tracks import Block
from distgen.store.upload import overwrite
from distgen.store.verify import Findings, verify
from distgen.store.work import Progress, Work, in_this_process, silent

T = TypeVar("T")


def repair(recipe: Recipe, out: Place, progress: Progress = silent) -> Findings:
    """Verify a store and build its damaged shards again, those alone; metadata is written anew from the manifest.

    Args:
        recipe: the one that the store was built from.
        out: the store.
        progress: called with the bytes checked since the last call.

    Returns:
        What was damaged, and is whole now.

    Raises:
        StoreError: the manifest itself is damaged; the recipe or a source no longer gives what is damaged; or what is
            built now is not what the manifest says.
    """
    work = Work(out)
    out = work.out
    store, sources = open_store(out), examine(recipe)
    found = verify(store, progress)
    with work.locked():
        recipe = sources.fetched(recipe, work.folder)
        for key, shard, _ in found.damage:
            if shard is None:
                _write_metadata(store, key)
        bad = [(key, shard) for key, shard, _ in found.damage if shard is not None]
        bad.sort(key=lambda damage: damage[0].split("/")[0] not in base.KEYS)  # the others are built from these
        for key, shard in bad:
            array = store.array(key)
            with _rebuilt(recipe, sources, store, work, key, shard) as (file, entry):
                _refuse_other(array, shard, entry)
                overwrite(out / key / array.layout.key(shard), file if file.exists() else None)
        work.remove()
    left = verify(open_store(out)).damage
    if left:
        raise StoreError("; ".join(sentence for _, _, sentence in left))
    return found


def compare(recipe: Recipe, out: Place, progress: Progress = silent) -> list[str]:
    """Read the sources again and compare what comes of them with the store, shard by shard.

    Returns:
        A sentence for each array that the sources do not give; none if the store is what they say.
    """
    store, sources, work = open_store(out), examine(recipe), Work(out, ".deep")
    with work.locked():
        try:
            recipe = sources.fetched(recipe, work.folder)
            _refuse_change(recipe, sources, store)
            inputs = store.manifest["inputs"]["planes"]
            made = base.build(recipe, inputs, work, progress, in_this_process)
            entries = _as_published(store, made, made.arrays)
            for block in _blocks(recipe, sources, store):
                tracks.write_block(block, store.contigs, work, progress)
                key = _key(store, block)
                assert key is not None
                entries[key] = format.array_entry(
                    block.layout(store.contigs), tracks.shards_of(block, store.contigs, work)
                )
            for table in _tables(recipe, sources, store):
                rows.write(table, work, progress)
                written = (work.receipt(table.inputs) or {})["arrays"]
                entries |= {f"{_table_key(store, table)}/{name}": entry for name, entry in written.items()}
        finally:
            work.remove()
    known = store.manifest["arrays"]
    return [
        f"{out / key} is not what its sources say"
        for key, entry in entries.items()
        if entry["id"] != known.get(key, {}).get("id")
    ]


def _refuse_change(recipe: Recipe, sources: Sources, store: Store) -> None:
    """Other splits or other words of a recipe are no matter: what counts is what the arrays were made of."""
    known = store.manifest["inputs"]
    if (
        base.inputs(recipe, sources.ids) != known["planes"]
        or {block.inputs for block in _blocks(recipe, sources, store)} != known["tracks"].keys()
        or {table.inputs for table in _tables(recipe, sources, store)} != rows.standing(store).keys()
    ):
        raise _changed(recipe, sources, store)


def _changed(recipe: Recipe, sources: Sources, store: Store) -> StoreError:
    found, known = sources.provenance, store.manifest["provenance"]
    what = "the recipe has" if found["recipe"] != known["recipe"] else "distgen has"
    if any(known["sources"].get(name, source) != source for name, source in found["sources"].items()):
        what = "a source has"
    return StoreError(f"{store.path}: {what} changed since this store was built; run distgen build {recipe.path}")


def _write_metadata(store: Store, key: str) -> None:
    if key == MANIFEST:
        content: Any = store.manifest
    elif key == "":
        content = store.manifest["group"]
    elif key in store.manifest["arrays"]:
        content = store.manifest["arrays"][key]["metadata"]
    else:
        content = format.group_json(store.groups()[key])
    path = store.path / MANIFEST if key == MANIFEST else store.path / key / "zarr.json"
    overwrite(path, format.json_bytes(content))


@contextmanager
def _rebuilt(
    recipe: Recipe, sources: Sources, store: Store, work: Work, key: str, shard: int
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A shard built anew: its file, and what its writer says of it."""
    inputs, kind = store.manifest["inputs"]["planes"], key.split("/")[0]
    if kind == "tracks":
        of = {_key(store, block): block for block in _blocks(recipe, sources, store)}
        if key not in of:
            raise _changed(recipe, sources, store)
        block = of[key]
        tracks.write_block(block, store.contigs, work, silent, only=shard)
        yield tracks.shard_path(block, work, shard), tracks.shards_of(block, store.contigs, work, only=shard)[0]
    elif kind in (matrices.KIND, variants.KIND):
        group, name = key.rsplit("/", 1)
        tables = {_table_key(store, table): table for table in _tables(recipe, sources, store)}
        if group not in tables:
            raise _changed(recipe, sources, store)
        table = tables[group]
        rows.write(table, work, silent)
        yield _shard(work.path(table.inputs) / name, (work.receipt(table.inputs) or {})["arrays"][name], shard)
    elif inputs != base.inputs(recipe, sources.ids):
        raise _changed(recipe, sources, store)
    elif kind in PER_BYTE and recipe.assembly:
        units = Units(work, inputs)
        yield units.shard(shard, key), assembly.rebuild(recipe, units, shard)[key]
    else:
        # Contig tables and tables of sequences are read as a whole; that takes a moment, or is needed anyway.
        made = base.build(recipe, inputs, work, silent, in_this_process)
        assert isinstance(made.folder, Path)
        entries, _ = base.place_splits(made, base.resolve_splits(recipe, made.contigs), made.folder, None)
        own = _as_published(store, made, {name: name for name in made.arrays | entries}).get(key)
        if own is None:
            raise StoreError(f"{store.path / key} cannot be mended alone. Run: distgen build {recipe.path} --force")
        yield _shard(made.folder / own, (made.arrays | entries)[own], shard)


def _shard(folder: Path, entry: Entry, shard: int) -> tuple[Path, dict[str, Any]]:
    """A shard of an array that was built anew: its file, and the checksums of its chunks."""
    array = Array(folder, entry)
    first, count = shard * array.layout.chunks_per_shard, array.layout.chunks_per_shard
    crcs = base64.b64encode(array.crcs[first : first + count].tobytes()).decode()
    return folder / array.layout.key(shard), {"crc32c": crcs}


def _as_published(store: Store, made: Base, entries: dict[str, T]) -> dict[str, T]:
    """What is told of arrays built anew, by their keys in the store: other labels would have another one."""
    if made.labels is None or store.manifest["labels"] is None:
        return entries
    new, old = made.labels["key"], store.manifest["labels"]["key"]
    return {key.replace(f"{new}/", f"{old}/", 1): entry for key, entry in entries.items()}


def _tables(recipe: Recipe, sources: Sources, store: Store) -> list[rows.Table]:
    return plan_tables(recipe, sources, Base.of(store), None)


def _table_key(store: Store, table: rows.Table) -> str | None:
    return rows.standing(store).get(table.inputs, {}).get("key")


def _blocks(recipe: Recipe, sources: Sources, store: Store) -> list[Block]:
    return tracks.plan(recipe, sources.ids, store.contigs, {})


def _key(store: Store, block: Block) -> str | None:
    """Where the store has a block's array; None if the recipe has gained it since."""
    return store.manifest["inputs"]["tracks"].get(block.inputs, {}).get("key")  # type: ignore[no-any-return]


def _refuse_other(array: Array, shard: int, entry: dict[str, Any]) -> None:
    layout = array.layout
    first = shard * layout.chunks_per_shard
    crcs = base64.b64decode(entry["crc32c"])
    if crcs != array.crcs[first : first + layout.chunks_per_shard].tobytes():
        raise StoreError(
            f"{array.folder / layout.key(shard)}: what is built now is not what was published; run distgen build --force"
        )
