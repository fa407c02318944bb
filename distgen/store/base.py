"""What all else in a store stands on: the planes and the contig table, of an assembly or of a table of sequences, and
the splits."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distgen.config import Recipe
from distgen.genome import ALIGNMENT, Contigs
from distgen.ingest.fasta import Index
from distgen.ingest.objects import Place
from distgen.store import assembly, format, sequences, splits
from distgen.store.array import Array
from distgen.store.format import FORMAT, Entry
from distgen.store.planes import PER_BYTE, Units
from distgen.store.reader import read_contigs
from distgen.store.work import Execute, Progress, Work

if TYPE_CHECKING:
    from distgen.store.reader import Store

KEYS = (*PER_BYTE, "contigs", "labels")  # with what the keys of a base's arrays begin


@dataclass(frozen=True)
class Base:
    """Planes and contigs, and of a table of sequences the labels: in the store to be, or in the one that is there.

    Args:
        inputs: an id of what they were made of.
        contigs: the contig table.
        folder: where they lie.
        arrays: their manifest entries by key.
        labels: what the manifest says of the labels, or None.
        left_out: what the manifest says of the contigs of the assembly that are not in the store; None where that is not
            known, or all of a table is.
        fresh: `folder` is that of a whole new store.
    """

    inputs: str
    contigs: Contigs
    folder: Place
    arrays: dict[str, Entry]
    labels: dict[str, Any] | None
    left_out: dict[str, Any] | None
    fresh: bool

    @classmethod
    def of(cls, old: Store) -> Base:
        """The one of a store that is there."""
        arrays = {k: v for k, v in old.manifest["arrays"].items() if k.split("/")[0] in KEYS}
        inputs, labels = old.manifest["inputs"]["planes"], old.manifest["labels"]
        return cls(inputs, old.contigs, old.path, arrays, labels, old.left_out, False)


def inputs(recipe: Recipe, ids: dict[str, str]) -> str:
    """An id of all that a recipe's base depends on; `ids` are those of its sources."""
    if recipe.sequences:
        return sequences.inputs(recipe.sequences, ids)
    return assembly.inputs(recipe, ids)


def build(
    recipe: Recipe,
    inputs: str,
    work: Work,
    progress: Progress,
    execute: Execute,
    parallel: int = 1,
    index: Index | None = None,
) -> Base:
    """Build what is missing of a base, and put it into the folder of a store to be, `work.folder / "store"`; `index` is that
    of the assembly, if it is known.

    Raises:
        ConfigError, SourceError: the recipe's rules or a source are wrong.
    """
    if recipe.sequences:
        sequences.build(recipe, recipe.sequences, inputs, work, progress, execute)
    else:
        built = assembly.build(recipe, Units(work, inputs), progress, execute, parallel, index)
    folder, labels, left_out = work.folder / "store", None, None
    shutil.rmtree(folder, ignore_errors=True)
    if recipe.sequences:
        arrays, labels = sequences.place(work, inputs, folder)
    else:
        arrays, left_out = assembly.place(built, folder), built.left_out
    table = read_contigs(lambda key: Array(folder / key, arrays[key]))
    length = assembly.flat_length(table)
    attributes = {"format": FORMAT, "assembly": recipe.name, "length": length, "alignment": ALIGNMENT}
    format.write_group(folder, {"distgen": attributes})
    return Base(inputs, table, folder, arrays, labels, left_out, True)


# ---- splits ---------------------------------------------------------------------------------


def resolve_splits(recipe: Recipe, table: Contigs) -> dict[str, splits.Parts]:
    """The parts of all splits that a recipe names.

    Raises:
        ConfigError: names the key that is wrong.
    """
    found: dict[str, splits.Parts] = {}
    own = {} if recipe.sequences and recipe.sequences.is_split else {"default": recipe.split}
    for name, split in (own | recipe.splits).items():
        key = "split" if name == "default" else f"splits.{name}"
        with recipe.at(key):
            made = splits.resolve(name, split, table, partial(recipe.resolve, key=key), whole=bool(recipe.sequences))
            for parts in made.values() if recipe.sequences else ():
                sequences.assign(parts, table)
            found |= made
    return found


def place_splits(
    base: Base, parts: dict[str, splits.Parts], folder: Path, old: Store | None
) -> tuple[dict[str, Entry], dict[str, Any]]:
    """Put the new splits of a table of sequences into a folder; returns the arrays of all its splits by their keys, and
    what the manifest says of all splits."""
    if base.labels is None:
        return {}, {name: splits.table(split, base.contigs) for name, split in parts.items()}
    arrays: dict[str, Entry] = {}
    said = {"default": sequences.own_split(base.labels, base.arrays)} if base.labels["parts"] else {}
    known = old.manifest["arrays"] if old and not base.fresh else {}
    for name, split in parts.items():
        entries, said[name] = sequences.place_split(name, split, base.contigs, folder, known)
        arrays |= entries
    return arrays, said
