"""Matrices of values by region and condition, such as the expression of genes or the accessibility of peaks.

The group `matrices/NAME.ID8` holds a row for each region, in the order of the assembly: `contig` (row in the contig
table), `start` and `end` (0-based, half-open), `strand` (1, -1, 0 for none), `id` (UTF-8, padded with zeros) and
`values` (float32, a column for each condition; NaN is missing).
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from distgen.config import MatrixTable, Recipe, digest
from distgen.errors import SourceError
from distgen.genome import Contigs, Int64, Interval
from distgen.store import format, rows
from distgen.store.array import Array
from distgen.store.work import Part

if TYPE_CHECKING:
    from distgen.ingest.regions import Regions
    from distgen.ingest.tables import MatrixFile

KIND = "matrices"
PIECE = 1 << 20  # values in memory at a time
_STRANDS = {1: "+", -1: "-", 0: "."}


@dataclass(frozen=True)
class Matrix:
    """Values by region and condition.

    Args:
        name: as the recipe has it.
        conditions: (c,), what each column of `values` is.
        contigs: the store's.
        arrays: of the group, by name.
    """

    name: str
    conditions: tuple[str, ...]
    contigs: Contigs
    arrays: dict[str, Array]

    def __len__(self) -> int:
        return self.arrays["contig"].shape[0]

    @property
    def id(self) -> str:
        """What regions, conditions and values are known by."""
        return digest([self.conditions, {name: array.id for name, array in self.arrays.items()}])

    @cached_property
    def ids(self) -> Sequence[str]:
        """The name of each region (n,)."""
        return rows.words(self.arrays["id"].read())

    @cached_property
    def regions(self) -> Int64:
        """Flat intervals int64 (n, 2), sorted by start; they may overlap."""
        offsets = self.contigs.offsets[self.arrays["contig"].read()]
        return np.stack([offsets + self.arrays["start"].read(), offsets + self.arrays["end"].read()], axis=1)

    @cached_property
    def strands(self) -> npt.NDArray[np.int8]:
        """int8 (n,): 1 for +, -1 for -, 0 for none."""
        return self.arrays["strand"].read()

    @cached_property
    def values(self) -> npt.NDArray[np.float32]:
        """float32 (n, c), NaN is missing; mapped from the file where it can be."""
        return self.arrays["values"].read()

    def interval(self, row: int) -> Interval:
        """A region as contig, 0-based half-open positions and strand."""
        contig = int(self.arrays["contig"][row : row + 1][0])
        start, end = self.regions[row] - self.contigs.offsets[contig]
        return Interval(self.contigs.names[contig], int(start), int(end), _STRANDS[int(self.strands[row])])


def plan(recipe: Recipe, ids: dict[str, str], contigs: Contigs, known: Container[str] = ()) -> list[rows.Table]:
    """The tables of a recipe's [[matrix]].

    Args:
        recipe: as read from its file.
        ids: an id of the content of each source.
        contigs: the contig table.
        known: the `inputs` of tables that need not be built; their sources are not looked for.
    """
    tables = []
    for number, table in enumerate(recipe.matrix):
        names = [list(contigs.names), list(contigs.aliases), contigs.lengths.tolist()]
        inputs = digest(["matrix/1", names, table.name, table.missing, ids[table.matrix], ids[table.regions]])
        fill, files = None, tuple[Path, ...]()
        if inputs not in known:
            matrix = recipe.resolve(table.matrix, f"matrix.{number}.matrix")
            regions = recipe.resolve(table.regions, f"matrix.{number}.regions")
            fill, files = partial(_fill, table, matrix, regions, contigs), (matrix, regions)
        tables.append(rows.Table(KIND, table.name, inputs, fill, files, passes=2))
    return tables


def _fill(table: MatrixTable, matrix: Path, regions: Path, contigs: Contigs, folder: Path, part: Part) -> rows.Made:
    """Join a matrix with its regions; those on contigs that the assembly lacks are counted, and not kept."""
    from distgen.ingest.regions import read_regions
    from distgen.ingest.tables import join, read_matrix

    found, places = read_matrix(matrix), read_regions(regions, contigs)
    taken, kept = np.arange(len(places.ids)), np.arange(len(found.ids))
    if table.missing == "drop":
        known, named = set(found.ids), set(places.ids)
        taken = np.array([row for row, name in enumerate(places.ids) if name in known], np.int64)
        kept = np.array([row for row, name in enumerate(found.ids) if name in named], np.int64)
    ids = [places.ids[row] for row in taken.tolist()]
    order = kept[join([found.ids[row] for row in kept.tolist()], ids, f"{matrix} with {regions}")]
    here = places.contig[taken] >= 0
    if not here.any():
        raise SourceError(f"{matrix} with {regions}: no identifier of both is on a contig of the assembly")
    skipped = Counter(places.elsewhere[row] for row in taken[~here].tolist())
    dropped = {"regions": len(places.ids) - len(taken), "matrix": len(found.ids) - len(kept)}
    arrays = _write(folder, places, taken[here], found, order[here])
    part(int((places.end - places.start)[taken[here]].sum()))
    return arrays, {"conditions": found.conditions, "rows": int(here.sum()), "skipped": skipped, "dropped": dropped}


def _write(folder: Path, places: Regions, taken: Int64, found: MatrixFile, order: Int64) -> dict[str, Any]:
    columns: dict[str, npt.NDArray[Any]] = {
        "contig": places.contig[taken].astype(np.int32),
        "start": places.start[taken],
        "end": places.end[taken],
        "strand": places.strand[taken],
        "id": rows.text(tuple(places.ids[row] for row in taken.tolist())),
    }
    arrays = {name: format.write_array(folder / name, column, "zstd") for name, column in columns.items()}
    stored = rows.Column.of(folder / "values", np.float32, len(found.conditions), codec="raw")
    for piece in _ordered(found, order, folder):
        piece[np.isnan(piece)] = np.nan  # one bit pattern for all
        stored.write(piece)
    return arrays | {"values": stored.close()}


def _ordered(found: MatrixFile, order: Int64, scratch: Path) -> Iterator[npt.NDArray[np.float32]]:
    """The rows `order` of a matrix, some at a time; they are put into this order on disk, where any number has room."""
    width = len(found.conditions)
    places = np.full(len(found.ids), -1, np.int64)
    places[order] = np.arange(len(order))
    with tempfile.TemporaryFile(dir=scratch) as file:
        first = 0
        for values in found.blocks():
            here = places[first : first + len(values)]
            first += len(values)
            kept = np.flatnonzero(here >= 0)
            for run in np.split(kept, np.flatnonzero(np.diff(here[kept]) != 1) + 1):
                if len(run):
                    file.seek(int(here[run[0]]) * width * 4)
                    file.write(values[run].data)
        file.seek(0)
        step = max(1, PIECE // width)
        for begin in range(0, len(order), step):
            piece = np.empty((min(step, len(order) - begin), width), np.float32)
            file.readinto(piece.data)
            yield piece
