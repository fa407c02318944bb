"""Format 1 on disk: Zarr v3 arrays, written and read with numpy alone.

Every array is cut along its first axis into chunks, and shards hold whole numbers of chunks (codec
`sharding_indexed`, index at the end). Raw chunks lie in a shard in their order, so that a shard's
payload is the array's own bytes and can be memory-mapped. Chunks that hold only the fill value may be
absent: their index entry says so. Any Zarr v3 reader opens what is written here.
"""

from __future__ import annotations

import base64
import errno
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from math import isnan, prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from distgen.config import digest
from distgen.errors import ConfigError, StoreError
from distgen.genome import Bytes
from distgen.ingest.objects import Place
from distgen.store.ranges import Ranges, open_bytes

FORMAT = 1
MANIFEST = "manifest"
CHUNK_BYTES = 1 << 16
SHARD_CHUNKS = 1024
_ABSENT = np.uint64(2**64 - 1)
_SENT = 1 << 22  # bytes
ADVICE = "run distgen repair RECIPE"

_TOGETHER = 128  # chunks that are read in one go

Codec = Literal["raw", "zstd"]


@dataclass(frozen=True)
class Layout:
    """One array's metadata; what `zarr.json` says of it.

    Args:
        shape: of the array.
        dtype: numpy dtype, little-endian.
        chunk: rows (first axis) per chunk; the other axes are whole.
        shard: rows per shard, a multiple of `chunk`.
        codec: "raw", or "zstd" per chunk.
        fill: what an absent chunk holds, and what pads the last one.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunk: int
    shard: int
    codec: Codec = "raw"
    fill: float = 0

    @property
    def chunks(self) -> int:
        return -(-self.shape[0] // self.chunk)

    @property
    def shards(self) -> int:
        return -(-self.shape[0] // self.shard)

    @property
    def chunk_bytes(self) -> int:
        return self.chunk * prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def chunks_per_shard(self) -> int:
        return self.shard // self.chunk

    def key(self, shard: int) -> str:
        """Where a shard lies below the array's folder: "c/7", or "c/7/0" with two axes."""
        return "/".join(["c", str(shard)] + ["0"] * (len(self.shape) - 1))

    def to_json(self) -> dict[str, Any]:
        """The content of `zarr.json`."""
        inner: list[dict[str, Any]] = [{"name": "bytes"}]
        if self.dtype.itemsize > 1:
            inner = [{"name": "bytes", "configuration": {"endian": "little"}}]
        if self.codec == "zstd":
            inner.append({"name": "zstd", "configuration": {"level": 3, "checksum": False}})
        rest = list(self.shape[1:])
        sharding = {
            "chunk_shape": [self.chunk, *rest],
            "codecs": inner,
            "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
            "index_location": "end",
        }
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(self.shape),
            "data_type": self.dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [self.shard, *rest]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": "NaN" if isnan(self.fill) else self.fill,
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            "attributes": {},
        }

    @classmethod
    def from_json(cls, text: dict[str, Any], where: Place) -> Layout:
        """The layout that a `zarr.json` describes. Raises StoreError for any layout that `to_json` would not write."""
        try:
            (codec,) = text["codecs"]
            sharding = codec["configuration"]
            inner = [c["name"] for c in sharding["codecs"]]
            layout = cls(
                tuple(text["shape"]),
                np.dtype(text["data_type"]).newbyteorder("<"),
                sharding["chunk_shape"][0],
                text["chunk_grid"]["configuration"]["chunk_shape"][0],
                "zstd" if "zstd" in inner else "raw",
                float("nan") if text["fill_value"] == "NaN" else text["fill_value"],
            )
            if layout.to_json() | {"attributes": None} != text | {"attributes": None}:
                raise ValueError("it has a layout that this version does not write")
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{where}: this is no array of a distgen store, format {FORMAT} ({error})") from None
        return layout


def rows_layout(shape: tuple[int, ...], dtype: npt.DTypeLike, codec: Codec = "raw", fill: float = 0) -> Layout:
    """A layout for a table of rows, with chunks of about 64 KiB."""
    kind = np.dtype(dtype)
    chunk = max(1, min(CHUNK_BYTES // (prod(shape[1:]) * kind.itemsize), shape[0]))
    chunks = min(SHARD_CHUNKS, max(1, -(-shape[0] // chunk)))
    return Layout(shape, kind, chunk, chunk * chunks, codec, fill)


def crc32c(data: bytes | Bytes) -> int:
    """CRC-32C (Castagnoli) of some bytes (of an array: contiguous)."""
    import google_crc32c

    return int(google_crc32c.value(data))


# ---- writing --------------------------------------------------------------------------------
# Nothing here waits for the disk: who declares files whole does that for all of them at once (`work.settle`).

Entry = dict[str, Any]  # of a shard: what `ShardWriter.close` returns; of an array: what the manifest says of it


class ShardWriter:
    """Writes one shard from front to back; `write` takes any number of bytes at a time.

    Chunks that hold the fill value alone are left out if `sparse`; a shard of nothing else has no file.
    """

    def __init__(self, path: Path, layout: Layout, *, sparse: bool = False):
        self._path, self._layout, self._sparse = path, layout, sparse
        self._blank = np.full(layout.chunk_bytes // layout.dtype.itemsize, layout.fill, layout.dtype).view(np.uint8)
        self._blank_crc = crc32c(self._blank)
        self._pending = np.empty(layout.chunk_bytes, np.uint8)
        self._held = 0  # bytes of the next chunk that have come
        self._file: Any = None
        self._index = np.full((layout.chunks_per_shard, 2), _ABSENT, "<u8")
        self._end = self._sent = 0  # bytes written, and of these on their way to the disk
        self._content = blake3()
        self._crcs: list[int] = []

    @property
    def room(self) -> int:
        """How many bytes the shard still takes."""
        return (self._layout.chunks_per_shard - len(self._crcs)) * self._layout.chunk_bytes - self._held

    def write(self, data: npt.NDArray[Any]) -> None:
        """Append the bytes of an array; no more than `room`."""
        flat = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        size, position = self._layout.chunk_bytes, 0
        while position < len(flat):
            if self._held == 0 and len(flat) - position >= size:
                self._add(flat[position : position + size])
                position += size
                continue
            taken = min(size - self._held, len(flat) - position)
            self._pending[self._held : self._held + taken] = flat[position : position + taken]
            self._held, position = self._held + taken, position + taken
            if self._held == size:
                self._held = 0
                self._add(self._pending)

    def close(self) -> Entry:
        """Finish the shard; returns the crc32c of every chunk, the absent chunks, and the content's digest."""
        if self._held:
            self._pending[self._held :] = self._blank[self._held :]
            self._add(self._pending)
        if self._file is not None:
            index = self._index.tobytes()
            self._file.write(index + crc32c(index).to_bytes(4, "little"))
            self._file.close()
        absent = np.flatnonzero(self._index[: len(self._crcs), 0] == _ABSENT)
        return {
            "crc32c": base64.b64encode(np.array(self._crcs, "<u4").tobytes()).decode(),
            "absent": _runs(absent.tolist()),
            "digest": self._content.hexdigest(),
        }

    def _add(self, chunk: Bytes) -> None:
        self._content.update(chunk.data)
        crc = crc32c(chunk)
        if self._sparse and crc == self._blank_crc and np.array_equal(chunk, self._blank):
            self._crcs.append(0)
            return
        if self._layout.codec == "zstd":
            chunk = np.frombuffer(_zstd().encode(chunk), np.uint8)
            crc = crc32c(chunk)
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("wb", buffering=0)
        self._index[len(self._crcs)] = self._end, chunk.size
        self._crcs.append(crc)
        self._end += chunk.size
        if self._file.write(chunk.data) != chunk.size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        if self._end - self._sent >= _SENT:
            # Linux begins to write to the disk what it is told will not be needed; so fsync has little left to wait for.
            # What is on its way, it keeps in the page cache all the same.
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(self._file.fileno(), self._sent, self._end - self._sent, os.POSIX_FADV_DONTNEED)
            self._sent = self._end


def finish_array(folder: Path, layout: Layout, shards: list[Entry]) -> Entry:
    """Write an array's `zarr.json`; returns its manifest entry."""
    write_json(folder / "zarr.json", layout.to_json())
    return array_entry(layout, shards)


def array_entry(layout: Layout, shards: list[Entry]) -> Entry:
    """The manifest entry of an array, from what its shards' writers returned."""
    crcs = b"".join(base64.b64decode(shard["crc32c"]) for shard in shards)
    absent: list[list[int]] = []
    for number, shard in enumerate(shards):
        for first, count in shard["absent"]:
            first += number * layout.chunks_per_shard
            if absent and sum(absent[-1]) == first:
                absent[-1][1] += count
            else:
                absent.append([first, count])
    digests = [shard["digest"] for shard in shards]
    return {
        "id": content_id(layout, digests),
        "metadata": layout.to_json(),
        "crc32c": base64.b64encode(crcs).decode(),
        "absent": absent,
    }


def write_array(folder: Path, values: npt.NDArray[Any], codec: Codec = "raw") -> Entry:
    """Write a whole array; returns its manifest entry."""
    layout = rows_layout(values.shape, values.dtype, codec)
    entries = []
    for number in range(layout.shards):
        writer = ShardWriter(folder / layout.key(number), layout)
        writer.write(values[number * layout.shard : (number + 1) * layout.shard])
        entries.append(writer.close())
    return finish_array(folder, layout, entries)


def content_id(layout: Layout, digests: list[str]) -> str:
    """What an array is known by: a hash of its metadata and of its shards' decoded content."""
    return digest([layout.to_json(), *digests])


@cache
def _zstd() -> Any:
    from numcodecs.zstd import Zstd

    return Zstd(level=3)


def json_bytes(content: Any) -> bytes:
    """JSON with sorted keys and no timestamp, so that equal content is equal bytes."""
    return json.dumps(content, sort_keys=True, indent=1).encode() + b"\n"


def write_json(path: Path, content: Any) -> None:
    """Write `json_bytes` of something, in one go: others may be reading what is there, and who writes may be killed."""
    data = json_bytes(content)
    if path.exists() and path.read_bytes() == data:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.new")
    draft.write_bytes(data)
    draft.rename(path)


def group_json(attributes: dict[str, Any]) -> dict[str, Any]:
    """The `zarr.json` of a group."""
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}


def write_group(folder: Path, attributes: dict[str, Any]) -> None:
    """Make a folder a Zarr v3 group."""
    write_json(folder / "zarr.json", group_json(attributes))


def _runs(numbers: list[int]) -> list[list[int]]:
    """[3, 4, 5, 9] as [[3, 3], [9, 1]]: first and count."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and sum(runs[-1]) == number:
            runs[-1][1] += 1
        else:
            runs.append([number, 1])
    return runs


# ---- reading --------------------------------------------------------------------------------


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
            for _ in self._chunks(0, self.layout.chunks):
                pass
            mapped, _ = self._shard(0)
            row_bytes = self.layout.chunk_bytes // self.layout.chunk
            return mapped[: self.shape[0] * row_bytes].view(self.layout.dtype).reshape(self.shape)
        return self._assemble(0, self.shape[0])

    def _assemble(self, start: int, stop: int) -> npt.NDArray[Any]:
        layout = self.layout
        out = np.full((stop - start, *self.shape[1:]), layout.fill, layout.dtype)
        for number, chunk in self._chunks(start // layout.chunk, -(-stop // layout.chunk) if stop > start else 0):
            first = number * layout.chunk
            low, high = max(start, first), min(stop, first + layout.chunk)
            rows = chunk.view(layout.dtype).reshape(layout.chunk, *self.shape[1:])
            out[low - start : high - start] = rows[low - first : high - first]
        return out

    def _chunks(self, first: int, last: int) -> Iterator[tuple[int, Bytes]]:
        """Number and decoded bytes of the stored ones among the chunks [first, last)."""
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
        return np.frombuffer(_zstd().decode(stored), np.uint8)

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
        stored = index[index[:, 0] != _ABSENT].astype(np.int64)
        count = min(len(index), self.layout.chunks - first)
        present = np.zeros(len(index), bool)
        present[:count] = ~self.absent[first : first + count]
        ends = np.cumsum(stored[:, 1])
        in_order = np.array_equal(stored[:, 0], ends - stored[:, 1]) and (len(ends) == 0 or ends[-1] == payload)
        if not in_order or not np.array_equal(present, index[:, 0] != _ABSENT):
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
        for chunk_number, chunk in self._chunks(at, last):
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


def read_json(path: Place) -> Any:
    """What a JSON file holds. Raises StoreError if it is missing or damaged."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read: {error}") from None
