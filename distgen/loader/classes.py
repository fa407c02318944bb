"""Class-balanced samples: slots dealt to classes in fixed proportions, each class served in permuted cycles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from distgen.errors import ConfigError, some
from distgen.genome import Int64
from distgen.loader.negatives import Matched
from distgen.loader.order import permute
from distgen.loader.schedule import Schedule, own_seed
from distgen.loader.windows import Located, Numbered

VERSION = "balanced/1"


class Balanced:
    """Draws samples from pools of windows, each in its share, whatever their sizes.

    Sample k of epoch e is slot e n + k of a `Schedule`. A class serves its own slots in cycles: each cycle is a keyed
    permutation of all its windows, so that after any number of slots no window was served more than once oftener than
    another. An epoch that ends within a cycle is gone on with by the next.

    Args:
        pools: windows of each class by name; their order numbers the classes.
        shares: of the slots, by name, in any unit (1 and 1: as many of each).
        seed: of the order.
        epoch_samples: None: as many as serve the first class once.

    Raises:
        ConfigError: names of pools and shares differ, a pool is empty, or windows are not all of one geometry.
    """

    def __init__(
        self,
        pools: Mapping[str, Numbered | Matched],
        shares: Mapping[str, float],
        seed: int,
        epoch_samples: int | None = None,
    ):
        if differ := sorted(pools.keys() ^ shares.keys()):
            raise ConfigError(f"{some(differ)}: a class has both windows and a share", key="classes")
        if empty := [name for name, pool in pools.items() if not len(pool) and shares[name]]:
            raise ConfigError(f"{some(empty)} has no windows; leave it out or give it share 0", key="classes")
        if len({(pool.window, pool.target_length) for pool in pools.values()}) != 1:
            raise ConfigError("all classes need windows of one length, with targets of one length", key="classes")
        self.names, self._pools = tuple(pools), tuple(pools.values())
        self.window, self.target_length = self._pools[0].window, self._pools[0].target_length
        self._sizes = np.array([len(pool) for pool in self._pools], np.int64)
        self._schedule = Schedule([shares[name] for name in self.names], names=self.names)
        self._seeds = [own_seed(seed, name) for name in self.names]
        first = int(self._schedule.counts[0])
        if epoch_samples is None and not first:
            raise ConfigError(f'"{self.names[0]}" has no share, so say how long an epoch is', key="epoch_samples")
        self._samples = epoch_samples or -(-len(self._pools[0]) * self._schedule.period // first)

    def __len__(self) -> int:
        """Samples per epoch."""
        return self._samples

    @property
    def identity(self) -> Any:
        """What else than the order's name and the seed says which sample is which, as plain data."""
        own = [pool.identity for pool in self._pools]
        return [VERSION, self._samples, list(self.names), self._schedule.counts.tolist(), own]

    def draw(self, samples: Int64, epoch: int) -> tuple[Located, Int64]:
        """Where samples (n,) of an epoch are, and the number of the class of each: int64 (n,)."""
        labels, ordinals = self._schedule.at(samples + epoch * self._samples)
        cycles, places = np.divmod(ordinals, self._sizes[labels])
        parts = []
        for label, pool in enumerate(self._pools):
            rows = np.flatnonzero(labels == label)
            if not rows.size:
                continue
            windows = self._permuted(label, places[rows], cycles[rows])
            located = pool.draw(windows, cycles[rows]) if isinstance(pool, Matched) else pool.locate(windows)
            parts.append((rows, located))
        return _together(parts, len(samples)), labels

    @property
    def pools(self) -> dict[str, Numbered | Matched]:
        """The windows of each class by name."""
        return dict(zip(self.names, self._pools, strict=True))

    def samples(self) -> dict[str, int]:
        """How many samples of the first epoch each class has; any later one has one more or less at most."""
        return dict(zip(self.names, self._schedule.before(self._samples).tolist(), strict=True))

    def cycles(self, epoch: int) -> dict[str, float]:
        """How often each class has been served whole before an epoch."""
        had = self._schedule.before(epoch * self._samples)
        return dict(zip(self.names, (had / np.maximum(self._sizes, 1)).tolist(), strict=True))

    def _permuted(self, label: int, places: Int64, cycles: Int64) -> Int64:
        """The windows at places (n,) of cycles (n,) of one class."""
        windows = np.empty_like(places)
        order = np.argsort(cycles, kind="stable")
        numbers, firsts = np.unique(cycles[order], return_index=True)
        for cycle, rows in zip(numbers.tolist(), np.split(order, firsts[1:]), strict=True):
            windows[rows] = permute(places[rows], int(self._sizes[label]), self._seeds[label], cycle)
        return windows


def _together(parts: list[tuple[Int64, Located]], n: int) -> Located:
    """One table of n rows from the tables of the classes, each with the rows it has there.

    Where only some classes have a strand or a table, the others' windows are forward, of row -1 and of haplotype 0.
    """
    together = Located(
        np.empty(n, np.int64),
        np.empty((n, 2), np.int64),
        np.zeros(n, np.bool_),
        np.full(n, -1, np.int64),
        np.zeros(n, np.int64),
    )
    said: set[str] = set()
    for rows, located in parts:
        for name, column in located._asdict().items():
            if column is not None:
                getattr(together, name)[rows] = column
                said.add(name)
    unsaid: dict[str, Any] = {name: None for name in Located._fields if name not in said}
    return together._replace(**unsaid)
