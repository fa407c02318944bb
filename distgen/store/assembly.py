"""The planes and the contig table of an assembly: which tasks build them, and what comes of their receipts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from distgen.config import Recipe, digest
from distgen.errors import StoreError
from distgen.genome import ALIGNMENT, Contigs, Int64
from distgen.ingest import fasta
from distgen.ingest.fasta import Header, Index
from distgen.ingest.open import content_size
from distgen.ingest.twobit import is_twobit
from distgen.store import contigs, format, planes
from distgen.store.contigs import Found, Wanted
from distgen.store.format import Entry
from distgen.store.planes import PER_BYTE, Packer, Start, Units, plane_layout
from distgen.store.work import Execute, Part, Progress, Task, in_this_process, link, silent

_TINY = 1 << 20  # bytes of a source that are packed sooner than handed to a worker


@dataclass(frozen=True)
class Built:
    """The planes as they were built: the contig table, what it lacks, what became N, and the receipts of the units."""

    units: Units
    contigs: Contigs
    left_out: dict[str, Any]
    letters: Int64
    receipts: list[dict[str, Any]]


def flat_length(contigs: Contigs) -> int:
    """Bases of the flat coordinate, padding and all."""
    return int(contigs.offsets[-1]) + -(-int(contigs.lengths[-1]) // ALIGNMENT) * ALIGNMENT


def inputs(recipe: Recipe, ids: dict[str, str]) -> str:
    """An id of all that the planes and the contig table depend on."""
    used = [path for path in (recipe.genome.fasta, recipe.contigs.aliases) if path]
    rules = recipe.contigs.model_dump(mode="json", exclude={"aliases"})
    return digest(["planes/1", [ids[path] for path in used], rules, recipe.name, planes.UNIT])


def build(
    recipe: Recipe,
    units: Units,
    progress: Progress,
    execute: Execute,
    parallel: int,
    index: Index | None,
) -> Built:
    """Write the units that are not finished; each on its own if the assembly can be cut.

    Raises:
        ConfigError, SourceError: the recipe's rules or the source are wrong.
    """
    path = recipe.resolve(recipe.genome.fasta, "assembly.fasta")
    wanted, found = Wanted.of(recipe), None
    if path.stat().st_size < _TINY:
        execute = in_this_process
    if is_twobit(path):
        execute(planes.copy_tasks(path, wanted, units), progress)
    else:
        if index is None and (tasks := scans(path, parallel)):
            index = fasta.join(execute(tasks, silent))
        wanted, starts, index = _cut(path, wanted, index)
        # Of units that were read each from its place, none may have come by a contig that was left out.
        found = index and _checked(path, Found.of(index.contigs, wanted))
        counts = [*[1] * (len(starts) - 1), None]
        tasks = [partial(_pack, path, wanted, units, s, n) for s, n in zip(starts, counts, strict=True)]
        execute(tasks, progress)
    receipts = _receipts(units)
    found = found or _checked(path, Found.joined(receipts))
    table, others = contigs.table(recipe, wanted, found), contigs.left_out(wanted, found)
    return Built(units, table, others, contigs.letters(found, receipts), receipts)


def _checked(path: Path, found: Found) -> Found:
    """Refuse names that come twice, and contigs that would be kept but have no sequence."""
    fasta.refuse_doubles(path, found.everything())
    for row in np.flatnonzero(np.array(found.kept.bases, np.int64) == 0)[:1].tolist():
        header = found.kept.header(row)
        raise fasta.refusal(path, header.position, f'contig "{header.name}" has no sequence')
    return found


def rebuild(recipe: Recipe, units: Units, number: int) -> dict[str, Any]:
    """Write one unit of the planes anew; returns what each plane's manifest entry should say of its shard."""
    path = recipe.resolve(recipe.genome.fasta, "assembly.fasta")
    wanted = Wanted.of(recipe)
    if is_twobit(path):
        planes.copy_tasks(path, wanted, units)[number](silent)
    else:
        wanted, *_ = _cut(path, wanted, None)
        _pack(path, wanted, units, Start(flat=number * planes.UNIT), 1, silent)
    return (units.receipt(number) or {})["arrays"]  # type: ignore[no-any-return]


def scans(path: Path, parallel: int) -> list[Task]:
    """The tasks whose results `fasta.join` makes the index of a FASTA file of; none if it can't be read from everywhere, or
    is of one unit."""
    if parallel == 1 or is_twobit(path) or (content_size(path) or 0) <= planes.UNIT:
        return []
    cuts: list[int | None] = [*fasta.cut_lines(path, parallel * 4), None]
    return [partial(_scan, path, begin or 0, end) for begin, end in itertools.pairwise(cuts)]


def _cut(path: Path, wanted: Wanted, index: Index | None) -> tuple[Wanted, list[Start], Index | None]:
    """Which contigs of a FASTA file to keep, and where to begin to read it: at each unit, or at its beginning if it has no
    index; and the index, if lengths of contigs need one, too."""
    if index is None and not wanted.rules.min_length:
        return wanted, [Start()], None
    whole = index or fasta.scan_fasta(path)
    wanted = wanted.long_enough(whole.contigs)
    return wanted, _starts(wanted, whole) if index else [Start()], whole


def _scan(path: Path, begin: int, end: int | None, progress: Progress) -> Index:
    return fasta.scan_fasta(path, begin, end)


def _pack(
    path: Path,
    wanted: Callable[[Header], bool],
    units: Units,
    start: Start,
    count: int | None,
    progress: Progress,
) -> None:
    """Write units from `start` on, leaving out those that are finished."""
    number, part = start.flat // planes.UNIT, Part(progress, [path])
    while (receipt := units.receipt(number)) is not None:
        if count is not None or receipt["last"]:
            return
        start, number = Start.from_json(receipt["end"]), number + 1
        part(planes.UNIT)
    if count is None:
        part.reach(start.place.position / (content_size(path) or math.inf))
    with part.reading():
        Packer(path, wanted, units, start, count, part).run()


def _starts(kept: Callable[[Header], bool], index: Index) -> list[Start]:
    """Where each unit begins: the last mark before its first base."""
    sizes = np.array([-(-bases // ALIGNMENT) * ALIGNMENT if kept(header) else 0 for header, bases in index.contigs])
    offsets = np.cumsum(sizes) - sizes
    # A mark in a contig that is left out stands for the place where the next one begins.
    flats = [int(offsets[i]) + (place.bases if sizes[i] else 0) for i, place in index.marks]
    starts = []
    for flat in range(0, int(sizes.sum()), planes.UNIT):
        last = max(int(np.searchsorted(flats, flat, side="right")) - 1, 0)
        number, place = index.marks[last]
        starts.append(Start(place, int(offsets[number]), flat) if flat else Start())
    return starts


def _receipts(units: Units) -> list[dict[str, Any]]:
    receipts: list[dict[str, Any]] = []
    while not receipts or not receipts[-1]["last"]:
        receipt = units.receipt(len(receipts))
        if receipt is None:
            raise StoreError(f"{units.work.folder}: unit {len(receipts)} of the planes is missing")
        receipts.append(receipt)
    return receipts


def place(built: Built, folder: Path) -> dict[str, Entry]:
    """The planes' and the contig table's arrays in `folder`; returns their manifest entries."""
    arrays: dict[str, Entry] = {}
    units = [receipt for receipt in built.receipts if receipt["arrays"]]
    for plane in PER_BYTE:
        layout = plane_layout(plane, flat_length(built.contigs))
        for number in range(len(units)):
            shard = built.units.shard(number, plane)
            if shard.exists():
                link(shard, folder / plane / layout.key(number))
        arrays[plane] = format.finish_array(folder / plane, layout, [unit["arrays"][plane] for unit in units])
    format.write_group(folder / "contigs", {})
    for name, column in contigs.columns(built.contigs, built.letters).items():
        arrays[f"contigs/{name}"] = format.write_array(folder / "contigs" / name, column)
    return arrays
