"""tensorstore: a Zarr array of letters, the reads of a batch under way together."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import tensorstore as ts

from benchmarks.peers import Genome
from distgen.genome import Bytes

PACKAGE = "tensorstore"
HOW = "zarr v3 of uncompressed letters in chunks of 64 KiB, held in its cache, a batch's reads as futures"


def serve(genome: Genome, window: int, rows: int) -> Iterator[Bytes]:
    path = genome.folder / "tensorstore.zarr"
    context = {
        "cache_pool": {"total_bytes_limit": 2 * genome.bases},
        "data_copy_concurrency": {"limit": 1},
        "file_io_concurrency": {"limit": 1},
    }
    array = ts.open(
        {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}, "recheck_cached_data": False},
        context=ts.Context(context),
        dtype=ts.uint8,
        shape=[genome.bases],
        chunk_layout=ts.ChunkLayout(chunk_shape=[1 << 16]),
        create=not path.exists(),
        open=True,
    ).result()
    letters = genome.letters
    if array[:_PROBE].read().result().tobytes() != letters[:_PROBE].tobytes():
        array.write(letters).result()
    for starts in genome.shuffled(window, rows):
        out = np.empty((rows, window), np.uint8)
        reads = [array[start : start + window].read() for start in starts.tolist()]
        for row, read in zip(out, reads, strict=True):
            row[:] = read.result()
        yield out


_PROBE = 1 << 16
