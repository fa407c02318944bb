"""Where packed bases wait for the kernels, and how the rows of batches are read from there."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from distgen.errors import ConfigError
from distgen.genome import ALIGNMENT, Bytes, Int64
from distgen.loader.gather import Chunks, gather
from distgen.loader.targets import DeviceTrack, HostTrack
from distgen.loader.transfer import Transfer, decoded_bytes, resident
from distgen.store.planes import PER_BYTE
from distgen.store.reader import Store

if TYPE_CHECKING:
    from distgen.loader.haplotypes import Haplotypes

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

    def rows(self, positions: Int64, limits: Int64, length: int, haplotypes: Int64 | None) -> Rows:
        """Windows of any number of batches, which begin at flat `positions` (n,) and may read flat `limits` (n, 2), as
        `haplotypes` (n,) have them."""


class Device:
    """Whole planes on the device, shared by all loaders of the store: only starts travel.

    Raises:
        ConfigError: the planes don't fit into what is free on the device.
    """

    def __init__(self, store: Store, transfer: Transfer):
        filled = {name: array for name, array in store.planes.items() if name == "sequence" or not array.empty}
        placed = resident(list(filled.values()), transfer.device, what="the planes", key="placement")
        self._planes = dict(zip(filled, placed, strict=True))
        self._transfer = transfer

    def rows(self, positions: Int64, limits: Int64, length: int, haplotypes: Int64 | None = None) -> Rows:
        planes, send, fill = self._planes, self._transfer.send, self._transfer.fill
        moved = send(fill(positions)), send(fill(limits))
        return Rows(planes["sequence"], planes.get("ambiguous"), planes.get("softmask"), *moved, stride=0)


class Host:
    """Planes stay in their shards; the rows of batches are copied into small planes.

    Every row is copied from its start rounded down to 64 bases, into rows whose stride is a multiple of
    64 bases, so that one `starts` indexes all planes.
    """

    def __init__(self, store: Store, transfer: Transfer, haplotypes: Haplotypes | None = None):
        filled = {name: array for name, array in store.planes.items() if name == "sequence" or not array.empty}
        self._planes = {name: Chunks(array) for name, array in filled.items()}
        self._transfer, self._haplotypes = transfer, haplotypes

    def rows(self, positions: Int64, limits: Int64, length: int, haplotypes: Int64 | None = None) -> Rows:
        stride = -(-(length + ALIGNMENT - 1) // ALIGNMENT) * ALIGNMENT
        floor = positions // ALIGNMENT * ALIGNMENT
        shift = np.arange(len(positions)) * stride - floor
        first, last = np.maximum(floor, limits[:, 0]), np.minimum(floor + stride, limits[:, 1])
        planes = {name: self._gather(name, floor, first, last, stride) for name in self._planes}
        if self._haplotypes is not None and haplotypes is not None:
            changed = self._haplotypes.apply(
                planes["sequence"].numpy(), _array(planes.get("ambiguous")), positions, limits, length, haplotypes
            )
            if changed is not None and "ambiguous" not in planes:
                planes["ambiguous"] = torch.from_numpy(changed)
        # Clipped to the row; limits that lie beside it are empty there.
        clipped = np.stack([np.minimum(first, floor + stride), np.maximum(last, floor)], axis=1)
        send, fill = self._transfer.send, self._transfer.fill
        sent = {name: send(plane.view(-1)) for name, plane in planes.items()}
        return Rows(
            sent["sequence"],
            sent.get("ambiguous"),
            sent.get("softmask"),
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
        return out


def _array(tensor: Tensor | None) -> Bytes | None:
    return None if tensor is None else tensor.numpy()


def place(
    name: str, store: Store, transfer: Transfer, haplotypes: Haplotypes | None = None, order: str = "grouped"
) -> Placement:
    """The placement of that name; `auto` says why it chose which.

    On a GPU, the genome lives on the device if it fits into half of what is free. On a CPU, whole planes have to be read
    and checked before the first batch, which is only worth it where each is one small file that is mapped as it is.

    Raises:
        ConfigError: there is no such placement, the planes don't fit, or the order does not.
    """
    elsewhere = not isinstance(store.path, Path)
    if name == "auto":
        name, why = _chosen(store, transfer.device, elsewhere, haplotypes is not None)
        size = decoded_bytes([array for array in store.planes.values() if not array.empty])
        log.info("placement: %s (planes %.3f GB, %s)", name, size / 1e9, why)
    if name == "device":
        if haplotypes is not None:
            raise ConfigError('haplotypes are put into copied rows. Use "host".', key="placement")
        return Device(store, transfer)
    if name not in ("host", "stream"):
        raise ConfigError(f'there is no placement "{name}". Valid: auto, device, host, stream.', key="placement")
    if elsewhere and order == "flat":
        _check_cache(store)
    return Host(store, transfer, haplotypes)


def _chosen(store: Store, device: torch.device, elsewhere: bool, personal: bool) -> tuple[str, str]:
    """What `auto` takes, and why."""
    if elsewhere:
        return "stream", "the store lies elsewhere"
    if personal:
        return "host", "haplotypes are put into copied rows"
    planes = [array for array in store.planes.values() if not array.empty]
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        return "device" if decoded_bytes(planes) < free // 2 else "host", f"{free / 1e9:.1f} GB free on {device}"
    if all(array.mapped for array in planes):
        return "device", "each one small map"
    return "host", "rows are copied out of their shards, which are read as needed"


def _check_cache(store: Store) -> None:
    """Whatever order that jumps about in a store elsewhere needs all of it here."""
    size, cache = decoded_bytes(list(store.planes.values())), store.cache
    if cache is not None and size > cache.max_bytes:
        raise ConfigError(
            f'"flat" reads all shards at any time, {size / 1e9:.3g} GB, and the cache keeps {cache.max_bytes / 1e9:.3g} GB. '
            'Use "grouped", or a larger cache.',
            key="order",
        )


def place_track(
    placement: Placement, store: Store, name: str, length: int, transfer: Transfer, holes: Int64
) -> HostTrack | DeviceTrack:
    """A track where its values are read from: the device if the planes live there and the track fits, too."""
    track, device = store.track(name), transfer.device
    if isinstance(placement, Device) and device.type == "cuda":
        size, free = decoded_bytes(list(track.blocks)), torch.cuda.mem_get_info(device)[0]
        log.info("track %s: %.3f GB, %.1f GB free on %s", name, size / 1e9, free / 1e9, device)
        if size < free // 2:
            return DeviceTrack(store, track, length, transfer, holes)
    return HostTrack(store, track, length, transfer, holes)
