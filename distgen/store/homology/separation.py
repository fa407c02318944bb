"""Splits without what resembles a held-out part, where a recipe asks for it: each search is a unit of the build.

From the parts of an assembly go tiles, from parts of a table that are named go sequences, and the parts of a table that
are drawn are drawn by families of sequences.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

from distgen.config import Homology, Recipe, Split, digest
from distgen.genome import Int64
from distgen.store import sequences, splits
from distgen.store.base import Base
from distgen.store.planes import PER_BYTE
from distgen.store.reader import Store
from distgen.store.splits import PARTS, Parts
from distgen.store.work import Execute, Work

# What a base takes, measured on one core of 2026's AMD EPYC: to be masked, to stream past one block, in a table.
_SECONDS = {"mask": 6e-8, "pass": 8e-8, "table": 1e-5}
_ROUNDS = 2  # searches until nothing is left, most often
_INDEX = 7  # bytes of an index by the base
_COUNTS = 1 << 27  # bytes of the counts of seeds
_KEEP = ("test", "valid", "train")  # of two that resemble each other, the later part loses


@dataclass(frozen=True)
class _Job:
    """One search: the splits that come of it, by name, as they are without it; and the table that asks for it."""

    splits: dict[str, Parts]
    split: Split
    key: str
    base: Base
    recipe: Recipe

    @property
    def families(self) -> bool:
        return self.base.labels is not None and self.split.drawn

    @property
    def rules(self) -> Homology:
        assert self.split.homology is not None
        return self.split.homology

    @property
    def inputs(self) -> str:
        """An id of all that the search depends on."""
        keys = [*PER_BYTE, *sorted(key for key in self.base.arrays if key.startswith("contigs/"))]
        arrays = [self.base.arrays[key]["id"] for key in keys]
        parts = {name: [blake3(of[part].tobytes()).hexdigest() for part in PARTS] for name, of in self.splits.items()}
        drawn = self.split.model_dump(mode="json") if self.families else self.rules.model_dump(mode="json")
        return digest(["homology/2", arrays, parts, drawn])

    def draw(self, family: Int64) -> dict[str, Parts]:
        """The splits of a table drawn by families."""
        name, contigs = next(iter(self.splits)), self.base.contigs
        stem = name.rsplit("-", 1)[0] if self.split.folds else name
        with self.recipe.at(self.key):
            return splits.resolve(stem, self.split, contigs, Path, family)


def cost(recipe: Recipe, bases: int, workers: int = 1) -> tuple[float, int]:
    """About what the searches that a recipe asks for take: seconds, and bytes of memory for each worker.

    Args:
        recipe: as read from its file. Where a part is named, it is taken to be a tenth.
        bases: of the assembly or table.
        workers: that share the work.
    """
    from distgen.store.homology.search import BLOCK

    seconds, largest = 0.0, 0
    for split in (recipe.split, *recipe.splits.values()):
        if split.homology is None:
            continue
        times = split.folds or 1
        test, valid = (1 / times, 1 / times) if split.folds else (0.1, 0.1)
        if split.fraction:
            test, valid = split.fraction.test, split.fraction.valid
        if recipe.sequences:
            seconds += bases * _SECONDS["table"] * times
        else:
            passes = sum(math.ceil(min(share, 1 - share) * bases / BLOCK) for share in (test, valid))
            seconds += times * bases * (_SECONDS["mask"] + _ROUNDS * passes * _SECONDS["pass"])
        largest = max(largest, min(bases, BLOCK) * _INDEX)
    return seconds / workers, largest and largest + _COUNTS


def separated(
    recipe: Recipe,
    parts: dict[str, Parts],
    made: Base,
    work: Work,
    old: Store | None,
    execute: Execute,
    parallel: int,
) -> tuple[dict[str, Parts], dict[str, Any]]:
    """The splits of a recipe, what resembles a held-out part taken from the others where it asks for that.

    Args:
        recipe: as read from its file.
        parts: the splits without it.
        made: planes and contigs.
        work: where receipts are kept.
        old: the store that is there; its searches are not made again.
        execute, parallel: carries out tasks, about so many at the same time.

    Returns:
        The splits, and what the manifest says of each search by the name of its split.

    Raises:
        ConfigError: names the split of which nothing would be left.
    """
    parts, reports = dict(parts), dict[str, Any]()
    for job in _jobs(recipe, parts, made):
        inputs = job.inputs
        known = old.manifest["homology"] if old else {}
        if old and all(known.get(name, {}).get("inputs") == inputs for name in job.splits):
            parts |= {name: _stored(old, name) for name in job.splits}
            reports |= {name: known[name] for name in job.splits}
            continue
        receipt = work.receipt(inputs)
        if receipt is None:
            folder = work.begin(inputs)
            with recipe.at(f"{job.key}.homology"):
                receipt = _search(job, folder, execute, parallel)
            work.finish(inputs, folder, receipt)
        parts |= _parts(job, receipt)
        reports |= {name: {"inputs": inputs, "report": receipt["report"]} for name in job.splits}
    return parts, reports


def _jobs(recipe: Recipe, parts: dict[str, Parts], made: Base) -> list[_Job]:
    jobs, tables = [], {"default": recipe.split, **recipe.splits}
    for table, split in tables.items():
        if split.homology is None:
            continue
        found = {name: of for name, of in parts.items() if recipe.split_of(name) is split}
        if not found:
            assert made.labels is not None
            found = {table: sequences.own_parts(made.labels, made.folder, made.arrays, made.contigs)}
        key = "split" if table == "default" else f"splits.{table}"
        job = partial(_Job, split=split, key=key, base=made, recipe=recipe)
        together = made.labels is not None and split.drawn
        jobs += [job(found)] if together else [job({name: of}) for name, of in found.items()]
    return jobs


def _stored(store: Store, name: str) -> Parts:
    filled = store.parts(name)
    return {part: store.regions(part, name) if part in filled else np.empty((0, 2), np.int64) for part in PARTS}


def _search(job: _Job, folder: Path, execute: Execute, parallel: int) -> dict[str, Any]:
    """The receipt of a search: `report`, and `parts` (flat intervals), a `part` for each sequence, or its `family`."""
    from distgen.store.homology.search import Likeness
    from distgen.store.homology.tables import Table, families, separate_table
    from distgen.store.homology.text import Text
    from distgen.store.homology.tiles import separate

    rules, made = job.rules, job.base
    likeness = Likeness(rules.identity, rules.coverage, rules.tile)
    text = Text(made.folder, {plane: made.arrays[plane] for plane in PER_BYTE}, made.contigs)
    (parts, *_) = job.splits.values()
    if made.labels is None:
        filled = {part: intervals for part, intervals in parts.items() if len(intervals)}
        spread = {"folder": folder, "execute": execute, "parallel": parallel}
        options: dict[str, Any] = {"keep": _KEEP, "action": rules.action, "neighbours": rules.neighbours, **spread}
        apart, report = separate(text, filled, likeness, **options)
        (folder / "mask").unlink()
        return {"parts": {part: apart.get(part, of).tolist() for part, of in parts.items()}, "report": report}
    table = Table.of(text, execute, parallel)
    if job.families:
        family, report = families(table, likeness, lambda family: _rows(job.draw(family), table))
        return {"family": family.tolist(), "report": report}
    numbers = {part: PARTS.index(part) + 1 for part in _KEEP}
    part, report = separate_table(
        table, sequences.assign(parts, made.contigs), likeness, keep=numbers, action=rules.action
    )
    return {"part": "".join(map(str, part.tolist())), "report": report}


def _rows(drawn: dict[str, Parts], table: Any) -> list[Int64]:
    """The rows of parts that must not meet: those of the one split, or the folds, each of which tests once."""
    if len(drawn) == 1:
        (parts,) = drawn.values()
        return [table.locate(parts[part][:, 0]) for part in PARTS]
    return [table.locate(parts["test"][:, 0]) for parts in drawn.values()]


def _parts(job: _Job, receipt: dict[str, Any]) -> dict[str, Parts]:
    if "family" in receipt:
        return job.draw(np.array(receipt["family"], np.int64))
    (name,) = job.splits
    if "parts" in receipt:
        return {name: {part: splits.intervals(of, job.base.contigs) for part, of in receipt["parts"].items()}}
    codes = np.array(list(receipt["part"]), np.uint8)
    return {name: sequences.parts_of(codes, job.base.contigs)}
