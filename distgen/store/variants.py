"""Substitutions of single bases, insertions and deletions, and the genotypes of samples; the sequence that a sample has.

The group `variants/NAME.ID8` holds a row for each alternative base, contig by contig in the order of the file and by
position within: `contig` (row in the contig table), `position` (0-based), `offset` (how far it is from its record's first
base), `reference` and `alternative` (base codes), and where there are samples `genotype` (int8, samples by two: 1 this
alternative, 0 another allele, -1 not known) and `phased` (uint8, samples).

Where insertions and deletions are kept, a row for each of them is in arrays of their own, likewise sorted: `indel_contig`,
`indel_position` (the first deleted base; where none is, the one that bases are inserted before), `indel_offset`,
`indel_genotype`, `indel_phased`; `indel_deleted` (bases), `indel_end` (where the row's codes end in `indel_inserted`, those of
all rows one after another), and `indel_chain` (the row that the chain of overlapping alleles which this one is in begins
with, of whatever samples). An allele takes the place of the bases that it deletes, of one if it deletes none; alleles of one
haplotype that overlap can't both be: the first is taken (as `bcftools consensus` does), the others are left out. A
substitution of a deleted base is gone with it. An indel whose genotype is not known is left out.

What is inserted belongs to the base that it stands behind, and what takes the place of deleted bases to the first of them:
so the sequence of a stretch is that of its parts one after another.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Container, Iterable
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
from distgen.store import format, rows
from distgen.store.array import Array
from distgen.store.format import Entry
from distgen.store.work import Part

if TYPE_CHECKING:
    from distgen.ingest.variants import IndelBlock, VariantBlock

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
        """A stretch of a contig as a sample has it; where a substitution's genotype is not known, the base is ambiguous.

        Args:
            codes: uint8 (n,), the stretch's base codes; left as they are.
            contig: row in the contig table.
            start: the stretch's first base on the contig, 0-based.
            sample: None where there is one only.
            haplotype: 0 or 1. A haploid call has no base for 1.
            unphased: "listed" takes the alleles of heterozygous sites without phase in the order of the file.

        Returns:
            uint8 (m,); m is n unless the sample has insertions or deletions in the stretch, see the module.

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
        own, changed = self._own(here, column, haplotype, unphased), codes.copy()
        changed[position[own < 0] - start] = AMBIGUOUS
        try:
            changed = apply(changed, start, position[own == 1], alternative[own == 1])
        except SourceError as error:
            where = f'variants "{self.name}", sample "{self.samples[column]}", {self.contigs.names[contig]}'
            raise SourceError(f"{where}: {error}") from None
        indels = self.indels
        return changed if indels is None else indels._spliced(changed, contig, start, column, haplotype, unphased)

    @cached_property
    def indels(self) -> Variants | None:
        """Insertions and deletions, their arrays by name without the "indel_"; None where they are not kept."""
        own = {name.removeprefix("indel_"): array for name, array in self.arrays.items() if name.startswith("indel_")}
        return Variants(self.name, self.samples, self.contigs, own) if own else None

    def _own(self, here: slice, column: int, haplotype: int, unphased: Unphased) -> npt.NDArray[np.int8]:
        """int8 (n,), what a haplotype has of some rows of one contig."""
        calls = self.arrays["genotype"][here][:, column]
        unclear = (calls.min(axis=1, initial=1) >= 0) & (calls[:, 0] != calls[:, 1])
        unclear &= self.arrays["phased"][here][:, column] == 0
        if unphased == "refuse" and unclear.any():
            row = here.start + int(np.flatnonzero(unclear)[0])
            contig, position = (int(self.arrays[name][row : row + 1][0]) for name in ("contig", "position"))
            where = f'variants "{self.name}", sample "{self.samples[column]}", {self.contigs.names[contig]}'
            raise ConfigError(
                f"{where}:{position + 1}: the site is heterozygous and its alleles have no phase: "
                'phase the file, or take them as they are listed (unphased = "listed")'
            )
        own: npt.NDArray[np.int8] = calls[:, haplotype]
        return own

    def _spliced(self, codes: Bytes, contig: int, start: int, column: int, haplotype: int, unphased: Unphased) -> Bytes:
        """A stretch with a haplotype's insertions and deletions; arguments as for `substitute`, for rows of indels."""
        end = start + len(codes)
        here = self.between(contig, start, end + 1)
        if here.start > self.runs.get(contig, (0, 0))[0]:  # what begins before may reach over the start
            here = slice(int(self.arrays["chain"][here.start - 1 : here.start][0]), here.stop)
        before = self.arrays["end"][max(here.start - 1, 0) : here.start]
        ends = np.concatenate([before if here.start else [0], self.arrays["end"][here]]).tolist()
        own = np.flatnonzero(self._own(here, column, haplotype, unphased) == 1).tolist()
        positions, deletions = (self.arrays[name][here].tolist() for name in ("position", "deleted"))
        pieces, at, free = [], start, -1
        for row in own:
            position, deleted = positions[row], deletions[row]
            if position < free:
                continue
            free = position + max(deleted, 1)
            base = position if deleted or not position else position - 1  # that it belongs to
            if base >= end:
                break
            if base >= start:
                pieces += [codes[at - start : position - start], self.arrays["inserted"][ends[row] : ends[row + 1]]]
            at = max(at, min(position + deleted, end))
        return np.concatenate([*pieces, codes[at - start :]])

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
    indels = _IndelColumns(folder, len(table.samples), _Order(path, bases.contigs)) if table.indels == "keep" else None
    blocks = read_variants(path, bases.contigs, samples=table.samples or None, reference=bases, indels=table.indels)
    for block in blocks:
        counts.update(block.counts)
        skipped.update(block.skipped)
        for name, values in order.sorted(_named(block, _SUBSTITUTIONS)).items():
            columns[name].write(values)
        if indels is not None:
            indels.write(indels.order.sorted(_named(block.indels, ("deleted", "inserted"))))
        if len(block.row):  # most files go along the assembly
            last = bases.contigs.offsets[block.row[-1]] + block.position[-1]
            part.reach(float(last / (bases.contigs.offsets[-1] + bases.contigs.lengths[-1])))
    for name, values in order.rest().items():
        columns[name].write(values)
    about = {"samples": table.samples, "rows": columns["contig"].rows, "counts": counts, "skipped": skipped}
    if indels is not None:
        indels.write(indels.order.rest())
        columns |= indels.columns
    return {name: column.close() for name, column in columns.items()}, about


_SUBSTITUTIONS: dict[str, npt.DTypeLike] = {"reference": np.uint8, "alternative": np.uint8}
_INDELS: dict[str, npt.DTypeLike] = {"deleted": np.int32, "end": np.int64, "chain": np.int64, "inserted": np.uint8}


def _columns(
    folder: Path, samples: int, own: dict[str, npt.DTypeLike] = _SUBSTITUTIONS, prefix: str = ""
) -> dict[str, rows.Column]:
    def column(name: str, dtype: npt.DTypeLike, *rest: int, codec: format.Codec = "zstd") -> None:
        columns[prefix + name] = rows.Column.of(folder / (prefix + name), dtype, *rest, codec=codec)

    columns: dict[str, rows.Column] = {}
    column("contig", np.int32)
    column("position", np.int64, codec="raw")  # it is searched
    column("offset", np.int32)
    for name, dtype in own.items():
        column(name, dtype)
    if samples:
        column("genotype", np.int8, samples, 2)
        column("phased", np.uint8, samples)
    return columns


class _IndelColumns:
    """The arrays of insertions and deletions."""

    def __init__(self, folder: Path, samples: int, order: _Order):
        self.columns, self.order = _columns(folder, samples, _INDELS, "indel_"), order
        self._contig, self._reach, self._chain, self._codes = -1, 0, 0, 0

    def write(self, block: Block) -> None:
        """Append sorted rows."""
        if not block:
            return
        inserted = block.pop("inserted")
        block["inserted"] = np.concatenate([np.empty(0, np.uint8), *inserted])
        block["end"] = self._codes + np.cumsum([len(codes) for codes in inserted], dtype=np.int64)
        self._codes += len(block["inserted"])
        block["chain"] = self._chains(block)
        for name, values in block.items():
            self.columns[f"indel_{name}"].write(values)

    def _chains(self, block: Block) -> Int64:
        before, chains = self.columns["indel_contig"].rows, np.empty(len(block["contig"]), np.int64)
        columns = (block[name].tolist() for name in ("contig", "position", "deleted"))
        for number, (contig, position, deleted) in enumerate(zip(*columns, strict=True)):
            if contig != self._contig or position >= self._reach:
                self._contig, self._reach, self._chain = contig, 0, before + number
            self._reach = max(self._reach, position + max(deleted, 1))
            chains[number] = self._chain
        return chains


Block = dict[str, npt.NDArray[Any]]


def _named(block: VariantBlock | IndelBlock, own: Iterable[str]) -> Block:
    """The columns of a block by their array's name."""
    columns: Block = {"contig": block.row, "position": block.position, "offset": block.offset}
    columns |= {name: getattr(block, name) for name in own}
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
