"""Where packed bases wait for the kernels, and how a batch's rows are read from there."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from distgen.errors import ConfigError
from distgen.genome import ALIGNMENT, Int64
from distgen.store.array import Array
from distgen.store.planes import PER_BYTE
from distgen.store.reader import Store, Track

log = logging.getLogger("distgen")


class Rows(NamedTuple):
    """The part of a batch that a placement makes; see `Batch`."""

    plane: Tensor
    ambiguous: Tensor | None
    softmask: Tensor | None
    starts: Tensor
    limits: Tensor
    stride: int = 0  # bases from one row to the next where rows were gathered; 0 where the planes are whole

    def split(self, count: int) -> Iterator[Rows]:
        """The rows as so many batches of equal size, those gathered each with its own part of the planes."""
        planes = [_each(plane, count, bool(self.stride)) for plane in (self.plane, self.ambiguous, self.softmask)]
        starts, limits = self.starts.view(count, -1), self.limits.view(count, -1, 2)
        if self.stride:
            before = torch.arange(count, device=starts.device) * (starts.shape[1] * self.stride)
            starts, limits = starts - before[:, None], limits - before[:, None, None]
        return map(Rows, *planes, starts.unbind(0), limits.unbind(0))


def _each(plane: Tensor | None, count: int, gathered: bool) -> Sequence[Tensor | None]:
    return plane.view(count, -1).unbind(0) if gathered and plane is not None else [plane] * count


class Placement(Protocol):
    """Gives the kernels something to read windows from."""

    def rows(self, starts: Int64, limits: Int64, length: int) -> Rows:
        """Windows that begin at flat `starts` (B,) and may read flat `limits` (B, 2)."""


class Device:
    """Whole planes on the device: only starts travel. On a CPU that is the store's own memory map."""

    def __init__(self, store: Store, device: torch.device):
        self._planes = {name: _whole(array, device) for name, array in store.planes.items()}
        self._device = device

    def rows(self, starts: Int64, limits: Int64, length: int) -> Rows:
        plane = self._planes["sequence"]
        assert plane is not None
        begins, allowed = (torch.from_numpy(a).to(self._device, non_blocking=True) for a in (starts, limits))
        return Rows(plane, self._planes["ambiguous"], self._planes["softmask"], begins, allowed)


class Host:
    """Planes stay in memory-mapped shards; each batch's rows are copied into one small plane.

    Every row is copied from its start rounded down to 64 bases, into rows whose stride is a multiple of
    64 bases, so that one `starts` indexes all planes.
    """

    def __init__(self, store: Store, device: torch.device):
        self._planes = {n: a for n, a in store.planes.items() if n == "sequence" or not a.empty}
        self._device = device

    def rows(self, starts: Int64, limits: Int64, length: int) -> Rows:
        stride = -(-(length + ALIGNMENT - 1) // ALIGNMENT) * ALIGNMENT
        floor = starts // ALIGNMENT * ALIGNMENT
        shift = np.arange(len(starts)) * stride - floor
        planes = {name: self._gather(name, floor, limits, stride) for name in self._planes}
        clipped = np.clip(limits, floor[:, None], floor[:, None] + stride)
        return Rows(
            planes["sequence"],
            planes.get("ambiguous"),
            planes.get("softmask"),
            torch.from_numpy(starts + shift).to(self._device),
            torch.from_numpy(clipped + shift[:, None]).to(self._device),
            stride,
        )

    def _gather(self, name: str, floor: Int64, limits: Int64, stride: int) -> Tensor:
        array, per = self._planes[name], PER_BYTE[name]
        out = np.zeros((len(floor), stride // per), np.uint8)
        first = np.maximum(floor, limits[:, 0]) // per
        last = -(-np.minimum(floor + stride, limits[:, 1]) // per)
        for row, (low, high, base) in enumerate(
            zip(first.tolist(), last.tolist(), (floor // per).tolist(), strict=True)
        ):
            if low < high:
                out[row, low - base : high - base] = array[low:high]
        return torch.from_numpy(out.reshape(-1)).to(self._device)


def place(name: str, store: Store, device: torch.device) -> Placement:
    """The placement of that name; `auto` says why it chose which.

    On a GPU, the genome lives on the device if it fits into half of what is free. On a CPU, "device" means whole
    planes: taken where they are memory maps; planes of several shards would have to be copied for every worker.

    Raises:
        ConfigError: there is no such placement.
    """
    if name == "auto":
        planes = [array for array in store.planes.values() if not array.empty]
        size = sum(array.shape[0] for array in planes)
        if device.type == "cuda":
            free = torch.cuda.mem_get_info(device)[0]
            fits, why = size < free // 2, f"{free / 1e9:.1f} GB free on {device}"
        else:
            fits = all(array.mapped for array in planes)
            why = "one memory map per plane" if fits else "planes of several pieces"
        name = "device" if fits else "host"
        log.info("placement: %s (planes %.3f GB, %s)", name, size / 1e9, why)
    if name == "device":
        return Device(store, device)
    if name == "host":
        return Host(store, device)
    raise ConfigError(f'there is no placement "{name}". Valid: auto, device, host.', key="placement")


def _whole(array: Array, device: torch.device) -> Tensor | None:
    return None if array.empty else torch.from_numpy(array.read()).to(device)


class TrackRows:
    """Targets of windows from one track, held decoded in host memory."""

    def __init__(self, store: Store, track: Track):
        self._store, self._track = store, track
        self._values = track.decoded
        self._swap = np.array(track.swap)
        self.bytes_per_base = sum(block.layout.dtype.itemsize * block.shape[1] for block in track.blocks) / track.bin_bp

    def rows(
        self, starts: Int64, limits: Int64, length: int, reverse: np.ndarray[tuple[int], np.dtype[np.bool_]]
    ) -> tuple[Tensor, Tensor]:
        """Targets (B, bins, classes) and mask (B, bins) of `length` bases from flat `starts` (B,).

        A bin is known where all its bases lie inside `limits` (B, 2); a contig's last bin may be short.
        """
        contigs, bin_bp = self._store.contigs, self._track.bin_bp
        row = contigs.locate(np.maximum(starts, limits[:, 0]))
        offset, contig_end = contigs.offsets[row], contigs.offsets[row] + contigs.lengths[row]
        number = (starts - offset)[:, None] // bin_bp + np.arange(length // bin_bp)
        first = offset[:, None] + number * bin_bp
        end = np.minimum(first + bin_bp, contig_end[:, None])
        mask = (first >= limits[:, :1]) & (end <= limits[:, 1:]) & (first < end)
        index = np.where(mask, self._track.bin_offsets[row][:, None] + number, 0)
        values = self._values[index]
        values[~mask] = 0
        values[reverse] = values[reverse][:, ::-1][:, :, self._swap]
        mask[reverse] = mask[reverse][:, ::-1]
        return torch.from_numpy(values), torch.from_numpy(mask)
