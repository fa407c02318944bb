"""Personal genomes: windows as the haplotypes of samples have them, without a second genome on disk.

A store keeps genotypes site by site, as a file lists them, in compressed chunks of a dozen sites of a large panel: to ask
one haplotype about a window would decode megabytes. So what the wanted samples have is taken out once, into bits along each
haplotype (see `alleles.py`): a window of 8,192 bases then reads one or two cache lines of them. What is small stays in
memory; more goes to a file that all processes of a machine map, and that the next run finds again. Importing this loads
the compiler.
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
from typing import IO, Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import torch

from distgen.config import TIMEOUTS, digest
from distgen.errors import ConfigError, SourceError, StoreError, suggest
from distgen.genome import Bits, Bytes, Int64
from distgen.kernels import Replacements
from distgen.kernels.draws import PHASE
from distgen.loader import alleles
from distgen.loader.alleles import BIN_BITS, LINE, SITES, Table, Words
from distgen.store.cache import default_folder
from distgen.store.format import crc32c
from distgen.store.reader import Store
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


class Haplotypes:
    """The haplotypes of samples of a store, put into gathered rows or listed as replacements.

    Copy c of a window is that of haplotype c % 2 of sample c // 2. Its bases are those of `Store.codes` with the same
    variants: the alternative of each substitution that the haplotype has; ambiguous where its genotype is not known, and
    so is what a haploid call lacks. Stores keep substitutions alone (`indels` of a recipe's [[variants]] says what becomes
    of the rest when they are built): positions stay those of the assembly, tracks and labels need no shifting, and a
    haplotype that has an insertion or deletion reads as the assembly does there.

    Args:
        store: an open store.
        name: of its [[variants]].
        samples: whose haplotypes; all of the set if None.
        unphased: what is done with a heterozygous site whose alleles have no phase: "refuse" it; take its alleles as they
            are "listed"; "drawn" lets chance say which haplotype has which, by seed, sample and record, the same in every
            window and epoch, and the other haplotype has the other one.
        seed: of what is drawn.
        cache: folder of the files that large sets are kept in; $XDG_CACHE_HOME/distgen or ~/.cache/distgen if None.

    Raises:
        ConfigError: no such variants or sample; a site is not to be guessed.
        SourceError: two substitutions of a haplotype are at the same base, wherever in the assembly that is.
        StoreError: the variants are damaged, the file can't be written, or another process takes too long to write it.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        samples: tuple[str, ...] | None = None,
        *,
        unphased: Unphased = "refuse",
        seed: int = 0,
        cache: Path | None = None,
    ):
        variants = store.variants(name)
        if unphased not in get_args(Unphased):
            raise ConfigError(f'"{unphased}" is no choice. {suggest(unphased, get_args(Unphased))}', key="unphased")
        self.samples = variants.samples if samples is None else samples
        if len(set(self.samples)) < len(self.samples):
            raise ConfigError("samples must differ", key="samples")
        columns = np.array([variants.column(sample) for sample in self.samples or ("",)], np.int64)
        arrays = {key: array.id for key, array in variants.arrays.items()}
        parts = ["haplotypes/1", store.array("contigs/offset").id, arrays, columns.tolist(), unphased]
        self.id = digest(parts + ([seed] if unphased == "drawn" else []))
        source = _Source(variants, columns, unphased, seed, store.length)
        if variants.arrays["genotype"].layout.dtype.itemsize * np.prod(variants.arrays["genotype"].shape) <= _IN_MEMORY:
            sink = BytesIO()
            _write(source, sink)
            found = np.frombuffer(sink.getbuffer().toreadonly(), np.uint64)  # as a map is: compiled once for both
        else:
            found = _kept(source, (cache or default_folder()) / f"{self.id}.haplotypes", name)
        self._table, self.unknown, self._crcs = _read(found)
        self._checked: Bits = np.full(len(self._crcs), not isinstance(found, np.memmap))
        self._path = getattr(found, "filename", None)

    @property
    def copies(self) -> int:
        """How many haplotypes there are of each window."""
        return self._table.haplotypes

    def name(self, copy: int) -> tuple[str, int]:
        """Sample and haplotype (0 or 1) of a copy."""
        return self.samples[copy // 2], copy % 2

    def apply(
        self, sequence: Bytes, ambiguous: Bytes | None, starts: Int64, limits: Int64, length: int, copies: Int64
    ) -> Bytes | None:
        """Give windows the bases of haplotypes, in place.

        Args:
            sequence: uint8 (B, bytes), 2 bits a base: each window's row, from its start rounded down to 64 bases.
            ambiguous: uint8 (B, bytes), 1 bit a base, likewise; None where the assembly has no ambiguous base.
            starts: int64 (B,), first base of each window, flat.
            limits: int64 (B, 2), flat: what lies outside is left as it is.
            length: bases per window.
            copies: int64 (B,), which haplotype each row is to be of.

        Returns:
            `ambiguous`; new rows where there were none and some genotype of the samples (here or elsewhere) is not known.

        Raises:
            StoreError: the file of the haplotypes is damaged.
        """
        if ambiguous is None and self.unknown:
            ambiguous = np.zeros((len(sequence), sequence.shape[1] // 2), np.uint8)
        table = self._at(starts, limits, length, copies)
        none = np.empty((0, 0), np.uint8)
        alleles.apply(table, starts, limits, length, copies, sequence, none if ambiguous is None else ambiguous)
        return ambiguous

    def replacements(self, starts: Int64, limits: Int64, length: int, copies: Int64) -> Replacements:
        """The same as what `kernels.substitute` takes, for a genome that lies on a device; arguments as for `apply`.
        Positions are flat."""
        table = self._at(starts, limits, length, copies)
        offsets, positions, codes = alleles.listed(table, starts, limits, length, copies)
        each = np.arange(len(positions) + 1)
        columns = (offsets, positions, np.ones_like(positions), each, codes)
        return Replacements(*(torch.from_numpy(column) for column in columns))

    def _at(self, starts: Int64, limits: Int64, length: int, copies: Int64) -> Table:
        """The table, with what these windows read of it checked."""
        if len(copies) and not 0 <= copies.min() <= copies.max() < self.copies:
            raise ValueError(f"copies must lie in range({self.copies})")
        if not self._checked.all():
            for block in alleles.touched(self._table.first, starts, limits, length, self._checked).tolist():
                low, high = self._table.where[block : block + 2].tolist()
                if crc32c(self._table.records[low:high].view(np.uint8)) != self._crcs[block]:
                    raise StoreError(f"{self._path} is damaged: remove it, it is made anew from the store")
                self._checked[block] = True  # not before: another thread may be reading it
        return self._table


# ---- taking it out of the genotypes -----------------------------------------------------------


class _Source(NamedTuple):
    """Some samples of a set of variants; see `Haplotypes`."""

    variants: Variants
    columns: Int64
    unphased: Unphased
    seed: int
    length: int

    def rows(self) -> Iterator[tuple[Words, Calls]]:
        """Sites uint64 (n,) that some haplotype may have, along the assembly, and calls int8 (n, haplotypes)."""
        position = self.variants.arrays["position"]
        step = max(1, _STEP // (2 * len(self.variants.samples)))
        for first, last in self._stretches():
            while first < last:
                end = min(last, first + step)
                while end < last and np.ptp(position[end - 1 : end + 1]) == 0:  # two bases at one place must meet
                    end += 1
                sites, calls = self._resolved(slice(first, end))
                some = calls.any(axis=1)
                yield sites[some], calls[some]
                first = end

    def _stretches(self) -> list[tuple[int, int]]:
        """Rows that follow each other along the assembly; contigs may stand in the file in another order."""
        found: list[tuple[int, int]] = []
        for _, (first, last) in sorted(self.variants.runs.items()):
            if found and found[-1][1] == first:
                found[-1] = found[-1][0], last
            else:
                found.append((first, last))
        return found

    def _resolved(self, here: slice) -> tuple[Words, Calls]:
        arrays, contigs = self.variants.arrays, self.variants.contigs
        contig, position, offset = (arrays[name][here] for name in ("contig", "position", "offset"))
        flat = contigs.offsets[contig] + position
        sites = (flat << 2 | arrays["alternative"][here]).astype(np.uint64)
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
        calls = calls.reshape(len(calls), -1)
        row, haplotype = alleles.clash(sites, calls)
        if row >= 0:
            where = self._where(haplotype // 2, contig[row], position[row])
            raise SourceError(f"{where}: haplotype {haplotype % 2} gets two bases there; leave one of them out")
        return sites, calls

    def _chosen(self, name: str, here: slice) -> npt.NDArray[Any]:
        values = self.variants.arrays[name][here]
        return values if np.array_equal(self.columns, np.arange(values.shape[1])) else values[:, self.columns]

    def _where(self, number: int, contig: int, position: int) -> str:
        sample, name = self.variants.samples[self.columns[number]], self.variants.contigs.names[contig]
        return f'variants "{self.variants.name}", sample "{sample}", {name}:{position + 1}'


def _blocks(source: _Source) -> Iterator[tuple[Words, Calls]]:
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


def _write(source: _Source, sink: IO[bytes]) -> None:
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


def _kept(source: _Source, path: Path, name: str) -> Words:
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
            if not _named(file, draft):  # who had the lock before has renamed it, or removed it
                continue
            try:
                yield file
            finally:
                if _named(file, draft):
                    draft.unlink()
            return


def _named(file: IO[bytes], path: Path) -> bool:
    return path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())
