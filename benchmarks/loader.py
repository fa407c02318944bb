"""Batches to whoever trains, beside other libraries: python -m benchmarks.loader [packed one-hot ...] [--peers] [--megabases 200]

One process on one core, every library held to one thread. What is compared takes turns of so many seconds each; tables hold
their medians. Nothing is timed before what it serves was seen to be the right bases. Genomes: drawn bases with
1 % N in runs, and human chromosome 20 where $DISTGEN_DATA has it, all of them in the page cache. Batches have 64 windows,
those of 131,072 bases 16.

packed    each batch taken and its `state_dict` asked for: 2 bits a base, the plane of N, random strand, jitter of 16 bases;
          of the peers batches of letters, one byte a base, forward, without jitter, N as a letter, without a state
one-hot   the same batches decoded to uint8 channels
targets   64 float16 signals at 128 bp, raw and compressed, beside a copy of as many bytes and the codec's own decoding
device    host time per batch where the genome lies on the device: a GPU if there is one, else the CPU
seek      one batch anywhere in an epoch
first     from `GenomeLoader(path, ...)` to its first batch, with the files in the page cache and dropped from it, in fresh
          processes; of a genome 15 times as large
memory    anonymous resident memory (RssAnon) of a fresh process through an epoch of that genome
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from benchmarks import genomes, loader_fresh
from benchmarks.measure import machine, median_seconds, table
from benchmarks.peers import Genome, installed
from distgen import GenomeLoader, kernels
from distgen.genome import BASES, Bytes
from distgen.loader.batch import Batch
from distgen.loader.order import permute
from distgen.loader.windows import Tiles
from distgen.store.array import Array
from distgen.store.format import ABSENT, zstd
from distgen.store.reader import open_store

ROWS, LARGEST = 64, 1 << 21  # windows and bases in a batch at most
WINDOWS = (2048, 8192, 131_072)
SIGNALS, BIN_BP = 64, 128
_THREADS = ("OMP", "MKL", "OPENBLAS", "NUMBA", "BLOSC", "GVL", "RAYON", "POLARS_MAX")


class Watch:
    """Says when a turn is over.

    Args:
        seconds: it lasts.
        clock: what counts them.
    """

    def __init__(self, seconds: float, clock: Callable[[], float]):
        self._clock, self._began, self._seconds, self.elapsed = clock, clock(), seconds, 0.0

    def over(self) -> bool:
        self.elapsed = self._clock() - self._began
        return self.elapsed >= self._seconds


Turn = Callable[[Watch], int]  # goes on until the turn is over -> units served
Row = tuple[str, ...]


class Setting:
    """What every part is measured with.

    Args:
        folder: for what is made.
        bases: of the drawn genome.
        watch: begins a turn.
        turns: of each contender.
        peers: modules by name and version.
    """

    def __init__(self, folder: Path, bases: int, watch: Callable[[], Watch], turns: int, peers: dict[str, ModuleType]):
        self.folder, self.bases, self.watch, self.turns, self.peers = folder, bases, watch, turns, peers
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

    def medians(self, turns: dict[str, Turn]) -> dict[str, float]:
        """Units per second of each, which take turns after one that warms up."""
        found: dict[str, list[float]] = {name: [] for name in turns}
        for _ in range(1 + self.turns):
            for name, turn in turns.items():
                watch = self.watch()
                served = turn(watch)
                found[name].append(served / watch.elapsed)
        return {name: statistics.median(rates[1:]) for name, rates in found.items()}


# ---- contenders -----------------------------------------------------------------------------


def rows_of(window: int) -> int:
    """Windows in a batch: where its channels have more than 32 MB, finding new pages for them would be all that is measured."""
    return min(ROWS, LARGEST // window)


def consume(loader: GenomeLoader, work: Callable[[Batch], object], units: int, watch: Watch) -> int:
    """Units served, `units` a batch, of a loader that goes on where it stood. Its threads start and end with the turn, so that
    they take no time from others; what they made ahead and nobody took counts as lost."""
    served = 0
    while not watch.over():
        stream = iter(loader)
        for batch in stream:
            work(batch)
            served += units
            if watch.over():
                break
        stream.close()
    return served


def draw(batches: Iterator[Bytes], work: Callable[[Bytes], object], units: int, watch: Watch) -> int:
    """The same of a peer's batches."""
    served = 0
    while not watch.over():
        work(next(batches))
        served += units
    return served


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
    code = np.full(256, 4, np.uint8)
    code[list(BASES[:4].encode())] = range(4)
    batch = loader.batch(0, 0)
    for tokens, one_hot, place in zip(*decoded(batch), batch.where(), strict=True):
        at = np.arange(place.start, place.end)
        known = (at >= 0) & (at < len(genome.letters))
        truth = np.where(known, code[genome.letters[np.where(known, at, 0)]], 4)
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


def theirs(
    setting: Setting, stack: ExitStack, genome: Genome, window: int, only: str = "serve"
) -> dict[str, tuple[ModuleType, Iterator[Bytes]]]:
    """The peers that have something, and their batches, after one was seen to be right; they end with the stack."""
    found = {}
    for name, module in setting.peers.items():
        if hasattr(module, only):
            batches = stack.enter_context(closing(module.serve(genome, window, rows_of(window))))
            letters = next(batches)
            genome.check(name, letters)
            if only == "one_hot":
                channels = module.one_hot(letters)
                assert (channels.argmax(2) == np.searchsorted(list(b"ACGT"), letters))[letters != ord("N")].all(), name
            found[name] = module, batches
    return found


# ---- parts ----------------------------------------------------------------------------------


def packed(setting: Setting) -> None:
    """Packed windows against letters."""

    def contenders(stack: ExitStack, genome: Genome, window: int) -> dict[str, Turn]:
        units, loader = rows_of(window) * window, ours(genome, window)
        turns: dict[str, Turn] = {"distgen, host": partial(consume, loader, lambda _: loader.state_dict(), units)}
        on_device = ours(genome, window, "device")
        turns["distgen, device"] = partial(consume, on_device, lambda _: on_device.state_dict(), units)
        for name, (_, batches) in theirs(setting, stack, genome, window).items():
            turns[name] = partial(draw, batches, lambda _: None, units)
        return turns

    _by_window(setting, "packed, or letters", contenders)


def channels(setting: Setting) -> None:
    """One-hot uint8."""

    def contenders(stack: ExitStack, genome: Genome, window: int) -> dict[str, Turn]:
        units = rows_of(window) * window
        turns: dict[str, Turn] = {"distgen, host": partial(consume, ours(genome, window), one_hot, units)}
        for name, (module, batches) in theirs(setting, stack, genome, window, "one_hot").items():
            turns[name] = partial(draw, batches, module.one_hot, units)
        return turns

    _by_window(setting, "one-hot uint8", contenders)


def _by_window(setting: Setting, what: str, contenders: Callable[[ExitStack, Genome, int], dict[str, Turn]]) -> None:
    for genome in setting.genomes:
        windows = [window for window in WINDOWS if rows_of(window) * window <= len(genome.letters)]
        found = []
        for window in windows:
            with ExitStack() as stack:
                found.append(setting.medians(contenders(stack, genome, window)))
        first = next(iter(found[0]))
        rows = [
            (name, *(f"{rates[name] / 1e6:,.0f} ({rates[name] / rates[first]:.3g})" for rates in found))
            for name in found[0]
        ]
        table((f"{what}: {genome.name}, Mbases/s (of the first)", *(f"{w:,} bases" for w in windows)), rows)
        print()


def targets(setting: Setting) -> None:
    """Signals with their sequence on the device placement, where no base is copied."""
    rows: list[Row] = []
    bases = max(setting.bases // 2, 16 * WINDOWS[-1])
    for compress in (False, True):
        path = genomes.signals(setting.folder / "signals", bases, SIGNALS, BIN_BP, compress=compress)
        store = open_store(path)
        (block,) = store.track("signals").blocks
        assert block.layout.codec == ("zstd" if compress else "raw")
        whole = block.read()
        for window in WINDOWS[1:]:
            loader = GenomeLoader(
                store, window=window, split=None, batch_size=rows_of(window), placement="device", tracks=("signals",)
            )
            _check_targets(loader.batch(0, 0), whole)
            size = rows_of(window) * window // BIN_BP * SIGNALS * 2
            turns: dict[str, Turn] = {
                "loader": partial(consume, loader, lambda _: None, size),
                "copy": partial(_copied, whole.reshape(-1).view(np.uint8), size),
            }
            if compress:
                turns["codec"] = _codec_only(block)
            rates = setting.medians(turns)
            measure = "codec" if compress else "copy"
            rows.append(
                (
                    f"{'compressed' if compress else 'raw, mapped'}, windows of {window:,}",
                    f"{rates['loader'] / 1e6:,.0f}",
                    f"{rates['copy'] / 1e6:,.0f}",
                    f"{rates['codec'] / 1e6:,.0f}" if compress else "",
                    f"{rates['loader'] / rates[measure]:.0%} of the {measure}",
                )
            )
    table((f"{SIGNALS} float16 signals at {BIN_BP} bp", "loader, MB/s", "copy, MB/s", "codec, MB/s", ""), rows)
    print()


def _check_targets(batch: Batch, whole: np.ndarray) -> None:
    values, known = batch.targets["signals"].numpy(), batch.mask["signals"].numpy()
    for row, place in enumerate(batch.where()):
        truth = whole[place.start // BIN_BP :][: values.shape[1]]  # the last tile sticks out of its contig
        inside = np.broadcast_to(known[row].reshape(values.shape[1], -1), values.shape[1:])[: len(truth)]
        inside = inside & ~np.isnan(truth)
        assert inside.any(), f"distgen has no signals at {place}"
        assert np.array_equal(values[row, : len(truth)][inside], truth[inside]), (
            f"distgen served wrong signals at {place}"
        )


def _copied(source: Bytes, size: int, watch: Watch) -> int:
    """Copies of so many bytes from random places into one buffer."""
    out, rng, count = np.empty(size, np.uint8), np.random.default_rng(0), 0
    starts = rng.integers(0, max(len(source) - size, 1), 1024).tolist()
    while not watch.over():
        start = starts[count % 1024]
        np.copyto(out, source[start : start + size])
        count += 1
    return count * size


def _codec_only(block: Array) -> Turn:
    """The chunks of an array's first shard, one after another in random order, decoded by its codec into one buffer."""
    stored = np.memmap(block.folder / block.layout.key(0), np.uint8, "r")  # type: ignore[call-overload]
    index = np.frombuffer(stored[-(16 * block.layout.chunks_per_shard + 4) : -4].tobytes(), "<u8").reshape(-1, 2)
    places = np.random.default_rng(0).permutation(index[index[:, 0] != ABSENT]).tolist()
    codec, out = zstd(), np.empty(block.layout.chunk_bytes, np.uint8)

    def turn(watch: Watch) -> int:
        count = 0
        while not watch.over():
            at, size = places[count % len(places)]
            codec.decode(stored[at : at + size], out)
            count += 1
        return count * out.size

    return turn


def device(setting: Setting) -> None:
    """Host time per batch."""
    where = "cuda" if torch.cuda.is_available() else "cpu"
    genome, found = setting.genomes[0], []
    for window in WINDOWS[:2]:
        loader = ours(genome, window, "device", device=where)
        rates = setting.medians({"": partial(consume, loader, lambda _: None, 1)})
        found.append((f"{window:,}", where, f"{1e6 / rates['']:.1f}"))
    table(("device placement, batches of 64 windows of", "device", "host time a batch, us"), found)
    print()


def seek(setting: Setting) -> None:
    """Where 64 samples lie, anywhere in a large epoch."""
    rng, rows = np.random.default_rng(0), []
    vast = Tiles(np.array([[0, 10**12 * 2048]]), 2048, 2048, 2048)

    def anywhere() -> None:
        index = int(rng.integers(0, len(vast) - ROWS)) + np.arange(ROWS)
        vast.locate(permute(index, len(vast), 7, int(rng.integers(1000))))

    rows.append((f"order and places alone, {len(vast):.3g} windows", f"{median_seconds(anywhere, 101) * 1e3:.3f}"))
    genome = setting.genomes[0]
    loader = ours(genome, 2048, stride=1)
    state = loader.state_dict()

    def jump() -> None:
        loader.load_state_dict(state | {"epoch": int(rng.integers(1000)), "position": _position(loader, rng)})
        loader.batch(loader.epoch, loader.position)

    seconds = median_seconds(jump, 101)
    rows.append((f"load_state_dict and that batch, {loader.batches(0) * ROWS:.3g} windows", f"{seconds * 1e3:.3f}"))
    table(("seek to any batch of an epoch", "ms"), rows)
    print()


def _position(loader: GenomeLoader, rng: np.random.Generator) -> int:
    return int(rng.integers(0, loader.batches(0))) * ROWS


def first(setting: Setting) -> None:
    """Fresh processes until their first batch."""
    rows = []
    for placement in ("host", "device"):
        found = loader_fresh.first_batch(setting.large, placement, max(3, setting.turns // 2))
        rows += [(placement, called, f"{batch:.3f}", f"{process:.2f}") for called, batch, process in found]
    bases = f"{open_store(setting.large).length / 1e9:.2f} Gbases"
    table((f"first batch, {bases}", "store's files", "s from GenomeLoader(...)", "s from the process's start"), rows)
    print()


def memory(setting: Setting) -> None:
    """Fresh processes through an epoch."""
    rows = []
    for placement in ("host", "device"):
        imported, most = loader_fresh.anonymous(setting.large, placement)
        rows.append((placement, f"{imported / 1e3:,.0f}", f"{most / 1e3:,.0f}", f"{(most - imported) / 1e3:,.0f}"))
    table(("RssAnon, MB", "torch and distgen imported", "most in an epoch", "difference"), rows)
    print()


PARTS: dict[str, Callable[[Setting], None]] = {
    "packed": packed,
    "one-hot": channels,
    "targets": targets,
    "device": device,
    "seek": seek,
    "first": first,
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
        for peer, module in peers.items():
            print(f"- {peer}: {module.HOW}")
        watch = partial(Watch, given.seconds, time.process_time if given.cpu else time.perf_counter)
        setting = Setting(Path(name), int(given.megabases * 1e6), watch, given.turns, peers)
        for part in given.parts or PARTS:
            print()
            PARTS[part](setting)


if __name__ == "__main__":
    main()
