"""Speed of whole batches, decoded to tokens, from the embedded genome: python -m benchmarks.loader"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from benchmarks.measure import machine, median_seconds, table
from distgen import GenomeLoader, kernels
from distgen.config import Recipe, read
from distgen.store.build import build
from distgen.store.reader import Store, open_store

RECIPE = Path(__file__).parent.parent / "shards/recipes/ecoli536.toml"


def epoch(store: Store, window: int, placement: str) -> tuple[int, float]:
    """Bases of one epoch, and the seconds it takes to serve and decode them."""
    loader = GenomeLoader(store, window=window, batch_size=64, strand="random", placement=placement)  # type: ignore[arg-type]

    def serve() -> None:
        loader.epoch, loader.position = 0, 0
        for b in loader:
            kernels.tokens(**b.packed)

    return len(loader) * 64 * window, median_seconds(serve, repeats=5)


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        build(read(RECIPE, Recipe), Path(folder) / "a.zarr")
        store = open_store(Path(folder) / "a.zarr")
        for window in (1024, 8192):
            for placement in ("device", "host"):
                bases, seconds = epoch(store, window, placement)
                rows.append((f"{window:,}", placement, f"{bases / seconds / 1e6:,.0f}"))
    print(machine(), "\n")
    table(("window", "placement", "Mbases/s"), rows)


if __name__ == "__main__":
    main()
