"""What is done about chunks that are damaged or missing: the run stops, or the rows that need them are left out."""

from __future__ import annotations

import logging
import threading
from typing import NamedTuple

import numpy as np

from distgen.errors import DamageError, DistgenError
from distgen.genome import Bits, Int64
from distgen.loader.sampling import Drawn
from distgen.store.array import Array

log = logging.getLogger("distgen")


class Skipped(NamedTuple):
    """What a loader has left out.

    Args:
        rows: of all batches that it has made, those made ahead as well.
        shards: that are damaged, by the names of their files.
    """

    rows: int
    shards: tuple[str, ...]


class Lost(Exception):  # noqa: N818 - no error: whoever asked for the rows asks again, for less
    """Rows that were asked for cannot be read.

    Args:
        rows: bool (n,), which of them.
    """

    def __init__(self, rows: Bits):
        super().__init__(f"{np.count_nonzero(rows)} rows touch what is damaged")
        self.rows = rows


class Damage:
    """Counts what a loader leaves out; any number of threads may.

    Which rows are left out depends on what is damaged alone, not on who finds out when: every row that needs a damaged
    chunk, whatever it needs it for, on all ranks alike, since each rank learns of the damage when it first comes to it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows, self._shards = 0, dict[str, None]()

    @property
    def skipped(self) -> Skipped:
        return Skipped(self._rows, tuple(self._shards))

    def found(self, shard: str, error: DistgenError) -> None:
        """Tell of a shard, the first time that anything of it is damaged."""
        with self._lock:
            new = shard not in self._shards
            self._shards[shard] = None
        if new:
            log.warning("%s. Samples that need it are left out.", error)

    def leave_out(self, drawn: Drawn, rows: Bits) -> Drawn:
        """Samples of which some (bool (n,)) became padding: they weigh nothing, and nothing of them may be read."""
        with self._lock:
            self._rows += int(np.count_nonzero(rows & (drawn.weight > 0)))
        # Empty where they end: that tells their contig still.
        low = np.where(rows, drawn.limits[:, 1], drawn.limits[:, 0])
        weight = np.where(rows, np.float32(0), drawn.weight)
        return drawn._replace(weight=weight, limits=np.stack([low, drawn.limits[:, 1]], axis=1))


class Known:
    """Which chunks of one array are damaged, as far as is known.

    A cache takes whole shards or none: what is whole of a damaged one is read from where the store lies, so that the same
    rows are left out everywhere.

    Args:
        array: any.
        damage: is told of them.
    """

    def __init__(self, array: Array, damage: Damage):
        self.source = array if array.cache is None else array.uncached()
        self._array, self._damage, self._lock = array, damage, threading.Lock()
        self._chunks: Int64 = np.empty(0, np.int64)
        self._shards: Int64 = np.empty(0, np.int64)  # that no cache keeps

    def apart(self, first: Int64, last: Int64) -> tuple[Int64, Int64]:
        """The rows (near, far) that are read through the cache, or if there is one in spite of it, from `source`.

        Args:
            first, last: int64 (n,), the stretch of the array that each row needs.

        Raises:
            Lost: some need what is damaged.
        """
        layout = self._array.layout
        lost = _meet(self._chunks, first, last, layout.chunk)
        if lost.any():
            raise Lost(lost)
        far = _meet(self._shards, first, last, layout.shard)
        return np.flatnonzero(~far), np.flatnonzero(far)

    def learn(self, error: DamageError) -> None:
        """Take note of what reading the array has found."""
        per = self._array.layout.chunks_per_shard
        at, last = error.first, error.last
        with self._lock:
            bad = [self._chunks]
            if self.source is not self._array:
                at, last = at // per * per, min((at // per + 1) * per, self._array.layout.chunks)
                self._shards = np.union1d(self._shards, [at // per])
            while at < last:
                try:
                    for _ in self.source.chunks(at, last):
                        pass
                    break
                except DamageError as found:
                    bad.append(np.arange(found.first, found.last))
                    at = found.last
            chunks = np.unique(np.concatenate(bad))
            self._chunks = chunks[~self._array.absent[chunks]]
        shard = self._array.folder / self._array.layout.key(error.first // per)
        self._damage.found(str(shard), error)


def _meet(units: Int64, first: Int64, last: Int64, size: int) -> Bits:
    """Which stretches [first, last) touch one of some units (sorted) of that size."""
    if not len(units):
        return np.zeros(len(first), bool)
    return (first < last) & (np.searchsorted(units, first // size) < np.searchsorted(units, -(-last // size)))
