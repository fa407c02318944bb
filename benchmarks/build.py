"""Sources to published stores: python -m benchmarks.build [plain gzip draft ray annotation memory ...] [--gigabases N]

Each part prints a row or two: what was built, how fast, and beside it what bounds it on the same machine in the same run.
Genomes are drawn with a fixed seed: half in lower case, runs of N in a twentieth, lines of 60. Waiting for the disk
(fsync) is measured apart.
"""

from __future__ import annotations

import argparse
import gzip
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.measure import machine, median_seconds, table
from distgen.config import Recipe, read
from distgen.store.build import build

LINE = 60
REPEATS = 5


def letters(bases: int, seed: int = 0) -> bytes:
    """Drawn lines, rounded down to whole ones: half in lower case, a twentieth N."""
    rng = np.random.default_rng(seed)
    drawn = np.frombuffer(b"ACGTacgt", np.uint8)[rng.integers(0, 4, bases // LINE * LINE, np.uint8)].reshape(-1, LINE)
    quarter = len(drawn) // 4
    drawn[quarter : 3 * quarter] |= 0x20
    drawn[: len(drawn) // 20] = ord("N")
    return np.concatenate([drawn, np.full((len(drawn), 1), ord("\n"), np.uint8)], axis=1).tobytes()


def recipe(folder: Path, source: str, more: str = "") -> Recipe:
    """A recipe beside its source."""
    path = folder / f"{source}.toml"
    path.write_text(f'format = 1\n[assembly]\nname = "a"\nfasta = "{source}"\n{more}')
    return read(path, Recipe)


@contextmanager
def one_core(cores: int = 1) -> Iterator[None]:
    """Hold this process to so many cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(sorted(before)[:cores]))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def build_seconds(what: Recipe, out: Path, repeats: int = REPEATS, **options: object) -> tuple[float, float]:
    """Median seconds of a build from nothing: without what fsync waits, and that wait."""
    seconds, waits = [], []
    fsync, spans = os.fsync, list[tuple[float, float]]()

    def timed(handle: int) -> None:
        began = time.perf_counter()
        fsync(handle)
        spans.append((began, time.perf_counter()))

    def waited() -> float:
        """Seconds in which any file was waited for."""
        total = reached = 0.0
        for began, ended in sorted(spans):
            total += max(0.0, ended - max(began, reached))
            reached = max(reached, ended)
        return total

    os.fsync = timed
    try:
        for repeat in range(repeats + 1):
            shutil.rmtree(out, ignore_errors=True)
            spans.clear()
            began = time.perf_counter()
            build(what, out, **options)  # type: ignore[arg-type]
            if repeat:
                seconds.append(time.perf_counter() - began - waited())
                waits.append(waited())
    finally:
        os.fsync = fsync
    return statistics.median(seconds), statistics.median(waits)


# ---- parts ----------------------------------------------------------------------------------


def plain(folder: Path, bases: int) -> list[tuple[str, ...]]:
    """A plain FASTA on one core; beside it pyfaidx with a lookup table, which writes nothing."""
    source = folder / "plain.fa"
    source.write_bytes(b">contig\n" + letters(bases))
    with one_core():
        seconds, wait = build_seconds(recipe(folder, source.name), folder / "a.zarr")
        peer = _pyfaidx(source)
    return [
        ("plain FASTA, one core", f"{bases / seconds / 1e6:,.0f} Mbases/s", f"and {wait:.2f} s of fsync"),
        ("the same, pyfaidx and a lookup table, nothing written", f"{bases / peer / 1e6:,.0f} Mbases/s", ""),
    ]


def _pyfaidx(source: Path) -> float:
    import pyfaidx

    codes = np.zeros(256, np.uint8)
    codes[list(b"ACGTacgt")] = [0, 1, 2, 3] * 2

    def work() -> None:
        with pyfaidx.Fasta(str(source), as_raw=True) as file:
            for name in file.keys():  # noqa: SIM118
                for first in range(0, len(file[name]), 1 << 24):
                    codes[np.frombuffer(file[name][first : first + (1 << 24)].encode(), np.uint8)]

    return median_seconds(work, repeats=1)


def zipped(folder: Path, bases: int) -> list[tuple[str, ...]]:
    """A gzip FASTA on two cores and on one; before each, isal's decompression alone, on one."""
    from isal import igzip

    source = folder / "packed.fa.gz"
    source.write_bytes(gzip.compress(b">contig\n" + letters(bases), 4))

    def inflate() -> None:
        with one_core(), igzip.open(source, "rb") as file:
            while file.read(1 << 20):
                pass

    rows = []
    for cores, called in ((2, "two cores"), (1, "one core")):
        with one_core(cores):
            pairs = [
                (
                    median_seconds(inflate, repeats=1),
                    build_seconds(recipe(folder, source.name), folder / "b.zarr", 1)[0],
                )
                for _ in range(REPEATS)
            ]
        share = statistics.median(alone / seconds for alone, seconds in pairs)
        speed = bases / statistics.median(seconds for _, seconds in pairs)
        rows.append((f"gzip FASTA, {called}", f"{speed / 1e6:,.0f} Mbases/s", f"{share:.0%} of isal alone"))
    return rows


def ray(folder: Path, bases: int) -> list[tuple[str, ...]]:
    """A plain FASTA with one Ray worker and with two, once Ray and its workers run; first both on two cores, where the
    one leaves a core to the builder and to Ray, then as many cores as workers for all of them."""
    source = folder / "large.fa"
    block = letters(100_000_000)
    with source.open("wb") as file:
        for number in range(max(1, bases // 100_000_000)):
            file.write(b">contig%d\n" % number + block)
        os.fsync(file.fileno())  # else the disk is busy with it
    what, total = recipe(folder, source.name), bases // 100_000_000 * 100_000_000
    rows = []
    for called, cores in (("on two cores", {1: 2, 2: 2}), ("on as many cores", {1: 1, 2: 2})):
        pairs = [[_in_pool(what, folder / "c.zarr", n, cores[n]) for n in (1, 2)] for _ in range(3)]
        one, two = (total / statistics.median(seconds) / 1e6 for seconds in zip(*pairs, strict=True))
        ratio = statistics.median(one / two for one, two in pairs)
        rows += [
            (f"{total / 1e9:.1f} Gbases, 1 Ray worker {called}", f"{one:,.0f} Mbases/s", ""),
            ("the same, 2 workers", f"{two:,.0f} Mbases/s", f"{ratio:.2f} times"),
        ]
    source.unlink()
    return rows


def _in_pool(what: Recipe, out: Path, workers: int, cores: int) -> float:
    """Seconds of a build by Ray workers, fsync and all, in a process of its own that is held to so many cores."""
    with one_core(cores), ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(_pooled, what, out, workers).result()


def _pooled(what: Recipe, out: Path, workers: int) -> float:
    from distgen.cluster import Pool

    pool = Pool(workers)
    return sum(build_seconds(what, out, 1, execute=pool.execute, parallel=workers * 2))


def annotation(folder: Path, bases: int) -> list[tuple[str, ...]]:
    """A GTF of 1.6 GB (a real one again and again) to classes, in a process of its own on one core."""
    data = Path(os.environ["DISTGEN_DATA"]) / "sacCer3"
    content = gzip.decompress((data / "sacCer3.ensGene.gtf.gz").read_bytes())
    with (folder / "large.gtf").open("wb") as file:
        for _ in range(1_600_000_000 // len(content)):
            file.write(content)
    (folder / "genome.fa.gz").write_bytes((data / "sacCer3.fa.gz").read_bytes())
    classes = '["exon", "cds+", "cds-", "intron", "donor+", "acceptor+", "utr5", "tss"]'
    recipe(folder, "genome.fa.gz", f'[[track]]\nname = "genes"\nsource = "large.gtf"\nclasses = {classes}\n')
    seconds, peak = alone(folder, "genome.fa.gz.toml", 1)
    (folder / "large.gtf").unlink()
    return [("GTF of 1.6 GB to 8 classes, one core, the whole command", f"{seconds:.1f} s", f"peak {peak:,.0f} MB")]


def memory(folder: Path, bases: int) -> list[tuple[str, ...]]:
    """20 Gbases in 200 contigs from gzip: the peak of the process that builds."""
    block = letters(1_000_000)
    body = gzip.compress(block * 100, 1)
    with (folder / "vast.fa.gz").open("wb") as file:
        for number in range(200):
            file.write(gzip.compress(b">contig%d\n" % number) + body)
    recipe(folder, "vast.fa.gz")
    seconds, peak = alone(folder, "vast.fa.gz.toml", 2)
    total = 200 * 100 * len(block) // (LINE + 1) * LINE
    shutil.rmtree(folder / "alone.zarr")
    return [(f"{total / 1e9:.1f} Gbases from gzip", f"{total / seconds / 1e6:,.0f} Mbases/s", f"peak {peak:,.0f} MB")]


def draft(folder: Path, bases: int) -> list[tuple[str, ...]]:
    """A draft assembly: 10^6 scaffolds of 300 bases from plain FASTA, in a process of its own on one core; and what
    opening it takes in another, with the regions to train on."""
    scaffolds, size = 1_000_000, 300
    drawn = np.frombuffer(b"ACGT", np.uint8)[
        np.random.default_rng(0).integers(0, 4, (scaffolds // 100, size), np.uint8)
    ]
    with (folder / "draft.fa").open("wb") as file:
        for number in range(scaffolds):
            file.write(b">scaffold_%d\n%s\n" % (number, drawn[number % len(drawn)].tobytes()))
    recipe(folder, "draft.fa")
    seconds, peak = alone(folder, "draft.fa.toml", 1)
    done = subprocess.run([sys.executable, "-c", _OPEN], cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
    opened, known, resident = map(float, done.stdout.split())
    return [
        (
            "draft of 10^6 scaffolds of 300 bases, one core, the whole command",
            f"{seconds:.1f} s, {scaffolds * size / seconds / 1e6:,.0f} Mbases/s",
            f"peak {peak:,.0f} MB",
        ),
        (
            "its open_store",
            f"{opened * 1e3:.1f} ms",
            f"regions to train on: {known:.2f} s, peak {resident / 1e3:,.0f} MB",
        ),
    ]


def alone(folder: Path, name: str, cores: int) -> tuple[float, float]:
    """Seconds and peak memory (MB) of `distgen build` in a process of its own."""
    shutil.rmtree(folder / "alone.zarr", ignore_errors=True)
    # What the system says of a child's peak holds its parent's memory, too; the child's own account does not.
    command = [sys.executable, "-c", _ALONE, "build", name, "--out", "alone.zarr"]
    environment = os.environ | {"POLARS_MAX_THREADS": str(cores), "PYTHONPATH": str(Path.cwd())}
    with one_core(cores):
        began = time.perf_counter()
        done = subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        seconds = time.perf_counter() - began
    return seconds, int(done.stdout.splitlines()[-1]) / 1e3


_ALONE = """
import sys
from pathlib import Path
from distgen.cli import run
status = run(sys.argv[1:])
print(next(line.split()[1] for line in Path("/proc/self/status").open() if line.startswith("VmHWM")))
sys.exit(status)
"""


_OPEN = """
import time
from pathlib import Path
from distgen import open_store
began = time.perf_counter()
store = open_store("alone.zarr")
opened = time.perf_counter()
store.regions("train")
print(opened - began, time.perf_counter() - began)
print(next(line.split()[1] for line in Path("/proc/self/status").open() if line.startswith("VmHWM")))
"""


PARTS: dict[str, Callable[[Path, int], list[tuple[str, ...]]]] = {
    "plain": plain,
    "gzip": zipped,
    "draft": draft,
    "annotation": annotation,
    "memory": memory,
    "ray": ray,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument(
        "--gigabases", type=float, default=1.0, help="of the plain and gzip genomes; Ray's has four times that"
    )
    given = parser.parse_args()
    bases = int(given.gigabases * 1e9)
    rows: list[tuple[str, ...]] = []
    for part in given.parts or PARTS:
        with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
            rows += PARTS[part](Path(name), bases * 4 if part == "ray" else bases)
    print(machine(), "\n")
    table(("build", "speed", ""), rows)


if __name__ == "__main__":
    main()
