"""The genomes that the loader is measured on: drawn ones with a fixed seed, and human chromosome 20."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
from isal import igzip

from benchmarks.build import LINE, letters, recipe
from benchmarks.peers import Genome
from distgen.genome import Bytes
from distgen.store.build import build

_RUN = 10_000  # bases of N together


def drawn(folder: Path, bases: int) -> Genome:
    """Random bases, 1 % of them N in runs."""
    rng = np.random.default_rng(0)
    made = np.frombuffer(b"ACGT", np.uint8)[rng.integers(0, 4, bases, np.uint8)]
    for start in rng.integers(0, bases - _RUN, bases // _RUN // 100 + 1).tolist():
        made[start : start + _RUN] = ord("N")
    return _built(folder, f"{bases / 1e6:,.0f} Mb drawn", "drawn", made)


def human(folder: Path) -> Genome | None:
    """Human chromosome 20, if $DISTGEN_DATA has it."""
    source = Path(os.environ.get("DISTGEN_DATA", ".")) / "human_b37_chr20/20.fa.gz"
    if not source.exists():
        return None
    with gzip.open(source) as file:
        lines = file.read().upper().partition(b"\n")[2]
    return _built(folder, "human chr20", "20", np.frombuffer(lines.replace(b"\n", b""), np.uint8))


def _built(folder: Path, name: str, contig: str, made: Bytes) -> Genome:
    folder.mkdir()
    fasta = folder / f"{contig}.fa"
    whole = made[: len(made) // LINE * LINE].reshape(-1, LINE)
    with fasta.open("wb") as file:
        file.write(b">%s\n" % contig.encode())
        np.concatenate([whole, np.full((len(whole), 1), ord("\n"), np.uint8)], axis=1).tofile(file)
        file.write(made[whole.size :].tobytes() + b"\n")
    build(recipe(folder, fasta.name), folder / "genome.zarr")
    genome = Genome(name, folder, fasta, contig, folder / "genome.zarr", made.size)
    made.tofile(genome.plain)
    return genome


def large(folder: Path, bases: int) -> Path:
    """The store of 24 contigs with so many bases in all, half of them soft-masked, a twentieth N; its source is removed."""
    source = folder / "large.fa.gz"
    block = letters(max(LINE, bases // 24))
    packed = igzip.compress(block, 1)
    with source.open("wb") as file:
        for number in range(24):
            file.write(igzip.compress(b">contig%d\n" % number) + packed)
    build(recipe(folder, source.name), folder / "large.zarr")
    source.unlink()
    return folder / "large.zarr"


def signals(folder: Path, bases: int, columns: int, bin_bp: int, *, compress: bool) -> Path:
    """The store of one contig with so many signals, drawn, as float16."""
    import pyBigWig

    folder.mkdir(exist_ok=True)
    bases = bases // LINE * LINE
    if not (folder / "genome.fa").exists():
        (folder / "genome.fa").write_bytes(b">contig\n" + letters(bases))
    rng, bins, names = np.random.default_rng(0), bases // bin_bp, [f"s{number}.bw" for number in range(columns)]
    for name in names:
        if not (folder / name).exists():
            with pyBigWig.open(str(folder / name), "w") as file:
                file.addHeader([("contig", bases)])
                values = np.maximum(0, np.cumsum(rng.integers(-3, 4, bins))) % 200 / 10
                file.addEntries("contig", 0, values=values, span=bin_bp, step=bin_bp)
    listed = ", ".join(f'"{name}"' for name in names)
    more = f'[[track]]\nname = "signals"\nsource = [{listed}]\nbin_bp = {bin_bp}\ndtype = "float16"\n'
    out = folder / ("zstd.zarr" if compress else "raw.zarr")
    build(recipe(folder, "genome.fa", more + ("" if compress else "compress = false\n")), out)
    return out
