"""Where the chunks of an array lie in memory, so that compiled code can read any rows of it without asking Python."""

from __future__ import annotations

import mmap
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from distgen.errors import DamageError
from distgen.genome import Bytes, Int64
from distgen.loader.damage import Damage, Known
from distgen.store.array import Array, Shard
from distgen.store.cache import Sharded

_KEPT = 48 << 20  # bytes of decoded chunks in memory, of all arrays together
_TOGETHER = 128  # decoded chunks that are held while rows are made of them: about 8 MiB
_HELD = 32  # shards of a cache that are held while rows are made of them: about 2 GiB of disk, even if all make way for others
_FOUND = 1024  # chunks touched for the first time in one go


class Read(NamedTuple):
    """What rows read of something in shards, such as an array: stretches [first, last) (n,) along its first axis.

    Each shard has `shard` of them.
    """

    of: Sharded
    shard: int
    first: Int64
    last: Int64


class Part(NamedTuple):
    """Some rows of a gather, with all the chunks they are made of; what the compiled functions of `copying.py` take.

    Args:
        order: int64 (m,), which rows.
        slots: int64 (m,), where in `addresses` the first chunk of each row is; the others of the row follow.
        addresses: int64 (any,), of the decoded bytes of chunks.
        held: what must not be freed while `addresses` are in use.
    """

    order: Int64
    slots: Int64
    addresses: Int64
    held: object


class Chunks:
    """The chunks of one array by their addresses.

    Chunks of raw files stay mapped: each is checked when it is first touched, and from then on costs nothing. (Where all
    arrays together are too large to stay in memory, the pages that rows lie in are asked for all at once: else each would be
    waited for, and others that nobody needs would be read with it.) So it is with the files of a cache, for as long as they
    are there. All others are decoded when rows need them, once for all rows that are asked for together; those used last are
    kept. An absent chunk is one that holds the fill value.

    Args:
        array: any.
        damage: counts what is left out because chunks are damaged; if None, these are an error.
    """

    def __init__(self, array: Array, damage: Damage | None = None):
        self.array, layout = array, array.layout
        self._blank = np.full(layout.chunk_bytes // layout.dtype.itemsize, layout.fill, layout.dtype).view(np.uint8)
        self._addresses = np.where(array.absent, self._blank.ctypes.data, 0).astype(np.int64)
        self._untouched = int(np.count_nonzero(self._addresses == 0))
        self._maps: dict[int, Any] = {}  # of the addresses: the array lets go of a shard's map when it verifies it
        # Those of a cache's shard go when it does: who reads one holds it, and what is fetched again is another one.
        self._tables: weakref.WeakKeyDictionary[Shard, Int64] = weakref.WeakKeyDictionary()
        self._told = 0  # of how many maps the system knows that they are read at random
        if array.local:
            size = layout.chunks * layout.chunk_bytes
            _files.add(size)
            weakref.finalize(self, _files.add, -size).atexit = False
        self._known = None if damage is None else Known(array, damage)

    def parts(self, first: Int64, last: Int64) -> Iterator[Part]:
        """All rows, in one part or in several of bounded memory; any number of threads may ask.

        Args:
            first, last: int64 (n,), the stretch of the array (along its first axis) that each row is made of; empty
                where `first` is not below `last`.

        Raises:
            StoreError: a shard is missing or a chunk damaged. Lost, in its place, where damage is counted: says which rows
                that are.
            IndexError: a row is not one of the array: compiled code would read what lies beside it in memory.
        """
        outside = (first < last) & ((first < 0) | (last > self.array.shape[0]))
        if outside.any():
            row = int(outside.argmax())
            raise IndexError(
                f"{self.array.folder} has {self.array.shape[0]:,} rows, not {first[row]:,} to {last[row]:,}"
            )
        every = np.arange(len(first))
        if self._known is None:
            yield from self._parts(every, first, last)
            return
        while True:
            near, far = self._known.apart(first, last)
            try:
                yield from self._parts(near, first, last)
                if len(far):
                    yield from self._decoded(self._known.source, far, first, last)
                return
            except DamageError as error:
                self._known.learn(error)  # some rows may be made twice

    def _parts(self, rows: Int64, first: Int64, last: Int64) -> Iterator[Part]:
        layout = self.array.layout
        if self.array.lasting:
            if self._untouched:
                self._touch(first, last)
            part = Part(rows, first[rows] // layout.chunk, self._addresses, self)
            if _files.too_large:
                self._ask_for(part, first, last)
            yield part
        elif self.array.cache is not None and layout.codec == "raw":
            for some, shards in _apart(rows, first, last, layout.shard, _HELD):
                yield self._in_shards(some, shards, first[some], last[some])
        else:
            yield from self._decoded(self.array, rows, first, last)

    def _ask_for(self, part: Part, first: Int64, last: Int64) -> None:
        """Have the system read the pages of all rows at once, and no others with them."""
        from distgen.loader.copying import advise, ask_for

        maps = list(self._maps.values())
        for whole in maps[self._told :]:
            advise(whole.ctypes.data, whole.size, mmap.MADV_RANDOM)
        self._told, layout = len(maps), self.array.layout
        row_bytes = layout.chunk_bytes // layout.chunk
        ask_for(part.order, part.slots, part.addresses, layout.chunk, row_bytes, first, last)

    def _touch(self, first: Int64, last: Int64) -> None:
        """Have all chunks of these rows checked; threads that do so at the same time find the same."""
        from distgen.loader.copying import missing

        found = np.empty(_FOUND, np.int64)
        while count := missing(self._addresses, self.array.layout.chunk, first, last, found):
            numbers = np.unique(found[:count])
            self.array.expect(numbers)
            for number, chunk in self.array.decoded(numbers):
                self._maps[id(chunk.base)] = chunk.base
                self._addresses[number] = chunk.ctypes.data
            self._untouched = int(np.count_nonzero(self._addresses == 0))

    def _in_shards(self, rows: Int64, shards: Int64, first: Int64, last: Int64) -> Part:
        """Rows [first, last) out of shards of a cache, which are held until the part is let go of."""
        from distgen.loader.copying import missing

        array, layout, per = self.array, self.array.layout, self.array.layout.chunks_per_shard
        absent = [bool(array.absent[number * per : (number + 1) * per].all()) for number in shards.tolist()]
        held = [None if gone else array.shard(number) for number, gone in zip(shards.tolist(), absent, strict=True)]
        # The shards' chunks one shard after another, as if there were no others in between.
        moved = (np.searchsorted(shards, first // layout.shard) - first // layout.shard) * layout.shard
        first, last, found = first + moved, last + moved, np.empty(_FOUND, np.int64)
        while True:
            tables = [self._table(number, shard) for number, shard in zip(shards.tolist(), held, strict=True)]
            addresses = np.concatenate([*tables, np.empty(0, np.int64)])
            if not (count := missing(addresses, layout.chunk, first, last, found)):
                return Part(rows, first // layout.chunk, addresses, (self, held))
            place, within = np.divmod(np.unique(found[:count]), per)
            for at in np.unique(place).tolist():
                numbers = (shards[at] * per + within[place == at]).tolist()
                held[at], chunks = array.as_stored(int(shards[at]), numbers, held[at])
                self._table(int(shards[at]), held[at])[within[place == at]] = [chunk.ctypes.data for chunk in chunks]

    def _table(self, number: int, shard: Shard | None) -> Int64:
        """The addresses of a shard's chunks; 0 for those that were not checked yet."""
        found = None if shard is None else self._tables.get(shard)
        if found is None:
            per = self.array.layout.chunks_per_shard
            absent = self.array.absent[number * per : (number + 1) * per]
            found = np.zeros(per, np.int64)
            found[: len(absent)][absent] = self._blank.ctypes.data
            if shard is not None:
                found = self._tables.setdefault(shard, found)
        return found

    def _decoded(self, array: Array, rows: Int64, first: Int64, last: Int64) -> Iterator[Part]:
        for some, numbers in _apart(rows, first, last, array.layout.chunk, _TOGETHER):
            stored, addresses = ~array.absent[numbers], np.full(len(numbers), self._blank.ctypes.data)
            held = _kept.take(array, numbers[stored])
            addresses[stored] = [chunk.address for chunk in held]
            yield Part(some, np.searchsorted(numbers, first[some] // array.layout.chunk), addresses, (self, held))


class _Files:
    """How many bytes there are, decoded, in the arrays on local disks whose rows this process reads."""

    def __init__(self) -> None:
        self._bytes = 0
        self._lock = threading.RLock()  # whoever has it may be the one who collects garbage, and subtracts

    def add(self, size: int) -> None:
        with self._lock:
            self._bytes += size

    @property
    def too_large(self) -> bool:
        """They can't all stay in memory."""
        return self._bytes > memory() // 2


_files = _Files()


@cache
def memory() -> int:
    """Bytes of memory that this process and its page cache may have."""
    limit = Path("/sys/fs/cgroup/memory.max")
    bound = limit.read_text().strip() if limit.exists() else "max"
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(whole, int(bound)) if bound.isdigit() else whole


def _apart(rows: Int64, first: Int64, last: Int64, unit: int, most: int) -> Iterator[tuple[Int64, Int64]]:
    """Some of the rows [first, last) after another, and the units of the array that these need (sorted): about `most`, but
    as many as a row needs; all rows as they come where that is enough for them."""
    begin = first[rows] // unit
    ends = np.where(first[rows] < last[rows], (last[rows] - 1) // unit + 1, begin)
    units = touched(begin, ends)
    if len(units) <= most:
        yield rows, units
        return
    # Along the array: a unit is then needed twice only where one lot ends in it, and is still kept.
    order = np.argsort(begin, kind="stable")
    rows, begin, ends = rows[order], begin[order], ends[order]
    before = np.r_[0, np.maximum.accumulate(ends)[:-1]][: len(ends)]
    new = np.maximum(ends - np.maximum(before, begin), 0)  # units that no row before has
    cuts = np.flatnonzero(np.diff((np.cumsum(new) - new) // most)) + 1
    for some, low, high in zip(*(np.split(part, cuts) for part in (rows, begin, ends)), strict=True):
        yield some, touched(low, high)


def touched(low: Int64, high: Int64) -> Int64:
    """All numbers of the ranges [low, high) (n,), sorted, each once."""
    count = np.maximum(high - low, 0)
    upto = np.cumsum(count)
    return np.unique(np.arange(upto[-1] if len(upto) else 0) - np.repeat(upto - count - low, count))


def gather(chunks: Chunks, first: Int64, last: Int64, out: Bytes, at: Int64) -> None:
    """Copy a stretch of bytes for each row; the rest of the row becomes zeros.

    Args:
        chunks: of an array of bytes (uint8, one axis).
        first, last: int64 (n,), the bytes [first, last) of the array; none where `first` is not below `last`.
        out: uint8 (n, width).
        at: int64 (n,), where in its row each stretch begins; it ends within the row.

    Raises:
        StoreError or Lost: see `Chunks.parts`.
    """
    from distgen.loader.copying import copy_rows

    size = np.maximum(last - first, 0)
    assert out.shape == (len(first), out.shape[1]), out.shape
    assert out.flags.c_contiguous
    assert not len(first) or (at.min() >= 0 and (at + size).max() <= out.shape[1])
    for part in chunks.parts(first, last):
        copy_rows(part.order, part.slots, part.addresses, chunks.array.layout.chunk, first, last, out, at)


class _Decoded(NamedTuple):
    """A chunk, and where in memory it begins."""

    chunk: Bytes
    address: int


class Kept:
    """The decoded chunks that were used last, of all arrays together, within so many bytes; for any number of threads."""

    def __init__(self, limit: int):
        self._limit, self._size, self._lock = limit, 0, threading.Lock()
        self._chunks: OrderedDict[tuple[str, int], _Decoded] = OrderedDict()

    def take(self, array: Array, numbers: Int64) -> list[_Decoded]:
        """Some stored chunks, each only once among `numbers` (sorted)."""
        asked, found = numbers.tolist(), dict[int, _Decoded]()
        with self._lock:
            for number in asked:
                if (kept := self._chunks.get((array.id, number))) is not None:
                    self._chunks.move_to_end((array.id, number))
                    found[number] = kept
        absent = np.array([number for number in asked if number not in found], np.int64)
        array.expect(absent, again=_files.too_large)
        # Two threads that miss the same chunk both decode it: that is rare, and neither waits for the other.
        for number, chunk in array.decoded(absent):
            # A view would keep all that was read with it.
            alone = chunk.copy() if array.layout.codec == "raw" else chunk
            found[number] = _Decoded(alone, alone.ctypes.data)
        with self._lock:
            for number in absent.tolist():
                if (array.id, number) not in self._chunks:
                    self._chunks[array.id, number] = found[number]
                    self._size += found[number].chunk.size
            while self._size > self._limit:
                self._size -= self._chunks.popitem(last=False)[1].chunk.size
        return [found[number] for number in asked]


_kept = Kept(_KEPT)
