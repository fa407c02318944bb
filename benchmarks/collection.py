"""A collection of 100,000 assemblies opened, and stores of one used: python -m benchmarks.collection [assemblies] [stores]

The large index is made of drawn sizes, 10^8 bases a store on average, by the writer that `distgen build` uses: it has no
stores. The small collection has real ones of some hundred bases, in folders of 1,000; 1,000 of them are drawn, opened and
read a few bases of. Each row is a fresh process: what is measured includes no start of Python, and memory is its peak.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from distgen.config import Collection, Mixture, Recipe, read
from distgen.genome import Interval
from distgen.store.build import build
from distgen.store.collection import Member, open_collection
from distgen.store.index import build_index, write_index

DRAWN = 1000


def write_large(folder: Path, count: int) -> None:
    """The index of `count` stores that are not there."""
    rng = np.random.default_rng(0)
    bases = (rng.lognormal(0, 1, count) * 1e8 / np.exp(0.5)).astype(np.int64) + 1
    members = [
        Member(f"stores/{i // 1000:03}/GCA_{i:09}.1.zarr", f"GCA_{i:09}.1", n, n, 100, rng.bytes(16), rng.bytes(16))
        for i, n in enumerate(bases.tolist())
    ]
    write_index(folder, Mixture(name="large"), members, [float(n) for n in bases])


def write_stores(folder: Path, count: int) -> None:
    """`count` stores of one contig each, and the file of their collection."""
    rng = np.random.default_rng(0)
    (folder / "recipes").mkdir()
    for i in range(count):
        letters = np.frombuffer(b"ACGTN", np.uint8)[rng.integers(0, 5, 300 + i % 200)].tobytes().decode()
        recipe = folder / "recipes" / "a.toml"
        (folder / "recipes" / "a.fa").write_text(f">c{i}\n{letters}\n")
        recipe.write_text(f'format = 1\n[assembly]\nname = "g{i:06}"\nfasta = "a.fa"\n')
        out = folder / "stores" / f"{i // 1000:03}" / f"g{i:06}.zarr"
        out.parent.mkdir(parents=True, exist_ok=True)
        build(read(recipe, Recipe), out)
    (folder / "small.toml").write_text('format = 1\n[collection]\nname = "small"\nstores = "stores/*/*.zarr"\n')


# ---- what a fresh process does ----------------------------------------------------------------


def opened(folder: Path) -> str:
    found = open_collection(folder / "large.collection")
    return f"{len(found):,} stores, {found.bases.sum():.3g} bases"


def named(folder: Path) -> str:
    found = open_collection(folder / "large.collection")
    row = found.index(found.names[len(found) // 2])
    rows, _ = found.locate(np.random.default_rng(0).integers(0, found.offsets[-1], 1_000_000))
    return f"name {row:,} found, {len(rows):,} positions located"


def indexed(folder: Path) -> str:
    return f"{len(open_collection(build_index(read(folder / 'small.toml', Collection)))):,} stores"


def drawn(folder: Path) -> str:
    found = open_collection(folder / "small.collection")
    most = 0
    for row in np.random.default_rng(1).integers(0, len(found), DRAWN).tolist():
        store = found.store(row)
        store.codes(Interval(store.contigs.names[0], 0, 100))
        most = max(most, len(list(Path("/proc/self/fd").iterdir())))
    maps = Path("/proc/self/maps").read_text().count(".zarr/")
    return f"{DRAWN:,} drawn of {len(found):,}; at most {most} files open, {maps} mapped at the end"


WORK: dict[str, tuple[str, Callable[[Path], str]]] = {
    "opened": ("open the large index", opened),
    "named": ("open it, make all names, locate 10^6 positions", named),
    "indexed": ("index the small collection", indexed),
    "again": ("index it again, nothing changed", indexed),
    "drawn": ("open and read its stores at random", drawn),
}


def peak_mebibytes() -> float:
    """Of this program: what `getrusage` says may be that of the process which started it."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


def child(which: str, folder: Path) -> None:
    """Do one piece of work and print its row."""
    imported = peak_mebibytes()
    began = time.perf_counter()
    said = WORK[which][1](folder)
    print(f"{time.perf_counter() - began:.3f}|{peak_mebibytes():.0f}|{imported:.0f}|{said}")


def main() -> None:
    if len(sys.argv) > 2 and sys.argv[1] in WORK:
        child(sys.argv[1], Path(sys.argv[2]))
        return
    from benchmarks.measure import machine, table  # here, because it brings torch

    large, small = (int(a) for a in (sys.argv[1:] + ["100000", "2000"][len(sys.argv) - 1 :]))
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_large(folder / "large.collection", large)
        began = time.perf_counter()
        write_stores(folder, small)
        built = time.perf_counter() - began
        for which, (what, _) in WORK.items():
            began = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.collection", which, name], check=True, capture_output=True, text=True
            )
            whole = time.perf_counter() - began
            seconds, peak, imported, said = done.stdout.strip().split("|")
            rows.append((what, seconds, f"{whole:.2f}", peak, imported, said))
    print(machine(), f"\n{small:,} stores built in {built:.0f} s\n")
    head = ("work", "s", "s with Python's start", "peak MiB", "of it after imports, MiB", "")
    table(head, rows)


if __name__ == "__main__":
    main()
