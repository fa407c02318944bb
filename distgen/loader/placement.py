"""Where packed bases wait for the kernels, and how the rows of batches are read from there."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from distgen.errors import ConfigError, DamageError
from distgen.genome import ALIGNMENT, AMBIGUOUS, Int64
from distgen.loader.damage import Damage, Lost
from distgen.loader.gather import Chunks, Read, gather
from distgen.loader.targets import DeviceTrack, HostTrack, Targets
from distgen.loader.transfer import Transfer, decoded_bytes, resident
from distgen.store.cache import ShardCache
from distgen.store.planes import PER_BYTE
from distgen.store.reader import Store

if TYPE_CHECKING:
    from distgen.loader.haplotypes import Haplotypes
    from distgen.loader.indels import Moved, Pieces

log = logging.getLogger("distgen")


class Rows(NamedTuple):
    """The part of a batch that a placement makes; see `Batch`.

    `stride` is how many bases of the planes each row has to itself, one row after another; 0 where all share the planes.
    `pieces` is what the windows are put together of; None where each is one stretch.
    """

    plane: Tensor
    ambiguous: Tensor | None
    softmask: Tensor | None
    starts: Tensor
    limits: Tensor
    stride: int
    pieces: Pieces | None = None

    def split(self, batches: int) -> list[Rows]:
        """The rows of that many batches of equal size, each with planes of its own, without `pieces`: views, nothing is copied."""
        starts, limits = self.starts.view(batches, -1), self.limits.view(batches, -1, 2)
        planes: list[list[Tensor | None]] = [[plane] * batches for plane in self[:3]]
        if self.stride:
            shift = torch.arange(batches, device=starts.device)[:, None] * (starts.shape[1] * self.stride)
            starts, limits = starts - shift, limits - shift[..., None]
            planes = [
                [None] * batches if plane is None else list(plane.view(batches, -1).unbind()) for plane in self[:3]
            ]
        columns: Any = zip(*planes, starts.unbind(), limits.unbind(), [self.stride] * batches, strict=True)
        return [Rows(*column) for column in columns]


class Placement(Protocol):
    """Gives the kernels something to read windows from."""

    def rows(self, positions: Int64, limits: Int64, length: int, haplotypes: Int64 | None) -> Rows:
        """Windows of any number of batches, which begin at flat `positions` (n,) and may read flat `limits` (n, 2), as
        `haplotypes` (n,) have them."""

    def reads(self, positions: Int64, limits: Int64, length: int) -> list[Read]:
        """What these rows read out of shards."""

    def track(self, name: str, length: int, holes: Int64) -> Targets:
        """The values of a track along `length` bases; bins that touch `holes` are unknown. Raises ConfigError: it has none."""


class Device:
    """Whole planes on the device, shared by all loaders of the store: only starts travel, and what haplotypes have in place
    of the assembly's bases; their windows are copied there into small planes, as those of `Host` are.

    Raises:
        ConfigError: the planes don't fit into what is free on the device.
    """

    def __init__(
        self,
        store: Store,
        transfer: Transfer,
        haplotypes: Haplotypes | None = None,
        damage: Damage | None = None,
    ):
        filled = {name: array for name, array in store.planes.items() if name == "sequence" or not array.empty}
        placed = resident(list(filled.values()), transfer.device, what="the planes", key="placement")
        transfer.use(placed)
        self._planes = dict(zip(filled, placed, strict=True))
        self._store, self._transfer, self._haplotypes, self._damage = store, transfer, haplotypes, damage

    def rows(self, positions: Int64, limits: Int64, length: int, haplotypes: Int64 | None = None) -> Rows:
        planes, send, fill = self._planes, self._transfer.send, self._transfer.fill
        if self._haplotypes is not None and haplotypes is not None:
            return self._changed(self._haplotypes, positions, limits, length, haplotypes)
        # A copy: on a CPU it would share its memory with the batch's own positions.
        moved = send(fill(positions.copy())), send(fill(limits))
        return Rows(planes["sequence"], planes.get("ambiguous"), planes.get("softmask"), *moved, stride=0)

    def reads(self, positions: Int64, limits: Int64, length: int) -> list[Read]:
        return []

    def track(self, name: str, length: int, holes: Int64) -> Targets:
        """On a GPU as well, if it is whole and fits into half of what is free."""
        track, device = self._store.track(name), self._transfer.device
        if device.type == "cuda":
            size, free = decoded_bytes(list(track.blocks)), torch.cuda.mem_get_info(device)[0]
            log.info("track %s: %.3f GB, %.1f GB free on %s", name, size / 1e9, free / 1e9, device)
            if size < free // 2:
                try:
                    return DeviceTrack(self._store, track, length, self._transfer, holes)
                except DamageError as error:
                    if self._damage is None:
                        raise
                    log.warning("track %s: it stays in its shards, since it is not whole: %s", name, error)
        return HostTrack(self._store, track, length, self._transfer, holes, self._damage)

    def _changed(self, haplotypes: Haplotypes, positions: Int64, limits: Int64, length: int, copies: Int64) -> Rows:
        send, fill = self._transfer.send, self._transfer.fill
        layout = _Layout.of(positions, limits, length)
        found = haplotypes.replacements(positions, limits, length, copies)
        at = found.position + torch.from_numpy(layout.shift)[found.rows]
        planes = {}
        with self._transfer.beside():
            floor_B1 = send(fill(layout.floor))[:, None]
            for name, plane in self._planes.items():
                per = PER_BYTE[name]
                index = floor_B1 // per + torch.arange(layout.stride // per, device=plane.device)
                planes[name] = plane[index.clamp(0, len(plane) - 1)].view(-1)  # no kernel reads beyond limits
            put(planes, send(fill(at.numpy())), send(fill(found.inserted.numpy())), haplotypes.unknown)
        moved = send(fill(positions + layout.shift)), send(fill(layout.limits))
        return Rows(planes["sequence"], planes.get("ambiguous"), planes.get("softmask"), *moved, layout.stride)


class Host:
    """Planes stay in their shards; the rows of batches are copied into small planes.

    Every row is copied from its start rounded down to 64 bases, into rows whose stride is a multiple of
    64 bases, so that one `starts` indexes all planes.
    """

    def __init__(
        self,
        store: Store,
        transfer: Transfer,
        haplotypes: Haplotypes | None = None,
        damage: Damage | None = None,
    ):
        needed = {"sequence"} | ({"ambiguous"} if haplotypes is not None and haplotypes.unknown else set())
        filled = {name: array for name, array in store.planes.items() if name in needed or not array.empty}
        self.planes = {name: Chunks(array, damage) for name, array in filled.items()}
        self._store, self._transfer, self._haplotypes, self._damage = store, transfer, haplotypes, damage

    def rows(self, positions: Int64, limits: Int64, length: int, haplotypes: Int64 | None = None) -> Rows:
        pieces = None
        if self._haplotypes is not None and haplotypes is not None:
            pieces = self._haplotypes.pieces(positions, limits, length, haplotypes)
        moved = pieces and pieces.moved(length, len(positions))
        if moved is None or haplotypes is None:
            layout = _Layout.of(positions, limits, length)
            rooms = self._rooms(positions, limits, layout, length, haplotypes)
        else:
            there, made = limits.copy(), limits.copy()
            there[moved.rows], made[moved.rows, 1] = 0, positions[moved.rows] + moved.made
            layout = _Layout.of(positions, made, length)
            rooms = self._rooms(positions, there, _Layout.of(positions, there, length), length, haplotypes)
            for some in moved.groups(length):
                self._join(rooms, moved.some(some), positions + layout.shift, length, haplotypes)
        send, fill = self._transfer.send, self._transfer.fill
        planes = {name: send(room.view(-1)) for name, room in rooms.items()}
        return Rows(
            planes["sequence"],
            planes.get("ambiguous"),
            planes.get("softmask"),
            send(fill(positions + layout.shift)),
            send(fill(layout.limits)),
            layout.stride,
            pieces,
        )

    def reads(self, positions: Int64, limits: Int64, length: int) -> list[Read]:
        layout = _Layout.of(positions, limits, length)
        return [
            Read(chunks.array, chunks.array.layout.shard, *layout.bytes_of(name))
            for name, chunks in self.planes.items()
        ]

    def track(self, name: str, length: int, holes: Int64) -> Targets:
        return HostTrack(self._store, self._store.track(name), length, self._transfer, holes, self._damage)

    def _rooms(
        self, positions: Int64, limits: Int64, layout: _Layout, length: int, copies: Int64 | None, spare: int = 0
    ) -> dict[str, Tensor]:
        """The bases of windows and, in `copies` of them, substitutions: rows of each plane, and some to spare behind them."""
        rooms, count = {}, len(positions)
        for name, chunks in self.planes.items():
            per, (low, high) = PER_BYTE[name], layout.bytes_of(name)
            rooms[name] = self._transfer.room((count + spare, layout.stride // per), torch.uint8)
            at = np.where(low < high, low - layout.floor // per, 0)
            gather(chunks, low, high, rooms[name].numpy()[:count], at)
        if self._haplotypes is not None and copies is not None:
            ambiguous = rooms["ambiguous"].numpy()[:count] if "ambiguous" in rooms else None
            sequence = rooms["sequence"].numpy()[:count]
            self._haplotypes.apply(sequence, ambiguous, positions, limits, length, copies)
        return rooms

    def _join(self, rooms: dict[str, Tensor], moved: Moved, starts: Int64, length: int, copies: Int64) -> None:
        """Put windows with insertions and deletions into their rows, which are zero; `starts` are all windows' there."""
        assert self._haplotypes is not None
        begins, wide = moved.read[:, 0], int((moved.read[:, 1] - moved.read[:, 0]).max(initial=0))
        layout = _Layout.of(begins, moved.read, wide)
        try:
            staged = self._rooms(begins, moved.read, layout, wide, copies[moved.rows], spare=1)
        except Lost as lost:
            raise Lost(np.isin(np.arange(len(starts)), moved.rows[lost.rows])) from None
        pieces = moved.pieces
        here = pieces.first + layout.shift[np.searchsorted(moved.rows, pieces.rows)]
        planes = ({name: room.numpy() for name, room in made.items()} for made in (staged, rooms))
        source, target = planes
        self._haplotypes.join(source, here, pieces, length, starts[pieces.rows], target)


class _Layout(NamedTuple):
    """Where windows lie in rows: each from its start rounded down to 64 bases, `stride` bases from one row to the next.

    Args:
        floor: int64 (n,), flat, where each row begins.
        first, last: int64 (n,), flat: what of the row its limits allow.
        shift: int64 (n,), from the flat coordinate to that of the rows.
        limits: int64 (n, 2), of the rows; those that lie beside a row are empty there.
        stride: a multiple of 64.
    """

    floor: Int64
    first: Int64
    last: Int64
    shift: Int64
    limits: Int64
    stride: int

    @classmethod
    def of(cls, positions: Int64, limits: Int64, length: int) -> _Layout:
        stride = -(-(length + ALIGNMENT - 1) // ALIGNMENT) * ALIGNMENT
        floor = positions // ALIGNMENT * ALIGNMENT
        shift = np.arange(len(positions)) * stride - floor
        # Not to the end of the row: that may lie in another chunk, and what is damaged there does not matter.
        end = -(-(positions + length) // ALIGNMENT) * ALIGNMENT
        first, last = np.maximum(floor, limits[:, 0]), np.minimum(end, limits[:, 1])
        clipped = np.stack([np.minimum(first, floor + stride), np.maximum(last, floor)], axis=1)
        return cls(floor, first, last, shift, clipped + shift[:, None], stride)

    def bytes_of(self, name: str) -> tuple[Int64, Int64]:
        """The bytes [first, last) of a plane that hold each row's bases; none where `first` is not below `last`."""
        per = PER_BYTE[name]
        return self.first // per, np.where(self.first < self.last, -(-self.last // per), self.first // per)


def put(planes: dict[str, Tensor], at: Tensor, codes: Tensor, unknown: bool) -> None:
    """Put bases into packed planes, which are replaced in `planes`.

    Args:
        planes: "sequence" uint8 (bytes,), and "ambiguous" if there is one.
        at: int64 (n,), which bases; each once.
        codes: uint8 (n,), what they become; ambiguous is 4.
        unknown: "ambiguous" is made if there is none.
    """
    sequence, known = planes["sequence"], codes < AMBIGUOUS
    if unknown and "ambiguous" not in planes:
        planes["ambiguous"] = sequence.new_zeros(len(sequence) // 2)
    changes = {"sequence": (3, torch.where(known, codes, 0)), "ambiguous": (1, (~known).to(torch.uint8))}
    for name in changes.keys() & planes.keys():
        plane, (bits, values), per = planes[name], changes[name], PER_BYTE[name]
        byte, shift = at // per, (at % per * (8 // per)).to(torch.uint8)
        # Several bases may share a byte, but no bits of it: their sum is what "or" would give.
        gone, new = torch.zeros_like(plane), torch.zeros_like(plane)
        gone.index_add_(0, byte, torch.full_like(shift, bits) << shift)
        new.index_add_(0, byte, values << shift)
        planes[name] = plane & ~gone | new


def place(
    name: str,
    store: Store,
    transfer: Transfer,
    haplotypes: Haplotypes | None = None,
    order: str = "grouped",
    damage: Damage | None = None,
) -> Placement:
    """The placement of that name; `auto` says why it chose which.

    On a GPU, the genome lives on the device if it fits into half of what is free. On a CPU, whole planes have to be read
    and checked before the first batch, which is only worth it where each is one small file that is mapped as it is.

    Planes that are damaged stay in their shards if `damage` counts what is left out.

    Raises:
        ConfigError: there is no such placement, the planes don't fit, or the order does not.
    """
    elsewhere = not isinstance(store.path, Path)
    if name == "auto":
        name, why = _chosen(store, transfer.device, elsewhere, haplotypes)
        size = decoded_bytes([array for array in store.planes.values() if not array.empty])
        log.info("placement: %s (planes %.3f GB, %s)", name, size / 1e9, why)
    if name == "device":
        if haplotypes is not None and haplotypes.resized:
            problem = 'windows with insertions and deletions are made on the host. Use "auto" or "host".'
            raise ConfigError(problem, key="placement")
        try:
            return Device(store, transfer, haplotypes, damage)
        except DamageError as error:
            if damage is None:
                raise
            log.warning("placement: host, since the planes are not whole: %s", error)
            name = "host"
    if name not in ("host", "stream"):
        raise ConfigError(f'there is no placement "{name}". Valid: auto, device, host, stream.', key="placement")
    if elsewhere and order == "flat":
        check_cache(decoded_bytes(list(store.planes.values())), store.cache)
    return Host(store, transfer, haplotypes, damage)


def _chosen(store: Store, device: torch.device, elsewhere: bool, haplotypes: Haplotypes | None) -> tuple[str, str]:
    """What `auto` takes, and why."""
    if elsewhere:
        return "stream", "the store lies elsewhere"
    if haplotypes is not None and (haplotypes.resized or device.type == "cpu"):
        return "host", "haplotypes are put into copied rows"
    planes = [array for array in store.planes.values() if not array.empty]
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        return "device" if decoded_bytes(planes) < free // 2 else "host", f"{free / 1e9:.1f} GB free on {device}"
    if all(array.mapped for array in planes):
        return "device", "each one small map"
    return "host", "rows are copied out of their shards, which are read as needed"


def check_cache(size: int, cache: ShardCache | None) -> None:
    """An order that jumps about in so many bytes elsewhere needs all of them here. Raises ConfigError: they don't fit."""
    if cache is not None and size > cache.max_bytes:
        raise ConfigError(
            f'"flat" reads all shards at any time, {size / 1e9:.3g} GB, and the cache keeps {cache.max_bytes / 1e9:.3g} GB. '
            'Use "grouped", or a larger cache.',
            key="order",
        )
