"""Targets out of tracks, beside copies of the same windows and the codec's own decoding: a part of benchmarks/loader.py.

Sequences stay where they are (placement "device"), so that nothing but targets is gathered. Of each value of two bytes three
are written: its mask is one.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import cycle
from pathlib import Path

import numpy as np

from benchmarks import genomes
from benchmarks.measure import table
from benchmarks.turns import Maker, Match, Turn, Watch, consume, repeat
from distgen import GenomeLoader
from distgen.genome import Bytes, Int64
from distgen.loader import gather
from distgen.loader.batch import Batch
from distgen.store.array import Array
from distgen.store.format import ABSENT, zstd
from distgen.store.reader import open_store

SIGNALS, BIN_BP = 64, 128
WINDOWS, LARGEST = (32_768, 131_072), 1 << 21  # bases in a window, and in a batch
_ORDER = np.random.default_rng(0)


def measure(folder: Path, bases: int, match: Match) -> None:
    """Prints the tables. Half of `bases`, but two batches at least, have signals; `folder` is for what is made."""
    bases = max(bases // 2, 2 * LARGEST)
    raw, compressed = (genomes.signals(folder, bases, SIGNALS, BIN_BP, compress=compress) for compress in (False, True))
    rows = []
    for window in WINDOWS:
        rates = match.medians({"loader": partial(_served, raw, window), "copy": partial(_copied, raw, window)})
        share = f"{rates['loader'] / rates['copy']:.0%}"
        rows.append((f"{window:,}", f"{rates['loader'] / 1e6:,.0f}", f"{rates['copy'] / 1e6:,.0f}", share))
    what = f"{SIGNALS} float16 signals at {BIN_BP} bp, raw and mapped, windows of"
    table((what, "values and mask, MB/s", "copies of the values, MB/s", ""), rows)
    print()
    rows = []
    for window in WINDOWS:
        makers: dict[str, Maker] = {
            "loader": partial(_served, compressed, window),
            "decoded": partial(_served, compressed, window, decoded=True),
            "codec": partial(_decoded, compressed),
        }
        rates = match.medians(makers)
        columns = (f"{rates[name] / 1e6:,.0f}" for name in makers)
        rows.append((f"{window:,}", *columns, f"{rates['decoded'] / rates['codec']:.0%}"))
    what = "the same, compressed, windows of"
    table((what, "values and mask, MB/s", "decoded if few are kept, MB/s", "codec alone, MB/s", ""), rows)
    print()


def _loader(path: Path, window: int) -> tuple[GenomeLoader, Array]:
    store = open_store(path)
    (block,) = store.track("signals").blocks
    loader = GenomeLoader(
        store,
        window=window,
        stride=window // 16,
        split=None,
        batch_size=LARGEST // window,
        placement="device",
        tracks=("signals",),
    )
    return loader, block


def _served(path: Path, window: int, decoded: bool = False) -> Turn:
    """Bytes of values and masks; or bytes of chunks that are decoded for them where few are kept for the next batches, as it
    is with genomes much larger."""
    loader, block = _loader(path, window)
    _check_targets(loader.batch(0, 0), block.read())
    if not decoded:
        return partial(consume, loader, lambda _: None, LARGEST // BIN_BP * SIGNALS * 3)
    gather._kept = gather.Kept(8 << 20)
    decode, count = Array.decoded, [0]

    def counted(array: Array, numbers: Int64) -> Iterator[tuple[int, Bytes]]:
        for number, chunk in decode(array, numbers):
            count[0] += chunk.size
            yield number, chunk

    Array.decoded = counted  # type: ignore[method-assign]

    def turn(watch: Watch) -> float:
        before = count[0]
        consume(loader, lambda _: None, 0, watch)
        return count[0] - before

    return turn


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


def _copied(path: Path, window: int) -> Turn:
    """The values of as many windows from random places, each copied into its row of one of the rooms of a batch."""
    (block,) = open_store(path).track("signals").blocks
    size, rows = window // BIN_BP * SIGNALS, LARGEST // window
    source = block.read().reshape(-1).view(np.uint16)
    tiles = source[: source.size // size * size].reshape(-1, size)
    rooms = cycle([np.empty((rows, size), np.uint16) for _ in range(4)])  # as many as the loader has under way
    places = cycle(_ORDER.integers(0, len(tiles), (1024, rows)))
    return lambda watch: 2 * rows * size * repeat(lambda: tiles.take(next(places), 0, next(rooms), "clip"), watch)


def _decoded(path: Path) -> Turn:
    """The chunks of an array's first shard, one after another in random order, decoded by its codec into one buffer."""
    (block,) = open_store(path).track("signals").blocks
    stored = np.memmap(Path(str(block.folder)) / block.layout.key(0), np.uint8, "r")
    index = np.frombuffer(stored[-(16 * block.layout.chunks_per_shard + 4) : -4].tobytes(), "<u8").reshape(-1, 2)
    places = cycle(_ORDER.permutation(index[index[:, 0] != ABSENT]).tolist())
    codec, out = zstd(), np.empty(block.layout.chunk_bytes, np.uint8)

    def decode() -> None:
        at, size = next(places)
        codec.decode(stored[at : at + size], out)

    return lambda watch: out.size * repeat(decode, watch)
