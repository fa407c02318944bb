"""Arrays of a store as they are read: from memory-mapped shards (or what a cache keeps of those elsewhere), or by ranges of
objects; chunks are checked."""

from __future__ import annotations

import base64
import copy
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from distgen.errors import ConfigError, DamageError, StoreError
from distgen.genome import Bytes
from distgen.ingest.objects import Object, Place
from distgen.store.format import ABSENT, ADVICE, Layout, content_id, crc32c, zstd
from distgen.store.ranges import Ranges, open_bytes

if TYPE_CHECKING:
    from distgen.store.cache import ShardCache

_TOGETHER = 128  # chunks that are read in one go


def _cut(data: Bytes | Ranges, spans: npt.NDArray[np.uint64]) -> list[Bytes]:
    """The bytes of each span (n, 2), position and size, sorted; what follows one another is asked for by one request."""
    if not isinstance(data, Ranges):
        return [data[position : position + size] for position, size in spans.tolist()]
    found = []
    for together in np.split(spans, np.flatnonzero(spans[1:, 0] != spans[:-1].sum(axis=1)) + 1):
        begin, end = int(together[0, 0]), int(together[-1].sum())
        several = data[begin:end]
        found += [several[position - begin :][:size] for position, size in together.tolist()]
    return found


def rows(first: int, last: int) -> str:
    """What the rows [first, last) of any array are called."""
    return f"rows {first:,} to {last:,}"


@dataclass(frozen=True, eq=False)
class Shard:
    """One shard as it is read.

    Args:
        data: its bytes: a memory map, or ranges of an object.
        index: uint64 (chunks_per_shard, 2), position and size of each chunk; `ABSENT` where it is not stored.
        checked: bool (chunks_per_shard,), which chunks of a memory map were seen to be whole.
    """

    data: Bytes | Ranges
    index: npt.NDArray[np.uint64]
    checked: npt.NDArray[np.bool_]


class Array:
    """One array of a store, read from memory-mapped shards, whose chunks are checked at first touch; or from objects,
    whose chunks are checked whenever they are read.

    Args:
        folder: where its shards lie.
        entry: its manifest entry, with the metadata and the checksums.
        where: what the rows [first, last) are called where they are damaged.
        cache: keeps whole shards of objects on the local disk, to be mapped from there.

    Raises:
        StoreError: the metadata is unknown, or (from any read) a shard is missing or damaged.
    """

    def __init__(
        self,
        folder: Place,
        entry: dict[str, Any],
        where: Callable[[int, int], str] = rows,
        cache: ShardCache | None = None,
    ):
        self._local = isinstance(folder, Path)
        self.folder, self.id, self._where = folder, str(entry["id"]), where
        self.cache = None if self._local else cache
        self.layout = Layout.from_json(entry["metadata"], folder)
        self.crcs = np.frombuffer(base64.b64decode(entry["crc32c"]), "<u4")
        self.absent = np.zeros(self.layout.chunks, bool)
        for first, count in entry["absent"]:
            self.absent[first : first + count] = True
        self._shards: dict[int, Shard] = {}
        self._digests: dict[int, str] = {}
        if len(self.crcs) != self.layout.chunks:
            raise StoreError(f"{folder}: the manifest lists {len(self.crcs)} chunks of {self.layout.chunks}")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.layout.shape

    @property
    def local(self) -> bool:
        """Its shards are files."""
        return self._local

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
            row_bytes = self.layout.chunk_bytes // self.layout.chunk
            return self.shard(0).data[: self.shape[0] * row_bytes].view(self.layout.dtype).reshape(self.shape)
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
        return self.decoded(first + np.flatnonzero(~self.absent[first:last]))

    def decoded(self, numbers: npt.NDArray[np.int64]) -> Iterator[tuple[int, Bytes]]:
        """Number and decoded bytes of some chunks (sorted, none absent); raises what `chunks` does."""
        raw, shards = self.layout.codec == "raw", numbers // self.layout.chunks_per_shard
        for shard in np.unique(shards).tolist():
            mine = numbers[shards == shard].tolist()
            for at in range(0, len(mine), _TOGETHER):
                some = mine[at : at + _TOGETHER]
                for number, stored in zip(some, self.as_stored(shard, some)[1], strict=True):
                    yield number, stored if raw else np.frombuffer(zstd().decode(stored), np.uint8)

    def as_stored(self, shard: int, numbers: list[int], held: Shard | None = None) -> tuple[Shard, list[Bytes]]:
        """The bytes of some chunks as they are stored; what was checked and cannot change is not checked again.

        Args:
            shard: that holds them.
            numbers: of the chunks, sorted, none absent.
            held: the shard, if one has it already.

        Returns:
            The shard that the bytes are views of: `held`, unless the disk of a cache has damaged it since.

        Raises:
            StoreError: the shard is missing, or one of the chunks is damaged.
        """
        held, per = held or self.shard(shard), self.layout.chunks_per_shard
        within = np.array(numbers) % per
        found = _cut(held.data, held.index[within])
        new = [] if held.checked[within].all() else zip(numbers, found, strict=True)
        for number, stored in new:
            if held.checked[number % per]:
                continue
            np.bitwise_or.reduce(stored)  # waits for the disk, which `crc32c` would do without letting others run
            try:
                self.check(number, stored.size, crc32c(stored))
            except StoreError:
                if self.cache is None:
                    raise
                # The disk has damaged what was whole when it was fetched.
                self.cache.discard(self, shard, held)
                return self.as_stored(shard, numbers)
            held.checked[number % per] = not isinstance(held.data, Ranges)
        return held, found

    def expect(self, numbers: npt.NDArray[np.int64], *, again: bool = False) -> None:
        """Have the system read chunks of files (none absent) at once that will be asked for one by one: those that never
        were, or all if `again`."""
        if not (self._local and hasattr(os, "posix_fadvise")):
            return
        of, within = np.divmod(numbers, self.layout.chunks_per_shard)
        for number in np.unique(of).tolist():
            if number not in self._shards:
                self._advise(number, [(-self.index_bytes, self.index_bytes)])
        for number in np.unique(of).tolist():
            shard, asked = self.shard(number), within[of == number]
            if len(new := asked[again | ~shard.checked[asked]]):
                self._advise(number, shard.index[new].tolist())

    def _advise(self, number: int, spans: Iterable[Sequence[int]]) -> None:
        """Soon these spans of a shard's bytes will be needed: begin, from the end if negative, and size."""
        try:
            handle = os.open(Path(str(self.folder), self.layout.key(number)), os.O_RDONLY)
        except OSError:  # whoever reads it says what is wrong
            return
        try:
            size = os.fstat(handle).st_size
            for begin, length in spans:
                os.posix_fadvise(handle, begin if begin >= 0 else max(size + begin, 0), length, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(handle)

    def check(self, number: int, size: int, crc: int) -> None:
        """Compare what is known of a chunk's bytes with the manifest.

        Raises:
            StoreError: it is another chunk.
        """
        expected = int(self.crcs[number])
        if crc != expected or (self.layout.codec == "raw" and size != self.layout.chunk_bytes):
            raise self._damage(number, number + 1, f"crc32c {crc:08x}, the manifest says {expected:08x}")

    def _damage(self, begin: int, end: int, problem: str) -> DamageError:
        """What is to be said of the chunks [begin, end) of one shard, of which the last may lack some."""
        layout, end = self.layout, min(end, self.layout.chunks)
        shard = self.folder / layout.key(begin // layout.chunks_per_shard)
        where = self._where(begin * layout.chunk, min(end * layout.chunk, self.shape[0]))
        return DamageError(f"{shard} is damaged ({problem}) in {where}; {ADVICE}", first=begin, last=end)

    def shard(self, number: int) -> Shard:
        """One shard that holds anything, with its index checked; whoever keeps it, or views of its memory map, may go on
        reading them when a cache has let go of it.

        Raises:
            StoreError: it is missing, or its index damaged. RemoteError: it cannot be fetched.
        """
        if self.cache is not None:
            return self.cache.get(self, number)
        if number not in self._shards:
            self._shards[number] = self.opened(number, self.bytes_of(number))
        return self._shards[number]

    def bytes_of(self, number: int, stop: threading.Event | None = None) -> Bytes | Ranges:
        """The bytes of a shard where the store lies; `stop` ends requests for them. Raises StoreError if it is not there."""
        place = self.folder / self.layout.key(number)
        if stop is not None and isinstance(place, Object):
            place.stop = stop
        try:
            return open_bytes(place)
        except (FileNotFoundError, ValueError):
            first, last = number * self.layout.chunks_per_shard, (number + 1) * self.layout.chunks_per_shard
            raise self._damage(first, last, "the shard is missing or empty") from None
        except OSError as error:  # it may be whole, and the next one may read it
            raise StoreError(f"{place} cannot be read ({error.strerror})") from None

    def opened(self, number: int, data: Bytes | Ranges, whole: bool = False) -> Shard:
        """A shard from its bytes.

        Args:
            number: of the shard.
            data: from its beginning to its end.
            whole: all its chunks were checked.

        Raises:
            StoreError: its index is not the one that was published.
        """
        index = self.index(number, data[-self.index_bytes :], data.size)
        return Shard(data, index, np.full(len(index), whole))

    @property
    def per_shard(self) -> int:
        """Chunks of each shard."""
        return self.layout.chunks_per_shard

    @property
    def shards(self) -> int:
        """How many there may be."""
        return self.layout.shards

    def stored(self, number: int) -> int:
        """Bytes of a shard, if nothing of it were compressed; 0 if there is none."""
        absent = self.absent[number * self.per_shard : (number + 1) * self.per_shard]
        return int(np.count_nonzero(~absent)) * self.layout.chunk_bytes

    def table(self, number: int, remote: Ranges) -> tuple[Bytes, npt.NDArray[np.uint64]]:
        """The end of a shard elsewhere, and what `index` makes of it."""
        tail = remote.read(max(remote.size - self.index_bytes, 0), remote.size)
        return tail, self.index(number, tail, remote.size)

    @property
    def index_bytes(self) -> int:
        """So many bytes at the end of each shard are its index."""
        return self.layout.chunks_per_shard * 16 + 4

    def index(self, number: int, tail: Bytes, size: int) -> npt.NDArray[np.uint64]:
        """Position and size of each chunk of a shard; `ABSENT` where it is not stored.

        Args:
            number: of the shard.
            tail: its last `index_bytes`.
            size: of the whole shard, in bytes.

        Raises:
            StoreError: the index is not the one that was published.
        """
        first, last = number * self.layout.chunks_per_shard, (number + 1) * self.layout.chunks_per_shard
        if tail.size < self.index_bytes or crc32c(tail[:-4]) != int.from_bytes(tail[-4:].tobytes(), "little"):
            raise self._damage(first, last, "the shard's index is not whole")
        index = np.frombuffer(tail[:-4].tobytes(), "<u8").reshape(-1, 2)
        self._check_index(first, index, size - tail.size)
        return index

    def cache_name(self, number: int) -> str:
        """What a shard is known by in a cache: one of other bytes, even with the same values, has another name."""
        first, last = number * self.layout.chunks_per_shard, (number + 1) * self.layout.chunks_per_shard
        return f"{self.id}.{number}.{crc32c(self.crcs[first:last].view(np.uint8)):08x}"

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

    def uncached(self) -> Array:
        """The same array, read from where the store lies."""
        other = copy.copy(self)
        other.cache, other._shards, other._digests = None, {}, {}
        return other

    def check_shard(self, number: int) -> None:
        """See that a shard is there, with its index and its size, or is not there; no chunk is read.

        Raises:
            StoreError: it is not as the manifest says.
        """
        at = number * self.layout.chunks_per_shard
        last = min(at + self.layout.chunks_per_shard, self.layout.chunks)
        if not self.absent[at:last].all():
            self.shard(number)
        elif (self.folder / self.layout.key(number)).is_file():
            raise self._damage(at, last, "there should be no such shard")

    def verify_shard(self, number: int) -> Iterator[int]:
        """Read and check every chunk of one shard, touched before or not; yields the bytes of each.

        Raises:
            StoreError: a chunk or the shard's index is not what the manifest says.
        """
        self._shards.pop(number, None)
        layout, content = self.layout, blake3()
        blank = np.full(layout.chunk_bytes // layout.dtype.itemsize, layout.fill, layout.dtype).view(np.uint8)
        at = number * layout.chunks_per_shard
        last = min(at + layout.chunks_per_shard, layout.chunks)
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
