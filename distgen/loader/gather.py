"""Where the chunks of an array lie in memory, so that compiled code can read any rows of it without asking Python."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from distgen.genome import Bytes, Int64
from distgen.store.array import Array

_KEPT = 48 << 20  # bytes of decoded chunks in memory, of all arrays together
_TOGETHER = 128  # decoded chunks that are held while rows are made of them: about 8 MiB
_FOUND = 1024  # chunks touched for the first time in one go


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

    Chunks of raw files stay mapped: each is checked when it is first touched, and from then on costs nothing. All others
    are decoded when rows need them, once for all rows that are asked for together; those used last are kept. An absent
    chunk is one that holds the fill value.
    """

    def __init__(self, array: Array):
        self.array, layout = array, array.layout
        self._blank = np.full(layout.chunk_bytes // layout.dtype.itemsize, layout.fill, layout.dtype).view(np.uint8)
        self._addresses = np.where(array.absent, self._blank.ctypes.data, 0).astype(np.int64)
        self._untouched = int(np.count_nonzero(self._addresses == 0))
        self._maps: dict[int, object] = {}  # of the addresses: the array lets go of a shard's map when it verifies it

    def parts(self, first: Int64, last: Int64) -> Iterator[Part]:
        """All rows, in one part or in several of bounded memory; any number of threads may ask.

        Args:
            first, last: int64 (n,), the stretch of the array (along its first axis) that each row is made of; empty
                where `first` is not below `last`.

        Raises:
            StoreError: a shard is missing or a chunk damaged.
        """
        if self.array.lasting:
            if self._untouched:
                self._touch(first, last)
            yield Part(np.arange(len(first)), first // self.array.layout.chunk, self._addresses, self)
        else:
            yield from self._decoded(first, last)

    def _touch(self, first: Int64, last: Int64) -> None:
        """Have all chunks of these rows checked; threads that do so at the same time find the same."""
        from distgen.loader.copying import missing

        found = np.empty(_FOUND, np.int64)
        while count := missing(self._addresses, self.array.layout.chunk, first, last, found):
            for low, high in _runs(np.unique(found[:count])):
                for number, chunk in self.array.chunks(low, high):
                    self._maps[id(chunk.base)] = chunk.base
                    self._addresses[number] = chunk.ctypes.data
            self._untouched = int(np.count_nonzero(self._addresses == 0))

    def _decoded(self, first: Int64, last: Int64) -> Iterator[Part]:
        chunk = self.array.layout.chunk
        begin = first // chunk
        count = np.where(first < last, (last - 1) // chunk - begin + 1, 0)
        # Along the array: a chunk is then in two parts only where one ends in it, and is still kept.
        order = np.argsort(begin, kind="stable")
        ends = (begin + count)[order]
        before = np.r_[0, np.maximum.accumulate(ends)[:-1]][: len(ends)]
        new = np.maximum(ends - np.maximum(before, begin[order]), 0)  # chunks that no row before has
        part_of = (np.cumsum(new) - new) // _TOGETHER
        for rows in np.split(order, np.flatnonzero(np.diff(part_of)) + 1):
            ends = np.cumsum(count[rows])
            steps = np.arange(ends[-1] if len(rows) else 0) - np.repeat(ends - count[rows], count[rows])
            numbers = np.unique(np.repeat(begin[rows], count[rows]) + steps)
            held = _kept.take(self.array, numbers[~self.array.absent[numbers]])
            places = (held[n].ctypes.data if n in held else self._blank.ctypes.data for n in numbers.tolist())
            addresses = np.fromiter(places, np.int64, len(numbers))
            yield Part(rows, np.searchsorted(numbers, begin[rows]), addresses, (self, held))


def gather(chunks: Chunks, first: Int64, last: Int64, out: Bytes, at: Int64) -> None:
    """Copy a stretch of bytes for each row; the rest of the row becomes zeros.

    Args:
        chunks: of an array of bytes (uint8, one axis).
        first, last: int64 (n,), the bytes [first, last) of the array; none where `first` is not below `last`.
        out: uint8 (n, width).
        at: int64 (n,), where in its row each stretch begins; it ends within the row.

    Raises:
        StoreError: a shard is missing or a chunk damaged.
    """
    from distgen.loader.copying import copy_rows

    size = np.maximum(last - first, 0)
    assert out.shape == (len(first), out.shape[1]), out.shape
    assert out.flags.c_contiguous
    assert not len(first) or (at.min() >= 0 and (at + size).max() <= out.shape[1])
    for part in chunks.parts(first, last):
        copy_rows(part.order, part.slots, part.addresses, chunks.array.layout.chunk, first, last, out, at)


class Kept:
    """The decoded chunks that were used last, of all arrays together, within so many bytes; for any number of threads."""

    def __init__(self, limit: int):
        self._limit, self._size, self._lock = limit, 0, threading.Lock()
        self._chunks: OrderedDict[tuple[str, int], Bytes] = OrderedDict()

    def take(self, array: Array, numbers: Int64) -> dict[int, Bytes]:
        """The decoded bytes of some stored chunks, each only once among `numbers` (sorted)."""
        found: dict[int, Bytes] = {}
        with self._lock:
            for number in numbers.tolist():
                if (array.id, number) in self._chunks:
                    self._chunks.move_to_end((array.id, number))
                    found[number] = self._chunks[array.id, number]
        absent = np.array([number for number in numbers.tolist() if number not in found], np.int64)
        # Two threads that miss the same chunk both decode it: that is rare, and neither waits for the other.
        made = {
            number: chunk.copy()
            if array.layout.codec == "raw"
            else chunk  # a view would keep all that was read with it
            for first, last in _runs(absent)
            for number, chunk in array.chunks(first, last)
        }
        with self._lock:
            for number, chunk in made.items():
                if (array.id, number) not in self._chunks:
                    self._chunks[array.id, number] = chunk
                    self._size += chunk.size
            while self._size > self._limit:
                self._size -= self._chunks.popitem(last=False)[1].size
        return found | made


_kept = Kept(_KEPT)


def _runs(numbers: Int64) -> list[tuple[int, int]]:
    """[first, last) of each run of sorted numbers that follow one another."""
    if not len(numbers):
        return []
    breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
    firsts, lasts = numbers[np.r_[0, breaks]], numbers[np.r_[breaks - 1, len(numbers) - 1]] + 1
    return list(zip(firsts.tolist(), lasts.tolist(), strict=True))
