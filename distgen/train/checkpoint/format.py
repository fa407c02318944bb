"""The files of a checkpoint: pieces of tensors in safetensors, where each lies in `tensors.json`, all else in `state.json`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from blake3 import blake3
from torch import Tensor
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType
from torch.distributed.tensor import DTensor

from distgen.errors import CheckpointError

FORMAT = 1
STATE, TENSORS = "state.json", "tensors.json"
FILE_BYTES = 1 << 26  # of a file, and of what is in memory twice while it is sent
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


@dataclass(frozen=True)
class Piece:
    """A box of a tensor: what one worker writes of it.

    Args:
        name: the tensor's.
        shape: of the whole tensor.
        offsets, sizes: of the box.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """What its values take."""
        return math.prod(self.sizes) * self.dtype.itemsize

    @property
    def key(self) -> str:
        """Its name in a safetensors file."""
        return key(self.name, self.shape, self.offsets, self.sizes)

    @property
    def item(self) -> WriteItem:
        """As `torch.distributed.checkpoint` knows it."""
        chunk = ChunkStorageMetadata(torch.Size(self.offsets), torch.Size(self.sizes))
        data = TensorWriteData(chunk, TensorProperties(dtype=self.dtype), torch.Size(self.shape))
        return WriteItem(MetadataIndex(self.name, self.offsets), WriteItemType.SHARD, tensor_data=data)

    def of(self, tensor: Tensor) -> Tensor:
        """The values, in the tensor or in this worker's part of it."""
        if isinstance(tensor, DTensor):
            begin = tensor.__create_chunk_list__()[0].offsets
            tensor = tensor.to_local()
        else:
            begin = (0,) * tensor.ndim
        # Only the first axis is ever cut.
        return tensor.narrow(0, self.offsets[0] - begin[0], self.sizes[0]) if tensor.ndim else tensor


def key(name: str, shape: Iterable[int], offsets: Iterable[int], sizes: Iterable[int]) -> str:
    """The name of a box in a safetensors file: that of the tensor, and which part it is: "weight[0:512,0:64]"."""
    if tuple(sizes) == tuple(shape):
        return name
    return f"{name}[{','.join(f'{begin}:{begin + size}' for begin, size in zip(offsets, sizes, strict=True))}]"


def pieces(name: str, tensor: Tensor) -> list[Piece]:
    """What this worker has of a tensor, cut along the first axis where it is more than a file should hold."""
    shape: tuple[int, ...] = tuple(tensor.shape)
    offsets, sizes = (0,) * tensor.ndim, shape
    if isinstance(tensor, DTensor):
        if tensor.device_mesh.get_coordinate() is None:
            return []
        chunk = tensor.__create_chunk_list__()[0]
        offsets, sizes = tuple(chunk.offsets), tuple(chunk.sizes)
        if tuple(tensor.to_local().shape) != sizes:
            raise CheckpointError(f"{name} cannot be kept: {tensor.placements} put no box of it on a worker")
    if 0 in sizes and 0 not in shape:
        return []
    if not shape:
        return [Piece(name, tensor.dtype, shape, offsets, sizes)]
    rows = max(1, FILE_BYTES // max(1, math.prod(sizes[1:]) * tensor.dtype.itemsize))
    return [
        Piece(
            name,
            tensor.dtype,
            shape,
            (offsets[0] + row, *offsets[1:]),
            (min(rows, sizes[0] - row), *sizes[1:]),
        )
        for row in range(0, max(sizes[0], 1), rows)
    ]


def header(parts: list[Piece]) -> bytes:
    """What stands before the values in a safetensors file that holds pieces in this order, each of at most as many bytes a
    value as the one before; so long that values of any type are aligned."""
    table: dict[str, Any] = {}
    end = 0
    for piece in parts:
        begin, end = end, end + piece.bytes
        table[piece.key] = {
            "dtype": _NAMES[piece.dtype],
            "shape": list(piece.sizes),
            "data_offsets": [begin, end],
        }
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)
    return len(text).to_bytes(8, "little") + text


# ---- tensors.json -----------------------------------------------------------------------------


def tensors_json(metadata: Metadata, files: dict[MetadataIndex, str]) -> bytes:
    """Shape, type and pieces of every tensor; `files` says in which file each piece lies."""
    table = {
        name: {
            "dtype": _NAMES[tensor.properties.dtype],
            "shape": list(tensor.size),
            "pieces": [
                [list(chunk.offsets), list(chunk.sizes), files[MetadataIndex(name, chunk.offsets)]]
                for chunk in tensor.chunks
            ],
        }
        for name, tensor in sorted(metadata.state_dict_metadata.items())
        if isinstance(tensor, TensorStorageMetadata)
    }
    return json.dumps(table, separators=(",", ":")).encode()


def read_tensors(text: bytes) -> Metadata:
    """As `torch.distributed.checkpoint` knows them; its `storage_data` says in which file, under which key each piece lies."""
    tensors: dict[str, Any] = {}
    places: dict[MetadataIndex, tuple[str, str]] = {}
    for name, entry in json.loads(text).items():
        chunks = []
        for offsets, sizes, file in entry["pieces"]:
            chunks.append(ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)))
            places[MetadataIndex(name, offsets)] = file, key(name, entry["shape"], offsets, sizes)
        properties = TensorProperties(dtype=_DTYPES[entry["dtype"]])
        tensors[name] = TensorStorageMetadata(properties, torch.Size(entry["shape"]), chunks)
    return Metadata(tensors, storage_data=places)


# ---- state.json -------------------------------------------------------------------------------


def state_json(state: dict[str, Any]) -> bytes:
    """Plain data with a checksum of its own."""
    return json.dumps(state | {"blake3": _checksum(state)}, indent=1, sort_keys=True).encode()


def read_state(text: bytes) -> dict[str, Any]:
    """The plain data.

    Raises:
        ValueError: it is not what was written.
    """
    state = json.loads(text)
    if not isinstance(state, dict) or state.pop("blake3", None) != _checksum(state):
        raise ValueError(f"{STATE} has another checksum")
    if state["format"] != FORMAT:
        raise ValueError(f"{STATE} is of format {state['format']}, this distgen reads {FORMAT}")
    return state


def _checksum(state: dict[str, Any]) -> str:
    return blake3(json.dumps(state, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
