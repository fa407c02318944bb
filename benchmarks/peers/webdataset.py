"""webdataset: tiles as samples in tar shards, shuffled by its own buffer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import webdataset

from benchmarks.peers import Genome, stacked
from distgen.genome import Bytes

PACKAGE = "webdataset"
HOW = "a sample a tile in tar shards of 64 MB, shards and a buffer of 1,000 samples shuffled"


def serve(genome: Genome, window: int, rows: int) -> Iterator[Bytes]:
    source = genome.letters
    with TemporaryDirectory(dir=genome.folder) as folder:
        with webdataset.ShardWriter(f"{folder}/%06d.tar", maxsize=64e6, verbose=0) as writer:
            for start in genome.tiles(window).tolist():
                letters = source[start : start + window].tobytes()
                writer.write({"__key__": f"{start:012}", "bin": letters})
        shards = [str(path) for path in sorted(Path(folder).glob("*.tar"))]
        samples = webdataset.WebDataset(shards, shardshuffle=len(shards), seed=0).shuffle(1000).to_tuple("bin")
        batches = samples.batched(rows, collation_fn=None, partial=False)
        while True:
            for batch in batches:
                yield stacked([letters for (letters,) in batch])
