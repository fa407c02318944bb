"""What the haplotypes of chosen samples have, taken once out of the genotypes of a store into the tables of `alleles.py`.

What is small stays in memory; more goes to a file that all processes of a machine map, and that the next run finds again.
Importing this loads the compiler.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from distgen.config import TIMEOUTS
from distgen.errors import ConfigError, SourceError, StoreError
from distgen.genome import Bits, Int64
from distgen.kernels.draws import PHASE
from distgen.loader import alleles, indels
from distgen.loader.alleles import BIN_BITS, LINE, SITES, Table, Words
from distgen.loader.indels import Alleles
from distgen.store.format import crc32c
from distgen.store.locks import is_named
from distgen.store.variants import Variants

log = logging.getLogger("distgen")

Calls = npt.NDArray[np.int8]
Unphased = Literal["refuse", "listed", "drawn"]
_IN_MEMORY = 1 << 28  # bytes of genotypes that are gone through in a second or so, whatever is in them
_STEP = 1 << 23  # bytes of genotypes decoded at a time
_PAUSE = 0.1  # seconds until a lock is tried again
_NOWHERE = np.uint64(1 << 62)  # pads the sites of the last block
_MAGIC = 0x316C6C61_67747364  # of a file of version 1
_TAIL = 6  # words: magic, blocks, bins, haplotypes, whether anything is unknown, crc32c of the tables


class Taken:
    """The table of a source, in memory or, if it is large, in a file at `path`."""

    def __init__(self, source: Source, path: Path):
        genotype = source.variants.arrays["genotype"]
        if genotype.layout.dtype.itemsize * np.prod(genotype.shape) <= _IN_MEMORY:
            sink = BytesIO()
            _write(source, sink)
            found = np.frombuffer(sink.getbuffer().toreadonly(), np.uint64)  # as a map is: compiled once for both
        else:
            found = _kept(source, path, source.variants.name)
        self._table, self.unknown, self._crcs = _read(found)
        self._checked: Bits = np.full(len(self._crcs), not isinstance(found, np.memmap))
        self._path = path

    @property
    def whole(self) -> bool:
        """Whether all of it is known to be undamaged."""
        return bool(self._checked.all())

    def at(self, starts: Int64, limits: Int64, length: int) -> Table:
        """The table, with what these windows read of it checked."""
        if not self.whole:
            for block in alleles.touched(self._table.first, starts, limits, length, self._checked).tolist():
                low, high = self._table.where[block : block + 2].tolist()
                if crc32c(self._table.records[low:high].view(np.uint8)) != self._crcs[block]:
                    raise StoreError(f"{self._path} is damaged: remove it, it is made anew from the store")
                self._checked[block] = True  # not before: another thread may be reading it
        return self._table


class Source(NamedTuple):
    """Some samples of a set of variants; see `Haplotypes`. `resized`: the rows are insertions and deletions."""

    variants: Variants
    columns: Int64
    unphased: Unphased
    seed: int
    length: int
    resized: bool = False

    def rows(self) -> Iterator[tuple[Words, Calls]]:
        """Sites uint64 (n,) along the assembly, and calls int8 (n, haplotypes); of substitutions those that some haplotype
        may have."""
        position, left_out = self.variants.arrays["position"], 0
        free = np.zeros(2 * len(self.columns), np.int64)
        step = max(1, _STEP // (2 * len(self.variants.samples)))
        for first, last in self._stretches():
            while first < last:
                end = min(last, first + step)
                while end < last and np.ptp(position[end - 1 : end + 1]) == 0:  # two bases at one place must meet
                    end += 1
                if self.resized:
                    sites, calls, overlaps = self._first_ones(slice(first, end), free)
                    left_out += overlaps
                    yield sites, calls
                else:
                    sites, calls = self._bases(slice(first, end))
                    some = calls.any(axis=1)
                    yield sites[some], calls[some]
                first = end
        if left_out:
            log.info(
                'variants "%s": %d alleles overlap others of their haplotype; left out', self.variants.name, left_out
            )

    def alleles(self) -> Alleles:
        """What the rows insert and delete, along the assembly."""
        arrays, stretches = self.variants.arrays, [slice(*stretch) for stretch in self._stretches()]
        ends = arrays["end"].read()
        sizes = np.diff(ends, prepend=0)
        deleted = arrays["deleted"].read()
        columns = (np.concatenate([column[here] for here in stretches]) for column in (deleted, ends - sizes, sizes))
        deleted, begins, sizes = columns
        return Alleles(deleted, begins, sizes.astype(np.int32), arrays["inserted"].read())

    def _stretches(self) -> list[tuple[int, int]]:
        """Rows that follow each other along the assembly; contigs may stand in the file in another order."""
        found: list[tuple[int, int]] = []
        for _, (first, last) in sorted(self.variants.runs.items()):
            if found and found[-1][1] == first:
                found[-1] = found[-1][0], last
            else:
                found.append((first, last))
        return found

    def _bases(self, here: slice) -> tuple[Words, Calls]:
        contig, position, flat, calls = self._resolved(here)
        sites = (flat << 2 | self.variants.arrays["alternative"][here]).astype(np.uint64)
        row, haplotype = alleles.clash(sites, calls)
        if row >= 0:
            where = self._where(haplotype // 2, contig[row], position[row])
            raise SourceError(f"{where}: haplotype {haplotype % 2} gets two bases there; leave one of them out")
        return sites, calls

    def _first_ones(self, here: slice, free: Int64) -> tuple[Words, Calls, int]:
        _, position, flat, calls = self._resolved(here)
        deleted = self.variants.arrays["deleted"][here]
        left_out = indels.first_of(flat, deleted, calls, free)
        return (flat << 2 | ((deleted == 0) & (position > 0))).astype(np.uint64), calls, left_out

    def _resolved(self, here: slice) -> tuple[Int64, Int64, Int64, Calls]:
        """Contigs, positions, flat positions and calls (n, haplotypes) of some rows."""
        arrays, contigs = self.variants.arrays, self.variants.contigs
        contig, position, offset = (arrays[name][here] for name in ("contig", "position", "offset"))
        flat = contigs.offsets[contig] + position
        calls, row = self._chosen("genotype", here), -1
        if self.unphased != "listed":
            phased, draw = self._chosen("phased", here), self.unphased == "drawn"
            row, number = alleles.resolve(
                calls, phased, self.columns, flat - offset, draw, np.uint64(self.seed % 2**64), PHASE
            )
        if row >= 0:
            raise ConfigError(
                f"{self._where(number, contig[row], position[row])}: the site is heterozygous and its alleles have no "
                'phase: phase the file, take them as they are "listed", or have them "drawn"',
                key="unphased",
            )
        return contig, position, flat, calls.reshape(len(calls), -1)

    def _chosen(self, name: str, here: slice) -> npt.NDArray[Any]:
        values = self.variants.arrays[name][here]
        return values if np.array_equal(self.columns, np.arange(values.shape[1])) else values[:, self.columns]

    def _where(self, number: int, contig: int, position: int) -> str:
        sample, name = self.variants.samples[self.columns[number]], self.variants.contigs.names[contig]
        return f'variants "{self.variants.name}", sample "{sample}", {name}:{position + 1}'


def _blocks(source: Source) -> Iterator[tuple[Words, Calls]]:
    """The rows of a source, `SITES` at a time."""
    held: tuple[Words, Calls] = np.empty(0, np.uint64), np.empty((0, 2 * len(source.columns)), np.int8)
    for sites, calls in source.rows():
        sites, calls = np.concatenate([held[0], sites]), np.concatenate([held[1], calls])
        whole = len(sites) // SITES * SITES
        for at in range(0, whole, SITES):
            yield sites[at : at + SITES], calls[at : at + SITES]
        held = sites[whole:], calls[whole:]
    if len(held[0]):
        yield held


def _write(source: Source, sink: IO[bytes]) -> None:
    """The records of a source and, behind them, the tables that find them."""
    haplotypes = 2 * len(source.columns)
    where, crcs, counts = [0], list[int](), np.zeros((source.length >> BIN_BITS) + 2, np.int64)
    for sites, calls in _blocks(source):
        lines = np.zeros((2, haplotypes, SITES // 8), np.uint8)
        unknown = alleles.pack(calls, *lines)
        padded = np.concatenate([sites, np.full(SITES - len(sites), _NOWHERE)])
        record = np.concatenate([padded, lines[: 1 + unknown].reshape(-1).view(np.uint64)])
        sink.write(record.data)
        where.append(where[-1] + len(record))
        crcs.append(crc32c(record.view(np.uint8)))
        first, number = np.unique(sites >> np.uint64(2 + BIN_BITS), return_counts=True)
        counts[first.astype(np.int64) + 1] += number
    tables = np.concatenate([np.array(where), counts.cumsum(), np.array(crcs, np.int64)])
    plain = where[-1] == len(crcs) * (SITES + haplotypes * LINE)
    crc = crc32c(tables.view(np.uint8))
    tail = np.array([_MAGIC, len(crcs), len(counts) - 1, haplotypes, not plain, crc], np.int64)
    sink.write(np.concatenate([tables, tail]).data)


def _read(found: Words) -> tuple[Table, bool, npt.NDArray[np.int64]]:
    """Table, whether anything is unknown, and the records' crc32c, from what `_write` wrote.

    Raises:
        ValueError: it is not whole.
    """
    if found.size < _TAIL:
        raise ValueError
    _, blocks, bins, haplotypes, unknown, crc = found[-_TAIL:].astype(np.int64).tolist()
    sizes = blocks + 1, bins + 1, blocks
    if found[-_TAIL] != _MAGIC or sum(sizes) + _TAIL > found.size:
        raise ValueError
    tables = np.array(found[-_TAIL - sum(sizes) : -_TAIL]).view(np.int64)
    if crc32c(tables.view(np.uint8)) != crc or tables[blocks] != found.size - len(tables) - _TAIL:
        raise ValueError
    where, first, crcs = np.split(tables, np.cumsum(sizes)[:2])
    return Table(np.asarray(found), where, first, haplotypes), bool(unknown), crcs


# ---- the file of what is large ----------------------------------------------------------------


def _kept(source: Source, path: Path, name: str) -> Words:
    """The map of a file, which is written if it is not there: by one process, while others wait for it."""
    try:
        with _locked(path) as draft:
            if not _whole(path):
                log.info('variants "%s": taking the haplotypes out of the genotypes, once, into %s', name, path)
                draft.truncate(0)
                _write(source, draft)
                draft.flush()
                os.fsync(draft.fileno())
                os.replace(draft.name, path)
    except OSError as error:
        hint = "set XDG_CACHE_HOME to a folder with more room, or choose fewer samples"
        raise StoreError(f"{path}: the haplotypes can't be kept there ({error}); {hint}") from None
    return np.memmap(path, np.uint64, "r")


def _whole(path: Path) -> bool:
    try:
        _read(np.memmap(path, np.uint64, "r"))
    except (OSError, ValueError):
        return False
    return True


@contextmanager
def _locked(path: Path) -> Iterator[IO[bytes]]:
    """A draft of a file that one process has at a time; a killed one leaves it to the next."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft, patience = path.with_name(f".{path.name}.new"), time.monotonic() + TIMEOUTS["haplotypes"]
    while True:
        with draft.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > patience:
                    raise StoreError(
                        f"{path}: another process has been writing it for {TIMEOUTS['haplotypes']:.0f} s; is it alive?"
                    ) from None
                time.sleep(_PAUSE)
                continue
            if not is_named(file.fileno(), draft):  # who had the lock before has renamed it, or removed it
                continue
            try:
                yield file
            finally:
                if is_named(file.fileno(), draft):
                    draft.unlink()
            return
