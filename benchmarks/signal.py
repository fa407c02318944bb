"""From bigWig in the page cache to bins, on one core: python -m benchmarks.signal [megabases] [bigwig ...]

Beside it stands what merely reading every value costs with each reader that is installed, in the form in which it is quickest:
pyBigWig's values, pybigtools' records, figwig's values. Without a file, one is drawn with a fixed seed: four contigs
without gaps, a new value every 20 bases on average.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyBigWig

from benchmarks.measure import machine, median_seconds, table
from distgen.genome import Contigs
from distgen.ingest.signal import Reduce, open_signal

BINS = 1 << 20
BASES = 1 << 20  # what figwig and pyBigWig are asked for at a time


def write_bigwig(path: Path, bases: int) -> None:
    """A drawn step function."""
    rng = np.random.default_rng(0)
    lengths = {f"chr{i + 1}": bases // 4 for i in range(4)}
    with pyBigWig.open(str(path), "w") as file:
        file.addHeader(list(lengths.items()))
        for name, length in lengths.items():
            ends = np.cumsum(rng.geometric(1 / 20, length // 20))
            ends = np.append(ends[ends < length], length)
            values = np.maximum(0, np.cumsum(rng.integers(-3, 4, len(ends)))) % 200 / 10
            starts = np.append(0, ends[:-1])
            file.addEntries([name] * len(ends), starts.tolist(), ends=ends.tolist(), values=values.tolist())


def binned(path: Path, contigs: Contigs, bin_bp: int, reduce: Reduce) -> None:
    """Every bin of a file."""
    signal = open_signal(path, contigs, path.parent)
    for row in range(len(contigs)):
        bins = -(-int(contigs.lengths[row]) // bin_bp)
        for first in range(0, bins, BINS):
            signal.bins(row, first, min(bins, first + BINS), bin_bp, reduce, absent="zero")


def readers(path: Path, lengths: dict[str, int]) -> dict[str, Callable[[], None]]:
    """Reading every value of a file, by reader."""
    stretches = [(name, at, min(at + BASES, n)) for name, n in lengths.items() for at in range(0, n, BASES)]

    def values() -> None:
        file = pyBigWig.open(str(path))
        for name, first, last in stretches:
            file.values(name, first, last, numpy=True)

    def records() -> None:
        import pybigtools

        file = pybigtools.open(str(path))
        for name in lengths:
            for _ in file.records(name):
                pass

    def windows() -> None:
        import figwig

        file, out = figwig.BigWigReader(path), np.empty((1, BASES), np.float32)
        for name, first, _ in stretches:
            file.read(name, [first], BASES, out=out, n_jobs=1, missing=np.nan)

    every = {"pyBigWig": values, "pybigtools": records, "figwig": windows}
    return {name: work for name, work in every.items() if importlib.util.find_spec(name)}


def main() -> None:
    paths = [Path(name) for name in sys.argv[2:]]
    bases = int(sys.argv[1] if len(sys.argv) > 1 else 200) * 1_000_000
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        if not paths:
            paths = [Path(folder) / "drawn.bw"]
            write_bigwig(paths[0], bases)
        for path in paths:
            with pyBigWig.open(str(path)) as file:
                lengths = dict(file.chroms())
            sizes = np.array(list(lengths.values()))
            contigs = Contigs(tuple(lengths), sizes, np.cumsum(sizes) - sizes)
            works = {
                f"distgen, {reduce} of {bin_bp} bp": lambda path=path, c=contigs, b=bin_bp, r=reduce: binned(
                    path, c, b, r
                )
                for bin_bp, reduce in ((1, "mean"), (16, "mean"), (128, "mean"), (128, "max"))
            }
            works |= {f"{name}, every value": work for name, work in readers(path, lengths).items()}
            for name, work in works.items():
                seconds = median_seconds(work, repeats=5)
                rows.append((path.name, name, f"{seconds:.3f}", f"{sizes.sum() / seconds / 1e6:,.0f}"))
    print(machine(), "pinned to one core\n")
    table(("bigWig", "work", "s", "Mbases/s"), rows)


if __name__ == "__main__":
    main()
