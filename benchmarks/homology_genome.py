"""Time, memory and recall of the homology search on a genome of any size: python -m benchmarks.homology genome

There is no such genome at hand, so one is made of human chromosome 20 (DISTGEN_DATA): copy after copy, of which each base
is replaced with a probability of 25 to 40 %, so that no two copies resemble each other as far as the search looks. Into
these go the worst that genomes have, a family of 300-base elements on both strands, 300 in a megabase, each 10 to 20 %
from their common ancestor and none of it in lower case; and, in the last tenth alone, copies of stretches of the rest
at 70 to 99 % identity, which are to be found. Seeds are fixed.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.homology import COPIES, IDENTITIES, LENGTHS, LETTERS, diverge, machine, table
from distgen.config import Recipe, read
from distgen.store.build import build
from distgen.store.homology.search import Likeness
from distgen.store.homology.tiles import find_pairs
from distgen.store.reader import open_store

_CONTIG = 50_000_000
_ELEMENT = 300


@dataclass
class Truth:
    """What lies in the contigs of test: 0 nothing, 1 an element, 2 a copy; and identity, length, contig, start, end."""

    kinds: dict[str, np.ndarray] = field(default_factory=dict)
    planted: list[tuple[float, int, str, int, int]] = field(default_factory=list)


def genome(bases: int, elements: int, rng: np.random.Generator, truth: Truth) -> Iterator[tuple[str, np.ndarray]]:
    """Contigs train-0, train-1, ... and, a tenth of the bases, test-0, ... as codes."""
    source, ancestor, stretches = chromosome_20(), rng.integers(0, 4, _ELEMENT, dtype=np.uint8), []
    for part, size in (("train", bases - bases // 10), ("test", bases // 10)):
        for number, begin in enumerate(range(0, size, _CONTIG)):
            codes = source[: min(_CONTIG, size - begin)].copy()
            replaced = rng.integers(0, 256, len(codes), dtype=np.uint8) < rng.integers(64, 103)
            codes[replaced] = (codes[replaced] + rng.integers(1, 4, int(replaced.sum()), dtype=np.uint8)) & 3
            kinds = scatter(codes, ancestor, len(codes) * elements // 10**6, rng)
            name = f"{part}-{number}"
            if part == "test":
                truth.kinds[name] = kinds
                if not number:
                    plant(codes, stretches, name, truth, rng)
            else:
                stretches += [codes[at : at + max(LENGTHS)].copy() for at in rng.integers(0, len(codes) // 2, 50)]
            yield name, codes


def chromosome_20() -> np.ndarray:
    import gzip

    fasta = Path(os.environ["DISTGEN_DATA"]) / "human_b37_chr20/20.fa.gz"
    letters = np.frombuffer(gzip.decompress(fasta.read_bytes()).split(b"\n", 1)[1], np.uint8)
    return np.searchsorted(LETTERS, letters[np.isin(letters, LETTERS)]).astype(np.uint8)


def scatter(codes: np.ndarray, ancestor: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Write elements over the codes, each on a grid place of its own; returns 1 where they lie."""
    starts = rng.permutation(len(codes) // _ELEMENT - 1)[:count, None] * _ELEMENT
    copies = np.where(rng.random((count, 1)) < 0.5, ancestor, 3 - ancestor[::-1])
    changed = rng.random(copies.shape, np.float32) < rng.uniform(0.1, 0.2, (count, 1))
    copies = (copies + changed * rng.integers(1, 4, copies.shape, dtype=np.uint8)) & 3
    codes[starts + np.arange(_ELEMENT)] = copies
    kinds = np.zeros(len(codes), np.uint8)
    kinds[starts + np.arange(_ELEMENT)] = 1
    return kinds


def plant(codes: np.ndarray, stretches: list[np.ndarray], name: str, truth: Truth, rng: np.random.Generator) -> None:
    """Write copies of stretches of train over the codes, evenly spread."""
    wanted = [(identity, length) for identity in IDENTITIES for length in LENGTHS for _ in range(COPIES)]
    spacing = len(codes) // len(wanted)
    for number, (identity, length) in enumerate(wanted):
        copy = diverge(stretches[int(rng.integers(len(stretches)))][:length], identity, rng)
        start = number * spacing
        codes[start : start + len(copy)] = 3 - copy[::-1] if number % 2 else copy
        truth.kinds[name][start : start + len(copy)] = 2
        truth.planted.append((identity, length, name, start, start + len(copy)))


class Peak:
    """The most memory of its own that this process takes beyond what it had, watched in a thread; pages of files, which
    the system can take back, don't count."""

    def __enter__(self) -> Peak:
        self.bytes, self._before, self._done = 0, self._now(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.1):
            self.bytes = max(self.bytes, self._now() - self._before)

    def _now(self) -> int:
        return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) << 10

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.homology genome")
    parser.add_argument("--gigabases", type=float, default=1.0)
    parser.add_argument("--elements", type=int, default=300, help="in a megabase")
    parser.add_argument("--identity", type=float, default=0.8)
    parser.add_argument("--folder", type=Path, help="keep the genome and its store here")
    options = parser.parse_args(arguments)
    print(machine(), "\n")
    with tempfile.TemporaryDirectory() as name:
        folder = options.folder or Path(name)
        folder.mkdir(exist_ok=True)
        truth, began, bases = Truth(), time.perf_counter(), int(options.gigabases * 1e9)
        with (folder / "genome.fa").open("wb") as file:
            for contig, codes in genome(bases, options.elements, np.random.default_rng(1), truth):
                file.write(f">{contig}\n".encode() + LETTERS[codes].tobytes() + b"\n")
        made = time.perf_counter()
        recipe = '[assembly]\nname = "genome"\nfasta = "genome.fa"\n[split]\ntest = ["test-*"]\n'
        (folder / "genome.toml").write_text(f"format = 1\n{recipe}")
        build(read(folder / "genome.toml", Recipe), folder / "genome.zarr")
        store, built = open_store(folder / "genome.zarr"), time.perf_counter()
        print(f"{options.gigabases:g} Gb made in {made - began:.0f} s, built in {built - made:.0f} s", flush=True)
        with Peak() as peak:
            parts = {part: store.regions(part) for part in ("train", "test")}
            pairs = find_pairs(store, parts, Likeness(identity=options.identity))
        seconds, more = time.perf_counter() - built, peak.bytes / 2**20
        print(f"searched in {seconds:.0f} s, {more:,.0f} MiB more, {len(pairs):,} pairs\n")
        report(store.contigs, pairs.between("train", "test")[2], truth)


def report(contigs, stretches: np.ndarray, truth: Truth) -> None:
    """Which planted copies were found by half or more, which elements, and what else."""
    covered = {name: np.zeros(len(kinds), bool) for name, kinds in truth.kinds.items()}
    rows = contigs.locate(stretches[:, 0])
    for row, (start, end) in zip(rows.tolist(), (stretches - contigs.offsets[rows][:, None]).tolist(), strict=True):
        covered[contigs.names[row]][start:end] = True
    lines = []
    for identity in IDENTITIES:
        cells = []
        for length in LENGTHS:
            these = [at for *kind, at in ((p[0], p[1], p[2:]) for p in truth.planted) if kind == [identity, length]]
            shares = [covered[contig][start:end].mean() for contig, start, end in these]
            cells.append(f"{np.mean(np.array(shares) >= 0.5):.0%}")
        lines.append((f"{identity:.0%}", *cells))
    table(("planted identity", *(f"{length:,} bases" for length in LENGTHS)), lines)
    counts = np.zeros((2, 3), np.int64)
    for name, kinds in truth.kinds.items():
        counts += [np.bincount(kinds, minlength=3), np.bincount(kinds[covered[name]], minlength=3)]
    (other, elements, _), (false, of_elements, _) = counts.tolist()
    print(f"\nfound of elements {of_elements:,} of {elements:,} bases; of neither {false:,} of {other:,}")
