"""What a build will take, before it is begun: bases, bytes, seconds and memory."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from isal import igzip

from distgen.config import Recipe
from distgen.ingest import packing
from distgen.ingest.open import is_gzip
from distgen.store.tracks import PIECE

_SAMPLE = 1 << 24  # bytes of text that are tried
_GZIPPED = 4  # letters in a byte of gzip
_TABLE_SPEED = 2e7  # bytes of tables of sequences that are read in a second
_PROCESS = 350 << 20  # bytes of memory that Python, its libraries and the buffers of the planes take


@dataclass(frozen=True)
class Estimate:
    """About what a recipe needs: `bytes` on disk, `seconds` for the planes, `memory` in bytes for each worker."""

    bases: int
    bytes: int
    seconds: float
    memory: int


def estimate(recipe: Recipe, workers: int = 1) -> Estimate:
    """Pack the first megabytes of the genome on this machine, and reckon from them.

    Contigs that the recipe leaves out are counted as if they were kept, tracks as if they were not compressed.

    Raises:
        ConfigError, SourceError: the genome is not there.
    """
    if recipe.assembly:
        bases, seconds = _try(recipe.resolve(recipe.assembly.fasta, "assembly.fasta"))
    else:
        tables = ((source, key) for source, key in recipe.files().items() if key.startswith("sequences."))
        paths = [recipe.resolve(source, key) for source, key in tables]
        if recipe.sequences and recipe.sequences.webdataset:
            paths = list(paths[0].parent.glob("*.tar"))
        bases, seconds = _guess(paths)
    size = bases // 4 + bases // 8  # most genomes are soft-masked, few are ambiguous
    columns = 0
    for track in recipe.track:
        width = 1 if track.is_classes else np.dtype(track.dtype).itemsize
        size += bases // track.bin_bp * width * len(track.names)
        columns = max(columns, len(track.names))
    memory = _PROCESS + (PIECE * 24 if columns else 0)  # values, their 64-bit copy, and what is stored
    return Estimate(bases, size, seconds / workers, memory)


def _guess(tables: list[Path]) -> tuple[int, float]:
    """The bases of tables of sequences, and the seconds that reading them takes, as if they held nothing else."""
    bases = sum(path.stat().st_size * (_GZIPPED if is_gzip(path) else 1) for path in tables)
    return bases, bases / _TABLE_SPEED


def _try(path: Path) -> tuple[int, float]:
    """The bases of a file, and the seconds that reading and packing them takes, both by its first megabytes."""
    packing.pack(np.zeros(64, np.uint8))
    gzipped, size = is_gzip(path), path.stat().st_size
    with path.open("rb") as raw:
        began = time.perf_counter()
        stream = igzip.GzipFile(fileobj=raw) if gzipped else raw
        text = stream.read(_SAMPLE)
        used = min(raw.tell(), size) if gzipped else len(text)
        letters = b"".join(line for line in text.split(b"\n") if not line.startswith(b">"))
        packing.pack(np.frombuffer(packing.pad(letters), np.uint8))
        seconds = time.perf_counter() - began
    share = size / max(used, 1)
    return int(len(letters) * share), seconds * share
