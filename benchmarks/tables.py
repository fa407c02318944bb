"""Large tables to published stores: python -m benchmarks.tables [sequences fasta matrix variants ...] [--share S]

10^7 labelled sequences of 100 bases (CSV.gz and FASTA), a matrix of 20,000 genes by 12,000 conditions (TSV.gz), and a VCF.gz
of 100,000 sites with 2,504 samples, all drawn with a fixed seed. Each is built by a process of its own, on one core; its
peak memory is that of this process alone. `--share 0.1` takes a tenth of the rows: twice the rows should take twice the time.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from isal import igzip

from benchmarks.build import LINE, alone, letters
from benchmarks.measure import machine, table

BASES = 100
SEQUENCES = 10_000_000
GENES, CONDITIONS = 20_000, 12_000
SITES, SAMPLES = 100_000, 2_504
_STEP = 10_000  # rows that are drawn at a time


def sequences(folder: Path, share: float) -> tuple[str, str]:
    """A gzipped CSV of labelled sequences."""
    with igzip.open(folder / "large.csv.gz", "wb", compresslevel=1) as file:
        file.write(b"sequence,label\n")
        for drawn in _sequences(int(SEQUENCES * share), b",%d\n"):
            file.write(drawn)
    return "large.csv.gz", _labelled("large.csv.gz")


def fasta(folder: Path, share: float) -> tuple[str, str]:
    """The same sequences as plain FASTA with headers `>id|label`."""
    with (folder / "large.fa").open("wb") as file:
        first = 0
        for drawn in _sequences(int(SEQUENCES * share), b"|%d\n"):
            rows = [row.rpartition(b"|") for row in drawn.splitlines()]
            file.write(b"".join(b">s%d|%s\n%s\n" % (first + i, row[2], row[0]) for i, row in enumerate(rows)))
            first += len(rows)
    return "large.fa", _labelled("large.fa") + 'id = "id"\n'


def _sequences(rows: int, label: bytes) -> Iterator[bytes]:
    """Lines of drawn letters, each followed by its label."""
    rng = np.random.default_rng(0)
    ends = np.frombuffer(label % 0 + label % 1, np.uint8).reshape(2, -1)
    for first in range(0, rows, _STEP):
        n = min(_STEP, rows - first)
        drawn = np.frombuffer(b"ACGT", np.uint8)[rng.integers(0, 4, (n, BASES), np.uint8)]
        yield np.concatenate([drawn, ends[rng.integers(0, 2, n)]], axis=1).tobytes()


def _labelled(source: str) -> str:
    return f'[sequences]\nname = "a"\nkind = "binary"\ntrain = "{source}"\n'


def matrix(folder: Path, share: float) -> tuple[str, str]:
    """A gzipped TSV of genes by conditions with numbers like 12.34, and a BED of the genes."""
    genes, rng = int(GENES * share), np.random.default_rng(0)
    numbers = [b"%d.%02d" % divmod(n, 100) for n in range(4096)]
    with igzip.open(folder / "large.tsv.gz", "wb", compresslevel=1) as file:
        file.write(b"\t".join([b"gene", *(b"c%d" % n for n in range(CONDITIONS))]) + b"\n")
        for gene in rng.permutation(genes).tolist():
            row = [numbers[n] for n in rng.integers(0, 4096, CONDITIONS).tolist()]
            file.write(b"\t".join([b"g%d" % gene, *row]) + b"\n")
    places = (f"contig\t{gene * 400}\t{gene * 400 + 300}\tg{gene}\n" for gene in range(genes))
    (folder / "genes.bed").write_text("".join(places))
    return "large.tsv.gz", _genome(folder) + '[[matrix]]\nname = "m"\nmatrix = "large.tsv.gz"\nregions = "genes.bed"\n'


def variants(folder: Path, share: float) -> tuple[str, str]:
    """A gzipped VCF with phased genotypes of all samples, one alternative in twenty."""
    rng, more = np.random.default_rng(0), _genome(folder)
    genome = (folder / "genome.fa").read_bytes().partition(b"\n")[2].replace(b"\n", b"").upper()
    names = [f"s{n}" for n in range(SAMPLES)]
    head = "##fileformat=VCFv4.2\n##contig=<ID=contig>\n" + '##FORMAT=<ID=GT,Number=1,Type=String,Description="">\n'
    columns = ["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT"]
    calls = np.frombuffer(b"\t0|0\t0|1\t1|0\t1|1", np.uint8).reshape(4, 4)
    first = genome.find(b"A", len(genome) // 10)  # behind the N
    with igzip.open(folder / "large.vcf.gz", "wb", compresslevel=1) as file:
        file.write((head + "\t".join([*columns, *names]) + "\n").encode())
        for position in range(first, first + int(SITES * share) * 80, 80):
            ref = genome[position : position + 1]
            site = b"contig\t%d\t.\t%s\t%s\t.\t.\t.\tGT" % (position + 1, ref, b"C" if ref == b"A" else b"A")
            drawn = rng.integers(0, 400, SAMPLES)
            kinds = (drawn < 20).astype(np.uint8) + 2 * ((drawn >= 19) & (drawn < 39))
            file.write(site + calls[kinds].tobytes() + b"\n")
    listed = ", ".join(f'"{name}"' for name in names)
    return "large.vcf.gz", more + f'[[variants]]\nname = "v"\nsource = "large.vcf.gz"\nsamples = [{listed}]\n'


def _genome(folder: Path) -> str:
    (folder / "genome.fa").write_bytes(b">contig\n" + letters(LINE * 160_000))
    return '[assembly]\nname = "a"\nfasta = "genome.fa"\n'


PARTS: dict[str, Callable[[Path, float], tuple[str, str]]] = {
    "sequences": sequences,
    "fasta": fasta,
    "matrix": matrix,
    "variants": variants,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--share", type=float, default=1.0, help="of the rows")
    given = parser.parse_args()
    rows: list[tuple[str, ...]] = []
    for part in given.parts or PARTS:
        with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
            folder = Path(name)
            source, more = PARTS[part](folder, given.share)
            (folder / "large.toml").write_text(f"format = 1\n{more}")
            seconds, peak = alone(folder, "large.toml", 1)
            size = (folder / source).stat().st_size
        rows.append((f"{part}, {size / 1e6:,.0f} MB", f"{seconds:.1f} s", f"peak {peak:,.0f} MB"))
    print(machine(), "\n")
    table(("table", "seconds", ""), rows)


if __name__ == "__main__":
    main()
