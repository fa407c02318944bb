"""From FASTA in the page cache to a published store, on one core: python -m benchmarks.build [megabases]

The genome is drawn with a fixed seed: half in lower case, runs of N in a twentieth, lines of 60. Beside it stands what merely
reading the same file costs.
"""

from __future__ import annotations

import gzip
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.measure import machine, median_seconds, table
from distgen.config import Recipe, read
from distgen.ingest.open import read_blocks
from distgen.store.build import build

LINE = 60


def write_fasta(path: Path, bases: int) -> None:
    """One contig of `bases` drawn bases, rounded down to whole lines."""
    rng = np.random.default_rng(0)
    letters = np.frombuffer(b"ACGTacgt", np.uint8)[rng.integers(0, 4, bases // LINE * LINE, np.uint8)].reshape(-1, LINE)
    third = len(letters) // 4
    letters[third : 3 * third] |= 0x20
    letters[: len(letters) // 20] = ord("N")
    lines = np.concatenate([letters, np.full((len(letters), 1), ord("\n"), np.uint8)], axis=1)
    path.write_bytes(b">contig\n" + lines.tobytes())


def main() -> None:
    bases = int(sys.argv[1] if len(sys.argv) > 1 else 250) * 1_000_000
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_fasta(folder / "plain.fa", bases)
        (folder / "packed.fa.gz").write_bytes(gzip.compress((folder / "plain.fa").read_bytes(), 4))
        for source in ("plain.fa", "packed.fa.gz"):
            (folder / "a.toml").write_text(f'format = 1\n[assembly]\nname = "a"\nfasta = "{source}"\n')
            recipe, out = read(folder / "a.toml", Recipe), folder / "a.zarr"
            built = median_seconds(lambda recipe=recipe, out=out: build(recipe, out, force=True), repeats=3)
            only_read = median_seconds(lambda source=source: sum(map(len, read_blocks(folder / source))), repeats=3)
            rows.append((source, f"{bases / built / 1e6:,.0f}", f"{bases / only_read / 1e6:,.0f}"))
    print(machine(), f"pinned to one core; {bases / 1e6:,.0f} Mbases\n")
    table(("source", "store built and published, Mbases/s", "source only read (and unzipped), Mbases/s"), rows)


if __name__ == "__main__":
    main()
