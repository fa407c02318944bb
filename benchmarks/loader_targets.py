"""Targets out of tracks, beside a copy of as many bytes and the codec's own decoding: a part of benchmarks/loader.py.

Sequences stay where they are (placement "device"), so that nothing but targets is gathered.
"""

from __future__ import annotations

from functools import partial
from itertools import cycle
from pathlib import Path

import numpy as np

from benchmarks import genomes
from benchmarks.measure import table
from benchmarks.turns import Match, Turn, consume, repeat
from distgen import GenomeLoader
from distgen.genome import Bytes
from distgen.loader.batch import Batch
from distgen.store.array import Array
from distgen.store.format import ABSENT, zstd
from distgen.store.reader import open_store

SIGNALS, BIN_BP = 64, 128
WINDOWS, LARGEST = (32_768, 131_072), 1 << 21  # bases in a window, and in a batch
_ORDER = np.random.default_rng(0)


def measure(folder: Path, bases: int, match: Match) -> None:
    """Prints the table. Half of `bases`, but two batches at least, have signals; `folder` is for what is made."""
    rows: list[tuple[str, ...]] = []
    bases = max(bases // 2, 2 * LARGEST)
    for compress in (False, True):
        path = genomes.signals(folder, bases, SIGNALS, BIN_BP, compress=compress)
        store = open_store(path)
        (block,) = store.track("signals").blocks
        assert block.layout.codec == ("zstd" if compress else "raw")
        whole = block.read()
        for window in WINDOWS:
            loader = GenomeLoader(
                store, window=window, split=None, batch_size=LARGEST // window, placement="device", tracks=("signals",)
            )
            _check_targets(loader.batch(0, 0), whole)
            size = LARGEST // window * window // BIN_BP * SIGNALS * 2
            turns: dict[str, Turn] = {
                "loader": partial(consume, loader, lambda _: None, size),
                "copy": _copies(whole.reshape(-1).view(np.uint8), size),
            }
            if compress:
                turns["codec"] = _codec(block)
            rates = match.medians(turns)
            beside = "codec" if compress else "copy"
            rows.append(
                (
                    f"{'compressed' if compress else 'raw, mapped'}, windows of {window:,}",
                    f"{rates['loader'] / 1e6:,.0f}",
                    f"{rates['copy'] / 1e6:,.0f}",
                    f"{rates['codec'] / 1e6:,.0f}" if compress else "",
                    f"{rates['loader'] / rates[beside]:.0%} of the {beside}",
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


def _copies(source: Bytes, size: int) -> Turn:
    """Copies of so many bytes from random places into one buffer."""
    out, starts = np.empty(size, np.uint8), cycle(_ORDER.integers(0, max(len(source) - size, 1), 1024).tolist())

    def copy() -> None:
        start = next(starts)
        np.copyto(out, source[start : start + size])

    return lambda watch: size * repeat(copy, watch)


def _codec(block: Array) -> Turn:
    """The chunks of an array's first shard, one after another in random order, decoded by its codec into one buffer."""
    stored = np.memmap(block.folder / block.layout.key(0), np.uint8, "r")  # type: ignore[call-overload]
    index = np.frombuffer(stored[-(16 * block.layout.chunks_per_shard + 4) : -4].tobytes(), "<u8").reshape(-1, 2)
    places = cycle(_ORDER.permutation(index[index[:, 0] != ABSENT]).tolist())
    codec, out = zstd(), np.empty(block.layout.chunk_bytes, np.uint8)

    def decode() -> None:
        at, size = next(places)
        codec.decode(stored[at : at + size], out)

    return lambda watch: out.size * repeat(decode, watch)
