"""MosaicML streaming: tiles as samples in MDS shards, shuffled by itself."""

from __future__ import annotations

from collections.abc import Iterator
from tempfile import TemporaryDirectory

import torch

try:
    import torchvision  # noqa: F401
except RuntimeError:  # built for CUDA, beside a CPU build of torch: it misses two operators; none is used here
    _operators = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _operators.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from streaming import MDSWriter, StreamingDataset
from streaming.base.util import clean_stale_shared_memory

from benchmarks.peers import Genome, stacked
from distgen.genome import Bytes

PACKAGE = "mosaicml-streaming"
HOW = "a sample a tile in MDS shards of 64 MB, its own shuffle"


def serve(genome: Genome, window: int, rows: int) -> Iterator[Bytes]:
    clean_stale_shared_memory()  # what a run before this one left behind would be taken for another rank's
    source = genome.letters
    with TemporaryDirectory(dir=genome.folder) as folder:
        with MDSWriter(out=f"{folder}/samples", columns={"letters": "bytes"}, size_limit=1 << 26) as writer:
            for start in genome.tiles(window).tolist():
                writer.write({"letters": source[start : start + window].tobytes()})
        dataset = StreamingDataset(local=f"{folder}/samples", shuffle=True, batch_size=rows)
        batch: list[bytes] = []
        try:
            while True:
                for sample in dataset:
                    batch.append(sample["letters"])
                    if len(batch) == rows:
                        yield stacked(batch)
                        batch = []
        finally:
            dataset._iterator.exit()  # its threads would look for the samples for ever
