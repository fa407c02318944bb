"""Build a store from a recipe: planes and tracks in units, the manifest last.

What a unit was made of is in its id, so a build that was stopped goes on where it was, and a recipe that
gains a track builds that track alone. The same recipe and sources give the same bytes.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from distgen.config import Recipe, digest
from distgen.errors import ConfigError, StoreError
from distgen.ingest.objects import Place
from distgen.store import base, format, matrices, rows, splits, tracks, upload, variants
from distgen.store.base import Base
from distgen.store.format import FORMAT, MANIFEST
from distgen.store.homology import separation
from distgen.store.manifest import is_ours
from distgen.store.reader import Store, open_store
from distgen.store.sources import Sources, examine
from distgen.store.work import Execute, Progress, Work, in_this_process, recover, settle, silent, swap, sync

_SMALL = 1 << 20  # bytes of sources


def build(
    recipe: Recipe,
    out: Place,
    progress: Progress = silent,
    *,
    expect: Callable[[int], None] = lambda size: None,
    force: bool = False,
    execute: Execute = in_this_process,
    parallel: int = 1,
) -> int:
    """Build the store that a recipe describes, or what is missing of it.

    Args:
        recipe: as read from its file.
        out: where the store is to be. What is built for an object store waits in the current folder until all is
            there that has to be sent: that much disk is needed.
        progress: hears of the bases done, and of the bytes of sources that this took, and once more right before all of
            it is published: what it raises ends the build.
        expect: hears how many bytes these are in all, and again once it is known that some are not needed.
        force: build everything anew, also what is up to date, such as a store that is damaged. In an object store
            nothing else overwrites anything.
        execute: carries out tasks; they can be pickled, and done in any order and more than once.
        parallel: into how many tasks the reading of one file may be cut.

    Returns:
        The bases kept in the store (padding left out); 0 if `out` was up to date.

    Raises:
        ConfigError, SourceError: the recipe or a source is wrong, `out` is something else, or another build runs.
        StoreError: the disk failed, or another builder was first; what is finished is kept, and the next build goes on
            from there.
        RemoteError: an object store cannot be reached, or refuses; likewise.
    """
    work = Work(out)
    out = work.out
    if not isinstance(out, Path):
        upload.refuse_others(out)
    elif out.exists() and not (out / MANIFEST).exists() and not (force and is_ours(out)):
        what = "a store that has lost its manifest" if is_ours(out) else "no store (it has no manifest)"
        how = "replace it with --force" if is_ours(out) else "move it away"
        raise ConfigError(f"{out} exists and is {what}: give another --out, or {how}")
    there = None if force else _published(out)
    sources = examine(recipe, execute, 1 if there else parallel)
    if _is_current(there, sources) and not work.folder.exists():
        return 0
    with work.locked():
        if isinstance(out, Path):
            recover(work)
        old, bases = None if force else _published(out), 0
        if not _is_current(old, sources):
            fetched = sources.fetched(recipe, work.folder)
            bases = _Build(fetched, sources, work, old, force, progress, expect, execute, parallel).run()
        work.remove()
    return bases


@dataclass(frozen=True)
class _Build:
    """What a build goes by: the arguments of `build`, what was found of the sources, and the store that is there already."""

    recipe: Recipe
    sources: Sources
    work: Work
    old: Store | None
    force: bool
    progress: Progress
    expect: Callable[[int], None]
    execute: Execute
    parallel: int

    def run(self) -> int:
        """Build what is missing, and publish it; returns the bases kept."""
        recipe, sources, work, old = self.recipe, self.sources, self.work, self.old
        made, first = self._base()
        parts = base.resolve_splits(recipe, made.contigs)
        built = {inputs: entry["key"] for inputs, entry in old.manifest["inputs"]["tracks"].items()} if old else {}
        blocks = tracks.plan(recipe, sources.ids, made.contigs, built)
        missing = list({block.inputs: block for block in blocks if block.key is None}.values())
        tables, known = plan_tables(recipe, sources, made, old), rows.standing(old)
        if old:
            keys = [block.key for block in blocks if block.key]
            keys += [known[table.inputs]["key"] for table in tables if table.inputs in known]
            _check_standing(old, [*keys, *(() if made.fresh else made.arrays)])
        files = [*(b.sources for b in missing), *(table.sources for table in tables)]
        self.expect(first + sum(path.stat().st_size for path in itertools.chain(*files)))
        self.execute([partial(tracks.write_block, block, made.contigs, work) for block in missing], self.progress)
        new = [table for table in tables if table.inputs not in known]
        self.execute([partial(rows.write, table, work) for table in new], self.progress)
        parts, reports = separation.separated(recipe, parts, made, work, old, self.execute, self.parallel)
        self._publish(made, blocks, tables, parts, reports)
        return int(made.contigs.lengths.sum())

    def _base(self) -> tuple[Base, int]:
        """The base, and how many bytes of sources it took to build it."""
        recipe, sources, old = self.recipe, self.sources, self.old
        inputs = base.inputs(recipe, sources.ids)
        if old and old.manifest["inputs"]["planes"] == inputs:
            return Base.of(old), 0
        if old and not isinstance(self.work.out, Path):
            raise ConfigError(
                f"{self.work.out} holds another sequence, or other contigs, and in an object store nothing is overwritten: "
                "give another --out, or replace it with --force, and it cannot be read until that is done"
            )
        self.expect(sum(sources.sizes.values()))
        made = base.build(recipe, inputs, self.work, self.progress, self.execute, self.parallel, sources.index)
        of_base = (source for source, key in recipe.files().items() if key.startswith(("assembly.", "sequences.")))
        return made, sum(sources.sizes[source] for source in of_base)

    def _publish(
        self,
        made: Base,
        blocks: list[tracks.Block],
        tables: list[rows.Table],
        parts: dict[str, splits.Parts],
        reports: dict[str, Any],
    ) -> None:
        """Put everything under its key, then the manifest; only then anything of it can be seen.

        New tracks of a store that keeps its planes go into that store; otherwise a whole new store takes its place.
        """
        work, old, folder, arrays = self.work, self.old, _folder(made, self.work), dict(made.arrays)
        # Tracks that are made of the same are one array with two names.
        each = {block.inputs: block for block in reversed(blocks)}.items()
        put = {inputs: tracks.place(block, made.contigs, work, folder, old, made.fresh) for inputs, block in each}
        placed = [(block, *put[block.inputs]) for block in blocks]
        arrays |= {key: entry for _, key, entry, _ in placed}
        said: dict[str, dict[str, Any]] = {kind: {} for kind in (matrices.KIND, variants.KIND)}
        for table in tables:
            entries, said[table.kind][table.name] = rows.place(table, work, folder, old, made.fresh)
            arrays |= entries
        split_arrays, split_tables = base.place_splits(made, parts, folder, old)
        standing = None if made.fresh or not old else old.manifest  # of the generation that this one follows
        manifest = {
            "format": FORMAT,
            "generation": standing["generation"] + 1 if standing else 1,
            "group": standing["group"] if standing else format.read_json(folder / "zarr.json"),
            "arrays": arrays | split_arrays,
            "tracks": tracks.describe(placed),
            **said,
            "labels": made.labels,
            "left_out": made.left_out,
            "splits": split_tables,
            "homology": reports,
            "inputs": {
                "planes": made.inputs,
                "tracks": {block.inputs: {"key": key, "skipped": skipped} for block, key, _, skipped in placed},
                "tables": {table.inputs: said[table.kind][table.name] for table in tables},
            },
            "provenance": self.sources.provenance,
        }
        self._commit(folder, manifest, standing)

    def _commit(self, folder: Path, manifest: dict[str, Any], standing: dict[str, Any] | None) -> None:
        """Publish what lies in a folder: sent to an object store; beside the arrays of the manifest that is `standing`; or as
        a whole new store."""
        work, last = self.work, partial(self.progress, 0)
        if not isinstance(work.out, Path):
            _write_manifest(folder / MANIFEST, manifest)
            old = self.old.manifest if self.old else None
            upload.publish(folder, work.out, old, force=self.force, last=last)
        elif standing is None:
            _write_manifest(folder / MANIFEST, manifest)
            settle(folder)
            last()
            swap(folder, work)
        else:
            draft = folder / f"{MANIFEST}.new"
            _write_manifest(draft, manifest)
            new = {key.split("/")[0] for key in manifest["arrays"].keys() - standing["arrays"].keys()}
            settle(draft, *(folder / top for top in new))
            last()
            draft.rename(folder / MANIFEST)
            work.published = True
            sync(folder)


def plan_tables(recipe: Recipe, sources: Sources, made: Base, old: Store | None) -> list[rows.Table]:
    """The matrices and variants of a recipe; the sources of those that `old` has are not looked for."""
    bases, known = variants.Bases(made.contigs, made.folder, made.arrays), rows.standing(old)
    return [
        *matrices.plan(recipe, sources.ids, made.contigs, known),
        *variants.plan(recipe, sources.ids, made.inputs, bases, known),
    ]


def is_small(recipe: Recipe) -> bool:
    """Building it is mostly waiting for the disk: several at a time wait no longer, and their memory is no matter."""
    files = recipe.files().items()
    if any(recipe.uri(source, key) for source, key in files):
        return False
    paths = [recipe.resolve(source, key) for source, key in files]
    return sum(path.stat().st_size for path in paths if path.is_file()) < _SMALL


def default_out(recipe: Recipe) -> Path:
    """Where a recipe's store goes unless told: beside it, or into `store/` beside a folder called `recipes`."""
    folder = recipe.path.resolve().parent
    out = (folder.parent / "store" if folder.name == "recipes" else folder) / f"{recipe.name}.zarr"
    return out.relative_to(Path.cwd()) if out.is_relative_to(Path.cwd()) else out


def _published(out: Place) -> Store | None:
    """The store that is there; None if there is none, or one with a damaged manifest that may be replaced."""
    try:
        return open_store(out)
    except ConfigError:
        return None
    except StoreError:
        if isinstance(out, Path):
            return None
        raise


def _is_current(store: Store | None, sources: Sources) -> bool:
    return store is not None and bool(store.manifest["provenance"] == sources.provenance)


def _check_standing(old: Store, keys: list[str]) -> None:
    """Refuse to go on with arrays (or groups of them) that have lost a shard; whoever reads a chunk checks it.

    Raises:
        StoreError: names the first.
    """
    if isinstance(old.path, Path):
        for key in old.manifest["arrays"]:
            if key in keys or key.rpartition("/")[0] in keys:
                array = old.array(key)
                for shard in range(array.layout.shards):
                    array.check_shard(shard)


def _folder(made: Base, work: Work) -> Path:
    """Where new arrays are put: into the store; or into a folder from which they are sent to it."""
    if isinstance(made.folder, Path):
        return made.folder
    folder = work.folder / "store"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def _write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    format.write_json(path, manifest | {"checksum": digest(manifest)})
