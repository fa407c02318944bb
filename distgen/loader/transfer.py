"""Rooms in host memory that are used again, and the way of what is in them to the device."""

from __future__ import annotations

import weakref
from collections import deque
from contextlib import AbstractContextManager, nullcontext
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distgen.errors import ConfigError
from distgen.store.array import Array

_WAITING = 8  # rooms of one size that wait to be used again
_PIECE = 1 << 25  # bytes on their way to the device at a time


class Transfer:
    """Makes tensors on the host and sends them to a device; any number of threads may.

    On a CPU, a room is used again once no tensor is left that looks into it: who keeps all batches keeps all rooms. On a
    GPU rooms are pinned, and travel on a stream beside the one that computes: PyTorch uses a pinned room again when the
    copies out of it have ended. Who takes what was sent to another stream calls `receive` there.

    Args:
        device: where tensors are to be.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self._waiting: dict[int, deque[Any]] = {}
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def room(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A tensor on the host, its content anything."""
        if self._stream is not None:
            with torch.cuda.device(self.device):  # a thread would begin with the first GPU, and take memory there
                return torch.empty(shape, dtype=dtype, pin_memory=True)
        # Powers of two: few sizes, whatever is asked for. What of a room is not written takes no memory.
        size = 1 << max(prod(shape) * dtype.itemsize - 1, 0).bit_length()
        waiting = self._waiting.setdefault(size, deque(maxlen=_WAITING))
        try:
            room = waiting.pop()
        except IndexError:
            room = np.empty(size, np.uint8)
        # Tensors hold the view, not the room: when the last of them goes, the view does, and the room is put back.
        view = room.view()
        weakref.finalize(view, waiting.append, room).atexit = False
        flat = torch.from_numpy(view)
        return flat[: prod(shape) * dtype.itemsize].view(dtype).view(shape)

    def fill(self, values: Any) -> Tensor:
        """A small array's content in a room that can be sent."""
        found = torch.from_numpy(values)
        return found if self._stream is None else self.room(tuple(found.shape), found.dtype).copy_(found)

    def send(self, tensor: Tensor) -> Tensor:
        """The tensor on the device; on a GPU it gets there when the stream of this transfer does."""
        with self.beside():
            return tensor.to(self.device, non_blocking=True)

    def beside(self) -> AbstractContextManager[Any]:
        """Work done inside is done on the stream on which things are sent, after what was sent."""
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def use(self, tensors: list[Tensor]) -> None:
        """Tensors that work done `beside` reads for as long as they are there, made elsewhere."""
        if self._stream is not None:
            for tensor in tensors:
                tensor.record_stream(self._stream)

    def sent(self) -> torch.cuda.Event | None:
        """When all that was sent until now will be there; None on a CPU, where it is."""
        return None if self._stream is None else self._stream.record_event()

    def receive(self, sent: torch.cuda.Event | None, tensors: list[Tensor]) -> None:
        """Have the current stream wait for what was sent, and keep its memory until this stream has done with it."""
        if sent is None:
            return
        stream = torch.cuda.current_stream(self.device)
        stream.wait_event(sent)
        for tensor in tensors:
            if tensor.is_cuda:
                tensor.record_stream(stream)


# ---- whole arrays on a device -----------------------------------------------------------------

_resident: weakref.WeakValueDictionary[tuple[str, str], Tensor] = weakref.WeakValueDictionary()


def resident(arrays: list[Array], device: torch.device, *, what: str, key: str) -> list[Tensor]:
    """Whole decoded arrays on a device, in their shapes; all who ask for one share it, and the last who drops it frees it.

    On a CPU, an array that is one raw file is the file's own map.

    Args:
        arrays: of a store.
        device: where to.
        what: they are, for messages.
        key: what the user set to have them there.

    Raises:
        ConfigError: they don't fit into what is free on the device.
        StoreError: a shard is missing or a chunk damaged.
    """
    found = {array.id: _resident.get((array.id, str(device))) for array in arrays}
    new = {array.id: array for array in arrays if found[array.id] is None}
    size = decoded_bytes(list(new.values()))
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else size
    if size > free:
        raise ConfigError(
            f"{what}: {size / 1e9:.3g} GB do not fit into the {free / 1e9:.3g} GB that are free on {device}; "
            "leave them on the host",
            key=key,
        )
    made = {name: _placed(array, device) for name, array in new.items()}
    _resident.update({(name, str(device)): tensor for name, tensor in made.items()})
    return [made.get(array.id, found[array.id]) for array in arrays]  # type: ignore[misc]


def decoded_bytes(arrays: list[Array]) -> int:
    """How many bytes arrays take once they are decoded."""
    return sum(prod(array.shape) * array.layout.dtype.itemsize for array in arrays)


def _placed(array: Array, device: torch.device) -> Tensor:
    if device.type != "cuda":
        return torch.from_numpy(array.read())
    rows = array.shape[0]
    example = torch.from_numpy(array[:0])
    out = torch.empty(array.shape, dtype=example.dtype, device=device)
    step = max(1, _PIECE // max(1, decoded_bytes([array]) // max(rows, 1)))
    transfer = Transfer(device)
    for first in range(0, rows, step):
        piece = torch.from_numpy(array[first : first + step])
        out[first : first + step].copy_(transfer.room(tuple(piece.shape), piece.dtype).copy_(piece), non_blocking=True)
    torch.cuda.current_stream(device).synchronize()  # whoever uses it may do so on any stream
    return out
