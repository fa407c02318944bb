"""Which windows of a store an export has, and the members of each sample. What they are: `distgen.store.exported`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from distgen.config import Lengths, check_lengths
from distgen.errors import ConfigError
from distgen.genome import AMBIGUOUS, MISSING, Bytes, Contigs, Int64, Interval, tiles
from distgen.ingest.objects import Place
from distgen.ingest.packing import codes_between, flags_between, pack_codes
from distgen.store.exported import FORMAT, Shard, sample_json, sample_key
from distgen.store.reader import Store, Track, open_store
from distgen.store.splits import PARTS, run_on
from distgen.store.tar import BLOCK, npy_header

_IN_MEMORY = 1 << 24  # bytes of samples at a time

Values = npt.NDArray[Any]


@dataclass(frozen=True)
class Plan:
    """What is exported: every window of some parts, laid as the loader lays them. Made by `plan_of`; it can be pickled.

    Targets of a region follow each other every `stride` bases from its start (in whole bins of the coarsest track)
    until it is covered; a window lies centred on its target, and what sticks out of the region is not known.
    """

    store: Store
    split: str
    parts: tuple[str, ...]
    window: int
    target_length: int
    stride: int
    tracks: tuple[Track, ...]
    shard_bytes: int

    def __reduce__(self) -> tuple[Any, ...]:
        # Where it is unpickled, the store is opened and all is reckoned again: less than an open store is to carry.
        lengths = self.window, self.target_length, self.stride
        tracks, path = tuple(track.name for track in self.tracks), self.store.path
        place = path.resolve() if isinstance(path, Path) else path
        return _planned, (place, *lengths, self.split, self.parts, tracks, self.shard_bytes)

    @cached_property
    def regions(self) -> dict[str, Int64]:
        """Flat (n, 2) per part, each beginning on a bin."""
        unit, contigs = max([track.bin_bp for track in self.tracks], default=1), self.store.contigs
        found = {}
        for part in self.parts:
            found[part] = contigs.align(self.store.regions(part, self.split), unit)
            if not len(found[part]):
                raise ConfigError(f'part "{part}" has no stretch as long as a bin of {unit} bases')
        return found

    @cached_property
    def ends(self) -> dict[str, Int64]:
        """How many windows there are up to the end of each region."""
        lengths = self.target_length, self.stride
        return {part: np.cumsum(tiles(found, *lengths)) for part, found in self.regions.items()}

    def shape(self, track: Track) -> tuple[int, int]:
        """Of a sample's targets."""
        return self.target_length // track.bin_bp, len(track.columns)

    def shards(self) -> list[Shard]:
        """As many samples in each as fit if no base is ambiguous and all have some soft mask."""
        sizes = [-(-self.window // 4), BLOCK]
        sizes += [] if self.store.planes["softmask"].empty else [-(-self.window // 8)]
        sizes += [128 + math.prod(self.shape(track)) * track.dtype.itemsize for track in self.tracks]
        per_shard = max(1, self.shard_bytes // sum(BLOCK + size + -size % BLOCK for size in sizes))
        return [
            Shard(part, number, first, min(per_shard, int(ends[-1]) - first))
            for part, ends in self.ends.items()
            for number, first in enumerate(range(0, int(ends[-1]), per_shard))
        ]

    def describe(self) -> dict[str, Any]:
        """The index without its shards."""
        names = tuple(track.name for track in self.tracks)
        identity = self.store.identity(self.split, names)
        tracks = {
            track.name: {
                "columns": list(track.columns),
                "bin_bp": track.bin_bp,
                "swap": list(track.swap),
                "classes": track.is_classes,
                "scale": track.scale,
                "power": track.power,
                "soft_clip": track.soft_clip,
                "dtype": track.dtype.name,
                "shape": list(self.shape(track)),
            }
            for track in self.tracks
        }
        contigs = self.store.contigs
        return {
            "format": FORMAT,
            "assembly": self.store.name,
            "identity": identity,
            "split": self.split,
            "parts": {part: int(ends[-1]) for part, ends in self.ends.items()},
            "geometry": {"window": self.window, "target_length": self.target_length, "stride": self.stride},
            "regions": {part: run_on(regions, contigs).tolist() for part, regions in self.regions.items()},
            "planes": [name for name, plane in self.store.planes.items() if name == "sequence" or not plane.empty],
            "tracks": tracks,
            "contigs": {
                "name": list(contigs.names),
                "length": contigs.lengths.tolist(),
                "circular": list(contigs.circular),
            },
        }

    def samples(self, shard: Shard) -> Iterator[tuple[str, dict[str, bytes]]]:
        """Key and members of every sample of a shard."""
        dense = 1 + sum(len(track.columns) * track.dtype.itemsize / track.bin_bp for track in self.tracks)
        most = max(1, int(_IN_MEMORY / (dense * max(self.window, self.stride))))
        ends, sample, last = self.ends[shard.part], shard.first, shard.first + shard.samples
        while sample < last:
            region = int(np.searchsorted(ends, sample, side="right"))
            number = sample - (int(ends[region - 1]) if region else 0)
            count = min(last - sample, int(ends[region]) - sample, most)
            for members in self._cut(shard.part, region, number, count):
                yield sample_key(shard.part, sample), members
                sample += 1

    def _cut(self, part: str, region: int, number: int, count: int) -> Iterator[dict[str, bytes]]:
        """Windows that follow each other in a region."""
        first, last = self.regions[part][region].tolist()
        target = first + number * self.stride
        start = target - (self.window - self.target_length) // 2
        codes, soft = _bases(self.store, start, start + (count - 1) * self.stride + self.window, first, last)
        codes, soft = (_rows(plane, self.stride, self.window, -self.window % 4) for plane in (codes, soft))
        ambiguous = codes == AMBIGUOUS
        packed = pack_codes(np.where(ambiguous, np.uint8(0), codes).reshape(-1)).reshape(count, -1)
        flags = {"amb": _flags(ambiguous), "soft": _flags(soft)}
        targets = {}
        for track in self.tracks:
            length = (count - 1) * self.stride + self.target_length
            bins = _bins(self.store.contigs, track, target, length // track.bin_bp, last)
            head = npy_header(bins.dtype, self.shape(track))
            targets[f"{track.name}.npy"] = head, _rows(bins, self.stride // track.bin_bp, self.shape(track)[0])
        row = int(self.store.contigs.locate(first))
        contig, offset = self.store.contigs.names[row], int(self.store.contigs.offsets[row])
        for i in range(count):
            begin = start + i * self.stride
            where = Interval(contig, begin - offset, begin - offset + self.window, "+")
            members = {"seq": packed[i].tobytes()}
            members |= {suffix: plane[i].tobytes() for suffix, plane in flags.items() if plane[i].any()}
            members |= {suffix: head + values[i].tobytes() for suffix, (head, values) in targets.items()}
            overhang = max(first - begin, 0), max(begin + self.window - last, 0)
            members["json"] = sample_json(where, part, overhang)
            yield members


@lru_cache(maxsize=2)
def _planned(place: Place, *asked: Any) -> Plan:
    return plan_of(open_store(place), *asked)


def plan_of(
    store: Store,
    window: int,
    target_length: int | None,
    stride: int | None,
    split: str,
    parts: tuple[str, ...],
    tracks: tuple[str, ...],
    shard_bytes: int,
) -> Plan:
    """The windows that `webdataset.export` is asked for; its arguments. All that can be asked wrongly is found here.

    Raises:
        ConfigError: an argument does not fit the store or the others.
    """
    numbers = {"window": window, "target_length": target_length, "stride": stride, "shard_bytes": shard_bytes}
    for key, value in numbers.items():
        if value is not None and value < 1:
            raise ConfigError(f"{value} is not above 0", key=key)
    found = tuple(store.track(name) for name in sorted(tracks))
    bins = [(track.name, track.bin_bp) for track in found]
    asked = Lengths(epochs=1, window=window, target_length=target_length, stride=stride)
    window, target_length, stride = check_lengths(asked, 0, bins)
    coarsest = max(found, key=lambda track: track.bin_bp, default=None)
    for track in found:
        if coarsest and coarsest.bin_bp % track.bin_bp:
            raise ConfigError(
                f'the bins of "{coarsest.name}" ({coarsest.bin_bp} bp) are no whole bins of "{track.name}" '
                f"({track.bin_bp} bp); export them apart",
                key="tracks",
            )
    # webdataset reads suffixes in lower case.
    if len({name.lower() for name in tracks}) < len(tracks):
        raise ConfigError(
            f"of {', '.join(tracks)}, two have the same name in lower case; export them apart", key="tracks"
        )
    order = [part for part in PARTS if part in (parts or store.parts(split))]
    for part in parts:
        store.regions(part, split)
    plan = Plan(store, split, tuple(order), window, target_length, stride, found, shard_bytes)
    for track in found:
        if len(sample_key(max(order, key=len), 0)) + len(f".{track.name}.npy") > 100:
            raise ConfigError(f'"{track.name}" is too long a name for a member of a tar file', key="tracks")
    return plan


def _missing(dtype: np.dtype[Any]) -> float:
    return MISSING if dtype == np.uint8 else math.nan


def _bases(store: Store, start: int, end: int, first: int, last: int) -> tuple[Bytes, npt.NDArray[np.bool_]]:
    """Codes and soft mask of a flat stretch (end - start,); outside `first` to `last` code 4, not masked."""
    codes, soft = np.full(end - start, AMBIGUOUS, np.uint8), np.zeros(end - start, bool)
    low, high = max(start, first), min(end, last)
    inside = slice(low - start, high - start)
    codes[inside] = codes_between(store.planes["sequence"], store.planes["ambiguous"], low, high)
    soft[inside] = flags_between(store.planes["softmask"], low, high)
    return codes, soft


def _bins(contigs: Contigs, track: Track, start: int, count: int, last: int) -> Values:
    """Values (count, columns) of bins from flat `start` on; those not wholly before `last` are not known.

    The last bin of a contig may be short.
    """
    row = int(contigs.locate(start))
    offset, length = int(contigs.offsets[row]), int(contigs.lengths[row])
    bin_, end = (start - offset) // track.bin_bp, last - offset
    known = min((-(-end // track.bin_bp) if end == length else end // track.bin_bp) - bin_, count)
    values = np.full((count, len(track.columns)), _missing(track.dtype), track.dtype)
    first = int(track.bin_offsets[row]) + bin_
    values[:known] = track[first : first + known]
    return values


def _rows(values: Values, step: int, length: int, padding: int = 0) -> Values:
    """Values (n, ...) to rows (rows, length + padding, ...), one every `step`; the padding is zeros."""
    view = np.moveaxis(np.lib.stride_tricks.sliding_window_view(values, length, axis=0)[::step], -1, 1)
    return np.pad(view, ((0, 0), (0, padding))) if padding else view


def _flags(rows: npt.NDArray[np.bool_]) -> Bytes:
    return np.packbits(rows, axis=1, bitorder="little")
