"""Where packed bases wait for the kernels, and how the rows of batches are read from there."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from distgen.errors import ConfigError
from distgen.genome import ALIGNMENT, Int64
from distgen.loader.gather import Chunks, gather
from distgen.loader.transfer import Transfer, decoded_bytes, resident
from distgen.store.planes import PER_BYTE
from distgen.store.reader import Store

log = logging.getLogger("distgen")


class Rows(NamedTuple):
    """The part of a batch that a placement makes; see `Batch`.

    `stride` is how many bases of the planes each row has to itself, one row after another; 0 where all share the planes.
    """

    plane: Tensor
    ambiguous: Tensor | None
    softmask: Tensor | None
    starts: Tensor
    limits: Tensor
    stride: int

    def split(self, batches: int) -> list[Rows]:
        """The rows of that many batches of equal size, each with planes of its own: views, nothing is copied."""
        starts, limits = self.starts.view(batches, -1), self.limits.view(batches, -1, 2)
        planes: list[list[Tensor | None]] = [[plane] * batches for plane in self[:3]]
        if self.stride:
            shift = torch.arange(batches, device=starts.device)[:, None] * (starts.shape[1] * self.stride)
            starts, limits = starts - shift, limits - shift[..., None]
            planes = [
                [None] * batches if plane is None else list(plane.view(batches, -1).unbind()) for plane in self[:3]
            ]
        columns: Any = zip(*planes, starts.unbind(), limits.unbind(), [self.stride] * batches, strict=True)
        return [Rows._make(column) for column in columns]


class Placement(Protocol):
    """Gives the kernels something to read windows from."""

    def rows(self, positions: Int64, limits: Int64, length: int) -> Rows:
        """Windows of any number of batches, which begin at flat `positions` (n,) and may read flat `limits` (n, 2)."""


class Device:
    """Whole planes on the device, shared by all loaders of the store: only starts travel.

    Raises:
        ConfigError: the planes don't fit into what is free on the device.
    """

    def __init__(self, store: Store, transfer: Transfer):
        filled = {name: array for name, array in store.planes.items() if name == "sequence" or not array.empty}
        self._planes = dict(zip(filled, resident(list(filled.values()), transfer.device), strict=True))
        self._transfer = transfer

    def rows(self, positions: Int64, limits: Int64, length: int) -> Rows:
        planes, send, fill = self._planes, self._transfer.send, self._transfer.fill
        moved = send(fill(positions)), send(fill(limits))
        return Rows(planes["sequence"], planes.get("ambiguous"), planes.get("softmask"), *moved, stride=0)


class Host:
    """Planes stay in their shards; the rows of batches are copied into small planes.

    Every row is copied from its start rounded down to 64 bases, into rows whose stride is a multiple of
    64 bases, so that one `starts` indexes all planes.
    """

    def __init__(self, store: Store, transfer: Transfer):
        filled = {name: array for name, array in store.planes.items() if name == "sequence" or not array.empty}
        self._planes = {name: Chunks(array) for name, array in filled.items()}
        self._transfer = transfer

    def rows(self, positions: Int64, limits: Int64, length: int) -> Rows:
        stride = -(-(length + ALIGNMENT - 1) // ALIGNMENT) * ALIGNMENT
        floor = positions // ALIGNMENT * ALIGNMENT
        shift = np.arange(len(positions)) * stride - floor
        first, last = np.maximum(floor, limits[:, 0]), np.minimum(floor + stride, limits[:, 1])
        planes = {name: self._gather(name, floor, first, last, stride) for name in self._planes}
        # Clipped to the row; limits that lie beside it are empty there.
        clipped = np.stack([np.minimum(first, floor + stride), np.maximum(last, floor)], axis=1)
        send, fill = self._transfer.send, self._transfer.fill
        return Rows(
            planes["sequence"],
            planes.get("ambiguous"),
            planes.get("softmask"),
            send(fill(positions + shift)),
            send(fill(clipped + shift[:, None])),
            stride,
        )

    def _gather(self, name: str, floor: Int64, first: Int64, last: Int64, stride: int) -> Tensor:
        per = PER_BYTE[name]
        out = self._transfer.room((len(floor), stride // per), torch.uint8)
        low, high = first // per, -(-last // per)
        at = np.where(low < high, low - floor // per, 0)
        gather(self._planes[name], low, high, out.numpy(), at)
        return self._transfer.send(out.view(-1))


def place(name: str, store: Store, transfer: Transfer) -> Placement:
    """The placement of that name; `auto` says why it chose which.

    On a GPU, the genome lives on the device if it fits into half of what is free. On a CPU, whole planes have to be read
    and checked before the first batch, which is only worth it where each is one small file that is mapped as it is.

    Raises:
        ConfigError: there is no such placement, or the planes don't fit.
    """
    device = transfer.device
    if name == "auto":
        planes = [array for array in store.planes.values() if not array.empty]
        size = decoded_bytes(planes)
        if device.type == "cuda":
            free = torch.cuda.mem_get_info(device)[0]
            fits, why = size < free // 2, f"{free / 1e9:.1f} GB free on {device}"
        else:
            fits = all(array.mapped for array in planes)
            why = "each one small map" if fits else "rows are copied out of their shards, which are read as needed"
        name = "device" if fits else "host"
        log.info("placement: %s (planes %.3f GB, %s)", name, size / 1e9, why)
    if name == "device":
        return Device(store, transfer)
    if name == "host":
        return Host(store, transfer)
    raise ConfigError(f'there is no placement "{name}". Valid: auto, device, host.', key="placement")
