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
from dataclasses import dataclass
from functools import cache
from math import isnan, prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from distgen.config import digest
from distgen.errors import StoreError
from distgen.genome import Bytes
from distgen.ingest.objects import Place

FORMAT = 1
MANIFEST = "manifest"
CHUNK_BYTES = 1 << 16
SHARD_CHUNKS = 1024
ABSENT = np.uint64(2**64 - 1)
_SENT = 1 << 22  # bytes
ADVICE = "run distgen repair RECIPE"


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


def crc32c(data: bytes | Bytes, before: int = 0) -> int:
    """CRC-32C (Castagnoli) of some bytes (of an array: contiguous), which follow others that have the CRC `before`."""
    import google_crc32c

    return int(google_crc32c.extend(before, data))


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
        self._index = np.full((layout.chunks_per_shard, 2), ABSENT, "<u8")
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
        absent = np.flatnonzero(self._index[: len(self._crcs), 0] == ABSENT)
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
            chunk = np.frombuffer(zstd().encode(chunk), np.uint8)
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
def zstd() -> Any:
    """The codec of chunks that are not raw."""
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


def read_json(path: Place) -> Any:
    """What a JSON file holds. Raises StoreError if it is missing or damaged."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read: {error}") from None
