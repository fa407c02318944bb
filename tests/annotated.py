"""A small genome with all that a store can have, the files that runs name beside it, and its windows the obvious way."""

from pathlib import Path

import numpy as np

from distgen.config import Recipe, read
from distgen.genome import Interval
from distgen.ingest.packing import CODES
from distgen.store.build import build
from distgen.store.reader import Store, open_store

LENGTHS = {"chrA": 1500, "chrB": 901, "chrC": 130}
SPLIT = {"train": [("chrA", 0, 1500), ("chrB", 400, 700)], "valid": [("chrB", 0, 400)], "test": [("chrB", 700, 901)]}
SPLIT["train"].append(("chrC", 0, 130))
BIN = 4
# Contig, start, end, strand, summit: odd lengths, so that there is a middle base. The last two are of other parts.
PEAKS = [
    ("chrA", 100, 131, "+", 3),
    ("chrA", 120, 201, "-", 70),
    ("chrA", 400, 405, ".", 0),
    ("chrA", 690, 723, "-", 30),
    ("chrA", 1480, 1499, "+", 18),
    ("chrB", 450, 551, "-", 50),
    ("chrB", 395, 406, "+", 5),
    ("chrC", 0, 129, "+", 128),
    ("chrB", 100, 201, "-", 9),
    ("chrB", 800, 821, "+", 9),
]
HOLES = [("chrA", 150, 420), ("chrB", 460, 463)]
VALUES = {"p0": (1.0, 2.5), "p1": (None, -3.0), "p2": (0.0, 7.0), "p8": (4.0, None)}
RECIPE = """format = 1
[assembly]
name = "annotated"
fasta = "a.fa"
[[track]]
name = "genes"
source = "a.gtf"
classes = ["cds+", "cds-"]
[[track]]
name = "signal"
source = "a.bedGraph"
bin_bp = 4
[[matrix]]
name = "expr"
matrix = "expr.csv"
regions = "peaks.bed"
missing = "drop"
[[variants]]
name = "people"
source = "a.vcf"
samples = ["s1", "s2"]
[split]
valid = ["chrB:0-400"]
test = ["chrB:700-901"]
"""


def letters() -> dict[str, str]:
    random = np.random.default_rng(3)
    made = {name: "".join(random.choice(list("ACGT"), length)) for name, length in LENGTHS.items()}
    made["chrA"] = made["chrA"][:700] + "N" * 60 + made["chrA"][760:]
    return made


def write(folder: Path) -> None:
    """Write all sources and the files that runs name."""
    genome, random = letters(), np.random.default_rng(4)
    (folder / "a.fa").write_text("".join(f">{name}\n{text}\n" for name, text in genome.items()))
    lines = [f"chrA\t{at}\t{at + 8}\t{at // 8}\n" for at in range(0, 1496, 8) if at % 40]
    (folder / "a.bedGraph").write_text("".join(lines) + "chrB\t440\t660\t3\n")
    names = [f"p{row}" for row in range(len(PEAKS))]
    (folder / "peaks.bed").write_text(
        "".join(f"{c}\t{s}\t{e}\t{name}\t0\t{t}\n" for name, (c, s, e, t, _) in zip(names, PEAKS, strict=True))
    )
    (folder / "peaks.narrowPeak").write_text(
        "".join(f"{c}\t{s}\t{e}\tx\t0\t{t}\t1\t1\t1\t{summit}\n" for c, s, e, t, summit in PEAKS)
    )
    (folder / "holes.bed").write_text("".join(f"{c}\t{s}\t{e}\n" for c, s, e in HOLES))
    (folder / "a.gtf").write_text(
        "".join(f'{c}\tt\tCDS\t{s + 1}\t{e}\t.\t{t if t != "." else "+"}\t0\tgene_id "{name}";\n'
                for name, (c, s, e, t, _) in zip(names, PEAKS, strict=True))
    )  # fmt: skip
    shown = [f"{name}," + ",".join("NA" if v is None else str(v) for v in row) for name, row in VALUES.items()]
    (folder / "expr.csv").write_text("id,heart,liver\n" + "\n".join(shown) + "\n")
    records = []
    for name, text in genome.items():
        for at in range(5, len(text), 7):
            other = "ACGT"[(("ACGT".find(text[at])) + 1 + at % 3) % 4]
            if text[at] != "N":
                calls = ["|".join(map(str, random.integers(0, 2, 2))) for _ in range(2)]
                records.append("\t".join([name, str(at + 1), ".", text[at], other, ".", "PASS", ".", "GT", *calls]))
    head = "##fileformat=VCFv4.2\n" + "".join(f"##contig=<ID={n},length={k}>\n" for n, k in LENGTHS.items())
    head += '##FORMAT=<ID=GT,Number=1,Type=String,Description="g">\n'
    head += "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\ts1\ts2\n"
    (folder / "a.vcf").write_text(head + "\n".join(records) + "\n")
    (folder / "a.toml").write_text(RECIPE)


def annotated_store(folder: Path) -> Store:
    """Build and open it."""
    write(folder)
    build(read(folder / "a.toml", Recipe), folder / "a.zarr")
    return open_store(folder / "a.zarr")


CODE = {name: CODES[np.frombuffer(text.encode(), np.uint8)] for name, text in letters().items()}


def part_of(contig: str, base: int, part: str = "train") -> tuple[int, int]:
    """The stretch of a part of the split that holds a base."""
    return next((start, end) for name, start, end in SPLIT[part] if name == contig and start <= base < end)


def codes(store: Store, place: Interval, limits: tuple[int, int], copy: int | None = None) -> list[int]:
    """A window base by base: N outside its limits (on the contig), as a haplotype has it, on its strand."""
    shown = max(place.start, limits[0]), min(place.end, limits[1])
    found = CODE[place.contig]
    if copy is not None:
        whole = Interval(place.contig, 0, len(found))
        found = store.codes(whole, variants="people", sample=("s1", "s2")[copy // 2], haplotype=copy % 2)
    window = [int(found[p]) if shown[0] <= p < shown[1] else 4 for p in range(place.start, place.end)]
    return [3 - c if c < 4 else 4 for c in reversed(window)] if place.strand == "-" else window
