"""Fixtures that many tests share: small genomes with known truth, and the real ones."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

from distgen.config import Recipe, read
from distgen.genome import Contigs
from distgen.ingest.packing import CODES
from distgen.loader.loader import GenomeLoader
from distgen.objectives import Objective
from distgen.store import format, planes
from distgen.store.build import build
from distgen.store.reader import Store, open_store
from distgen.train.checkpoint import open_checkpoint
from distgen.train.loop import train
from distgen.train.run import Run
from distgen.train.worker import Worker
from tests.annotated import annotated_store

ROOT = Path(__file__).parent.parent

settings.register_profile(
    "distgen", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("distgen")


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real genomes; a test that asks for it is marked `data`, and fails if it is not there."""
    folder = os.environ.get("DISTGEN_DATA")
    assert folder, "set DISTGEN_DATA to the folder of real genomes"
    return Path(folder)


@pytest.fixture(scope="session")
def ecoli(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The store of the embedded genome."""
    out = tmp_path_factory.mktemp("stores") / "ecoli536.zarr"
    build(read(ROOT / "shards/recipes/ecoli536.toml", Recipe), out)
    return open_store(out)


LETTERS = {
    "chr1": "ACGTNacgtnRYKM" * 61 + "ACG",
    "chr2": "TTTT" * 100 + "N" * 300 + "acgt" * 50,
    "chr3": "GATTACA",
    "chrM": "CCCCC",
}
GTF = """# an annotation
chr1\tt\tCDS\t11\t20\t.\t+\t0\tgene_id "a";
chr1\tt\tCDS\t15\t40\t.\t-\t0\tgene_id "b";
chr1\tt\texon\t1\t400\t.\t-\t0\tgene_id "b";
chr2\tt\tCDS\t900\t900\t.\t+\t0\tgene_id "c";
chrX\tt\tCDS\t1\t9\t.\t+\t0\tgene_id "d";
"""
RECIPE = """format = 1
[assembly]
name = "small"
fasta = "small.fa"
[contigs]
exclude = ["chrM"]
[[track]]
name = "genes"
source = "small.gtf"
classes = ["cds+", "cds-"]
[split]
valid = ["chr2:0-200"]
test = ["chr2:75%-100%", "chr3"]
"""


@pytest.fixture
def small_recipe(tmp_path: Path) -> Path:
    """A recipe of three contigs with lower case, IUPAC letters, a track and a split, beside its sources."""
    fasta = "".join(f">{name} a contig\n{letters}\n" for name, letters in LETTERS.items())
    (tmp_path / "small.fa").write_text(fasta)
    (tmp_path / "small.gtf").write_text(GTF)
    (tmp_path / "small.toml").write_text(RECIPE)
    return tmp_path / "small.toml"


@pytest.fixture
def small(small_recipe: Path) -> Store:
    """The store of `small_recipe`."""
    build(read(small_recipe, Recipe), small_recipe.parent / "small.zarr")
    return open_store(small_recipe.parent / "small.zarr")


@pytest.fixture
def small_coding(small_recipe: Path) -> Store:
    """The store of `small_recipe` with genes in its validation part, too."""
    with (small_recipe.parent / "small.gtf").open("a") as file:
        file.write('chr2\tt\tCDS\t51\t80\t.\t+\t0\tgene_id "e";\nchr2\tt\tCDS\t101\t130\t.\t-\t0\tgene_id "f";\n')
    build(read(small_recipe, Recipe), small_recipe.parent / "coding.zarr")
    return open_store(small_recipe.parent / "coding.zarr")


@pytest.fixture(scope="session")
def annotated(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A small genome with tracks, a matrix, variants and a split; what `tests.annotated` writes lies beside it."""
    return annotated_store(tmp_path_factory.mktemp("annotated"))


PIECES = RECIPE.replace(
    "[split]",
    """compress = false
[[track]]
name = "squeezed"
source = "small.gtf"
classes = ["cds+", "cds-"]
[split]""",
)


@pytest.fixture(scope="session")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The store of `small_recipe`, its planes in shards of 1,024 bases and chunks of 64 bytes, with its track twice, as it
    is and compressed, in shards of 256 bins and chunks of 64."""
    folder = tmp_path_factory.mktemp("pieces")
    fasta = "".join(f">{name} a contig\n{letters}\n" for name, letters in LETTERS.items())
    (folder / "small.fa").write_text(fasta)
    (folder / "small.gtf").write_text(GTF)
    (folder / "pieces.toml").write_text(PIECES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planes, "CHUNK_BYTES", 64)
        patch.setattr(planes, "UNIT", 1024)
        patch.setattr(format, "CHUNK_BYTES", 128)
        patch.setattr(format, "SHARD_CHUNKS", 4)
        build(read(folder / "pieces.toml", Recipe), folder / "pieces.zarr")
    return open_store(folder / "pieces.zarr")


def flat_codes(store: Store) -> np.ndarray:
    """The whole flat coordinate as codes, padding as 4: the obvious reference for windows."""
    codes = np.full(store.length, 4, np.uint8)
    for name, offset in zip(store.contigs.names, store.contigs.offsets, strict=True):
        table = np.full(256, 4, np.uint8)
        for code, letter in enumerate(b"ACGT"):
            table[[letter, letter + 32]] = code
        letters = np.frombuffer(LETTERS[name].encode(), np.uint8)
        codes[offset : offset + len(letters)] = table[letters]
    return codes


def genome(path: Path) -> tuple[Contigs, list[np.ndarray]]:
    """Contig table and codes of a gzip FASTA, read by five obvious lines."""
    contigs = {}
    for record in gzip.decompress(path.read_bytes()).decode().split(">")[1:]:
        name, letters = record.split("\n", 1)
        contigs[name.split()[0]] = CODES[np.frombuffer(letters.replace("\n", "").encode(), np.uint8)]
    lengths = np.array([len(codes) for codes in contigs.values()])
    padded = -(-lengths // 64) * 64
    return Contigs(tuple(contigs), lengths, np.cumsum(padded) - padded, ("",) * len(contigs)), list(contigs.values())


# ---- a run of seconds -------------------------------------------------------------------------

RUN = """name = "tiny"
[data]
store = "{store}"
window = 64
stride = 32
batch_size = 8
strand = "random"
jitter = 5
[model]
family = "dilated"
channels = 8
stem_width = 3
dilations = [1, 2]
[objective]
kind = "masked_lm"
[optimizer]
warmup_steps = 2
[train]
steps = 12
precision = "fp32"
checkpoint_every = 4
valid_every = 6
threads = 1
[log]
every = 1
"""


@pytest.fixture
def run_file(small: Store, tmp_path: Path) -> Path:
    """A run of seconds on the small store."""
    path = tmp_path / "tiny.toml"
    path.write_text(RUN.format(store=small.path))
    return path


def weights(out: Path, which: str = "last") -> dict[str, torch.Tensor]:
    """The model's weights in a checkpoint of a run directory."""
    return open_checkpoint(out / "checkpoints" / which).read("model/")


def fit(run: Run, out: Path) -> list[dict]:
    """Train in this process; returns the records shown."""
    out.mkdir(exist_ok=True)
    shown: list[dict] = []
    train(run, Worker(0, 1, torch.device("cpu"), out, show=shown.append))
    return shown


def fit_until(run: Run, out: Path, step: int) -> None:
    """Train in a new folder until the first record of a step, where Ctrl-C comes; raises KeyboardInterrupt."""

    def show(record: dict) -> None:
        if record["step"] == step:
            raise KeyboardInterrupt

    out.mkdir()
    train(run, Worker(0, 1, torch.device("cpu"), out, show=show))


# ---- tables of sequences ----------------------------------------------------------------------


def table_store(folder: Path, kind: str, parts: dict[str, list[tuple[str, object]]]) -> Store:
    """The store of a table: sequences and labels of each part."""
    files = ""
    for part, rows in parts.items():
        lines = "".join(f"{sequence},{label}\n" for sequence, label in rows)
        (folder / f"{part}.csv").write_text(f"sequence,label\n{lines}")
        files += f'{part} = "{part}.csv"\n'
    (folder / "t.toml").write_text(f'format = 1\n[sequences]\nname = "t"\nkind = "{kind}"\n{files}')
    build(read(folder / "t.toml", Recipe), folder / "t.zarr")
    return open_store(folder / "t.zarr")


def motifs(seed: int, count: int, length: int = 40, motif: str = "GATTACAG") -> list[tuple[str, int]]:
    """Random sequences, of which every other one has a motif somewhere, and whether it has."""
    random, rows = np.random.default_rng(seed), []
    for number in range(count):
        letters = random.choice(list("ACGT"), length)
        if number % 2:
            at = random.integers(length - len(motif) + 1)
            letters[at : at + len(motif)] = list(motif)
        rows.append(("".join(letters), number % 2))
    return rows


def served(store: Store, **options: object) -> Callable[..., GenomeLoader]:
    """What serves a part of a split to an objective that asks what its answers are like."""

    def serve(objective: Objective, part: str) -> GenomeLoader:
        asked = {"split": f"default/{part}", "batch_size": 7, "order": "sequential", "last": "pad"}
        return GenomeLoader(store, **asked, tracks=objective.tracks, **options)

    return serve
