"""Windows out of the tar shards of an export, any of them at once: what `placement.py` and `targets.py` are for a store."""

from __future__ import annotations

import logging
import os
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from distgen.errors import ConfigError, SourceError
from distgen.genome import ALIGNMENT, Bits, Bytes, Int64
from distgen.loader.ahead import ahead
from distgen.loader.damage import Damage, Lost
from distgen.loader.exclusions import NONE
from distgen.loader.gather import Read
from distgen.loader.placement import Placement, Rows, check_cache
from distgen.loader.targets import Bins, Filling, Stored, Targets
from distgen.loader.transfer import Transfer
from distgen.store.cache import ShardCache
from distgen.store.exported import Export
from distgen.store.exported_shards import CachedShards, shards_of
from distgen.store.planes import PER_BYTE
from distgen.store.tar import BLOCK

if TYPE_CHECKING:
    from distgen.loader.indels import Pieces

log = logging.getLogger("distgen")

_OPENING = 8  # threads that check shards which are touched for the first time
_SUFFIXES = {"sequence": "seq", "ambiguous": "amb", "softmask": "soft"}


def lengths_of(
    export: Export, window: int | None, target_length: int | None, stride: int | None, jitter: int = 0
) -> tuple[int, int, int]:
    """Window, target and stride of an export, in bases; None is whatever it has.

    Raises:
        ConfigError: others were asked for, or that windows move; names the key.
    """
    own = {"window": export.window, "target_length": export.target_length, "stride": export.stride}
    for key, asked in {"window": window, "target_length": target_length, "stride": stride}.items():
        if asked not in (None, own[key]):
            raise ConfigError(
                f"{asked} is not what {export.path} was cut with, {own[key]}. Leave it out, or export again.", key=key
            )
    if jitter:
        raise ConfigError("the windows of an export cannot move. Use 0, or train on the store.", key="jitter")
    return export.window, export.target_length, export.stride


class Found(NamedTuple):
    """Where some samples lie in memory.

    Args:
        addresses: int64 (n,), of the content of each sample's first member.
        there: int64 (n,), which of the optional members each has: bit 0 `amb`, bit 1 `soft`.
        held: what must not be freed while `addresses` are in use.
    """

    addresses: Int64
    there: Int64
    held: object


class ExportRows:
    """The samples of one part of an export, as a `Placement`: each row is a sample, its first base the first of its row.

    A shard is checked, and all its headers read, by the thread that first needs it: that takes about a third of a second
    for a gigabyte in memory. From then on a sample is found by 4 bytes that are kept for each, and copied where it is
    mapped.

    Args:
        export: that is read.
        part: of the split.
        transfer: to where batches go.
        cache: keeps whole shards of an export elsewhere on the local disk, to be mapped from there.
        damage: counts what is left out because shards are damaged; if None, these are an error.

    Raises:
        ConfigError: there is no such part, the export lies elsewhere and there is no cache, or a shard is too large.
    """

    def __init__(
        self,
        export: Export,
        part: str,
        transfer: Transfer,
        cache: ShardCache | None = None,
        damage: Damage | None = None,
    ):
        from distgen.store.walking import LARGEST, Members

        self.export, self.part, self._transfer, self._damage = export, part, transfer, damage
        self._lost: set[int] = set()  # shards that are damaged
        self._regions, ends = export.tiles(part)
        self._before = np.r_[0, ends]
        self._shards = [shard for shard in export.shards if shard.part == part]
        for shard in self._shards:
            if export.entry(shard)["bytes"] > LARGEST:
                raise ConfigError(
                    f"{shard.name} has more than {LARGEST:,} bytes; export in smaller shards", key="store"
                )
        self._source = shards_of(export, cache)
        self._members = Members.of(export, part)
        self._offsets = self._members.offsets()
        self._names = {name: number for number, name in enumerate(export.layout)}
        self._places = np.zeros(export.parts[part], np.uint32)  # 0 where the shard was not read yet
        self._reading = [threading.Lock() for _ in self._shards]

    @property
    def piece(self) -> int:
        """How many samples that follow one another lie in the same shard."""
        return self.export.per_shard[self.part]

    def rows(self, positions: Int64, limits: Int64, length: int, haplotypes: Int64 | None = None) -> Rows:
        """Windows that begin at flat `positions` (n,) and may read flat `limits` (n, 2); of the export's own length, as the
        assembly has them, whatever their haplotype.

        Raises:
            SourceError: a shard is missing or damaged. Lost, in its place, where damage is counted.
        """
        assert length == self.export.window, f"samples have {self.export.window} bases, not {length}"
        stride = -(-length // ALIGNMENT) * ALIGNMENT
        found = self.find(self.samples(positions + (length - self.export.target_length) // 2), limits)
        planes = {name: self._plane(name, found, stride) for name in self.export.index["planes"]}
        starts = np.arange(len(positions)) * stride
        inside = np.clip(limits - positions[:, None], 0, length) + starts[:, None]
        send, fill = self._transfer.send, self._transfer.fill
        return Rows(
            planes["sequence"],
            planes.get("ambiguous"),
            planes.get("softmask"),
            send(fill(starts)),
            send(fill(inside)),
            stride,
        )

    def track(self, name: str, length: int, holes: Int64) -> Targets:
        """The values of a track, which come with the samples. Raises ConfigError as `ExportTrack`."""
        return ExportTrack(self, name, length, self._transfer, holes)

    def reads(self, positions: Int64, limits: Int64, length: int) -> list[Read]:
        """What these rows read out of shards that come by way of a cache: the samples, numbered through all its shards."""
        if not isinstance(self._source, CachedShards):
            return []
        samples = self.samples(positions + (length - self.export.target_length) // 2)
        rows = samples + self.export.shards.index(self._shards[0]) * self.piece
        return [Read(self._source, self.piece, rows, rows + 1)]

    def find(self, samples: Int64, limits: Int64) -> Found:
        """Where samples (n,) of the part lie; those whose limits (n, 2) are empty lie nowhere. Raises as `rows`."""
        read, numbers = limits[:, 0] < limits[:, 1], samples // self.piece
        wanted = np.unique(numbers[read])
        calls = [partial(self._whole, number) for number in wanted.tolist()]
        new = sum(not self._places[number * self.piece] for number in wanted.tolist())
        threads = min(new, _OPENING, os.cpu_count() or 1)
        held = list(ahead(calls, threads, len(calls)) if threads > 1 else (call() for call in calls))
        if self._lost and (lost := read & np.isin(numbers, list(self._lost))).any():
            raise Lost(lost)
        bases = np.array([*(0 if content is None else content.ctypes.data for content in held), 0], np.int64)
        places = np.where(read, self._places[samples], 0).astype(np.int64)
        found = bases[np.where(read, np.searchsorted(wanted, numbers), -1)] + (places >> 2) * BLOCK
        return Found(found, places & 3, held)

    def copy(self, suffix: str, found: Found, out: Bytes) -> None:
        """The content of one member of each sample into the rows of `out` uint8 (n, width); zeros where it is not there."""
        from distgen.loader.copying import copy_rows

        addresses, size = self.addresses(suffix, found), self.export.layout[suffix][0]
        zeros, each = np.zeros(len(addresses), np.int64), np.arange(len(addresses))
        copy_rows(each, each, addresses, size, zeros, np.where(addresses > 0, size, 0), out, zeros)

    def addresses(self, suffix: str, found: Found) -> Int64:
        """int64 (n,), of the content of one member of each sample; 0 where it is not there."""
        offsets = self._offsets[:, self._names[suffix]][found.there]
        return np.where((offsets >= 0) & (found.addresses > 0), found.addresses + offsets, 0)

    def _plane(self, name: str, found: Found, stride: int) -> Tensor:
        out = self._transfer.room((len(found.addresses), stride // PER_BYTE[name]), torch.uint8)
        self.copy(_SUFFIXES[name], found, out.numpy())
        return self._transfer.send(out.view(-1))

    def samples(self, target_starts: Int64) -> Int64:
        """Which samples of the part have their targets there."""
        rows = np.searchsorted(self._regions[:, 0], target_starts, side="right") - 1
        number, rest = np.divmod(target_starts - self._regions[rows, 0], self.export.stride)
        samples: Int64 = self._before[rows] + number
        assert not rest.any(), "targets that the export does not have"
        return samples

    def _whole(self, number: int) -> Bytes | None:
        """A shard; None if it is damaged, and what needs it is left out."""
        if number in self._lost:
            return None
        try:
            return self._open(number)
        except SourceError as error:
            if self._damage is None:
                raise
            self._damage.found(str(self.export.path / self._shards[number].name), error)
            self._lost.add(number)
            return None

    def _open(self, number: int) -> Bytes:
        """A shard; its samples are found, if that was not done before."""
        from distgen.store.walking import places

        shard = self._shards[number]
        content = self._source.open(shard)
        if not self._places[shard.first]:
            with self._reading[number]:
                if not self._places[shard.first]:
                    found = places(content, shard, self._members)
                    if found is None:
                        raise self.export.damage(shard, "it does not hold the samples that the index says")
                    # The first last: whoever sees it there finds all others.
                    self._places[shard.first + 1 : shard.first + shard.samples] = found[1:]
                    self._places[shard.first] = found[0]
        return content


def place_export(
    name: str, export: Export, part: str | None, transfer: Transfer, order: str, damage: Damage | None
) -> Placement:
    """The placement of that name for a part of an export; see `distgen.loader.placement.place`.

    Raises:
        ConfigError: there is no such placement, it is none for an export, or the order does not fit it; or as `ExportRows`.
    """
    assert part is not None, "an export has no windows beside those of its parts"
    elsewhere = not isinstance(export.path, Path)
    if name not in ("auto", "host", "stream"):
        raise ConfigError(
            f'"{name}" is no placement for an export, whose samples are copied out of its shards. '
            f'Use "{"stream" if elsewhere else "host"}".',
            key="placement",
        )
    size = sum(export.entry(shard)["bytes"] for shard in export.shards if shard.part == part)
    if name == "auto":
        name, why = ("stream", "the export lies elsewhere") if elsewhere else ("host", "samples are copied")
        log.info("placement: %s (shards %.3f GB, %s)", name, size / 1e9, why)
    if elsewhere and order == "flat":
        check_cache(size, export.cache)
    return ExportRows(export, part, transfer, export.cache, damage)


class ExportTrack:
    """The values of a track that come with the samples of an export, as `Targets`.

    Args:
        of: the samples.
        name: of the track.
        length: bases that values are asked of.
        holes: int64 (m, 2), flat sorted disjoint intervals; bins that touch one are unknown.

    Raises:
        ConfigError: the track was not exported, or for another length.
    """

    def __init__(self, of: ExportRows, name: str, length: int, transfer: Transfer, holes: Int64 = NONE):
        self._of, self._name, track = of, name, of.export.track(name)
        if length != of.export.target_length:
            raise ConfigError(
                f'"{name}" was exported for the {of.export.target_length} bases of targets, not for {length}',
                key="inputs",  # targets always have this length
            )
        self._head = len(of.export.layout[f"{name}.npy"][1])
        self._bins = Bins(of.export.contigs, track, length, holes)
        self._filling = Filling(self._bins, [len(track.columns)], transfer)

    def reads(self, starts: Int64, limits: Int64) -> list[Read]:
        """Values lie where the bases do."""
        return []

    def rows(
        self, starts: Int64, limits: Int64, reverse: Bits, rows: Int64 | None = None, pieces: Pieces | None = None
    ) -> tuple[Tensor, Tensor]:
        """Values (n, bins, columns) as the store had them; the mask is (n, bins, 1) of classes, else as the values."""
        assert pieces is None, "an export has no haplotypes"
        inside = self._bins.spans(starts, limits)
        found = self._of.find(self._of.samples(starts), limits)
        addresses = self._of.addresses(f"{self._name}.npy", found) + self._head
        each, zeros = np.arange(len(starts)), np.zeros(len(starts), np.int64)
        return self._filling.rows(
            inside, len(starts), reverse, [Stored(each, each, addresses, self._bins.count, zeros, 0)]
        )
