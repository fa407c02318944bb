"""What a build will take, before it is begun: bytes, seconds and memory of every part of a recipe.

Nothing is fetched: of a remote source the size is asked for. What a file holds is told by its first megabytes; sizes are
those of arrays that are not compressed, so a store is rarely larger. Seconds are right within a factor of three on a machine
like the one of `benchmarks/results`, after a second for the libraries, without what fsync waits and fetching takes.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
from isal import igzip

from distgen.config import Recipe, source_name
from distgen.config import Track as TrackTable
from distgen.genome import ALIGNMENT
from distgen.ingest import packing
from distgen.ingest.fasta import Letters, read_fasta
from distgen.ingest.open import content_size, explained, is_gzip, read_blocks
from distgen.ingest.twobit import TwoBit, is_twobit
from distgen.store import tracks
from distgen.store.format import CHUNK_BYTES, SHARD_CHUNKS
from distgen.store.planes import PER_BYTE, UNIT

_SAMPLE = 1 << 24  # bytes of a genome that are packed
_HEAD = 1 << 20  # bytes of content of any source that are looked at
_GZIPPED = 4  # letters in a byte of gzip that is not looked at
_PACKED = 3e8  # letters packed in a second, of what is not tried
# Bytes of content (of BAM, CRAM and bigWig: of the file) that are read in a second.
_READ = {"annotation": 2e8, "intervals": 1e8, "signal": 4e7, "alignments": 1e7, "bigwig": 5e7}
_READ |= {"matrix": 4e7, "variants": 4e7, "csv": 4e7, "fasta": 1.2e7}
_RECORDS = 1e5  # of a VCF in a second
_KEPT = {
    True: 1e9,
    False: 1.5e8,
}  # bytes of values, of classes or not, that are reduced, compressed and written in a second
_PROCESS = 400 << 20  # bytes of memory that Python, its libraries and the buffers take
_FEATURE = 5  # bytes of memory for each byte of a text of intervals
_NAME = 64  # bytes of memory for each row of a table of sequences, for each region
_MANIFEST = 1 << 16  # bytes of a store that is empty, all files that only describe it
_CONTIG = 160  # bytes of a store for each contig


@dataclass(frozen=True)
class Part:
    """One part of a store: `bytes` on disk, at most; `seconds` on one core; `memory` of its process in bytes, at most."""

    name: str
    bytes: int
    seconds: float
    memory: int


@dataclass(frozen=True)
class Estimate:
    """What a recipe takes.

    Args:
        bases: of the assembly or of all sequences.
        parts: the planes (of a table of sequences with its labels), and each track, matrix and set of variants.
        fetched: bytes of remote sources.
        workers: that share the work; a part that is read in one piece is done by one of them.
    """

    bases: int
    parts: tuple[Part, ...]
    fetched: int
    workers: int

    @property
    def bytes(self) -> int:
        """The size of the store, at most."""
        return sum(part.bytes for part in self.parts)

    @property
    def seconds(self) -> float:
        """From begin to end: the planes, and then all else side by side."""
        first, *others = (part.seconds for part in self.parts)
        return first + max(sum(others) / self.workers, max(others, default=0))

    @property
    def memory(self) -> int:
        """Bytes of memory of each process, at most."""
        return max(part.memory for part in self.parts)


def estimate(recipe: Recipe, workers: int = 1) -> Estimate:
    """Look at every source of a recipe, and reckon from that.

    Contigs that the recipe leaves out are counted as if they were kept, and what stands already as if it did not.

    Raises:
        ConfigError, SourceError: a source is not there.
    """
    sources = {source: _Source(recipe, source, key) for source, key in recipe.files().items()}
    if recipe.sequences:
        bases, first = _sequences(recipe, sources)
    else:
        bases, first = _planes(sources[recipe.genome.fasta], workers)
    parts = [first]
    parts += [_track(track, bases, [sources[source] for source in track.sources], recipe) for track in recipe.track]
    parts += [_matrix(m.name, sources[m.matrix], sources[m.regions]) for m in recipe.matrix]
    parts += [_variants(v.name, sources[v.source], len(v.samples)) for v in recipe.variants]
    if any(split.homology for split in (recipe.split, *recipe.splits.values())):
        from distgen.store.homology.separation import cost

        seconds, memory = cost(recipe, bases, workers)
        parts.append(Part("homology", 0, seconds, memory))
    return Estimate(bases, tuple(parts), sum(s.size for s in sources.values() if s.path is None), workers)


class _Source:
    """What can be known of a source without reading it: its size, and the beginning of its content."""

    def __init__(self, recipe: Recipe, source: str, key: str):
        uri = recipe.uri(source, key)
        self.name = source_name(source)
        self.path = recipe.resolve(source, key) if uri is None else None
        if uri is not None:
            from distgen.ingest.remote import describe

            self.size = describe(uri).size
        elif self.path is not None:
            self.size = sum(path.stat().st_size for path in self.files)

    @cached_property
    def files(self) -> list[Path]:
        """The file; of an export the shards that its index names."""
        assert self.path is not None
        if not self.path.is_file():
            next(read_blocks(self.path), b"")  # says what is there instead
        shards = sorted(self.path.parent.glob("*.tar")) if self.path.name == "index.json" else []
        return shards or [self.path]

    @cached_property
    def _begin(self) -> tuple[bytes, int]:
        """The first bytes of the content, and how many of the file they took."""
        if self.path is None:
            return b"", 0
        path = self.files[0]
        gzipped = is_gzip(path)
        with explained(path), path.open("rb") as raw:
            text = (igzip.GzipFile(fileobj=raw) if gzipped else raw).read(_HEAD)
            # At the end of the content all of the file has been read.
            return text, raw.tell() if len(text) == _HEAD else self.size

    @property
    def head(self) -> bytes:
        """The first bytes of the content; nothing of a remote source."""
        return self._begin[0]

    @cached_property
    def content(self) -> int:
        """Bytes of content: exact of plain files, bgzip, and what is small."""
        if self.path is None:
            return self.size * (_GZIPPED if self.name.endswith((".gz", ".bgz")) else 1)
        if len(self.files) == 1 and (size := content_size(self.path)) is not None:
            return size
        text, used = self._begin
        about = int(len(text) * self.size / max(used, 1))
        if len(self.files) > 1 or not is_gzip(self.path):
            return about
        with self.path.open("rb") as file:
            file.seek(-4, os.SEEK_END)
            # The size at the end is that of all content, unless the file has several members (RFC 1952, 2.3.1).
            said = int.from_bytes(file.read(), "little")
        said += max(round((about - said) / 2**32), 0) << 32
        return said if about / 2 < said < about * 2 else about

    def times(self, count: Callable[[bytes], int]) -> int:
        """How often something stands in the content, by its first bytes."""
        return math.ceil(count(self.head) * self.content / max(len(self.head), 1))

    @property
    def lines(self) -> int:
        """How many there are, about; without looking, one for 32 bytes."""
        return self.times(lambda text: text.count(b"\n") + 1) if self.head else self.content // 32


# ---- the base -------------------------------------------------------------------------------


def _plane_bytes(letters: int) -> int:
    """Bytes of all planes: most genomes are soft-masked, of `ambiguous` and `softmask` blank chunks are left out."""
    shards = max(1, -(-letters // UNIT))
    chunks = sum(-(-letters // (per * CHUNK_BYTES)) for per in PER_BYTE.values())
    return chunks * CHUNK_BYTES + shards * sum(UNIT // per // CHUNK_BYTES * 16 + 4 for per in PER_BYTE.values())


def _planes(source: _Source, workers: int) -> tuple[int, Part]:
    """Bases, and what the planes take; the first megabytes are packed on this machine."""
    if source.path is None:
        letters, seconds = source.content, source.content / _PACKED
    elif is_twobit(source.path):
        letters = int(TwoBit(source.path).lengths.sum())
        seconds = letters / _PACKED
    else:
        packing.pack(np.zeros(ALIGNMENT, np.uint8))  # compiles
        began, count = time.perf_counter(), 0
        for event in islice(read_fasta(source.path, stop=min(_SAMPLE, source.content)), 1 << 16):
            if isinstance(event, Letters):
                packing.pack(event.letters[: len(event.letters) // ALIGNMENT * ALIGNMENT])
                count, read = count + len(event.letters), event.end
        share = source.content / max(read, 1)
        letters, seconds = math.ceil(count * share), (time.perf_counter() - began) * share
        if content_size(source.path) is None:
            workers = 1  # gzip is read in one piece
    contigs = source.times(lambda text: text.count(b"\n>") + 1)
    size = _plane_bytes(letters + contigs * ALIGNMENT) + _MANIFEST + contigs * _CONTIG
    return letters, Part("planes", size, seconds / workers, _PROCESS + contigs * _CONTIG * 8)


def _sequences(recipe: Recipe, sources: dict[str, _Source]) -> tuple[int, Part]:
    """Letters, and what a table of sequences takes with its labels."""
    table, letters, rows, seconds = recipe.sequences, 0, 0, 0.0
    assert table is not None
    files = [key for key, where in recipe.files().items() if where.startswith("sequences.")]
    for source in map(sources.__getitem__, files):
        fasta = source.head.lstrip().startswith(b">")
        letters += source.content
        rows += source.times(lambda text: text.count(b">")) if fasta else source.lines
        seconds += source.content / _READ["fasta" if fasta else "csv"]
    labels = len(table.label) if isinstance(table.label, tuple) else 8
    padded = letters + rows * ALIGNMENT
    size = _plane_bytes(padded) + _MANIFEST + rows * (2 * 8 + 32 + 2 + 4 * labels)
    return letters, Part("sequences", size, seconds, _PROCESS + rows * _NAME)


# ---- what stands on it ----------------------------------------------------------------------


def _array_bytes(rows: int, row_bytes: int) -> int:
    """Bytes of an array that is not compressed, with whole chunks and the indexes of its shards."""
    chunk = max(1, min(CHUNK_BYTES // row_bytes, rows))
    chunks = -(-rows // chunk)
    return chunks * chunk * row_bytes + -(-chunks // SHARD_CHUNKS) * (min(chunks, SHARD_CHUNKS) * 16 + 4) + 4096


def _track(track: TrackTable, bases: int, sources: list[_Source], recipe: Recipe) -> Part:
    columns, kind = len(track.names), str(track.kind)
    if track.groups and recipe.uri(track.groups, "") is None:
        from distgen.ingest.alignments import read_groups

        columns = len(set(read_groups(recipe.resolve(track.groups, "track.groups")).values()))
    width = 1 if track.is_classes else np.dtype(track.dtype).itemsize
    size = sum(
        _array_bytes(-(-bases // track.bin_bp) + 1, min(columns - first, tracks.COLUMNS) * width)
        for first in range(0, columns, tracks.COLUMNS)
    )
    seconds, memory = bases * columns / 1e9 / (1 if track.is_classes else 0.5), _PROCESS + tracks.PIECE * 24
    for source in sources:
        binary = kind == "alignments" and source.head.startswith((b"BAM\1", b"CRAM"))
        binary |= kind == "signal" and b"\0" in source.head[:64]
        amount = source.size if binary else source.content
        seconds += amount / _READ["bigwig" if binary and kind == "signal" else kind]
        memory += amount * _FEATURE if track.kind == "intervals" else 0
    memory += min(sources[0].content, 300 << 20) if track.kind == "annotation" else 0  # equal lines are kept once
    return Part(f"track {track.name}", size, seconds + size / _KEPT[track.is_classes], memory)


def _matrix(name: str, matrix: _Source, regions: _Source) -> Part:
    header = matrix.head.partition(b"\n")[0]
    columns = max(1, max(header.count(mark) for mark in b"\t,;")) if header else 100
    rows = matrix.lines if header else matrix.content // (8 * columns)
    size = _array_bytes(rows, 4 * columns) + sum(_array_bytes(rows, width) for width in (4, 8, 8, 1, 32))
    seconds = (matrix.content + regions.content) / _READ["matrix"] + size / _KEPT[False] / 4
    return Part(f"matrix {name}", size, seconds, _PROCESS + (rows + regions.lines) * _NAME + regions.content * _FEATURE)


def _variants(name: str, source: _Source, samples: int) -> Part:
    rows = source.times(lambda text: sum(not line.startswith(b"#") for line in text.splitlines())) or source.lines
    size = sum(_array_bytes(rows, width) for width in (4, 8, 1, 1, *((2 * samples, samples) if samples else ())))
    seconds = source.content / _READ["variants"] + rows / _RECORDS
    return Part(f"variants {name}", size, seconds, _PROCESS + (200 << 20))
