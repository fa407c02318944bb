"""Windows out of the tar shards of an export, any of them at once: what `placement.py` and `targets.py` are for a store."""

from __future__ import annotations

import os
import threading
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from distgen.errors import ConfigError
from distgen.genome import ALIGNMENT, MISSING, Bits, Bytes, Int64
from distgen.loader.ahead import ahead
from distgen.loader.placement import Rows
from distgen.loader.targets import spans
from distgen.loader.transfer import Transfer
from distgen.store.cache import ShardCache
from distgen.store.exported import Export
from distgen.store.exported_shards import shards_of
from distgen.store.planes import PER_BYTE
from distgen.store.tar import BLOCK

_OPENING = 8  # threads that check shards which are touched for the first time
_SUFFIXES = {"sequence": "seq", "ambiguous": "amb", "softmask": "soft"}
_NO_HOLES: Int64 = np.empty((0, 2), np.int64)


def lengths_of(
    export: Export, window: int | None, target_length: int | None, stride: int | None, jitter: int
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

    Raises:
        ConfigError: there is no such part, the export lies elsewhere and there is no cache, or a shard is too large.
    """

    def __init__(self, export: Export, part: str, transfer: Transfer, cache: ShardCache | None = None):
        from distgen.store.walking import LARGEST, Members

        self.export, self.part, self._transfer = export, part, transfer
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
            SourceError: a shard is missing or damaged.
        """
        assert length == self.export.window, f"samples have {self.export.window} bases, not {length}"
        stride = -(-length // ALIGNMENT) * ALIGNMENT
        found = self.find(self.samples(positions + (length - self.export.target_length) // 2))
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

    def shards(self, positions: Int64) -> Int64:
        """Numbers of the shards, in their order, that windows at flat `positions` (n,) lie in."""
        starts = positions + (self.export.window - self.export.target_length) // 2
        return np.unique(self.samples(starts) // self.piece)

    def prefetch(self, numbers: Int64) -> None:
        """Begin to fetch shards that will be needed, in this order; what goes wrong is raised when they are."""
        self._source.prefetch(self._shards[number] for number in numbers.tolist())

    def find(self, samples: Int64) -> Found:
        """Where samples (n,) of the part lie. Raises SourceError as `rows`."""
        wanted, which = np.unique(samples // self.piece, return_inverse=True)
        calls = [partial(self._open, number) for number in wanted.tolist()]
        new = sum(not self._places[number * self.piece] for number in wanted.tolist())
        threads = min(new, _OPENING, os.cpu_count() or 1)
        held = list(ahead(calls, threads, len(calls)) if threads > 1 else (call() for call in calls))
        bases = np.array([content.ctypes.data for content in held], np.int64)
        places = self._places[samples].astype(np.int64)
        return Found(bases[which] + (places >> 2) * BLOCK, places & 3, held)

    def copy(self, suffix: str, found: Found, out: Bytes) -> None:
        """The content of one member of each sample into the rows of `out` uint8 (n, width); zeros where it is not there."""
        from distgen.loader.copying import copy_rows

        addresses, size = self.addresses(suffix, found), self.export.layout[suffix][0]
        zeros, each = np.zeros(len(addresses), np.int64), np.arange(len(addresses))
        copy_rows(each, each, addresses, size, zeros, np.where(addresses > 0, size, 0), out, zeros)

    def addresses(self, suffix: str, found: Found) -> Int64:
        """int64 (n,), of the content of one member of each sample; 0 where it is not there."""
        offsets = self._offsets[:, self._names[suffix]][found.there]
        return np.where(offsets >= 0, found.addresses + offsets, 0)

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

    def __init__(self, of: ExportRows, name: str, length: int, transfer: Transfer, holes: Int64 = _NO_HOLES):
        from distgen.kernels.numba_cpu.bins import INFINITY, missing_bits

        self._of, self._name, self._transfer, self._holes = of, name, transfer, holes
        self._track = of.export.track(name)
        if length != of.export.target_length:
            raise ConfigError(
                f'"{name}" was exported for the {of.export.target_length} bases of targets, not for {length}',
                key="tracks",
            )
        self._bins, columns = length // self._track.bin_bp, len(self._track.columns)
        self._dtype = torch.from_numpy(np.empty(0, self._track.dtype)).dtype
        self._head = len(of.export.layout[f"{name}.npy"][1])
        self._columns = np.stack([np.arange(columns), np.argsort(self._track.swap)])
        self._straight = (np.diff(self._columns) == 1).all(axis=1)
        mark = MISSING if self._dtype == torch.uint8 else None
        self._meaning = INFINITY[self._dtype], missing_bits(mark, self._dtype)

    def rows(self, starts: Int64, limits: Int64, reverse: Bits, rows: Int64 | None = None) -> tuple[Tensor, Tensor]:
        """Values (n, bins, columns) as the store had them; the mask is (n, bins, 1) of classes, else as the values."""
        from distgen.kernels.numba_cpu.decode import bits_of
        from distgen.loader.copying import cut, frame, keep_rows

        classes, bin_bp = self._track.is_classes, self._track.bin_bp
        inside = spans(self._of.export.contigs, self._track, starts, limits, self._bins)
        shape = (len(starts), self._bins, len(self._track.columns))
        values = self._transfer.room(shape, self._dtype)
        known = self._transfer.room((*shape[:2], 1) if classes else shape, torch.bool)
        bits, flags = bits_of(values), known.numpy()
        frame(inside.begin, inside.stop, reverse, bits, flags, classes)
        found = self._of.find(self._of.samples(starts))
        addresses = self._of.addresses(f"{self._name}.npy", found) + self._head
        each, zeros = np.arange(len(starts)), np.zeros(len(starts), np.int64)
        keep_rows(
            each, each, addresses, self._bins, zeros, inside.begin, inside.stop, reverse,
            self._columns, self._straight, *self._meaning, not classes, bits, flags,
        )  # fmt: skip
        if len(self._holes):
            cut(self._holes, inside.bases, bin_bp, inside.begin, inside.stop, reverse, bits, flags)
        return self._transfer.send(values), self._transfer.send(known)
