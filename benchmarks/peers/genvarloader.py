"""GenVarLoader: its RefDataset over a BED of tiles, the genome in memory, one letter a byte."""

from __future__ import annotations

from collections.abc import Iterator

import genvarloader as gvl
import numpy as np
import polars as pl
import seqpro

from benchmarks.peers import Genome
from distgen.genome import Bytes

PACKAGE = "genvarloader"
HOW = "RefDataset over a BED of tiles, in memory, indexed by batches"


def serve(genome: Genome, window: int, rows: int) -> Iterator[Bytes]:
    tiles = genome.tiles(window)
    bed = pl.DataFrame({"chrom": genome.contig, "chromStart": tiles, "chromEnd": tiles + window})
    reference = gvl.Reference.from_path(genome.fasta)
    dataset = gvl.RefDataset(reference, bed).with_len(window)
    for starts in genome.shuffled(window, rows):
        yield dataset[starts // window].view(np.uint8)


def one_hot(letters: Bytes) -> Bytes:
    return seqpro.ohe(letters.view("S1"), seqpro.DNA)
