"""Personal genomes: windows as the haplotypes of samples have them, without a second genome on disk.

A store keeps genotypes site by site, as a file lists them, in compressed chunks of a dozen sites of a large panel: to ask
one haplotype about a window would decode megabytes. So what the wanted samples have is taken out once, into bits along each
haplotype (see `alleles.py`): a window of 8,192 bases then reads one or two cache lines of them. What is small stays in
memory; more goes to a file that all processes of a machine map, and that the next run finds again. Importing this loads
the compiler.
"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import torch

from distgen.config import digest
from distgen.errors import ConfigError, suggest
from distgen.genome import Bytes, Int64
from distgen.kernels import Replacements
from distgen.loader import alleles, indels
from distgen.loader.indels import Pieces
from distgen.loader.taken import Source, Taken, Unphased
from distgen.store.cache import default_folder
from distgen.store.reader import Store


class Haplotypes:
    """The haplotypes of samples of a store, put into gathered rows or listed as replacements.

    Copy c of a window is that of haplotype c % 2 of sample c // 2. Its bases are those of `Store.codes` with the same
    variants: the alternative of each substitution that the haplotype has; ambiguous where its genotype is not known, and
    so is what a haploid call lacks. Where a set keeps insertions and deletions (`indels` of a recipe's [[variants]]), a window
    that has some is put together by `pieces`; where it does not, the haplotype reads as the assembly does there.

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
        folder, source = cache or default_folder(), Source(variants, columns, unphased, seed, store.length)
        self._bases = Taken(source, folder / f"{self.id}.haplotypes")
        self.unknown, self._known = self._bases.unknown, None
        if variants.indels is not None and len(variants.indels):
            source = source._replace(variants=variants.indels, resized=True)
            self._indels, self._known = Taken(source, folder / f"{self.id}.indels"), source.alleles()
            self._reach = int(self._known.deleted.max())

    @property
    def copies(self) -> int:
        """How many haplotypes there are of each window."""
        return 2 * len(self.samples)

    @property
    def resized(self) -> bool:
        """Whether there are insertions and deletions."""
        return self._known is not None

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
        self._check(copies)
        table = self._bases.at(starts, limits, length)
        none = np.empty((0, 0), np.uint8)
        alleles.apply(table, starts, limits, length, copies, sequence, none if ambiguous is None else ambiguous)
        return ambiguous

    def replacements(self, starts: Int64, limits: Int64, length: int, copies: Int64) -> Replacements:
        """The same as what `kernels.substitute` takes, for a genome that lies on a device; arguments as for `apply`.
        Positions are flat. Insertions and deletions are not among them."""
        self._check(copies)
        table = self._bases.at(starts, limits, length)
        offsets, positions, codes = alleles.listed(table, starts, limits, length, copies)
        each = np.arange(len(positions) + 1)
        columns = (offsets, positions, np.ones_like(positions), each, codes)
        return Replacements(*(torch.from_numpy(column) for column in columns))

    def pieces(self, starts: Int64, limits: Int64, length: int, copies: Int64) -> Pieces | None:
        """Of what stretches of the assembly windows are made, and what is inserted between them; arguments as for `apply`.

        None where the set has no insertions and deletions.
        """
        if self._known is None:
            return None
        self._check(copies)
        low = np.maximum(np.maximum(starts, limits[:, 0]) - self._reach, 0)
        within, beyond = np.stack([low, limits[:, 1]], axis=1), self._reach
        while True:
            # As far as the windows' bases are thought to lie, which can be further once that is looked at.
            table = self._indels.at(low, within, self._reach + length + beyond)
            found = indels.pieces(table, self._known, self._reach, starts, limits, length, copies)
            needed = int((found.first + found.sizes - starts[found.rows]).max(initial=0)) - length
            if needed <= beyond or self._indels.whole:
                return found
            beyond = 2 * needed

    def join(
        self, staged: dict[str, Bytes], begins: Int64, pieces: Pieces, length: int, to: Int64, out: dict[str, Bytes]
    ) -> None:
        """Put windows together out of rows that have a haplotype's substitutions; see `indels.join`."""
        assert self._known is not None
        indels.join(staged, begins, pieces, self._known, length, to, out)

    def _check(self, copies: Int64) -> None:
        if len(copies) and not 0 <= copies.min() <= copies.max() < self.copies:
            raise ValueError(f"copies must lie in range({self.copies})")
