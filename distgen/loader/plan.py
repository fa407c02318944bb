"""From what a user asks for to the samples of every epoch."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from blake3 import blake3

from distgen import config
from distgen.config import Lengths, check_lengths, digest
from distgen.errors import ConfigError, SourceError, some
from distgen.genome import Int64, subtract
from distgen.loader.classes import Balanced
from distgen.loader.exclusions import Exclusions
from distgen.loader.exports import lengths_of
from distgen.loader.negatives import Matched, away_from
from distgen.loader.order import check_lanes
from distgen.loader.packed import Packed
from distgen.loader.regions import CONTIGS, MATRIX, Places, Regions, read_regions
from distgen.loader.sampling import Copied, Ordered, Sampling, Walk
from distgen.loader.schedule import own_seed
from distgen.loader.source import Source, genome, shards_along
from distgen.loader.windows import Geometry, Numbered, Tiles
from distgen.store.exported import Export

if TYPE_CHECKING:
    from distgen.loader.haplotypes import Haplotypes

WINDOW = 1024
_LANES = 8


def named_split(split: str | None) -> tuple[str, str | None]:
    """Name and part of "part", of "name/part", or of None for everything."""
    name, _, part = ("", "", None) if split is None else split.rpartition("/")
    return name or "default", part


def window_of(store: Source, asked: config.Sample) -> int:
    """Bases of a window where a sample says, and where it leaves that out."""
    if isinstance(store, Export):
        return store.window
    longest = int(store.contigs.lengths.max()) if store.is_table else WINDOW
    return longest if asked.window is None else asked.window


@dataclass(frozen=True)
class Plan:
    """The samples of all epochs, all ranks together.

    Args:
        store: an open store, or an export of one.
        split: a part of the default split, "name/part" of another, or None for everything.
        asked: what a sample is.
        tracks: names of the tracks that are served as targets.

    Raises:
        ConfigError: what is asked does not fit the store or itself; names the key and what would fit.
    """

    store: Source
    split: str | None
    asked: config.Sample
    tracks: tuple[str, ...] = ()

    @cached_property
    def regions(self) -> config.Regions | None:
        """What all windows lie at; the sequences of a table lie at themselves. None: along the split, or in pools."""
        plain = self.store.is_table and not self.asked.pool
        return self.asked.regions or (config.Regions(source=CONTIGS, at="whole") if plain else None)

    @cached_property
    def haplotypes(self) -> Haplotypes | None:
        """As which windows are read; None: as the assembly has them."""
        personal = self.asked.personal
        if personal is None:
            return None
        from distgen.loader.haplotypes import Haplotypes

        store = genome(self.store, "what samples have in place of its bases", "personal")
        with _said_of(personal, "personal"):
            return Haplotypes(
                store, personal.variants, personal.samples, unphased=personal.unphased, seed=self.asked.seed
            )

    @cached_property
    def rows_of(self) -> tuple[str, str] | None:
        """The name of the targets that windows have by their row of a table, and which: "contigs", or "matrix:NAME"."""
        source = self.regions.source if self.regions else ""
        if source == CONTIGS and self.store.is_table:
            return "labels", source
        return (source.removeprefix(MATRIX), source) if source.startswith(MATRIX) else None

    @cached_property
    def lengths(self) -> list[Lengths]:
        """Of all stages of the curriculum; the sample's own come last and stay."""
        window, target_length, stride = self.asked.window, self.asked.target_length, self.asked.stride
        if isinstance(self.store, Export):
            window, target_length, stride = lengths_of(self.store, window, target_length, stride)
        own = Lengths(epochs=1, window=window_of(self.store, self.asked), target_length=target_length, stride=stride)
        return [*self.asked.curriculum, own]

    @cached_property
    def stages(self) -> list[tuple[int, Sampling | Packed]]:
        """The first epoch that has them, and its samples; those of the last stay."""
        self._check_names()
        self._check_strand()
        begins = 0
        stages: list[tuple[int, Sampling | Packed]] = []
        for number, lengths in enumerate(self.lengths):
            with _said_of(lengths, f"curriculum.{number}" if lengths is not self.lengths[-1] else ""):
                stages.append((begins, self._sampling(lengths)))
            begins += lengths.epochs
        samples, batch_size = min(len(sampling) for _, sampling in stages), self.asked.batch_size
        if self.asked.last == "drop" and samples < batch_size:
            problem = (
                f'{batch_size} is more than the {samples} samples of an epoch. Use at most {samples}, or last = "wrap".'
            )
            raise ConfigError(problem, key="batch_size")
        return stages

    def sampling(self, epoch: int) -> Sampling | Packed:
        """The samples of an epoch."""
        return self.stages[bisect_right(self.stages, epoch, key=itemgetter(0)) - 1][1]

    def batches(self, epoch: int) -> int:
        """How many global batches an epoch has."""
        whole, rest = divmod(len(self.sampling(epoch)), self.asked.batch_size)
        return whole + (rest > 0 and self.asked.last != "drop")

    def at_step(self, step: int) -> tuple[int, int]:
        """The epoch, and its first sample, of the global batch that comes after `step` others since the very first."""
        for (begins, _), (ends, _) in pairwise(self.stages):
            if step < (batches := (ends - begins) * self.batches(begins)):
                break
            step -= batches
        else:
            begins, _ = self.stages[-1]
        epochs, number = divmod(step, self.batches(begins))
        return begins + epochs, number * self.asked.batch_size

    def steps(self, epochs: int) -> int:
        """How many global batches so many epochs have."""
        bounds = [*(begins for begins, _ in self.stages), max(epochs, self.stages[-1][0])]
        return sum(self.batches(a) * max(min(b, epochs) - a, 0) for a, b in pairwise(bounds))

    @cached_property
    def id(self) -> str:
        """What the data are known by: all that says which bases and targets the rows of a batch have.

        Files of regions are known by the windows that they give, wherever they lie.
        """
        name, part = self._split
        known = {
            "samples": [sampling.identity for _, sampling in self.stages],  # finds out first what does not fit
            "store": self.store.identity(name if part else "", (*self.tracks, *self.asked.inputs)),
            "rows": self.rows_of and (self._matrix_id, *self.rows_of),
            "epochs": [lengths.epochs for lengths in self.lengths],
            "strand": self.asked.strand,
            "inputs": self.asked.inputs,
            "last": self.asked.last,
            "holes": blake3(self.holes.tobytes()).hexdigest(),
            "haplotypes": self.haplotypes and self.haplotypes.id,
        }
        return digest(known)

    @property
    def _matrix_id(self) -> str | None:
        _, source = self.rows_of or ("", "")
        if not source.startswith(MATRIX):
            return None
        return genome(self.store, "a matrix", "regions").matrix(source.removeprefix(MATRIX)).id

    @cached_property
    def _split(self) -> tuple[str, str | None]:
        """Name and part."""
        return named_split(self.split)

    @property
    def part(self) -> str | None:
        """Of the split; None for everything."""
        return self._split[1]

    @cached_property
    def _bins(self) -> list[tuple[str, int]]:
        found: dict[str, int] = {}
        for key, names in (("tracks", self.tracks), ("inputs", self.asked.inputs)):
            with _said_of(None, key):
                found |= {name: self.store.track(name).bin_bp for name in names}
        return list(found.items())

    @cached_property
    def _unit(self) -> int:
        return math.lcm(*(bin_bp for _, bin_bp in self._bins))

    @cached_property
    def stretches(self) -> Int64:
        """int64 (n, 2), flat, sorted and disjoint: the part of the split, from each contig's first whole bin on."""
        name, part = self._split
        with _said_of(None, "split"):
            found = self.store.regions(part, name)
        regions = self.store.contigs.align(found, self._unit)
        if not len(regions):
            raise ConfigError(f'"{self.split}" has no stretch as long as a bin of {self._unit} bases', key="split")
        return regions

    @cached_property
    def _lanes(self) -> int:
        lanes, batch_size = self.asked.lanes, self.asked.batch_size
        if lanes is not None:
            if self.asked.order != "grouped":
                raise ConfigError(f'"{self.asked.order}" has no lanes: leave them out, or use "grouped"', key="lanes")
            check_lanes(lanes, batch_size)
        return lanes or max(n for n in range(1, _LANES + 1) if batch_size % n == 0)

    @cached_property
    def _exclusions(self) -> Exclusions:
        with _named("exclude"):
            return Exclusions.of(self.store, [Path(bed) for bed in self.asked.exclude], self.asked.max_ambiguous)

    @property
    def holes(self) -> Int64:
        """int64 (n, 2), flat, sorted and disjoint: what is excluded."""
        return self._exclusions.holes

    def _check_names(self) -> None:
        """Targets are told apart by their names."""
        others = [*(["pool"] if self.asked.pool else []), *([self.rows_of[0]] if self.rows_of else [])]
        if twice := sorted(set(others) & set(self.tracks)):
            raise ConfigError(f"{some(twice)}: windows have other targets of that name", key="tracks")

    def _check_strand(self) -> None:
        if self.asked.strand != "region":
            return
        pools = {f"pool.{number}": pool.regions for number, pool in enumerate(self.asked.pool)}
        stranded = False
        for key, regions in {"regions": self.regions, **pools}.items():
            with _said_of(regions, key):
                stranded |= regions is not None and bool(self._listed(regions).strands.any())
        if not stranded:
            raise ConfigError(
                'no window lies at a region that has one. Use "forward", "random" or "both"', key="strand"
            )

    def _sampling(self, lengths: Lengths) -> Sampling | Packed:
        asked = self.asked
        geometry = Geometry(*check_lengths(lengths, asked.jitter, self._bins, asked.inputs), asked.jitter, self._unit)
        if isinstance(self.store, Export):
            lengths_of(self.store, geometry.window, geometry.target_length, geometry.stride, geometry.jitter)
        if asked.packed:
            return self._packed(geometry)
        pool = self._balanced(geometry) if asked.pool else self._ordered(geometry)
        return Sampling(pool, geometry, asked.seed, asked.strand, asked.last)

    def _ordered(self, geometry: Geometry) -> Ordered:
        with _said_of(self.asked.regions, "regions" if self.asked.regions else ""):
            windows = self._copied(self._windows(geometry, self.regions))
        return Ordered(windows, self._walk(len(windows)))

    def _walk(self, count: int) -> Walk:
        piece = max(1, count // shards_along(self.store, self.part))
        return Walk(self.asked.order, self.asked.seed, self.asked.batch_size, self._lanes, piece)

    def _packed(self, geometry: Geometry) -> Packed:
        asked, regions = self.asked, self.regions
        genome(self.store, "packing rows", "packed")
        if regions is None or regions.at != "whole":
            raise ConfigError('only whole regions go into rows: add [data.regions] with at = "whole"', key="packed")
        along = [f'track "{name}"' for name, _ in self._bins] + ["haplotypes"] * (self.haplotypes is not None)
        if along:
            raise ConfigError(f"rows of several windows have no {some(along)}. Use false.", key="packed")
        if geometry.target_length != geometry.window:
            problem = f"rows of several windows have targets everywhere. Use {geometry.window}."
            raise ConfigError(problem, key="target_length")
        with _said_of(self.asked.regions, "regions" if self.asked.regions else ""):
            windows = self._copied(self._windows(geometry, regions))
        return Packed(windows, geometry, self._walk, asked.seed, asked.strand, asked.last)

    def _balanced(self, geometry: Geometry) -> Balanced:
        asked = self.asked
        genome(self.store, "a pool", "pool")
        if asked.order == "grouped":
            raise ConfigError('windows of pools are drawn from everywhere. Use "flat".', key="order")
        placed, pools = {}, {}
        for number, pool in enumerate(asked.pool):
            if pool.regions is not None:
                with _said_of(pool, f"pool.{number}"):
                    placed[pool.name] = self._windows(geometry, pool.regions)
        for number, pool in enumerate(asked.pool):
            with _said_of(pool, f"pool.{number}"):
                pools[pool.name] = self._pool(geometry, pool, placed)
        with _said_of(None, "pool"):
            return Balanced(pools, {pool.name: pool.share for pool in asked.pool}, asked.seed)

    def _pool(self, geometry: Geometry, pool: config.Pool, placed: dict[str, Numbered]) -> Numbered | Matched:
        if pool.matches is not None:
            return self._matched(pool, placed[pool.matches])
        if pool.name in placed:
            return self._copied(placed[pool.name])
        regions = away_from(self.stretches, self._positives, pool.distance, self.store.contigs)
        regions = self.store.contigs.align(regions, self._unit)
        if not len(regions):
            raise ConfigError(f"nothing lies {pool.distance:,} bases away from every region; use less", key="distance")
        return self._copied(Tiles(regions, geometry, self._exclusions))

    def _windows(self, geometry: Geometry, regions: config.Regions | None) -> Numbered:
        if regions is None:
            return Tiles(self.stretches, geometry, self._exclusions)
        listed, exclusions = self._listed(regions), self._exclusions
        return Places(listed, self.stretches, geometry, at=regions.at, pad=regions.pad, exclusions=exclusions)

    def _matched(self, pool: config.Pool, positives: Numbered) -> Matched:
        if self.haplotypes or self.asked.strand == "both":
            raise ConfigError(f'pool "{pool.name}" matches single windows, which are served once', key="strand")
        return Matched(
            genome(self.store, "a pool", "pool"),
            positives,
            subtract(self.stretches, self._exclusions.holes),
            self._positives,
            distance=pool.distance,
            tolerance=pool.tolerance,
            seed=own_seed(self.asked.seed, pool.name),
            drawn=pool.drawn,
            unit=self._unit,
        )

    def _copied(self, windows: Numbered) -> Numbered:
        strands, haplotypes = 2 if self.asked.strand == "both" else 1, self.haplotypes
        if strands == 1 and haplotypes is None:
            return windows
        return Copied(windows, strands, haplotypes.copies if haplotypes else None)

    @cached_property
    def _positives(self) -> Int64:
        """The regions of all pools."""
        return np.concatenate([self._listed(pool.regions).intervals for pool in self.asked.pool if pool.regions])

    def _listed(self, regions: config.Regions) -> Regions:
        with _named("source"):
            return self._read(regions.source, regions.at)

    @cached_property
    def _read(self) -> Callable[[str, config.At], Regions]:
        store = genome(self.store, "a window at a region", "regions")
        return cache(lambda source, at: read_regions(source, store, at=at))


@contextmanager
def _named(key: str) -> Iterator[None]:
    """What is wrong with a file is said of the key that names it."""
    try:
        yield
    except SourceError as error:
        raise ConfigError(str(error), key=key) from error


@contextmanager
def _said_of(section: config.Section | None, key: str) -> Iterator[None]:
    """What does not fit is said of the key that is wrong: one of the section's own stands below `key`."""
    try:
        yield
    except ConfigError as error:
        own = not error.key or (section is not None and error.key.split(".")[0] in type(section).model_fields)
        raise ConfigError(error.problem, key=".".join(filter(None, (key, error.key))) if own else error.key) from None
