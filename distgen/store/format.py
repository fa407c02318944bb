"""Format 1 on disk: Zarr v3 arrays, written and read with numpy alone.

Every array is cut along its first axis into chunks, and shards hold whole numbers of chunks (codec
`sharding_indexed`, index at the end). Raw chunks lie in a shard in their order, so that a shard's
payload is the array's own bytes and can be memory-mapped. Chunks that hold only the fill value may be
absent: their index entry says so. Any Zarr v3 reader opens what is written here.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from distgen.errors import StoreError

FORMAT = 1
MANIFEST = "manifest"
CHUNK_BYTES = 1 << 16
SHARD_CHUNKS = 1024
_ABSENT = np.uint64(2**64 - 1)

Codec = Literal["raw", "zstd"]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Layout:
    """One array's metadata; what `zarr.json` says of it.

    Args:
        shape: of the array.
        dtype: numpy dtype, little-endian.
        chunk: rows (first axis) per chunk; the other axes are whole.
        shard: rows per shard, a multiple of `chunk`.
        codec: "raw", or "zstd" per chunk.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunk: int
    shard: int
    codec: Codec = "raw"

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
            "fill_value": False if self.dtype == bool else 0,
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            "attributes": {},
        }

    @classmethod
    def from_json(cls, text: dict[str, Any], where: Path) -> Layout:
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
            )
            if layout.to_json() | {"attributes": None} != text | {"attributes": None}:
                raise ValueError("it has a layout that this version does not write")
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{where}: this is no array of a distgen store, format {FORMAT} ({error})") from None
        return layout


def bytes_layout(size: int) -> Layout:
    """The layout of a plane of `size` bytes: raw chunks of 64 KiB, shards of 64 MiB."""
    return Layout((size,), np.dtype(np.uint8), CHUNK_BYTES, CHUNK_BYTES * SHARD_CHUNKS)


def rows_layout(shape: tuple[int, ...], dtype: npt.DTypeLike, codec: Codec = "raw") -> Layout:
    """A layout for a table of rows, with chunks of about 64 KiB."""
    kind = np.dtype(dtype)
    chunk = max(1, CHUNK_BYTES // (prod(shape[1:]) * kind.itemsize))
    return Layout(shape, kind, chunk, chunk * SHARD_CHUNKS, codec)


def crc32c(data: bytes | memoryview | Bytes) -> int:
    """CRC-32C (Castagnoli) of some bytes."""
    import google_crc32c

    return int(google_crc32c.value(bytes(data)))


# ---- writing --------------------------------------------------------------------------------


@dataclass
class ArrayWriter:
    """Writes one array from front to back; `write` takes any number of bytes at a time.

    Chunks of zeros are left out if `sparse`. `close` returns the array's manifest entry.
    """

    folder: Path
    row_shape: tuple[int, ...]
    layout_of: Any  # rows -> Layout; the length is known only at the end
    sparse: bool = False
    _pending: bytearray = field(default_factory=bytearray)
    _bytes: int = 0
    _shard: list[bytes | None] = field(default_factory=list)
    _shards: int = 0
    _hash: Any = field(default_factory=hashlib.sha256)
    _crcs: list[int] = field(default_factory=list)
    _absent: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._layout: Layout = self.layout_of(1)
        self._zeros = bytes(self._layout.chunk_bytes)

    def write(self, data: npt.NDArray[Any]) -> None:
        """Append the bytes of an array."""
        self._pending += np.ascontiguousarray(data).view(np.uint8).tobytes()
        self._bytes += data.nbytes
        size = self._layout.chunk_bytes
        whole = len(self._pending) // size * size
        for first in range(0, whole, size):
            self._add(bytes(self._pending[first : first + size]))
        del self._pending[:whole]

    def close(self) -> dict[str, Any]:
        """Write what is left and `zarr.json`; returns id, crc32c of every chunk, and absent chunks."""
        size = self._layout.chunk_bytes
        if self._pending:
            self._add(bytes(self._pending).ljust(size, b"\0"))
        if self._shard:
            self._flush()
        row_bytes = prod(self.row_shape) * self._layout.dtype.itemsize
        layout: Layout = self.layout_of(self._bytes // row_bytes)
        text = write_json(self.folder / "zarr.json", layout.to_json())
        self._hash.update(text)
        return {
            "id": self._hash.hexdigest()[:32],
            "crc32c": base64.b64encode(np.array(self._crcs, "<u4").tobytes()).decode(),
            "absent": _runs(self._absent),
        }

    def _add(self, chunk: bytes) -> None:
        self._hash.update(chunk)
        if self.sparse and chunk == self._zeros:
            self._absent.append(len(self._crcs))
            self._crcs.append(0)
            self._shard.append(None)
        else:
            stored = _encode(chunk, self._layout.codec)
            self._crcs.append(crc32c(stored))
            self._shard.append(stored)
        if len(self._shard) == self._layout.chunks_per_shard:
            self._flush()

    def _flush(self) -> None:
        chunks, self._shard = self._shard, []
        number, self._shards = self._shards, self._shards + 1
        if all(chunk is None for chunk in chunks):
            return
        index = np.full((self._layout.chunks_per_shard, 2), _ABSENT, "<u8")
        position = 0
        path = self.folder / self._layout.key(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for i, chunk in enumerate(chunks):
                if chunk is not None:
                    index[i] = position, len(chunk)
                    position += file.write(chunk)
            file.write(index.tobytes())
            file.write(crc32c(index.tobytes()).to_bytes(4, "little"))
            file.flush()
            os.fsync(file.fileno())


def _encode(chunk: bytes, codec: Codec) -> bytes:
    if codec == "raw":
        return chunk
    from numcodecs.zstd import Zstd

    return bytes(Zstd(level=3).encode(chunk))


def write_json(path: Path, content: Any) -> bytes:
    """Write JSON with sorted keys and no timestamp, so that equal content is equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, sort_keys=True, indent=1).encode() + b"\n"
    with path.open("wb") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return text


def write_group(folder: Path, attributes: dict[str, Any]) -> None:
    """Make a folder a Zarr v3 group."""
    write_json(folder / "zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": attributes})


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


class Array:
    """One array of a store, read from memory-mapped shards; every chunk is checked at its first touch.

    Args:
        folder: where its `zarr.json` lies.
        entry: its manifest entry, with the checksums.

    Raises:
        StoreError: the metadata is unknown, or (from any read) a shard is missing or damaged.
    """

    def __init__(self, folder: Path, entry: dict[str, Any]):
        self.folder, self.id = folder, str(entry["id"])
        self.layout = Layout.from_json(read_json(folder / "zarr.json"), folder)
        self.crcs = np.frombuffer(base64.b64decode(entry["crc32c"]), "<u4")
        self.absent = np.zeros(self.layout.chunks, bool)
        for first, count in entry["absent"]:
            self.absent[first : first + count] = True
        self._checked = self.absent.copy()
        self._maps: dict[int, tuple[Bytes, npt.NDArray[np.uint64]]] = {}
        if len(self.crcs) != self.layout.chunks:
            raise StoreError(f"{folder}: the manifest lists {len(self.crcs)} chunks, zarr.json {self.layout.chunks}")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.layout.shape

    @property
    def mapped(self) -> bool:
        """`read` gives a view of the file: one raw shard without gaps."""
        return self.layout.codec == "raw" and self.layout.shards == 1 and not self.absent.any()

    @property
    def empty(self) -> bool:
        """No chunk is stored: every value is zero."""
        return bool(self.absent.all())

    def __getitem__(self, rows: slice) -> npt.NDArray[Any]:
        """Rows [start, stop) as an array of their own."""
        start, stop, _ = rows.indices(self.shape[0])
        return self._assemble(start, max(start, stop))

    def read(self) -> npt.NDArray[Any]:
        """The whole array: a read-only view of the file if it is one raw shard without gaps."""
        if self.mapped:
            for chunk in range(self.layout.chunks):
                self._chunk(chunk)
            mapped, _ = self._shard(0)
            row_bytes = self.layout.chunk_bytes // self.layout.chunk
            return mapped[: self.shape[0] * row_bytes].view(self.layout.dtype).reshape(self.shape)
        return self._assemble(0, self.shape[0])

    def _assemble(self, start: int, stop: int) -> npt.NDArray[Any]:
        layout = self.layout
        out = np.zeros((stop - start, *self.shape[1:]), layout.dtype)
        for number in range(start // layout.chunk, -(-stop // layout.chunk) if stop > start else 0):
            if self.absent[number]:
                continue
            first = number * layout.chunk
            low, high = max(start, first), min(stop, first + layout.chunk)
            rows = self._chunk(number).view(layout.dtype).reshape(layout.chunk, *self.shape[1:])
            out[low - start : high - start] = rows[low - first : high - first]
        return out

    def _chunk(self, number: int) -> Bytes:
        """The decoded bytes of one stored chunk, checked the first time."""
        mapped, index = self._shard(number // self.layout.chunks_per_shard)
        position, size = (int(n) for n in index[number % self.layout.chunks_per_shard])
        stored = mapped[position : position + size]
        if not self._checked[number]:
            self._check(number, stored)
            self._checked[number] = True
        if self.layout.codec == "raw":
            return stored
        from numcodecs.zstd import Zstd

        return np.frombuffer(Zstd().decode(stored), np.uint8)

    def _check(self, number: int, stored: Bytes) -> None:
        found, expected = crc32c(stored), int(self.crcs[number])
        if found != expected or (self.layout.codec == "raw" and stored.size != self.layout.chunk_bytes):
            raise self._damage(number, f"crc32c {found:08x}, the manifest says {expected:08x}")

    def _damage(self, number: int, problem: str) -> StoreError:
        layout = self.layout
        first = number * layout.chunk
        last = min(first + layout.chunk, self.shape[0])
        shard = self.folder / layout.key(number // layout.chunks_per_shard)
        return StoreError(
            f"{shard} is damaged ({problem}) in rows {first:,} to {last:,}; run distgen build RECIPE --force"
        )

    def _shard(self, number: int) -> tuple[Bytes, npt.NDArray[np.uint64]]:
        if number not in self._maps:
            path = self.folder / self.layout.key(number)
            first = number * self.layout.chunks_per_shard
            size = self.layout.chunks_per_shard * 16 + 4
            try:
                # Copy-on-write: the file can't change, and torch takes the array without a copy.
                mapped: Bytes = np.memmap(path, np.uint8, "c").view(np.ndarray)
            except (OSError, ValueError):
                raise self._damage(first, "the shard is missing or empty") from None
            tail = mapped[-size:]
            if tail.size < size or crc32c(tail[:-4]) != int.from_bytes(tail[-4:].tobytes(), "little"):
                raise self._damage(first, "the shard's index is not whole")
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
            raise self._damage(first, "the shard's index does not match the manifest")

    def verify(self) -> Iterator[int]:
        """Read and check every chunk, touched before or not, and the array's content id; yields the bytes of each chunk.

        Raises:
            StoreError: a chunk, a shard's index or the metadata is not what the manifest says.
        """
        self._maps.clear()
        content = hashlib.sha256()
        for number in range(self.layout.chunks):
            if self.absent[number]:
                content.update(bytes(self.layout.chunk_bytes))
                continue
            self._checked[number] = False
            chunk = self._chunk(number)
            content.update(chunk.data)
            yield chunk.size
        content.update((self.folder / "zarr.json").read_bytes())
        if content.hexdigest()[:32] != self.id:
            raise StoreError(f"{self.folder}/zarr.json is not what was published; build the store again with --force")


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises StoreError if it is missing or damaged."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read: {error}") from None
