"""Arrays of a store as they are read: from memory-mapped shards, or by ranges of objects; chunks are checked."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from distgen.errors import ConfigError, StoreError
from distgen.genome import Bytes
from distgen.ingest.objects import Place
from distgen.store.format import ABSENT, ADVICE, Layout, content_id, crc32c, zstd
from distgen.store.ranges import Ranges, open_bytes

_TOGETHER = 128  # chunks that are read in one go


def rows(first: int, last: int) -> str:
    """What the rows [first, last) of any array are called."""
    return f"rows {first:,} to {last:,}"


class Array:
    """One array of a store, read from memory-mapped shards, whose chunks are checked at first touch; or from objects,
    whose chunks are checked whenever they are read.

    Args:
        folder: where its shards lie.
        entry: its manifest entry, with the metadata and the checksums.
        where: what the rows [first, last) are called where they are damaged.

    Raises:
        StoreError: the metadata is unknown, or (from any read) a shard is missing or damaged.
    """

    def __init__(self, folder: Place, entry: dict[str, Any], where: Callable[[int, int], str] = rows):
        self.folder, self.id, self._where = folder, str(entry["id"]), where
        self.layout = Layout.from_json(entry["metadata"], folder)
        self.crcs = np.frombuffer(base64.b64decode(entry["crc32c"]), "<u4")
        self.absent = np.zeros(self.layout.chunks, bool)
        for first, count in entry["absent"]:
            self.absent[first : first + count] = True
        self._checked = self.absent.copy()
        self._maps: dict[int, tuple[Bytes | Ranges, npt.NDArray[np.uint64]]] = {}
        self._local = isinstance(folder, Path)
        self._digests: dict[int, str] = {}
        if len(self.crcs) != self.layout.chunks:
            raise StoreError(f"{folder}: the manifest lists {len(self.crcs)} chunks of {self.layout.chunks}")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.layout.shape

    @property
    def mapped(self) -> bool:
        """`read` gives a view of the file: one raw shard without gaps."""
        return self._local and self.layout.codec == "raw" and self.layout.shards == 1 and not self.absent.any()

    @property
    def lasting(self) -> bool:
        """What `chunks` yields are views of files, which stay where they are for as long as the array is there."""
        return self._local and self.layout.codec == "raw"

    @property
    def empty(self) -> bool:
        """No chunk is stored: every value is the fill value."""
        return bool(self.absent.all())

    def __getitem__(self, span: slice) -> npt.NDArray[Any]:
        """Rows [start, stop) as an array of their own."""
        start, stop, step = span.indices(self.shape[0])
        if step != 1:
            raise ConfigError(
                f"{self.folder}: only whole stretches are read, not every {step}. row: read [start:stop][::{step}]"
            )
        return self._assemble(start, max(start, stop))

    def read(self) -> npt.NDArray[Any]:
        """The whole array: a read-only view of the file if it is one raw shard without gaps."""
        if self.mapped:
            for _ in self.chunks(0, self.layout.chunks):
                pass
            mapped, _ = self._shard(0)
            row_bytes = self.layout.chunk_bytes // self.layout.chunk
            return mapped[: self.shape[0] * row_bytes].view(self.layout.dtype).reshape(self.shape)
        return self._assemble(0, self.shape[0])

    def _assemble(self, start: int, stop: int) -> npt.NDArray[Any]:
        layout = self.layout
        out = np.full((stop - start, *self.shape[1:]), layout.fill, layout.dtype)
        for number, chunk in self.chunks(start // layout.chunk, -(-stop // layout.chunk) if stop > start else 0):
            first = number * layout.chunk
            low, high = max(start, first), min(stop, first + layout.chunk)
            rows = chunk.view(layout.dtype).reshape(layout.chunk, *self.shape[1:])
            out[low - start : high - start] = rows[low - first : high - first]
        return out

    def chunks(self, first: int, last: int) -> Iterator[tuple[int, Bytes]]:
        """Number and decoded bytes of the stored ones among the chunks [first, last).

        Raises:
            StoreError: a shard is missing, or one of the chunks is damaged.
        """
        per = self.layout.chunks_per_shard
        while first < last:
            shard = first // per
            end = min(last, first + _TOGETHER, (shard + 1) * per)
            numbers = [number for number in range(first, end) if not self.absent[number]]
            if numbers:
                data, index = self._shard(shard)
                begin, (position, size) = int(index[numbers[0] % per, 0]), index[numbers[-1] % per].tolist()
                together = data[begin : position + size]
                for number in numbers:
                    position, size = index[number % per].tolist()
                    yield number, self._decode(number, together[position - begin :][:size])
            first = end

    def _decode(self, number: int, stored: Bytes) -> Bytes:
        """The bytes of one chunk; what was checked and cannot change is not checked again."""
        if not (self._checked[number] and self._local):
            self._check(number, stored)
            self._checked[number] = True
        if self.layout.codec == "raw":
            return stored
        return np.frombuffer(zstd().decode(stored), np.uint8)

    def _check(self, number: int, stored: Bytes) -> None:
        found, expected = crc32c(stored), int(self.crcs[number])
        if found != expected or (self.layout.codec == "raw" and stored.size != self.layout.chunk_bytes):
            raise self._damage(number, number + 1, f"crc32c {found:08x}, the manifest says {expected:08x}")

    def _damage(self, begin: int, end: int, problem: str) -> StoreError:
        """What is to be said of the chunks [begin, end) of one shard."""
        layout = self.layout
        shard = self.folder / layout.key(begin // layout.chunks_per_shard)
        where = self._where(begin * layout.chunk, min(end * layout.chunk, self.shape[0]))
        return StoreError(f"{shard} is damaged ({problem}) in {where}; {ADVICE}")

    def _shard(self, number: int) -> tuple[Bytes | Ranges, npt.NDArray[np.uint64]]:
        if number not in self._maps:
            path = self.folder / self.layout.key(number)
            first, last = number * self.layout.chunks_per_shard, (number + 1) * self.layout.chunks_per_shard
            size = self.layout.chunks_per_shard * 16 + 4
            try:
                mapped = open_bytes(path)
            except (OSError, ValueError):
                raise self._damage(first, last, "the shard is missing or empty") from None
            tail = mapped[-size:]
            if tail.size < size or crc32c(tail[:-4]) != int.from_bytes(tail[-4:].tobytes(), "little"):
                raise self._damage(first, last, "the shard's index is not whole")
            index = np.frombuffer(tail[:-4].tobytes(), "<u8").reshape(-1, 2)
            self._check_index(first, index, mapped.size - size)
            self._maps[number] = mapped, index
        return self._maps[number]

    def _check_index(self, first: int, index: npt.NDArray[np.uint64], payload: int) -> None:
        """Stored chunks follow one another without gaps, and are those the manifest says."""
        stored = index[index[:, 0] != ABSENT].astype(np.int64)
        count = min(len(index), self.layout.chunks - first)
        present = np.zeros(len(index), bool)
        present[:count] = ~self.absent[first : first + count]
        ends = np.cumsum(stored[:, 1])
        in_order = np.array_equal(stored[:, 0], ends - stored[:, 1]) and (len(ends) == 0 or ends[-1] == payload)
        if not in_order or not np.array_equal(present, index[:, 0] != ABSENT):
            raise self._damage(first, first + count, "the shard's index does not match the manifest")

    def check_shard(self, number: int) -> None:
        """See that a shard is there, with its index and its size, or is not there; no chunk is read.

        Raises:
            StoreError: it is not as the manifest says.
        """
        at = number * self.layout.chunks_per_shard
        last = min(at + self.layout.chunks_per_shard, self.layout.chunks)
        if not self.absent[at:last].all():
            self._shard(number)
        elif (self.folder / self.layout.key(number)).is_file():
            raise self._damage(at, last, "there should be no such shard")

    def verify_shard(self, number: int) -> Iterator[int]:
        """Read and check every chunk of one shard, touched before or not; yields the bytes of each.

        Raises:
            StoreError: a chunk or the shard's index is not what the manifest says.
        """
        self._maps.pop(number, None)
        layout, content = self.layout, blake3()
        blank = np.full(layout.chunk_bytes // layout.dtype.itemsize, layout.fill, layout.dtype).view(np.uint8)
        at = number * layout.chunks_per_shard
        last = min(at + layout.chunks_per_shard, layout.chunks)
        self._checked[at:last] = False
        self.check_shard(number)
        for chunk_number, chunk in self.chunks(at, last):
            for _ in range(at, chunk_number):
                content.update(blank.data)
            content.update(chunk.data)
            at = chunk_number + 1
            yield chunk.size
        for _ in range(at, last):
            content.update(blank.data)
        self._digests[number] = content.hexdigest()

    def has_content_id(self) -> bool:
        """Whether the content is the one the manifest names; all shards have been verified before."""
        return content_id(self.layout, [self._digests[number] for number in range(self.layout.shards)]) == self.id
