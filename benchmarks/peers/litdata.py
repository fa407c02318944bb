"""litdata: tiles as samples in its chunks, shuffled by itself; its loader of tokens, which reads them without a header."""

from __future__ import annotations

from collections.abc import Iterator
from tempfile import TemporaryDirectory

import torch
from litdata import StreamingDataset, TokensLoader
from litdata.streaming.cache import Cache

from benchmarks.peers import Genome
from distgen.genome import Bytes

PACKAGE = "litdata"
HOW = "TokensLoader, uint8 tokens in chunks of 64 MB, its own shuffle"


def serve(genome: Genome, window: int, rows: int) -> Iterator[Bytes]:
    source = genome.letters
    with TemporaryDirectory(dir=genome.folder) as folder:
        cache = Cache(folder, chunk_bytes="64MB", item_loader=TokensLoader(block_size=window))
        for number, start in enumerate(genome.tiles(window).tolist()):
            cache[number] = torch.from_numpy(source[start : start + window].copy())
        cache.done()
        cache.merge()
        dataset = StreamingDataset(folder, item_loader=TokensLoader(block_size=window), shuffle=True, seed=0)
        batch: list[torch.Tensor] = []
        while True:
            for sample in dataset:
                batch.append(sample)
                if len(batch) == rows:
                    yield torch.stack(batch).numpy()
                    batch = []
