"""Which window, on which strand, sample k of epoch e is: a pure function of the seed, the epoch and k."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from distgen.genome import Bits, Int64
from distgen.kernels import SAMPLE, philox
from distgen.loader.order import permute
from distgen.loader.windows import Tiles

Strand = Literal["forward", "region", "random", "both"]
Last = Literal["drop", "pad", "wrap"]


class Drawn(NamedTuple):
    """What order and chance say of some rows; see `Batch` for the fields."""

    samples: Int64
    weight: npt.NDArray[np.float32]
    keys: Int64
    reverse: Bits
    target_starts: Int64
    positions: Int64
    limits: Int64


@dataclass(frozen=True)
class Sampling:
    """The samples of an epoch.

    Args:
        windows: what is drawn from.
        order: "flat", "grouped" or "sequential".
        seed: of the order and of all draws.
        strand: "forward", "region" (as the annotation has it), "random" or "both".
        jitter: windows move by up to this many bases to either side.
        unit: bases; windows move by multiples of it.
        last: what stands where the last batch has no more samples: with "wrap" the first ones, else padding.
    """

    windows: Tiles
    order: str
    seed: int
    strand: Strand
    jitter: int
    unit: int
    last: Last

    def __len__(self) -> int:
        return len(self.windows) * self.copies

    @property
    def copies(self) -> int:
        """How often an epoch serves each window."""
        return 2 if self.strand == "both" else 1

    def draw(self, index: Int64, epoch: int) -> Drawn:
        """The rows at these places (n,) of an epoch; those beyond its samples as `last` says."""
        samples = index % len(self) if self.last == "wrap" else np.minimum(index, len(self) - 1)
        ordered = permute(samples, len(self), self.seed, epoch) if self.order == "flat" else samples
        windows, copy = np.divmod(ordered, self.copies) if self.copies > 1 else (ordered, None)
        counter = torch.from_numpy(samples)
        words = philox(counter, torch.full_like(counter, self.seed), tag=SAMPLE, epoch=epoch)
        low, high, strand, jitter = (word.numpy() for word in words)
        target_starts, limits = self.windows.locate(windows)
        reverse = copy == 1 if copy is not None else (strand < 2**31) & (self.strand == "random")
        target_starts = self._move(target_starts, limits, jitter)
        return Drawn(
            samples,
            ((index < len(self)) | (self.last == "wrap")).astype(np.float32),
            low | (high << 32),
            reverse,
            target_starts,
            self.windows.window_start(target_starts),
            limits,
        )

    def _move(self, target_starts: Int64, limits: Int64, draw: Int64) -> Int64:
        """Jitter in whole units; no target leaves its region further than its tile does."""
        if not self.jitter:
            return target_starts
        steps = self.jitter // self.unit
        moved = target_starts + self.unit * (((draw * (2 * steps + 1)) >> 32) - steps)
        room = (limits[:, 1] - self.windows.target_length - limits[:, 0]) // self.unit * self.unit
        return np.clip(moved, limits[:, 0], np.maximum(target_starts, limits[:, 0] + room))
