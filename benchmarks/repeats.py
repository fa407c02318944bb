"""Where in a genome no short read can be mapped: python -m benchmarks.repeats STORE CONTIG > FILE.bed

Stretches of a contig in which each word of 31 bases stands elsewhere in the genome too, on either strand.
"""

from __future__ import annotations

import argparse

import numpy as np

from distgen.evaluate.leaks import LONGEST, words
from distgen.genome import Interval
from distgen.store.reader import Store, open_store

_LEAST = 200  # bases of a stretch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("contig")
    asked = parser.parse_args()
    for start, end in repeats(open_store(asked.store), asked.contig):
        print(asked.contig, start, end, sep="\t")


def repeats(store: Store, contig: str) -> list[tuple[int, int]]:
    """The stretches; a contig with ambiguous bases has words where there are none, and is refused."""
    lengths = dict(zip(store.contigs.names, store.contigs.lengths.tolist(), strict=True))
    by_contig = {name: words(store.codes(Interval(name, 0, size))[None], LONGEST)[0] for name, size in lengths.items()}
    own = by_contig[contig]
    assert len(own) == lengths[contig] - LONGEST + 1, f"{contig} has ambiguous bases"
    distinct, times = np.unique(np.concatenate(list(by_contig.values())), return_counts=True)
    alone = np.flatnonzero(times[np.searchsorted(distinct, own)] == 1)
    covered = np.zeros(lengths[contig] + 1, np.int64)
    np.add.at(covered, alone, 1)
    np.add.at(covered, alone + LONGEST, -1)
    inside = np.pad(np.cumsum(covered)[:-1] == 0, 1).astype(np.int8)
    edges = np.flatnonzero(np.diff(inside)).reshape(-1, 2)
    return [(start, end) for start, end in edges.tolist() if end - start >= _LEAST]


if __name__ == "__main__":
    main()
