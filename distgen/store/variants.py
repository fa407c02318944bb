"""Substitutions of single bases and the genotypes of samples; the sequence that a sample has.

The group `variants/NAME.ID8` holds a row for each alternative base, contig by contig in the order of the file and by
position within: `contig` (row in the contig table), `position` (0-based), `offset` (how far it is from its record's first
base), `reference` and `alternative` (base codes), and where there are samples `genotype` (int8, samples by two: 1 this
alternative, 0 another allele, -1 not known) and `phased` (uint8, samples).
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Container
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from distgen import config
from distgen.config import Recipe, digest
from distgen.errors import ConfigError, SourceError, suggest
from distgen.genome import AMBIGUOUS, Bytes, Contigs, Int64
from distgen.ingest.objects import Place
from distgen.store import rows
from distgen.store.array import Array
from distgen.store.format import Entry
from distgen.store.work import Part

if TYPE_CHECKING:
    from distgen.ingest.variants import VariantBlock

KIND = "variants"
_POSITION_BITS = 40
_REACH = 1 << 16  # bases that the rows of one record may lie apart
_STEP = 1 << 20

Unphased = Literal["refuse", "listed"]


@dataclass(frozen=True)
class Variants:
    """Substitutions of a store; see the module for the arrays.

    Args:
        name: as the recipe has it.
        samples: those with genotypes.
        contigs: the store's.
        arrays: of the group, by name.
    """

    name: str
    samples: tuple[str, ...]
    contigs: Contigs
    arrays: dict[str, Array]

    def __len__(self) -> int:
        return self.arrays["contig"].shape[0]

    def between(self, contig: int, start: int, end: int) -> slice:
        """The rows at positions [start, end) (0-based) of the contig in a row of the contig table."""
        first, last = self.runs.get(contig, (0, 0))
        low = self._search(start, first, last)
        return slice(low, self._search(end, low, last))

    def substitute(
        self, codes: Bytes, contig: int, start: int, sample: str | None, haplotype: int, unphased: Unphased = "refuse"
    ) -> Bytes:
        """A stretch of a contig as a sample has it; where its genotype is not known, the base is ambiguous.

        Args:
            codes: uint8 (n,), the stretch's base codes; left as they are.
            contig: row in the contig table.
            start: the stretch's first base on the contig, 0-based.
            sample: None where there is one only.
            haplotype: 0 or 1. A haploid call has no base for 1.
            unphased: "listed" takes the alleles of heterozygous sites without phase in the order of the file.

        Raises:
            ConfigError: no such sample or haplotype, or an unphased heterozygous site is not to be guessed.
            SourceError: two substitutions of the haplotype are at the same base.
        """
        from distgen.ingest.variants import apply

        column = self.column(sample)
        if haplotype not in (0, 1):
            raise ConfigError(f"haplotype {haplotype}: a sample has 0 and 1")
        here = self.between(contig, start, start + len(codes))
        position, alternative = self.arrays["position"][here], self.arrays["alternative"][here]
        calls = self.arrays["genotype"][here][:, column]
        unclear = (calls.min(axis=1, initial=1) >= 0) & (calls[:, 0] != calls[:, 1])
        unclear &= self.arrays["phased"][here][:, column] == 0
        where = f'variants "{self.name}", sample "{self.samples[column]}", {self.contigs.names[contig]}'
        if unphased == "refuse" and unclear.any():
            raise ConfigError(
                f"{where}:{position[unclear][0] + 1}: the site is heterozygous and its alleles have no phase: "
                'phase the file, or take them as they are listed (unphased = "listed")'
            )
        own, changed = calls[:, haplotype], codes.copy()
        changed[position[own < 0] - start] = AMBIGUOUS
        try:
            return apply(changed, start, position[own == 1], alternative[own == 1])
        except SourceError as error:
            raise SourceError(f"{where}: {error}") from None

    def column(self, sample: str | None) -> int:
        """Where a sample's genotypes stand; None where there is one only. Raises ConfigError if there is none."""
        if not self.samples:
            raise ConfigError(
                f'variants "{self.name}" has sites without genotypes. Name samples = ["..."] in [[variants]] of the recipe, '
                "and build again"
            )
        if sample is None and len(self.samples) == 1:
            return 0
        if sample not in self.samples:
            what = "which sample?" if sample is None else f'no sample is called "{sample}".'
            raise ConfigError(f'variants "{self.name}": {what} {suggest(sample or "", self.samples)}')
        return self.samples.index(sample)

    @cached_property
    def runs(self) -> dict[int, tuple[int, int]]:
        """The first row and the row after the last of each contig."""
        found: dict[int, tuple[int, int]] = {}
        for begin in range(0, len(self), _STEP):
            contig = self.arrays["contig"][begin : begin + _STEP]
            cuts = [0, *(np.flatnonzero(np.diff(contig)) + 1).tolist(), len(contig)]
            for first, last in itertools.pairwise(cuts):
                row = int(contig[first])
                found[row] = found.get(row, (begin + first, 0))[0], begin + last
        return found

    def _search(self, position: int, low: int, high: int) -> int:
        """The first row of [low, high) at a position or after it."""
        while low < high:
            middle = (low + high) // 2
            if self.arrays["position"][middle : middle + 1][0] < position:
                low = middle + 1
            else:
                high = middle
        return low


# ---- building -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bases:
    """The base codes at scattered positions of an assembly, from its planes, which are opened where they are read.

    Args:
        contigs: the contig table.
        folder: where the planes lie.
        entries: their manifest entries.
    """

    contigs: Contigs
    folder: Place
    entries: dict[str, Entry]

    @cached_property
    def _planes(self) -> tuple[Array, Array]:
        sequence, ambiguous = (Array(self.folder / key, self.entries[key]) for key in ("sequence", "ambiguous"))
        return sequence, ambiguous

    def __call__(self, row: int, positions: Int64) -> Bytes:
        """Codes uint8 (n,) at 0-based positions int64 (n,) of the contig in a row; ambiguous is 4."""
        flat, (sequence, ambiguous) = positions + self.contigs.offsets[row], self._planes
        codes = (_gather(sequence, flat // 4) >> (2 * (flat % 4)).astype(np.uint8)) & np.uint8(3)
        flags = (_gather(ambiguous, flat // 8) >> (flat % 8).astype(np.uint8)) & np.uint8(1)
        return np.where(flags == 1, np.uint8(AMBIGUOUS), codes)


def _gather(array: Array, index: Int64) -> Bytes:
    """Bytes (n,) of an array at any indices, each chunk read once."""
    found, size = np.empty(len(index), np.uint8), array.layout.chunk
    order = np.argsort(index, kind="stable")
    chunks = index[order] // size
    for here in np.split(order, np.flatnonzero(np.diff(chunks)) + 1):
        first = int(index[here[0]] // size * size)
        found[here] = array[first : first + size][index[here] - first]
    return found


def plan(
    recipe: Recipe, ids: dict[str, str], planes: str, bases: Bases, known: Container[str] = ()
) -> list[rows.Table]:
    """The tables of a recipe's [[variants]].

    Args:
        recipe: as read from its file.
        ids: an id of the content of each source.
        planes: an id of what the planes were made of.
        bases: says what REF must be.
        known: the `inputs` of tables that need not be built; their sources are not looked for.
    """
    tables = []
    for number, table in enumerate(recipe.variants):
        parameters = [table.name, table.samples, table.indels]
        inputs = digest(["variants/2", planes, parameters, ids[table.source]])
        fill, files = None, tuple[Path, ...]()
        if inputs not in known:
            path = recipe.resolve(table.source, f"variants.{number}.source")
            fill, files = partial(_fill, table, path, bases), (path,)
        tables.append(rows.Table(KIND, table.name, inputs, fill, files))
    return tables


def _fill(table: config.VariantsTable, path: Path, bases: Bases, folder: Path, part: Part) -> rows.Made:
    from distgen.ingest.variants import read_variants

    columns = _columns(folder, len(table.samples))
    counts, skipped, order = Counter[str](), Counter[str](), _Order(path, bases.contigs)
    blocks = read_variants(path, bases.contigs, samples=table.samples or None, reference=bases, indels=table.indels)
    for block in blocks:
        counts.update(block.counts)
        skipped.update(block.skipped)
        for name, values in order.sorted(_named(block)).items():
            columns[name].write(values)
        if len(block.row):  # most files go along the assembly
            last = bases.contigs.offsets[block.row[-1]] + block.position[-1]
            part.reach(float(last / (bases.contigs.offsets[-1] + bases.contigs.lengths[-1])))
    for name, values in order.rest().items():
        columns[name].write(values)
    about = {"samples": table.samples, "rows": columns["contig"].rows, "counts": counts, "skipped": skipped}
    return {name: column.close() for name, column in columns.items()}, about


def _columns(folder: Path, samples: int) -> dict[str, rows.Column]:
    columns = {
        "contig": rows.Column.of(folder / "contig", np.int32),
        "position": rows.Column.of(folder / "position", np.int64, codec="raw"),  # it is searched
        "offset": rows.Column.of(folder / "offset", np.int32),
        "reference": rows.Column.of(folder / "reference", np.uint8),
        "alternative": rows.Column.of(folder / "alternative", np.uint8),
    }
    if samples:
        columns["genotype"] = rows.Column.of(folder / "genotype", np.int8, samples, 2)
        columns["phased"] = rows.Column.of(folder / "phased", np.uint8, samples)
    return columns


Block = dict[str, npt.NDArray[Any]]


def _named(block: VariantBlock) -> Block:
    """The columns of a block by their array's name."""
    columns: Block = {"contig": block.row, "position": block.position, "offset": block.offset}
    columns |= {"reference": block.reference, "alternative": block.alternative}
    if block.genotypes is not None and block.phased is not None:
        columns |= {"genotype": block.genotypes, "phased": block.phased}
    return columns


@dataclass
class _Order:
    """Puts rows into their order. Records come by position, but the rows of two that overlap lie among one another, so
    the last ones wait for what comes after them."""

    path: Path
    contigs: Contigs
    ranks: dict[int, int] = field(default_factory=dict)  # contigs in the order of the file
    waiting: Block = field(default_factory=dict)
    last: int = -1

    def sorted(self, block: Block) -> Block:
        """What is in its place for good once `block` has come."""
        if not len(block["contig"]):
            return {}
        for row in dict.fromkeys(block["contig"].tolist()):
            self.ranks.setdefault(row, len(self.ranks))
        if self.waiting:
            block = {name: np.concatenate([self.waiting[name], values]) for name, values in block.items()}
        keys = self._keys(block)
        order = np.argsort(keys, kind="stable")
        done = int(np.searchsorted(keys[order], keys[-1] - _REACH))
        self.waiting = {name: values[order[done:]] for name, values in block.items()}
        return self._checked({name: values[order[:done]] for name, values in block.items()})

    def rest(self) -> Block:
        """What is left at the end."""
        return self._checked(self.waiting)

    def _keys(self, block: Block) -> Int64:
        ranks = np.full(len(self.contigs), -1, np.int64)
        ranks[list(self.ranks)] = list(self.ranks.values())
        return (ranks[block["contig"]] << _POSITION_BITS) | block["position"]

    def _checked(self, block: Block) -> Block:
        if block and len(block["contig"]):
            keys = self._keys(block)
            if keys[0] < self.last:
                name, position = self.contigs.names[block["contig"][0]], block["position"][0] + 1
                raise SourceError(
                    f"{self.path}: {name}:{position} stands after what should follow it: sort the file (bcftools sort)"
                )
            self.last = int(keys[-1])
        return block
