"""Other libraries that serve windows of DNA, one file each, in the quickest way their own documents show.

Each file says what it is and serves:

    PACKAGE: its name on the package index
    HOW: what it reads, in a few words
    serve(genome, window, rows): batches without end, each letters uint8 (rows, window) of windows in random order
    one_hot(letters): uint8 (rows, window, 4) of such a batch; only where the library is used so

They are imported by name when they are installed: `pip install -c benchmarks/peers/constraints.txt -e '.[dev,peers]'`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from distgen.genome import Bytes, Int64

NAMES = ("genvarloader", "tensorstore", "litdata", "webdataset", "streaming", "pyfaidx")
_PREFIX = 64  # bases that tell one window of a drawn or real genome from another


@dataclass(frozen=True)
class Genome:
    """One contig, as all contenders get it.

    Args:
        name: what tables call it.
        folder: for what a contender makes of it.
        fasta: plain, upper case, lines of 60.
        contig: its name.
        store: as distgen built it from `fasta`.
        bases: how many it has.
    """

    name: str
    folder: Path
    fasta: Path
    contig: str
    store: Path
    bases: int

    @property
    def plain(self) -> Path:
        """The file of `letters`."""
        return self.folder / "letters"

    @property
    def letters(self) -> Bytes:
        """uint8 (bases,), what every contender must serve: mapped, and one file for all processes."""
        return np.memmap(self.plain, np.uint8, "r", shape=(self.bases,)).view(np.ndarray)

    def tiles(self, window: int) -> Int64:
        """First base of each window that tiles the contig."""
        return np.arange(0, self.bases - window + 1, window)

    def shuffled(self, window: int, rows: int) -> Iterator[Int64]:
        """Tiles in a new random order each epoch, so many at a time, without end."""
        rng, tiles = np.random.default_rng(0), self.tiles(window)
        while True:
            order = rng.permutation(tiles)
            yield from order[: len(order) // rows * rows].reshape(-1, rows)

    def check(self, who: str, letters: Bytes) -> None:
        """See that a batch holds whole, different tiles of this contig, and not one after another.

        Raises:
            AssertionError: it does not; what is wrong is not timed.
        """
        window, truth = letters.shape[1], self.letters
        begins = _begins(self, window)
        found = [begins.get(row[:_PREFIX].tobytes()) for row in letters]
        for row, start in zip(letters, found, strict=True):
            assert start is not None, f"{who} served bases with which no tile of {window} begins"
            unclear = row[:_PREFIX].tobytes() == b"N" * _PREFIX
            assert unclear or np.array_equal(row, truth[start : start + window]), f"{who} served wrong bases"
        assert len(set(found)) > len(found) // 2, f"{who} served a tile again and again"
        assert found != sorted(found, key=lambda start: start or 0), f"{who} served tiles in their order"  # type: ignore[arg-type]


@cache
def _begins(genome: Genome, window: int) -> dict[bytes, int]:
    letters = genome.letters
    return {letters[start : start + _PREFIX].tobytes(): start for start in genome.tiles(window).tolist()}


def peer(name: str) -> Any:
    """The module of one of `NAMES`; raises ImportError where it is not installed."""
    return importlib.import_module(f"benchmarks.peers.{name}")


def installed() -> dict[str, str]:
    """Which of `NAMES` can be imported here, by name and version; a line says what the others lack."""
    found = {}
    for name in NAMES:
        try:
            package = peer(name).PACKAGE
        except ImportError as error:
            print(f"{name} is left out: {error}")
            continue
        found[f"{package} {importlib.metadata.version(package)}"] = name
    return found


def stacked(rows: list[bytes]) -> Bytes:
    """Samples of equal length as one array, by one copy."""
    return np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), -1)
