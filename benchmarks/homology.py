"""Recall of planted copies, false finds in shuffled genomes, and the leakage of real splits: python -m benchmarks.homology

Copies of a stretch of train are planted in test, diverged to a known identity by substitutions (nine of ten changes)
and insertions and deletions of one base, every second one on the other strand. Seeds are fixed. Genomes of three
sizes take the three seed patterns. The real splits need DISTGEN_DATA, but for the embedded E. coli.

`python -m benchmarks.homology genome --gigabases 1` is about scale: see `benchmarks/homology_genome.py`.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.measure import machine, table
from distgen.config import Recipe, read
from distgen.genome import Int64, Interval
from distgen.store.build import build
from distgen.store.homology.search import Likeness
from distgen.store.homology.tiles import find_pairs, leakage, separate
from distgen.store.reader import Store, open_store

ROOT = Path(__file__).parent.parent
IDENTITIES = (0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.99)
LENGTHS = (500, 1000, 5000)
COPIES = 20
LETTERS = np.frombuffer(b"ACGT", np.uint8)


def store_of(contigs: dict[str, np.ndarray], folder: Path) -> Store:
    """A store of contigs given as codes."""
    fasta = "".join(f">{name}\n{LETTERS[codes].tobytes().decode()}\n" for name, codes in contigs.items())
    (folder / "genome.fa").write_text(fasta)
    (folder / "genome.toml").write_text('format = 1\n[assembly]\nname = "genome"\nfasta = "genome.fa"\n')
    build(read(folder / "genome.toml", Recipe), folder / "genome.zarr", force=True)
    return open_store(folder / "genome.zarr")


def diverge(codes: np.ndarray, identity: float, rng: np.random.Generator) -> np.ndarray:
    """A copy that aligns with about this identity: of 10 changes, 9 substitute a base, 1 inserts or deletes one."""
    draw = rng.random(len(codes))
    changes = 1 - identity
    replaced = draw < 0.9 * changes
    codes = np.where(replaced, (codes + rng.integers(1, 4, len(codes))) % 4, codes)
    times = np.ones(len(codes), np.int64)
    times[(draw >= 0.9 * changes) & (draw < 0.95 * changes)] = 0
    times[(draw >= 0.95 * changes) & (draw < changes)] = 2
    return np.repeat(codes, times)


def plant(bases: int, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], list[tuple[float, int, int, int]]]:
    """Random contigs train and test; and identity, length, start and end in test of each planted copy."""
    train = rng.integers(0, 4, 2 * bases // 3, dtype=np.int64)
    planted, pieces, position = [], [], 0
    for identity in IDENTITIES:
        for length in LENGTHS:
            for number in range(COPIES):
                source = int(rng.integers(0, len(train) - length))
                copy = diverge(train[source : source + length], identity, rng)
                gap = rng.integers(0, 4, int(rng.integers(600, 1500)))
                pieces += [gap, 3 - copy[::-1] if number % 2 else copy]
                position += len(gap) + len(copy)
                planted.append((identity, length, position - len(copy), position))
    pieces.append(rng.integers(0, 4, max(bases // 3 - position, 600)))
    return {"train": train, "test": np.concatenate(pieces)}, planted


def parts_of(store: Store) -> dict[str, Int64]:
    return {name: store.contigs.regions([name]) for name in store.contigs.names}


def recall(folder: Path, megabases: int) -> list[tuple[str, ...]]:
    """Share of the copies of which half or more was found, by identity and length."""
    contigs, planted = plant(megabases * 10**6, np.random.default_rng(megabases))
    store = store_of(contigs, folder)
    began = time.perf_counter()
    pairs = find_pairs(store, parts_of(store), Likeness(identity=0.7))
    seconds = time.perf_counter() - began
    covered = np.zeros(len(contigs["test"]), bool)
    for start, end in (pairs.right - store.contigs.offsets[1]).tolist():
        covered[start:end] = True
    rows = []
    for identity in IDENTITIES:
        cells = []
        for length in LENGTHS:
            shares = [covered[a:b].mean() for one, size, a, b in planted if (one, size) == (identity, length)]
            cells.append(f"{np.mean(np.array(shares) >= 0.5):.0%}")
        rows.append((f"{megabases} Mb", f"{identity:.0%}", *cells))
    for _, _, start, end in planted:
        covered[max(start - 64, 0) : end + 64] = False
    print(f"{megabases} Mb: {seconds:.1f} s, {int(covered.sum())} bases found that were not planted")
    return rows


def false_finds(folder: Path, recipe: Path) -> str:
    """Pairs found in a genome whose bases were shuffled within each contig, first half against second half."""
    real = build_of(recipe, folder)
    rng, halves, contigs = np.random.default_rng(1), [], {}
    for name, length in zip(real.contigs.names, real.contigs.lengths.tolist(), strict=True):
        codes = real.codes(Interval(name, 0, length))
        contigs[name] = rng.permutation(codes[codes < 4])
    store = store_of(contigs, folder)
    for half in ("0%-50%", "50%-100%"):
        halves.append(store.contigs.regions([f"{name}:{half}" for name in store.contigs.names]))
    found = find_pairs(store, {"train": halves[0], "test": halves[1]}, Likeness(identity=0.7))
    return f"{real.name}, shuffled: {len(found)} pairs"


def build_of(recipe: Path, folder: Path) -> Store:
    read_recipe = read(recipe, Recipe)
    build(read_recipe, folder / f"{read_recipe.assembly.name}.zarr")
    return open_store(folder / f"{read_recipe.assembly.name}.zarr")


def real_split(store: Store, parts: dict[str, Int64]) -> list[tuple[str, ...]]:
    """Leakage of test from train before `separate` (by drop), its price, and the leakage afterwards."""
    began = time.perf_counter()
    report = leakage(store, parts)
    seconds = time.perf_counter() - began
    after, price = separate(store, parts)
    left = len(find_pairs(store, after))
    entry = next(entry for entry in report["pairs"] if (entry["part"], entry["other"]) == ("test", "train"))
    bands = "; ".join(f"{band}: {bases:,}" for band, bases in entry["bands"].items())
    dropped = ", ".join(f"{name} {bases:,}" for name, bases in price["dropped"].items() if bases)
    cells = (f"{entry['bases']:,} ({entry['share']:.1%})", bands, f"{seconds:.1f}")
    return [(store.name, *cells, f"{dropped} in {price['rounds']} rounds", str(left))]


def main() -> None:
    print(machine(), "\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [row for megabases in (4, 16, 40) for row in recall(folder, megabases)]
        print()
        table(("genome", "planted identity", *(f"{length:,} bases" for length in LENGTHS)), rows)
        recipes = [ROOT / "shards/recipes/ecoli536.toml"]
        if "DISTGEN_DATA" in os.environ:
            recipes.append(ROOT / "shards/recipes/sacCer3-genes.toml")
        print("\n" + "\n".join(false_finds(folder, recipe) for recipe in recipes) + "\n")
        rows = []
        for recipe in recipes:
            store = build_of(recipe, folder)
            rows += real_split(
                store, {part: store.regions(part) for part in ("train", "valid", "test") if has(store, part)}
            )
        if "DISTGEN_DATA" in os.environ:
            rows += real_split(*chromosome_20(folder))
        head = (
            "split",
            "test bases that resemble train",
            "by best identity",
            "seconds",
            "dropped",
            "pairs left",
        )
        table(head, rows)


def has(store: Store, part: str) -> bool:
    return bool(store.manifest["splits"]["default"][part])


def chromosome_20(folder: Path) -> tuple[Store, dict[str, Int64]]:
    """Human chromosome 20, first half against second half; the file has no lower case, so no soft mask."""
    fasta = Path(os.environ["DISTGEN_DATA"]) / "human_b37_chr20/20.fa.gz"
    (folder / "chr20.toml").write_text(f'format = 1\n[assembly]\nname = "chr20"\nfasta = "{fasta}"\n')
    store = build_of(folder / "chr20.toml", folder)
    regions = store.contigs.regions
    return store, {"train": regions(["20:0%-50%"]), "test": regions(["20:50%-100%"])}


if __name__ == "__main__":
    if sys.argv[1:2] == ["genome"]:
        from benchmarks import homology_genome

        homology_genome.main(sys.argv[2:])
    else:
        main()
