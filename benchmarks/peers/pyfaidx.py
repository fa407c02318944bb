"""pyfaidx: slices of an indexed FASTA, and the lookup table of one-hot rows that training scripts keep beside it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyfaidx

from benchmarks.peers import Genome, stacked
from distgen.genome import Bytes

PACKAGE = "pyfaidx"
HOW = "Fasta(as_raw=True), a slice for each window"

_EYE = np.zeros((256, 4), np.uint8)
_EYE[list(b"ACGT")] = np.eye(4, dtype=np.uint8)


def serve(genome: Genome, window: int, rows: int) -> Iterator[Bytes]:
    with pyfaidx.Fasta(str(genome.fasta), as_raw=True) as file:
        contig = file[genome.contig]
        for starts in genome.shuffled(window, rows):
            yield stacked([contig[start : start + window].encode() for start in starts.tolist()])


def one_hot(letters: Bytes) -> Bytes:
    return _EYE[letters]
