"""The shards of an export on this machine, mapped and checked: its own files, or what a cache keeps of those elsewhere."""

from __future__ import annotations

import base64
import os
import threading
from collections import OrderedDict, defaultdict
from typing import Protocol

import numpy as np
import numpy.typing as npt

from distgen.errors import ConfigError, SourceError, StoreError
from distgen.genome import Bytes
from distgen.ingest.objects import Object
from distgen.store.array import Shard as Kept
from distgen.store.cache import ShardCache
from distgen.store.exported import PIECE, Export, Shard
from distgen.store.ranges import Ranges

_OPEN = 256  # shards that are mapped at a time; each takes a file descriptor


class Shards(Protocol):
    """Gives the bytes of shards; any number of threads may ask."""

    def open(self, shard: Shard) -> Bytes:
        """A whole shard that was checked, mapped: it stays as it is for as long as it is held.

        Raises:
            SourceError: it is missing or damaged; names the member, if it can be told. And what a cache raises.
        """


def shards_of(export: Export, cache: ShardCache | None) -> Shards:
    """Those of an export. Raises ConfigError if it lies elsewhere and there is no cache."""
    if not isinstance(export.path, Object):
        return LocalShards(export)
    if cache is None:
        raise ConfigError(f"{export.path} is in an object store: it is read by way of a cache", key="cache")
    return CachedShards(export, cache)


class LocalShards:
    """Files on this machine. Each is checked when it is opened for the first time, by the thread that needs it."""

    def __init__(self, export: Export):
        self._export = export
        self._lock = threading.Lock()
        self._opening: defaultdict[Shard, threading.Lock] = defaultdict(threading.Lock)
        self._mapped: OrderedDict[Shard, Bytes] = OrderedDict()
        self._whole: dict[Shard, tuple[int, ...]] = {}  # the version of the file that was checked

    def open(self, shard: Shard) -> Bytes:
        """As `Shards`."""
        with self._lock:
            found = self._mapped.get(shard)
            if found is not None:
                self._mapped.move_to_end(shard)
                return found
            opening = self._opening[shard]
        with opening:
            content = self._export.content(shard)
            assert isinstance(content, np.ndarray)
            status = os.stat(str(self._export.path / shard.name))
            version = status.st_dev, status.st_ino, status.st_mtime_ns
            if self._whole.get(shard) != version:
                self._export.check_pieces(shard, content)
                self._whole[shard] = version
            with self._lock:
                self._mapped[shard] = content
                while len(self._mapped) > _OPEN:
                    self._mapped.popitem(last=False)
        return content


class CachedShards:
    """Objects elsewhere, whole in a cache: as `cache.Sharded`, with pieces for chunks."""

    def __init__(self, export: Export, cache: ShardCache):
        self._export, self._cache = export, cache
        self.folder, self.id = export.path, export.index["checksum"]
        self.shards = len(export.shards)
        self.per_shard = max(-(-export.entry(shard)["bytes"] // PIECE) for shard in export.shards)
        self._numbers = {shard: number for number, shard in enumerate(export.shards)}
        self._crcs = [np.frombuffer(base64.b64decode(export.entry(shard)["crc32c"]), "<u4") for shard in export.shards]

    def open(self, shard: Shard) -> Bytes:
        """As `Shards`."""
        content = self._cache.get(self, self._numbers[shard]).data
        assert isinstance(content, np.ndarray)
        return content

    # ---- what the cache asks

    def cache_name(self, number: int) -> str:
        digest = self._export.entry(self._export.shards[number])["sha256"]
        return f"{digest[:32]}.0.{digest[32:40]}"

    def stored(self, number: int) -> int:
        size: int = self._export.entry(self._export.shards[number])["bytes"]
        return size

    def bytes_of(self, number: int, stop: threading.Event | None = None) -> Bytes | Ranges:
        return self._export.content(self._export.shards[number], stop)

    def table(self, number: int, remote: Ranges) -> tuple[Bytes, npt.NDArray[np.uint64]]:
        starts = np.arange(0, remote.size, PIECE)
        return np.empty(0, np.uint8), np.stack([starts, np.minimum(remote.size - starts, PIECE)], axis=1).astype("<u8")

    def check(self, piece: int, size: int, crc: int) -> None:
        number, k = divmod(piece, self.per_shard)
        if crc != self._crcs[number][k]:
            raise self._export.damage(self._export.shards[number], f"crc32c, from byte {k * PIECE:,} on")

    def opened(self, number: int, data: Bytes | Ranges, whole: bool = False) -> Kept:
        if not whole:
            assert isinstance(data, np.ndarray)
            try:
                self._export.check_pieces(self._export.shards[number], data)
            except SourceError as error:
                raise StoreError(str(error)) from None  # the disk's fault: the cache fetches it again
        return Kept(data, np.empty((0, 2), np.uint64), np.empty(0, bool))
