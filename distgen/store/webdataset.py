"""Windows of a store as tar shards, for `webdataset` and any other reader of tar. The format: `distgen.store.exported`."""

from __future__ import annotations

import base64
import hashlib
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from distgen.config import Lengths, check_lengths, digest
from distgen.errors import ConfigError, suggest
from distgen.genome import AMBIGUOUS, MISSING, Bytes, Contigs, Int64, Interval, tiles
from distgen.ingest.objects import Place
from distgen.ingest.packing import codes_between, flags_between, pack_codes
from distgen.store import format, upload
from distgen.store.exported import (
    FORMAT,
    INDEX,
    Export,
    Shard,
    pieces,
    read_export,
    sample_json,
    sample_key,
)
from distgen.store.reader import Store, Track, open_store
from distgen.store.splits import PARTS, run_on
from distgen.store.tar import BLOCK, END, npy_header, tar_header
from distgen.store.work import Execute, Progress, Work, in_this_process, link, settle, silent, sync

__all__ = ["SHARD_BYTES", "export", "read_export"]

SHARD_BYTES = 256_000_000
_LARGEST_OBJECT = 512_000_000  # bytes: it is in memory while it is sent
_IN_MEMORY = 1 << 24  # bytes of samples at a time

Values = npt.NDArray[Any]


@dataclass(frozen=True)
class _Plan:
    """What is exported: every window of some parts, laid as the loader lays them.

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
        tracks = tuple(track.name for track in self.tracks)
        path = self.store.path
        return _planned, (
            path.resolve() if isinstance(path, Path) else path,
            *lengths,
            self.split,
            self.parts,
            tracks,
            self.shard_bytes,
        )

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


def export(
    store: Store,
    out: Place,
    *,
    window: int = 1024,
    target_length: int | None = None,
    stride: int | None = None,
    split: str = "default",
    parts: tuple[str, ...] = (),
    tracks: tuple[str, ...] = (),
    shard_bytes: int = SHARD_BYTES,
    progress: Progress = silent,
    expect: Callable[[int], None] = lambda samples: None,
    execute: Execute = in_this_process,
) -> Export:
    """Write the windows of a split as tar shards; one that was interrupted goes on with the shards that are missing.

    Args:
        store: an open store.
        out: the folder to make; it appears when everything is written. In an object store, its index does.
        window: bases per window.
        target_length: bases in the window's middle that targets cover; the whole window if None.
        stride: bases from one target to the next; `target_length` if None.
        split: name of a split.
        parts: of the split; all that are not empty if none is named.
        tracks: names of the tracks to write as targets.
        shard_bytes: about how many bytes a shard has.
        progress: called with the samples written since the last call.
        expect: hears how many there are in all.
        execute: carries out tasks, a shard each; they can be pickled, and done in any order and more than once.

    Raises:
        ConfigError: an argument does not fit the store or the others, or `out` holds something else.
        SourceError: `out` holds this export, but damaged. StoreError: the system failed, such as by a full disk.
    """
    plan = _plan(store, window, target_length, stride, split, parts, tracks, shard_bytes)
    described, shards = plan.describe(), plan.shards()
    if _is_taken(out, shards, shard_bytes):
        return _existing(out, described, shards)
    work, name = Work(out), digest([described, shard_bytes])
    expect(sum(shard.samples for shard in shards))
    with work.locked():
        sent = frozenset() if isinstance(out, Path) else frozenset(out.names())
        units = {shard.name: f"{name}-{shard.name}" for shard in shards}
        execute([partial(_finish, plan, shard, work, units[shard.name], sent) for shard in shards], progress)
        receipts = [work.receipt(units[shard.name]) or {} for shard in shards]
        named = [{"name": shard.name, "part": shard.part} for shard in shards]
        index = described | {"shards": [entry | receipt for entry, receipt in zip(named, receipts, strict=True)]}
        index |= {"checksum": digest(index)}
        if isinstance(work.out, Path):
            _publish(
                work.out, index, [work.path(unit) / shard for shard, unit in units.items()], work.folder / "export"
            )
        else:
            upload.commit(work.out / INDEX, None, format.json_bytes(index))
        work.remove()
    return read_export(out)


def _is_taken(out: Place, shards: list[Shard], shard_bytes: int) -> bool:
    """Whether there is something else than what an export that was stopped has left."""
    if isinstance(out, Path):
        return out.exists() and not (out.is_dir() and not any(out.iterdir()))
    if shard_bytes > _LARGEST_OBJECT:
        raise ConfigError(f"{shard_bytes} is more than is sent at once ({_LARGEST_OBJECT})", key="shard_bytes")
    return bool(out.names().keys() - {shard.name for shard in shards})


def _publish(out: Path, index: dict[str, Any], files: list[Path], staged: Path) -> None:
    shutil.rmtree(staged, ignore_errors=True)
    for file in files:
        link(file, staged / file.name)
    format.write_json(staged / INDEX, index)
    settle(staged)
    staged.rename(out)
    sync(out.parent)


def _finish(plan: _Plan, shard: Shard, work: Work, unit: str, sent: frozenset[str], progress: Progress) -> None:
    """Write the unit of a shard unless it is finished; send it, where the export goes to an object store."""
    here = isinstance(work.out, Path)
    if work.receipt(unit) is not None and (here or shard.name in sent):
        progress(shard.samples)
        return
    folder = work.begin(unit)
    receipt = _write(folder / shard.name, plan.samples(shard), progress)
    if not isinstance(work.out, Path):
        upload.send({shard.name: folder / shard.name}, work.out)
        (folder / shard.name).unlink()  # each worker keeps one shard on this disk
    work.finish(unit, folder, receipt)


@lru_cache(maxsize=2)
def _planned(place: Place, *asked: Any) -> _Plan:
    return _plan(open_store(place), *asked)


def _plan(
    store: Store,
    window: int,
    target_length: int | None,
    stride: int | None,
    split: str,
    parts: tuple[str, ...],
    tracks: tuple[str, ...],
    shard_bytes: int,
) -> _Plan:
    """All that can be asked wrongly is found here."""
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
    if split not in store.manifest["splits"]:
        raise ConfigError(f'store {store.path} has no split "{split}". {suggest(split, store.manifest["splits"])}')
    whole = {part: regions for part, regions in store.manifest["splits"][split].items() if part != "id" and regions}
    order = [part for part in PARTS if part in (parts or whole)]
    for part in parts:
        store.regions(part, split)
    plan = _Plan(store, split, tuple(order), window, target_length, stride, found, shard_bytes)
    for track in found:
        if len(sample_key(max(order, key=len), 0)) + len(f".{track.name}.npy") > 100:
            raise ConfigError(f'"{track.name}" is too long a name for a member of a tar file', key="tracks")
    return plan


def _existing(out: Place, described: dict[str, Any], shards: list[Shard]) -> Export:
    """The export that is there already, if it is this one."""
    if not (out / INDEX).is_file():
        raise ConfigError(f"{out} exists and is no export; give another --out")
    found = read_export(out)
    for key, value in described.items():
        if found.index.get(key) != value:
            raise ConfigError(f"{out} holds another export ({key} differs); give another --out")
    if found.shards != shards:
        raise ConfigError(f"{out} holds this export in shards of another size; give another --out")
    for shard in shards:
        found.check(shard)
    return found


def _write(path: Path, samples: Iterator[tuple[str, dict[str, bytes]]], progress: Progress) -> dict[str, Any]:
    """Write one shard; returns what the index says of it."""
    count, content = 0, hashlib.sha256()
    with path.open("wb") as file:
        for key, members in samples:
            parts = []
            for suffix, data in members.items():
                parts += [tar_header(f"{key}.{suffix}", len(data)), data, bytes(-len(data) % BLOCK)]
            sample = b"".join(parts)
            content.update(sample)
            file.write(sample)
            count += 1
            progress(1)
        content.update(END)
        file.write(END)
        size = file.tell()
    crc = base64.b64encode(pieces(np.memmap(path, np.uint8, "r"))).decode()
    return {"samples": count, "bytes": size, "sha256": content.hexdigest(), "crc32c": crc}


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
