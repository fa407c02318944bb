"""Which shards of a store elsewhere will be needed, asked for before they are."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from distgen.loader.gather import Read
from distgen.store.cache import ShardCache, Sharded

_BYTES = 1 << 31  # of shards that are fetched before a batch needs them
_FASTER = 8  # batches that are looked at for each one made, until enough is known
_FAR = 4096  # batches beyond those that are made; it takes seconds to use so many

Place = tuple[int, int]  # epoch, and number of a global batch in it
_NOWHERE = (-1, -1)


@dataclass
class _Need:
    """One shard, and the first and the last batch that are known to need it."""

    of: Sharded
    number: int
    size: int
    first: Place
    last: Place


class ReadAhead:
    """Looks ahead along the order, and has a cache fetch what one rank's rows will need, soonest first.

    No more than 2 GiB is fetched before it is needed, and no more than the cache holds beside what is in use. Once a cache has
    been asked for all there is, the order does not matter any more: nothing is looked at until the cache loses something.

    Args:
        cache: of the arrays.
        batches: how many an epoch has.
        reads: what one rank's rows of some global batches of an epoch read, by their numbers in it.
    """

    def __init__(self, cache: ShardCache, batches: Callable[[int], int], reads: Callable[[int, range], list[Read]]):
        self._cache, self._batches, self._reads = cache, batches, reads
        self._lock = threading.Lock()
        self._forget(_NOWHERE)

    def _forget(self, place: Place) -> None:
        self._now = self._end = self._next = place  # the batches that are being made, the first not looked at
        self._asked: dict[tuple[str, int], _Need] = {}
        self._waiting: dict[tuple[str, int], _Need] = {}  # soonest first
        self._sizes: dict[str, list[int]] = {}  # of all shards of what is read
        self._lost: int | None = None  # what the cache had lost when it was asked for the last of them

    def start(self, epoch: int, batch: int) -> None:
        """An epoch is walked from a batch on; where that goes on what was looked at before, nothing is done twice."""
        with self._lock:
            if self._lost is None and not self._now <= (epoch, batch) <= self._next:
                self._forget((epoch, batch))

    def stop(self) -> None:
        """No more batches are made: what is not being fetched yet is not wanted any more."""
        with self._lock:
            for need in self._asked.values():
                self._cache.cancel(need.of, need.number)
            self._forget(_NOWHERE)

    def come_to(self, epoch: int, batches: Sequence[int]) -> None:
        """These batches are made now; of no consequence where they are not those of the walk."""
        with self._lock:
            if self._lost is not None:
                if self._lost == self._cache.lost:
                    return
                self._forget((epoch, batches[0]))
            if not self._now <= (epoch, batches[0]) <= self._next:
                return
            self._now, self._end = (epoch, batches[0]), (epoch, batches[-1])
            self._asked = {key: need for key, need in self._asked.items() if need.last >= self._now}
            left = min(_FASTER * (batches[-1] + 1 - batches[0]), _FAR - self._known())
            lost = self._cache.lost
            while self._ask() and left > 0 and not self._have_all():
                left -= self._look(left)
            if self._have_all():
                self._lost = lost

    def _known(self) -> int:
        """How many batches beyond those that are made were looked at."""
        return sum(map(self._batches, range(self._end[0], self._next[0]))) + self._next[1] - self._end[1] - 1

    def _have_all(self) -> bool:
        """Whether the cache was asked for all there is, and can keep it."""
        count = sum(map(len, self._sizes.values()))
        return 0 < count == len(self._asked) and sum(map(sum, self._sizes.values())) <= self._cache.max_bytes

    def _ask(self) -> bool:
        """Have the cache fetch what there is room for. Returns whether that is all that is known."""
        while self._waiting:
            key, need = next(iter(self._waiting.items()))
            if need.first > self._end:
                kept = [other.size for other in self._asked.values()]
                early = [other.size for other in self._asked.values() if other.first > self._end]
                if sum(kept) + need.size > self._cache.max_bytes or sum(early) + need.size > _BYTES:
                    return False
            self._asked[key] = self._waiting.pop(key)
            self._cache.prefetch(need.of, [need.number])
        return True

    def _look(self, most: int) -> int:
        """Find out what some batches more will need. Returns how many these are."""
        epoch, at = self._next
        count = self._batches(epoch)
        some = range(at, min(at + most, count))
        met: list[_Need] = []
        for read in self._reads(epoch, some):
            rows = len(read.first) // len(some)
            if read.of.id not in self._sizes:
                self._sizes[read.of.id] = [size for n in range(read.of.shards) if (size := read.of.stored(n))]
            for shard, begin, end in _met(read):
                places = (epoch, some[begin // rows]), (epoch, some[end // rows])
                met.append(_Need(read.of, shard, read.of.stored(shard), *places))
        for need in sorted(met, key=lambda need: need.first):
            key = need.of.id, need.number
            known = self._asked.get(key) or self._waiting.setdefault(key, need)
            known.last = max(known.last, need.last)
        self._next = (epoch, some.stop) if some.stop < count else (epoch + 1, 0)
        return len(some)


def _met(read: Read) -> list[tuple[int, int, int]]:
    """The shards that rows touch, and the first and the last row that do."""
    rows = np.flatnonzero(read.first < read.last)
    low, high = read.first[rows] // read.shard, (read.last[rows] - 1) // read.shard
    shards = int(high.max(initial=-1)) + 1
    begins, ends = np.full(shards, len(read.first)), np.full(shards, -1)
    while len(rows):
        np.minimum.at(begins, low, rows)
        np.maximum.at(ends, low, rows)
        more = low < high
        rows, low, high = rows[more], low[more] + 1, high[more]
    met = np.flatnonzero(ends >= 0)
    return list(zip(met.tolist(), begins[met].tolist(), ends[met].tolist(), strict=True))
