"""Which window, on which strand, sample k of epoch e is: a pure function of the seed, the epoch and k."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from distgen.genome import Bits, Contigs, Int64, Interval
from distgen.kernels import SAMPLE
from distgen.loader.batch import places
from distgen.loader.order import draws, grouped, permute
from distgen.loader.windows import Geometry, Located, Numbered

Order = Literal["flat", "grouped", "sequential"]
Strand = Literal["forward", "region", "random", "both"]
Last = Literal["drop", "pad", "wrap"]
_GROUP = 2  # pieces whose windows are shuffled together


class Drawn(NamedTuple):
    """What order and chance say of some rows; see `Batch` and `Located` for the fields."""

    samples: Int64
    weight: npt.NDArray[np.float32]
    keys: Int64
    reverse: Bits
    target_starts: Int64
    positions: Int64
    limits: Int64
    rows: Int64 | None
    haplotypes: Int64 | None
    labels: Int64 | None

    def places(self, contigs: Contigs, length: int) -> list[Interval]:
        """Where windows of so many bases lie."""
        return places(contigs, self.positions, self.limits, self.reverse, length)


@dataclass(frozen=True)
class Copied:
    """Numbered, each of them several times in a row: for each haplotype, and within for each strand.

    Args:
        windows: once each.
        strands: 1, or 2 to have both.
        haplotypes: how many there are; None where there is the assembly alone.
    """

    windows: Numbered
    strands: int
    haplotypes: int | None

    @property
    def window(self) -> int:
        """Bases per window."""
        return self.windows.window

    @property
    def target_length(self) -> int:
        """Bases of its target."""
        return self.windows.target_length

    @property
    def identity(self) -> Any:
        """What says which window is which, as plain data."""
        return [self.windows.identity, self.strands, self.haplotypes]

    def __len__(self) -> int:
        return len(self.windows) * self._copies

    def locate(self, windows: Int64) -> Located:
        """As `windows` do, with strand and haplotype."""
        number, copy = np.divmod(windows, self._copies)
        haplotype, backward = np.divmod(copy, self.strands)
        located = self.windows.locate(number)
        reverse = backward == 1 if self.strands == 2 else located.reverse
        return located._replace(reverse=reverse, haplotypes=None if self.haplotypes is None else haplotype)

    @property
    def _copies(self) -> int:
        return self.strands * (self.haplotypes or 1)


class Samples(Protocol):
    """What samples are drawn from."""

    def __len__(self) -> int:
        """Samples per epoch."""

    @property
    def identity(self) -> Any:
        """What else than the order's name and the seed says which sample is which, as plain data."""

    def draw(self, samples: Int64, epoch: int) -> tuple[Located, Int64 | None]:
        """Where samples (n,) of an epoch are, and the number of the class of each if there are classes."""


@dataclass(frozen=True)
class Walk:
    """In which order numbers from 0 on come, each once an epoch.

    Args:
        order: "flat": anew permuted in each epoch; "grouped": permuted so that few pieces of the assembly are read at any
            time; "sequential": along the assembly.
        seed: of the permutations.
        batch_size: numbers per global batch.
        lanes: for "grouped": from so many places a batch is drawn.
        piece: for "grouped": numbers of what is read together, such as the windows of one shard.
    """

    order: Order
    seed: int
    batch_size: int
    lanes: int
    piece: int

    @property
    def identity(self) -> Any:
        """What else than the order's name and the seed says what comes when, as plain data."""
        return [self.lanes, self.piece] if self.order == "grouped" else []

    def at(self, places: Int64, count: int, epoch: int) -> Int64:
        """Which of `count` numbers come at these places (n,) of an epoch."""
        if self.order == "flat":
            return permute(places, count, self.seed, epoch)
        if self.order == "grouped":
            sizes = {"batch_size": self.batch_size, "lanes": self.lanes, "piece": self.piece, "group": _GROUP}
            return grouped(places, count, self.seed, epoch, **sizes)
        return places


@dataclass(frozen=True)
class Ordered:
    """Every window once an epoch.

    Args:
        windows: all there are.
        walk: in which order they come.
    """

    windows: Numbered
    walk: Walk

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def identity(self) -> Any:
        return [self.windows.identity, self.walk.identity]

    def draw(self, samples: Int64, epoch: int) -> tuple[Located, Int64 | None]:
        return self.windows.locate(self.walk.at(samples, len(self), epoch)), None


@dataclass(frozen=True)
class Sampling:
    """The samples of an epoch.

    Args:
        pool: what they are drawn from.
        geometry: of every window.
        seed: of all draws.
        strand: "forward", "region" (as the table of regions has it), "random" or "both".
        last: what stands where the last batch has no more samples: with "wrap" the first ones, else padding.
    """

    pool: Samples
    geometry: Geometry
    seed: int
    strand: Strand
    last: Last

    def __len__(self) -> int:
        return len(self.pool)

    @property
    def identity(self) -> Any:
        """What else than the order's name and the seed says which sample is which, as plain data."""
        return self.pool.identity

    def draw(self, index: Int64, epoch: int) -> Drawn:
        """The rows at these places (n,) of an epoch; those beyond its samples as `last` says."""
        samples = index % len(self) if self.last == "wrap" else np.minimum(index, len(self) - 1)
        located, labels = self.pool.draw(samples, epoch)
        low, high, strand, jitter = draws(samples, self.seed, epoch, SAMPLE)
        target_starts = self.geometry.moved(located.target_starts, located.limits, jitter)
        return Drawn(
            samples,
            ((index < len(self)) | (self.last == "wrap")).astype(np.float32),
            low | (high << 32),
            turned(self.strand, located.reverse, strand),
            target_starts,
            target_starts - self.geometry.margin,
            located.limits,
            located.rows,
            located.haplotypes,
            labels,
        )


def turned(strand: Strand, own: Bits | None, draw: Int64) -> Bits:
    """Which windows are read from the other strand: by 32 random bits each (n,), or as they are `own`."""
    if strand == "random":
        return draw < 2**31
    return own if own is not None and strand != "forward" else np.zeros(len(draw), np.bool_)
