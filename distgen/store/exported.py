"""What `distgen export` writes, and reading it back with every check.

A folder holds `PART-000000.tar` and so on, and `index.json`, which says where each sample lies: the targets of a part tile
its regions (flat, each beginning on a bin of the coarsest track), and its samples are these tiles in their order. Every
shard of a part holds equally many, the last one what is left. Every sample is some members, in this order:

    KEY.seq         packed bases: base i in bits 2*(i % 4) of byte i // 4; an ambiguous base is stored as 0
    KEY.amb         where a base is ambiguous: base i in bit i % 8 of byte i // 8
    KEY.soft        where a base is soft-masked: likewise
    KEY.TRACK.npy   targets (bins, columns) as the store has them; NaN (in uint8: 255) where nothing is known
    KEY.json        contig, start, end (0-based, half-open; start is below 0 where the window sticks out of its contig),
                    strand, length, part, and how many bases at either end lie outside the part's region

`KEY.amb` and `KEY.soft` are left out where they would say nothing. KEY is the part and the number of the sample in
it, in 12 digits. Members are ustar (POSIX.1-1988) without times and owners: equal content is equal bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from distgen.config import digest
from distgen.errors import ConfigError, SourceError, named
from distgen.genome import ALIGNMENT, AMBIGUOUS, BASES, Bytes, Contigs, Int64, Interval, tiles
from distgen.ingest.objects import RANGE, Object, Place
from distgen.ingest.packing import unpack_codes
from distgen.store import format
from distgen.store.cache import ShardCache
from distgen.store.format import crc32c
from distgen.store.ranges import Ranges, open_bytes
from distgen.store.reader import Track
from distgen.store.splits import PARTS, intervals
from distgen.store.tar import npy_header, read_members

FORMAT = 2
INDEX = "index.json"
LARGEST_JSON = 1 << 16
PIECE = 1 << 20  # bytes of a shard, for each of which the index has a CRC-32C
_DTYPES = ("uint8", "float16", "float32")


@dataclass(frozen=True)
class Shard:
    """Samples `first` to `first + samples` of a part: one tar file."""

    part: str
    number: int
    first: int
    samples: int

    @property
    def name(self) -> str:
        return f"{self.part}-{self.number:06d}.tar"


@dataclass(frozen=True)
class Sample:
    """One window, forward strand.

    Args:
        key: the part and the sample's number in it.
        part: of the split.
        where: contig, start and end; start is below 0 where the window sticks out of its contig at the left.
        codes: uint8 (window,), ambiguous is 4.
        soft: bool (window,), whether the base is soft-masked.
        overhang: how many bases at the left and at the right lie outside the part's region; they are N.
        targets: per track (bins, columns), NaN (in uint8: 255) where nothing is known.
    """

    key: str
    part: str
    where: Interval
    codes: Bytes
    soft: npt.NDArray[np.bool_]
    overhang: tuple[int, int]
    targets: dict[str, npt.NDArray[Any]]

    @property
    def letters(self) -> Bytes:
        """The bases in ASCII uint8 (window,): N for ambiguous ones, lower case for soft-masked ones."""
        letters = np.frombuffer(BASES.encode(), np.uint8)[self.codes]
        return np.where(self.soft, letters | np.uint8(32), letters)


class Export:
    """A folder of tar shards, read-only. Open it with `read_export`."""

    is_table = False  # what sequences are labelled with is not exported

    def __init__(self, folder: Place, index: dict[str, Any], cache: ShardCache | None = None):
        self.path, self.index, self.cache = folder, index, cache
        self.window: int = index["geometry"]["window"]
        self.target_length: int = index["geometry"]["target_length"]
        self.stride: int = index["geometry"]["stride"]
        self.parts: dict[str, int] = {part: index["parts"][part] for part in PARTS if part in index["parts"]}
        self.tracks: dict[str, dict[str, Any]] = index["tracks"]
        self.shards: list[Shard] = []
        for entry in index["shards"]:
            before = [shard for shard in self.shards[-1:] if shard.part == entry["part"]]
            number, first = (before[0].number + 1, before[0].first + before[0].samples) if before else (0, 0)
            self.shards.append(Shard(entry["part"], number, first, entry["samples"]))
        self.per_shard: dict[str, int] = {shard.part: shard.samples for shard in reversed(self.shards)}

    @property
    def name(self) -> str:
        """Of the assembly."""
        return str(self.index["assembly"])

    @cached_property
    def contigs(self) -> Contigs:
        """The contigs of the assembly, those without any sample as well."""
        table = self.index["contigs"]
        lengths = np.array(table["length"], np.int64)
        padded = -(-lengths // ALIGNMENT) * ALIGNMENT
        return Contigs(table["name"], lengths, np.cumsum(padded) - padded, (), tuple(table["circular"]))

    @property
    def length(self) -> int:
        """Bases of the flat coordinate."""
        return int(self.contigs.offsets[-1]) + -(-int(self.contigs.lengths[-1]) // ALIGNMENT) * ALIGNMENT

    @property
    def unknown(self) -> Int64 | None:
        """Flat intervals (n, 2) of the ambiguous bases, as a store has them; None: there are some, and only shards say where."""
        return None if "ambiguous" in self.index["planes"] else np.empty((0, 2), np.int64)

    def regions(self, part: str | None, split: str = "default") -> Int64:
        """Flat intervals (n, 2) that the targets of a part tile. Raises ConfigError if the export has no such part."""
        if split != self.index["split"]:
            problem = f'{self.path} was exported with split "{self.index["split"]}", not "{split}"'
            raise ConfigError(problem, key="split")
        if part is None:
            raise ConfigError(f"{self.path} is read part by part. It has: {', '.join(self.parts)}", key="split")
        return self.tiles(part)[0]

    def tiles(self, part: str) -> tuple[Int64, Int64]:
        """The regions of a part, and how many samples (n,) there are up to the end of each. Raises ConfigError likewise."""
        return named(self._tiles, part, str(self.path), "part")

    @cached_property
    def _tiles(self) -> dict[str, tuple[Int64, Int64]]:
        found = {}
        for part in self.parts:
            regions = intervals(self.index["regions"][part], self.contigs)
            found[part] = regions, np.cumsum(tiles(regions, self.target_length, self.stride))
        return found

    def track(self, name: str) -> Track:
        """One track; its values come with the samples. Raises ConfigError with the nearest name if there is none."""
        entry = named(self.tracks, name, str(self.path), "track")
        return Track.of(name, entry, self.contigs, np.dtype(entry["dtype"]))

    def identity(self, split: str, tracks: tuple[str, ...]) -> dict[str, str]:
        """Content ids of what a run uses: those of the store, so that a run goes on with an export of it and back. Where
        finer tracks than all that were exported would lay the windows in another way, the ids are others."""
        ids: dict[str, str] = self.index["identity"]
        asked = [f"track {self.track(name).name}" for name in tracks]
        used = {key: ids[key] for key in ("sequence", "ambiguous", "softmask", *asked, "split")}
        unit, wanted = (max([self.tracks[n]["bin_bp"] for n in names], default=1) for names in (self.tracks, tracks))
        return used if unit == wanted else used | {"bins": f"of {unit}"}

    @cached_property
    def layout(self) -> dict[str, tuple[int, bytes]]:
        """Suffix, size and first bytes of all members but the last."""
        bits = -(-self.window // 8), b""
        found = {"seq": (-(-self.window // 4), b""), "amb": bits, "soft": bits}
        for name, track in self.tracks.items():
            head = npy_header(np.dtype(track["dtype"]), tuple(track["shape"]))
            size = math.prod(track["shape"]) * np.dtype(track["dtype"]).itemsize
            found[f"{name}.npy"] = len(head) + size, head
        return found

    @property
    def sample_bytes(self) -> int:
        """About how much memory a sample takes."""
        return 3 * self.window + sum(size for size, _ in self.layout.values())

    def samples(self, part: str) -> Iterator[Sample]:
        """All samples of one part in their order.

        Raises:
            ConfigError: there is no such part, or the export is in an object store.
            SourceError: a shard is missing, cut or damaged, or a member is not what it should be; names both.
        """
        self.tiles(part)
        for shard in self.shards:
            if shard.part == part:
                self.check(shard)
                yield from self._read(shard)

    def check(self, shard: Shard) -> None:
        """Compare a shard's size and checksum with the index.

        Raises:
            SourceError: they differ; names the first member that is no good, if one can be told.
        """
        content, entry = self.content(shard), self.entry(shard)
        found = hashlib.sha256()
        for at in range(0, content.size, RANGE):
            found.update(content[at : at + RANGE].data)
        if found.hexdigest() != entry["sha256"]:
            raise self.damage(shard, f"sha256 {found.hexdigest()[:16]}…, the index says {entry['sha256'][:16]}…")

    def check_pieces(self, shard: Shard, content: Bytes) -> None:
        """Compare the content of a shard with the index, by CRC-32C: in a tenth of the time that SHA-256 takes. Raises
        SourceError as `check`."""
        found, expected = pieces(content), base64.b64decode(self.entry(shard)["crc32c"])
        if found != expected:
            wrong = np.flatnonzero(np.frombuffer(found, "<u4") != np.frombuffer(expected, "<u4"))
            raise self.damage(shard, f"crc32c, from byte {int(wrong[0]) * PIECE:,} on")

    def entry(self, shard: Shard) -> dict[str, Any]:
        """What the index says of a shard: bytes, sha256, crc32c (base64 of uint32, one for each `PIECE`)."""
        found: dict[str, Any] = self._entries[shard]
        return found

    @cached_property
    def _entries(self) -> dict[Shard, dict[str, Any]]:
        return dict(zip(self.shards, self.index["shards"], strict=True))

    def content(self, shard: Shard, stop: threading.Event | None = None) -> Bytes | Ranges:
        """The bytes of a shard, unchecked; there are as many as there should be. `stop` ends requests for them. Raises
        SourceError if there are not."""
        path, expected = self.path / shard.name, self.entry(shard)["bytes"]
        if stop is not None and isinstance(path, Object):
            path.stop = stop
        try:
            content = open_bytes(path)
            size = content.size
        except OSError as error:
            raise SourceError(f"{path} cannot be read: {error.strerror}; copy it again") from None
        except ValueError:
            size = 0
        if size != expected:
            raise self.damage(shard, f"{size:,} bytes, the index says {expected:,}")
        return content

    def damage(self, shard: Shard, problem: str) -> SourceError:
        """What is to be said of a shard with this problem: also which member is the first that is no good."""
        path = self.path / shard.name
        if not isinstance(path, Path):
            return SourceError(f"{path} is damaged ({problem}); remove it, and {INDEX}, and export again")
        try:
            for _ in self._read(shard):
                pass
            first = "all its members can be read"
        except SourceError as error:
            first = f"first at: {error}"
        return SourceError(f"{path} is damaged ({problem}); copy it again. {first}")

    def _read(self, shard: Shard) -> Iterator[Sample]:
        path = self.path / shard.name
        if not isinstance(path, Path):
            raise ConfigError(f"{self.path} is not on this machine: copy it here, or read it with webdataset")
        largest = max(LARGEST_JSON, *(size for size, _ in self.layout.values()))
        members = read_members(path, largest)
        member = next(members, None)
        for sample, (where, overhang) in enumerate(self._where(shard), shard.first):
            key = sample_key(shard.part, sample)
            found = {}
            for suffix, (size, head) in self.layout.items():
                if member is None or member[0] != f"{key}.{suffix}":
                    if suffix in ("amb", "soft"):
                        continue
                    raise _unexpected(path, member, f"{key}.{suffix}")
                if len(member[1]) != size or not member[1].startswith(head):
                    raise SourceError(
                        f'{path}: member "{member[0]}" has {len(member[1]):,} bytes'
                        + (" or another header" if head else "")
                        + f"; the geometry in {INDEX} makes it {size:,}"
                    )
                found[suffix] = member[1][len(head) :]
                member = next(members, None)
            if member is None or member[0] != f"{key}.json":
                raise _unexpected(path, member, f"{key}.json")
            about = sample_json(where, shard.part, overhang)
            if member[1] != about:
                shown = member[1][: 2 * len(about)].decode(errors="replace")
                raise SourceError(f'{path}: member "{member[0]}" says {shown}, {INDEX} makes it {about.decode()}')
            yield self._sample(key, shard.part, found, where, overhang)
            member = next(members, None)
        if member is not None:
            raise _unexpected(path, member, f"the end after {shard.samples:,} samples")

    def _where(self, shard: Shard) -> Iterator[tuple[Interval, tuple[int, int]]]:
        """Where each sample of a shard lies, and by how much it hangs over its region at the left and at the right."""
        regions, ends = self.tiles(shard.part)
        samples = np.arange(shard.first, shard.first + shard.samples)
        rows = np.searchsorted(ends, samples, side="right")
        number = samples - np.r_[0, ends][rows]
        first, last = regions[rows].T
        start = first + number * self.stride - (self.window - self.target_length) // 2
        contig = self.contigs.locate(first)
        overhang = np.maximum([first - start, start + self.window - last], 0)
        columns = contig, start - self.contigs.offsets[contig], *overhang
        for row, begin, left, right in zip(*(column.tolist() for column in columns), strict=True):
            yield Interval(self.contigs.names[row], begin, begin + self.window, "+"), (left, right)

    def _sample(
        self, key: str, part: str, found: dict[str, bytes], where: Interval, overhang: tuple[int, int]
    ) -> Sample:
        codes = unpack_codes(np.frombuffer(found["seq"], np.uint8))[: self.window]
        ambiguous, soft = (
            np.unpackbits(np.frombuffer(bits, np.uint8), count=self.window, bitorder="little").view(bool)
            for bits in (found.get(name, bytes(self.layout[name][0])) for name in ("amb", "soft"))
        )
        codes[ambiguous] = AMBIGUOUS
        targets = {
            name: np.frombuffer(found[f"{name}.npy"], track["dtype"]).reshape(track["shape"])
            for name, track in self.tracks.items()
        }
        return Sample(key, part, where, codes, soft, overhang, targets)


def pieces(content: Bytes) -> bytes:
    """The CRC-32C of each piece of a shard, little-endian."""
    found = [crc32c(content[at : at + PIECE]) for at in range(0, content.size, PIECE)]
    return np.array(found, "<u4").tobytes()


def read_export(folder: Place, cache: ShardCache | None = None) -> Export:
    """Open a folder that `distgen export` has written. Shards are checked when they are read.

    Args:
        folder: where it lies.
        cache: keeps whole shards of one that lies elsewhere on the local disk, for who wants to read them.

    Raises:
        SourceError: the index is missing or damaged, or the folder's shards are not those it names.
    """
    path = folder / INDEX
    if not path.is_file():
        raise SourceError(f"{folder} has no {INDEX}: it is no export, or it was not copied whole")
    try:
        content = path.read_bytes()
        index = json.loads(content)
        body = {key: value for key, value in index.items() if key != "checksum"}
        if index.get("format") != FORMAT:
            raise SourceError(f"{path} has format {index.get('format')}, this version reads {FORMAT}: export again")
        if digest(body) != index["checksum"] or format.json_bytes(index) != content:
            raise ValueError("its checksum is another")
        export = Export(folder, index, cache)
        _check_index(export)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise SourceError(f"{path} is damaged, or no index of an export ({error}); copy it again") from None
    files = folder.names() if isinstance(folder, Object) else {file.name for file in folder.iterdir()}
    names, there = {shard.name for shard in export.shards}, {name for name in files if name.endswith(".tar")}
    for name in sorted(names - there):
        raise SourceError(f"{folder / name} is missing; copy it again")
    for name in sorted(there - names):
        raise SourceError(f"{folder / name} is not named in {INDEX}: it belongs to another export; remove it")
    return export


def _check_index(export: Export) -> None:
    """Raises ValueError, KeyError or TypeError for an index that `distgen export` would not write."""
    counts = dict.fromkeys(export.parts, 0)
    numbers = [export.index["geometry"][key] for key in ("window", "target_length", "stride")]
    numbers += [entry[key] for entry in export.index["shards"] for key in ("samples", "bytes")]
    if any(type(number) is not int or number < 1 for number in numbers):
        raise ValueError("lengths and sizes must be whole numbers above 0")
    for shard, entry in zip(export.shards, export.index["shards"], strict=True):
        if entry["name"] != shard.name:
            raise ValueError(f'shard "{entry["name"]}" stands where {shard.name} belongs')
        if len(base64.b64decode(entry["crc32c"])) != -(-entry["bytes"] // PIECE) * 4:
            raise ValueError(f"{shard.name} has checksums for another size")
        per_shard = export.per_shard[shard.part]
        if shard.first != shard.number * per_shard or shard.samples > per_shard:
            raise ValueError(f"{shard.name} has {shard.samples} samples, another number than those before")
        counts[shard.part] += shard.samples
    if counts != export.index["parts"]:
        raise ValueError(f"its parts are {export.index['parts']}, its shards hold {counts}")
    for name, track in export.tracks.items():
        bins, columns = track["shape"]
        if track["dtype"] not in _DTYPES or columns != len(track["columns"]) or min(bins, columns) < 1:
            raise ValueError(f'track "{name}" has dtype {track["dtype"]} and shape {track["shape"]}')
    for part, (regions, ends) in export._tiles.items():
        made = ends[-1:].tolist()
        if not np.array_equal(regions, export.contigs.join(regions)) or made != [export.parts[part]]:
            raise ValueError(f'part "{part}" has {export.parts[part]} samples, its regions make {made}')


def sample_json(where: Interval, part: str, overhang: tuple[int, int]) -> bytes:
    """What `KEY.json` says."""
    about = {"contig": where.contig, "start": where.start, "end": where.end, "strand": where.strand}
    return json.dumps(about | {"length": where.end - where.start, "part": part, "overhang": overhang}).encode()


def sample_key(part: str, sample: int) -> str:
    """What the members of a sample of a part begin with: sorts in order, and has no dot."""
    return f"{part}-{sample:012d}"


def _unexpected(path: Path, member: tuple[str, bytes] | None, expected: str) -> SourceError:
    found = "the file ends" if member is None else f'member "{member[0]}" stands'
    return SourceError(f"{path}: {found} where {expected} belongs")
