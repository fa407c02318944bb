"""Batches to whoever trains, beside other libraries: python -m benchmarks.loader [packed one-hot ...] [--peers] [--megabases 200]

On one core, every library in a process of its own and held to one thread. What is compared takes turns of so many seconds
each; tables hold their medians. Nothing is timed before what it serves was seen to be the right bases. Genomes: drawn bases with
1 % N in runs, and human chromosome 20 where $DISTGEN_DATA has it, all of them in the page cache. Batches have 64 windows,
those of 131,072 bases 16.

packed    each batch taken and its `state_dict` asked for: 2 bits a base, the plane of N, random strand, jitter of 16 bases;
          of the peers batches of letters, one byte a base, forward, without jitter, N as a letter, without a state
one-hot   the same batches decoded to uint8 channels
targets   64 float16 signals at 128 bp, raw and compressed, beside copies of the same windows and the codec's own decoding
device    host time per batch where the genome lies on the device: a GPU if there is one, else the CPU
seek      one batch anywhere in an epoch
first     from `GenomeLoader(path, ...)` to its first batch, with the files in the page cache and dropped from it, in fresh
          processes; of a genome 15 times as large
disk      windows whose pages are not in the page cache, as of a store larger than memory: asked of the disk one by one as they
          are touched, and together, as the loader does where arrays are larger than half of memory
memory    anonymous resident memory (RssAnon) of a fresh process through an epoch of that genome
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from benchmarks import genomes, loader_fresh, loader_targets
from benchmarks.measure import machine, table
from benchmarks.peers import Genome, installed, peer
from benchmarks.turns import Maker, Match, Turn, consume, draw, repeat
from distgen import GenomeLoader, kernels
from distgen.genome import BASES, Bytes
from distgen.loader.batch import Batch
from distgen.loader.order import permute
from distgen.loader.windows import Geometry, Tiles
from distgen.store.reader import open_store

ROWS, LARGEST = 64, 1 << 21  # windows and bases in a batch at most
WINDOWS = (2048, 8192, 131_072)
_VAST = Tiles(np.array([[0, 10**12 * 2048]]), Geometry(2048, 2048, 2048))
_THREADS = ("OMP", "MKL", "OPENBLAS", "NUMBA", "BLOSC", "GVL", "RAYON", "POLARS_MAX")


class Setting:
    """What every part is measured with.

    Args:
        folder: for what is made.
        bases: of the drawn genome.
        match: how contenders take turns.
        peers: by name and version.
    """

    def __init__(self, folder: Path, bases: int, match: Match, peers: dict[str, str]):
        self.folder, self.bases, self.match, self.peers = folder, bases, match, peers
        self._genomes: list[Genome] = []
        self._large: Path | None = None

    @property
    def genomes(self) -> list[Genome]:
        if not self._genomes:
            made = genomes.drawn(self.folder / "drawn", self.bases), genomes.human(self.folder / "human")
            self._genomes = [genome for genome in made if genome is not None]
        return self._genomes

    @property
    def large(self) -> Path:
        """A store of 15 times as many bases."""
        if self._large is None:
            self._large = genomes.large(self.folder, 15 * self.bases)
        return self._large


# ---- contenders -----------------------------------------------------------------------------


def rows_of(window: int) -> int:
    """Windows in a batch: where its channels have more than 32 MB, finding new pages for them would be all that is measured."""
    return min(ROWS, LARGEST // window)


def ours(genome: Genome, window: int, placement: str = "host", **options: Any) -> GenomeLoader:
    """The loader with all it promises, after its first batch was seen to be right."""
    loader = GenomeLoader(
        genome.store,
        window=window,
        split=None,
        batch_size=rows_of(window),
        strand="random",
        jitter=16,
        placement=placement,  # type: ignore[arg-type]
        **options,
    )
    code, letters = np.full(256, 4, np.uint8), genome.letters
    code[list(BASES[:4].encode())] = range(4)
    batch = loader.batch(0, 0)
    for tokens, one_hot, place in zip(*decoded(batch), batch.where(), strict=True):
        at = np.arange(place.start, place.end)
        known = (at >= 0) & (at < genome.bases)
        truth = np.where(known, code[letters[np.where(known, at, 0)]], 4)
        if place.strand == "-":
            truth = np.where(truth < 4, 3 - truth, 4)[::-1]
        assert np.array_equal(tokens, truth), f"distgen served wrong bases at {place}"
        assert np.array_equal(one_hot.argmax(0)[truth < 4], truth[truth < 4]), f"wrong channels at {place}"
        assert np.array_equal(one_hot.sum(0), truth < 4), f"wrong channels at {place}"
    return loader


def decoded(batch: Batch) -> tuple[Bytes, Bytes]:
    return kernels.tokens(**batch.packed).cpu().numpy(), one_hot(batch).cpu().numpy()


def one_hot(batch: Batch) -> torch.Tensor:
    return kernels.one_hot(**batch.packed, dtype=torch.uint8)


def theirs(name: str, genome: Genome, window: int) -> tuple[ModuleType, Iterator[Bytes]]:
    """A peer and its batches, after one was seen to be right."""
    module = peer(name)
    batches = module.serve(genome, window, rows_of(window))
    letters = next(batches)
    genome.check(name, letters)
    if hasattr(module, "one_hot"):
        channels = module.one_hot(letters)
        assert (channels.argmax(2) == np.searchsorted(list(b"ACGT"), letters))[letters != ord("N")].all(), name
    return module, batches


# What runs in a process of its own.


def _our_packed(genome: Genome, window: int, placement: str) -> Turn:
    loader = ours(genome, window, placement)
    return partial(consume, loader, lambda _: loader.state_dict(), rows_of(window) * window)


def _our_channels(genome: Genome, window: int) -> Turn:
    return partial(consume, ours(genome, window), one_hot, rows_of(window) * window)


def _their_letters(name: str, genome: Genome, window: int) -> Turn:
    return partial(draw, theirs(name, genome, window)[1], lambda _: None, rows_of(window) * window)


def _their_channels(name: str, genome: Genome, window: int) -> Turn:
    module, batches = theirs(name, genome, window)
    return partial(draw, batches, module.one_hot, rows_of(window) * window)


def _on_device(genome: Genome, window: int, where: str) -> Turn:
    return partial(consume, ours(genome, window, "device", device=where), lambda _: None, 1)


def _places() -> Turn:
    """Where samples of 10^12 lie."""
    rng, vast = np.random.default_rng(0), _VAST

    def places() -> None:
        index = int(rng.integers(0, len(vast) - ROWS)) + np.arange(ROWS)
        vast.locate(permute(index, len(vast), 7, int(rng.integers(1000))))

    return partial(repeat, places)


def _anywhere(genome: Genome) -> Turn:
    """A batch of any epoch, at any place of it."""
    rng, loader = np.random.default_rng(0), ours(genome, 2048, stride=1)
    state, batches = loader.state_dict(), loader.plan.batches(0)
    loader.store.planes["sequence"].read()  # each chunk is checked at first touch, which is no matter of the position

    def batch() -> None:
        position = int(rng.integers(0, batches)) * loader.batch_size
        loader.load_state_dict(state | {"epoch": int(rng.integers(1000)), "position": position})
        loader.batch(loader.epoch, loader.position)

    return partial(repeat, batch)


# ---- parts ----------------------------------------------------------------------------------


def packed(setting: Setting) -> None:
    """Packed windows against letters."""

    def contenders(genome: Genome, window: int) -> dict[str, Maker]:
        makers: dict[str, Maker] = {
            f"distgen, {placement}": partial(_our_packed, genome, window, placement) for placement in ("host", "device")
        }
        return makers | {
            name: partial(_their_letters, module, genome, window) for name, module in setting.peers.items()
        }

    _by_window(setting, "packed, or letters", contenders)


def channels(setting: Setting) -> None:
    """One-hot uint8."""

    def contenders(genome: Genome, window: int) -> dict[str, Maker]:
        makers: dict[str, Maker] = {"distgen, host": partial(_our_channels, genome, window)}
        can = {name: module for name, module in setting.peers.items() if hasattr(peer(module), "one_hot")}
        return makers | {name: partial(_their_channels, module, genome, window) for name, module in can.items()}

    _by_window(setting, "one-hot uint8", contenders)


def _by_window(setting: Setting, what: str, contenders: Callable[[Genome, int], dict[str, Maker]]) -> None:
    for genome in setting.genomes:
        windows = [window for window in WINDOWS if rows_of(window) * window <= genome.bases]
        found = [setting.match.medians(contenders(genome, window)) for window in windows]
        first = next(iter(found[0]))
        rows = [
            (name, *(f"{rates[name] / 1e6:,.0f} ({rates[name] / rates[first]:.3g})" for rates in found))
            for name in found[0]
        ]
        table((f"{what}: {genome.name}, Mbases/s (of the first)", *(f"{w:,} bases" for w in windows)), rows)
        print()


def device(setting: Setting) -> None:
    """Host time per batch."""
    where = "cuda" if torch.cuda.is_available() else "cpu"
    makers: dict[str, Maker] = {
        f"{window:,}": partial(_on_device, setting.genomes[0], window, where) for window in WINDOWS[:2]
    }
    found = [(window, where, f"{1e6 / rate:.1f}") for window, rate in setting.match.medians(makers).items()]
    table(("device placement, batches of 64 windows of", "device", "host time a batch, us"), found)
    print()


def seek(setting: Setting) -> None:
    """One batch anywhere in a large epoch: where its samples lie, of 10^12; and the batch itself, of as many as there are."""
    genome = setting.genomes[0]
    names = f"order and places of {ROWS} samples", f"load_state_dict and batch of {ROWS} windows"
    rates = setting.match.medians(dict(zip(names, (_places, partial(_anywhere, genome)), strict=True)))
    sizes = len(_VAST), len(ours(genome, 2048, stride=1).plan.sampling(0))
    rows = [(name, f"{size:.3g}", f"{1e3 / rate:.3f}") for (name, rate), size in zip(rates.items(), sizes, strict=True)]
    table(("seek to any position", "of an epoch of", "ms"), rows)
    print()


def first(setting: Setting) -> None:
    """Fresh processes until their first batch."""
    rows = []
    for placement in ("host", "device"):
        found = loader_fresh.first_batch(setting.large, placement, max(3, setting.match.turns // 2))
        rows += [(placement, called, f"{batch:.3f}", f"{process:.2f}") for called, batch, process in found]
    bases = f"{open_store(setting.large).length / 1e9:.2f} Gbases"
    table((f"first batch, {bases}", "store's files", "s from GenomeLoader(...)", "s from the process's start"), rows)
    print()


def disk(setting: Setting) -> None:
    """Windows from the disk."""
    rows: list[tuple[str, ...]] = []
    for window in WINDOWS[:2]:
        one, together = (loader_fresh.from_disk(setting.large, how, window) for how in ("one by one", "together"))
        rows.append((f"{window:,}", f"{one / 1e6:,.0f}", f"{together / 1e6:,.0f}", f"{together / one:.1f}"))
    table(("Mbases/s from the disk, windows of", "pages one by one", "pages of a go together", "times"), rows)
    print()


def memory(setting: Setting) -> None:
    """Fresh processes through an epoch."""
    rows = []
    for placement in ("host", "device"):
        imported, most = loader_fresh.anonymous(setting.large, placement)
        rows.append((placement, f"{imported / 1e3:,.0f}", f"{most / 1e3:,.0f}", f"{(most - imported) / 1e3:,.0f}"))
    table(("RssAnon, MB", "torch and distgen imported", "most in an epoch", "difference"), rows)
    print()


def targets(setting: Setting) -> None:
    """Signals."""
    loader_targets.measure(setting.folder / "signals", setting.bases, setting.match)


PARTS: dict[str, Callable[[Setting], None]] = {
    "packed": packed,
    "one-hot": channels,
    "targets": targets,
    "device": device,
    "seek": seek,
    "first": first,
    "disk": disk,
    "memory": memory,
}


def on_one_core() -> None:
    """Begin anew on one core: threads that libraries start when they are imported would not follow later."""
    if os.environ.get("DISTGEN_BENCHMARK_PID") != str(os.getpid()):  # exec keeps the number of the process
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        threads = {f"{name}{'_' if name == 'POLARS_MAX' else '_NUM_'}THREADS": "1" for name in _THREADS}
        os.environ.update(threads, BLOSC_NTHREADS="1", DISTGEN_BENCHMARK_PID=str(os.getpid()))
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.loader", *sys.argv[1:]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--megabases", type=float, default=200, help="of the drawn genome")
    parser.add_argument("--seconds", type=float, default=0.4, help="that a turn takes")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument(
        "--cpu",
        action="store_true",
        help="count processor time, where a machine with other work gives no other measure",
    )
    parser.add_argument("--peers", action="store_true", help="the other libraries as well, as many as are installed")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    on_one_core()
    torch.set_num_threads(1)
    print(machine(), "on one core,", "seconds of the processor\n" if given.cpu else "seconds of the clock\n")
    with tempfile.TemporaryDirectory() as name:
        tempfile.tempdir = name  # where libraries leave their locks
        peers = installed() if given.peers else {}
        for peer_name, module in peers.items():
            print(f"- {peer_name}: {peer(module).HOW}")
        match = Match(given.seconds, given.turns, time.process_time if given.cpu else time.perf_counter)
        setting = Setting(Path(name), int(given.megabases * 1e6), match, peers)
        for part in given.parts or PARTS:
            print()
            PARTS[part](setting)


if __name__ == "__main__":
    main()
