"""From what a user asks for to the samples of every epoch."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from operator import itemgetter

from distgen.config import Lengths, digest
from distgen.errors import ConfigError
from distgen.genome import Int64
from distgen.loader.sampling import Copied, Last, Order, Ordered, Sampling, Strand
from distgen.loader.windows import Geometry, Numbered, Tiles, align, check_lengths
from distgen.store.planes import PER_BYTE
from distgen.store.reader import Store

_LANES = 8


@dataclass(frozen=True)
class Plan:
    """The samples of all epochs, all ranks together; the arguments are those of `GenomeLoader`.

    Raises:
        ConfigError: an argument does not fit the store or the others; names the key and what would fit.
    """

    store: Store
    lengths: Sequence[Lengths]
    split: str | None
    batch_size: int
    seed: int
    strand: Strand
    jitter: int
    order: Order
    lanes: int | None
    last: Last
    tracks: tuple[str, ...]
    inputs: tuple[str, ...]

    @cached_property
    def stages(self) -> list[tuple[int, Sampling]]:
        """The first epoch that has them, and its samples; those of the last stay."""
        begins, stages = 0, []
        for lengths in self.lengths:
            stages.append((begins, self._sampling(lengths)))
            begins += lengths.epochs
        samples = min(len(sampling) for _, sampling in stages)
        if self.last == "drop" and samples < self.batch_size:
            raise ConfigError(f"{self.batch_size} is more than the {samples} samples of an epoch", key="batch_size")
        return stages

    def sampling(self, epoch: int) -> Sampling:
        """The samples of an epoch."""
        return self.stages[bisect_right(self.stages, epoch, key=itemgetter(0)) - 1][1]

    def batches(self, epoch: int) -> int:
        """How many global batches an epoch has."""
        whole, rest = divmod(len(self.sampling(epoch)), self.batch_size)
        return whole + (rest > 0 and self.last != "drop")

    def at_step(self, step: int) -> tuple[int, int]:
        """The epoch, and its first sample, of the global batch that comes after `step` others since the very first."""
        for (begins, _), (ends, _) in pairwise(self.stages):
            if step < (batches := (ends - begins) * self.batches(begins)):
                break
            step -= batches
        else:
            begins, _ = self.stages[-1]
        epochs, number = divmod(step, self.batches(begins))
        return begins + epochs, number * self.batch_size

    def steps(self, epochs: int) -> int:
        """How many global batches so many epochs have."""
        bounds = [*(begins for begins, _ in self.stages), max(epochs, self.stages[-1][0])]
        return sum(self.batches(a) * max(min(b, epochs) - a, 0) for a, b in pairwise(bounds))

    @cached_property
    def id(self) -> str:
        """What the data are known by: all that says which bases and targets sample k of an epoch has."""
        asked = {
            "store": self.store.identity(self._split[0], (*self.tracks, *self.inputs)),
            "split": self.split,
            "lengths": [lengths.model_dump() for lengths in self.lengths],
            "jitter": self.jitter,
            "strand": self.strand,
            "inputs": self.inputs,
            "pools": [sampling.pool.identity for _, sampling in self.stages],
        }
        return digest(asked)

    @cached_property
    def _split(self) -> tuple[str, str | None]:
        """Name and part."""
        name, _, part = self.split.rpartition("/") if self.split else ("", "", None)
        return name or "default", part

    @cached_property
    def _bins(self) -> list[tuple[str, int]]:
        return [(name, self.store.track(name).bin_bp) for name in dict.fromkeys((*self.tracks, *self.inputs))]

    @cached_property
    def _unit(self) -> int:
        return math.lcm(*(bin_bp for _, bin_bp in self._bins))

    @cached_property
    def _regions(self) -> Int64:
        name, part = self._split
        regions = align(self.store.regions(part, name), self.store.contigs, self._unit)
        if not len(regions):
            raise ConfigError(f'"{self.split}" has no stretch as long as a bin of {self._unit} bases', key="split")
        return regions

    @cached_property
    def _lanes(self) -> int:
        if self.lanes is not None and self.batch_size % self.lanes:
            raise ConfigError(f"{self.lanes} does not divide a batch of {self.batch_size}", key="lanes")
        return self.lanes or max(n for n in range(1, _LANES + 1) if self.batch_size % n == 0)

    def _sampling(self, lengths: Lengths) -> Sampling:
        sizes = check_lengths(lengths, self.jitter, self._bins, self.inputs)
        geometry = Geometry(*sizes, self.jitter, self._unit)
        windows: Numbered = Tiles(self._regions, *sizes, jitter=self.jitter, unit=self._unit)
        if self.strand == "both":
            windows = Copied(windows, strands=2, haplotypes=1)
        layout = self.store.planes["sequence"].layout
        piece = max(1, len(windows) * layout.shard * PER_BYTE["sequence"] // self.store.length)
        pool = Ordered(windows, self.order, self.seed, self.batch_size, self._lanes, piece)
        return Sampling(pool, geometry, self.seed, self.strand, self.last)
