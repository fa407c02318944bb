"""The one place where the bytes of a store's files are read: by memory map, or from an object by range requests."""

from __future__ import annotations

import errno
import os
from functools import lru_cache
from pathlib import Path

import numpy as np

from distgen.genome import Bytes
from distgen.ingest.objects import RANGE, Object, Place

BLOCK = 1 << 16  # bytes
KEPT = 1024  # blocks in memory, of all objects together
_SMALL = 4 * BLOCK  # what is read in one go beyond this is not kept


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
        return np.frombuffer(self._item.read_range(start, stop), np.uint8)


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
