"""The one place where the bytes of a store's files are read: by memory map, or from an object by range requests."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from concurrent.futures import Executor, as_completed, wait
from functools import lru_cache
from pathlib import Path

import numpy as np

from distgen.errors import RemoteError
from distgen.genome import Bytes, Int64
from distgen.ingest.objects import RANGE, Object, Place, ShortError
from distgen.store.format import crc32c

BLOCK = 1 << 16  # bytes
KEPT = 1024  # blocks in memory, of all objects together
_SMALL = 4 * BLOCK  # what is read in one go beyond this is not kept
_PIECE = 1 << 18  # bytes, at least, that go to the disk at once: what has just arrived is still near the processor


class Ranges:
    """The bytes of one object; a slice of them is a request, or what is kept of an earlier one.

    Args:
        item: the object.
        size: in bytes.
    """

    def __init__(self, item: Object, size: int):
        self.size, self._item = size, item

    def __getitem__(self, span: slice) -> Bytes:
        start, stop, _ = span.indices(self.size)
        if stop - start > _SMALL:
            out = np.empty(stop - start, np.uint8)
            for at in range(start, stop, RANGE):
                end = min(at + RANGE, stop)
                out[at - start : end - start] = self.read(at, end)
            return out
        first = start // BLOCK
        blocks = [_block(self, number) for number in range(first, max(-(-stop // BLOCK), first + 1))]
        return np.concatenate(blocks)[start - first * BLOCK : stop - first * BLOCK]

    def read(self, start: int, stop: int) -> Bytes:
        """The bytes [start, stop), by one request."""
        from obstore.exceptions import NotSupportedError

        try:
            return np.frombuffer(self._item.read_range(start, stop), np.uint8)
        except NotSupportedError:
            raise RemoteError(f"{self._item}: its server knows no ranges; copy the store to one that does") from None

    def fetch(self, file: int, ends: Int64, check: Callable[[int, int, int], None], pool: Executor) -> None:
        """Copy chunks that follow one another from the beginning to the same places in a file, by several requests at a
        time.

        Args:
            file: descriptor of a file that is large enough.
            ends: int64 (n,), where in the object each chunk ends.
            check: called with the number, the size and the CRC-32C of each chunk, in some thread.
            pool: carries out the requests; as many as it has threads are in memory, a piece of each.

        The object's `stop` is set when this ends, however it does; who sets it makes it end.

        Raises:
            RemoteError: a request failed for good. And what `check` raises; what is in the file is then of no use.
        """
        item = self._item
        cuts = np.unique(np.searchsorted(ends, np.arange(0, ends[-1], RANGE), side="right")).tolist()
        parts = zip(cuts, [*cuts[1:], len(ends)], strict=True)
        jobs = [pool.submit(_fetch, item, file, ends, first, last, check) for first, last in parts]
        try:
            for job in as_completed(jobs):
                job.result()
        finally:
            item.stop.set()
            for job in jobs:
                job.cancel()
            wait(jobs)  # the file is about to be closed


def _fetch(
    item: Object, file: int, ends: Int64, number: int, last: int, check: Callable[[int, int, int], None]
) -> None:
    """Copy the chunks [number, last) by one request, or by as many as it takes: each goes on where the last one broke off."""
    begin = at = int(ends[number - 1]) if number else 0
    bounds, found = ends[number:last].tolist(), [0]

    def request() -> None:
        nonlocal at
        for piece in item.get({"range": (at, bounds[-1])}).stream(_PIECE):
            if item.stop.is_set():
                raise InterruptedError
            data = np.frombuffer(piece, np.uint8)[: bounds[-1] - at]
            write(file, data, at)
            first, at = at, at + data.size
            while first < at:
                end = bounds[len(found) - 1]
                found[-1] = crc32c(data[first - at : min(end, at) - at or None], found[-1])
                first = end
                if end <= at:
                    found.append(0)
        if at != bounds[-1]:
            raise ShortError

    item.patiently(request)
    for crc, end in zip(found, bounds, strict=False):
        check(number, end - begin, crc)
        begin, number = end, number + 1


def write(file: int, data: Bytes, at: int) -> None:
    """Write all of some bytes to a certain place of a file."""
    while data.size:
        written = os.pwrite(file, data.data, at)
        data, at = data[written:], at + written


@lru_cache(KEPT)
def _block(ranges: Ranges, number: int) -> Bytes:
    return ranges.read(number * BLOCK, min((number + 1) * BLOCK, ranges.size))


def open_bytes(place: Place) -> Bytes | Ranges:
    """The bytes of a file or an object, read when they are asked for.

    Raises:
        FileNotFoundError: there is none. ValueError: it is empty.
    """
    if isinstance(place, Path):
        # Copy-on-write: the file can't change, and torch takes the array without a copy.
        return np.memmap(place, np.uint8, "c").view(np.ndarray)
    meta = place.find()
    if meta is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(place))
    if not meta["size"]:
        raise ValueError("it is empty")
    return Ranges(place, meta["size"])
