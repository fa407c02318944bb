"""From what a user asks for to the samples of every epoch."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from distgen import config
from distgen.config import Lengths, digest
from distgen.errors import ConfigError
from distgen.genome import Int64, subtract
from distgen.loader.classes import Balanced
from distgen.loader.exclusions import Exclusions
from distgen.loader.exports import lengths_of
from distgen.loader.negatives import Matched, away_from
from distgen.loader.regions import CONTIGS, Places, Regions, read_regions
from distgen.loader.sampling import Copied, Last, Order, Ordered, Sampling, Strand
from distgen.loader.schedule import own_seed
from distgen.loader.source import Source, genome, shards_along
from distgen.loader.windows import Geometry, Numbered, Tiles, align, check_lengths
from distgen.store.exported import Export

if TYPE_CHECKING:
    from distgen.loader.haplotypes import Haplotypes

_WINDOW = 1024
_LANES = 8


def settled(
    source: Source, window: int | None, target_length: int | None, stride: int | None, windows: config.Windows | None
) -> tuple[Lengths, config.Windows]:
    """Lengths of windows, and where they lie, with what is left out put in: an export has its own lengths, and the windows
    of a table of sequences are these."""
    windows = windows or config.Windows()
    if isinstance(source, Export):
        window, target_length, stride = lengths_of(source, window, target_length, stride)
    elif source.is_table:
        window = window or int(source.contigs.lengths.max())
        if not (windows.regions or windows.pool):
            windows = windows.model_copy(update={"regions": config.Regions(source=CONTIGS, at="whole")})
    lengths = Lengths(epochs=1, window=window or _WINDOW, target_length=target_length, stride=stride)
    return lengths, windows


@dataclass(frozen=True)
class Plan:
    """The samples of all epochs, all ranks together; the arguments are those of `GenomeLoader`.

    Raises:
        ConfigError: an argument does not fit the store or the others; names the key and what would fit.
    """

    store: Source
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
    windows: config.Windows
    haplotypes: Haplotypes | None

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
            "epochs": [lengths.epochs for lengths in self.lengths],
            "strand": self.strand,
            "inputs": self.inputs,
            "holes": self.holes.tolist(),
            "haplotypes": self.haplotypes and self.haplotypes.id,
            "samples": [sampling.pool.identity for _, sampling in self.stages],
        }
        return digest(asked)

    @cached_property
    def _split(self) -> tuple[str, str | None]:
        """Name and part."""
        name, _, part = self.split.rpartition("/") if self.split else ("", "", None)
        return name or "default", part

    @property
    def part(self) -> str | None:
        """Of the split; None for everything."""
        return self._split[1]

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

    @cached_property
    def _exclusions(self) -> Exclusions:
        beds = [Path(bed) for bed in self.windows.exclude]
        return Exclusions.of(self.store, beds, self.windows.max_ambiguous)

    @property
    def holes(self) -> Int64:
        """int64 (n, 2), flat, sorted and disjoint: what is excluded."""
        return self._exclusions.holes

    def _sampling(self, lengths: Lengths) -> Sampling:
        geometry = Geometry(*check_lengths(lengths, self.jitter, self._bins, self.inputs), self.jitter, self._unit)
        if isinstance(self.store, Export):
            lengths_of(self.store, geometry.window, geometry.target_length, geometry.stride, geometry.jitter)
        pool = self._balanced(geometry) if self.windows.pool else self._ordered(geometry)
        return Sampling(pool, geometry, self.seed, self.strand, self.last)

    def _ordered(self, geometry: Geometry) -> Ordered:
        windows = self._copied(self._windows(geometry, self.windows.regions))
        piece = max(1, len(windows) // shards_along(self.store, self.part))
        return Ordered(windows, self.order, self.seed, self.batch_size, self._lanes, piece)

    def _balanced(self, geometry: Geometry) -> Balanced:
        pools: dict[str, Numbered | Matched] = {}
        genome(self.store, "a pool", "pool")
        if self.order == "grouped":
            raise ConfigError('windows of pools are drawn from everywhere. Use "flat".', key="order")
        asked = {pool.name: pool for pool in self.windows.pool}
        for name, pool in asked.items():
            if pool.regions is not None:
                pools[name] = self._copied(self._windows(geometry, pool.regions))
        for name, pool in asked.items():
            if pool.matches is not None:
                pools[name] = self._matched(pool, self._windows(geometry, asked[pool.matches].regions))
            elif pool.regions is None:
                regions = away_from(self._regions, self._positives, pool.distance, self.store.contigs)
                tiles = self._tiles(geometry, align(regions, self.store.contigs, self._unit))
                pools[name] = self._copied(tiles)
        return Balanced(
            {name: pools[name] for name in asked}, {name: pool.share for name, pool in asked.items()}, self.seed
        )

    def _windows(self, geometry: Geometry, regions: config.Regions | None) -> Numbered:
        if regions is None:
            return self._tiles(geometry, self._regions)
        return Places(
            self._listed(regions),
            self._regions,
            geometry.window,
            geometry.target_length,
            at=regions.at,
            pad=regions.pad,
            stride=geometry.stride,
            jitter=geometry.jitter,
            unit=geometry.unit,
            exclusions=self._exclusions,
        )

    def _tiles(self, geometry: Geometry, regions: Int64) -> Tiles:
        g = geometry
        return Tiles(
            regions, g.window, g.target_length, g.stride, jitter=g.jitter, unit=g.unit, exclusions=self._exclusions
        )

    def _matched(self, pool: config.Pool, positives: Numbered) -> Matched:
        if self.haplotypes or self.strand == "both":
            raise ConfigError(f'pool "{pool.name}" matches single windows, which are served once', key="strand")
        return Matched(
            genome(self.store, "a pool that matches another", "pool"),
            positives,
            subtract(self._regions, self._exclusions.holes),
            self._positives,
            distance=pool.distance,
            tolerance=pool.tolerance,
            seed=own_seed(self.seed, pool.name),
            drawn=pool.drawn,
            unit=self._unit,
        )

    def _copied(self, windows: Numbered) -> Numbered:
        strands, haplotypes = 2 if self.strand == "both" else 1, self.haplotypes.copies if self.haplotypes else 1
        return Copied(windows, strands, haplotypes) if self.haplotypes or strands > 1 else windows

    @cached_property
    def _positives(self) -> Int64:
        """The regions of all pools."""
        return np.concatenate([self._listed(pool.regions).intervals for pool in self.windows.pool if pool.regions])

    def _listed(self, regions: config.Regions) -> Regions:
        return self._read(regions.source, regions.at == "summit")

    @cached_property
    def _read(self) -> Callable[[str, bool], Regions]:
        store = genome(self.store, "windows at regions", "regions")
        return cache(lambda source, summit: read_regions(source, store, summit=summit))
