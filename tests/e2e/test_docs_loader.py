"""Every block of the page on the loader, run in its order on a genome that has what the page names."""

import re

import numpy as np
import pytest
import torch

from distgen.config import Collection, Recipe, read
from distgen.ingest.objects import locate
from distgen.store.build import build
from distgen.store.index import build_index
from distgen.store.reader import open_store
from distgen.store.webdataset import export
from distgen.train.run import Run
from tests.conftest import ROOT
from tests.ingest.test_remote import moto_server, s3  # noqa: F401 - fixtures

BLOCKS = re.findall(r"```(python|toml)\n(.*?)```", (ROOT / "docs/loader.md").read_text(), re.DOTALL)
CONTIGS = {"chr1": 200_000, "chr2": 60_000, "chr3": 30_000}
RECIPE = """format = 1
[assembly]
name = "hg38"
fasta = "genome.fa"
[[track]]
name = "atac"
source = "atac.bedGraph"
bin_bp = 128
[[matrix]]
name = "expression"
matrix = "expression.csv"
regions = "regions.bed"
missing = "drop"
[[variants]]
name = "people"
source = "people.vcf"
samples = ["NA1", "NA2"]
[split]
valid = ["chr2"]
test = ["chr3"]
"""
RUN = """name = "page"
[data]
{data}
[model]
family = "dilated"
[objective]
kind = "masked_lm"
[train]
steps = 1
"""


def write(folder):
    """All the files that the page names."""
    random = np.random.default_rng(1)
    genome = {name: "".join(random.choice(list("ACGT"), length)) for name, length in CONTIGS.items()}
    (folder / "genome.fa").write_text("".join(f">{name}\n{letters}\n" for name, letters in genome.items()))
    places = [(name, at) for name, length in CONTIGS.items() for at in range(3000, length - 3000, 4000)]
    (folder / "peaks.narrowPeak").write_text(
        "".join(f"{name}\t{at}\t{at + 200}\tx\t0\t.\t1\t1\t1\t{at % 150}\n" for name, at in places)
    )
    genes = [f'\t{at + 1}\t{at + 900}\t.\t{"+-"[at % 3 % 2]}\t0\tgene_id "g{at}";\n' for _, at in places]
    (folder / "genes.gtf").write_text(
        "".join(f"{name}\tx\tCDS{line}" for (name, _), line in zip(places, genes, strict=True))
    )
    (folder / "regions.bed").write_text(
        "".join(f"{n}\t{at}\t{at + 500}\tr{i}\t0\t-\n" for i, (n, at) in enumerate(places))
    )
    (folder / "expression.csv").write_text("id,a,b\n" + "".join(f"r{i},{i},{-i}\n" for i in range(len(places))))
    (folder / "blacklist.bed").write_text("chr1\t10000\t30000\n")
    (folder / "atac.bedGraph").write_text("".join(f"{n}\t0\t{length}\t2.5\n" for n, length in CONTIGS.items()))
    records = [
        f"{name}\t{at + 1}\t.\t{letters[at]}\t{'ACGT'['ACGT'.find(letters[at]) - 1]}\t.\t.\t.\tGT\t0|1\t1|1\n"
        for name, letters in genome.items()
        for at in range(100, len(letters), 500)
    ]
    head = "##fileformat=VCFv4.2\n" + "".join(f"##contig=<ID={n},length={k}>\n" for n, k in CONTIGS.items())
    head += '##FORMAT=<ID=GT,Number=1,Type=String,Description="g">\n'
    head += "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tNA1\tNA2\n"
    (folder / "people.vcf").write_text(head + "".join(records))
    (folder / "hg38.toml").write_text(RECIPE)
    (folder / "promoters.csv").write_text("sequence,label\nACGTACGT,1\nTTTTT,0\nGATTACA,1\n")
    table = '[sequences]\nname = "promoters"\nkind = "binary"\ntrain = "promoters.csv"\n'
    (folder / "promoters.toml").write_text("format = 1\n" + table)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    write(folder)
    for name in ("hg38", "promoters"):
        build(read(folder / f"{name}.toml", Recipe), folder / f"{name}.zarr")
    export(open_store(folder / "hg38.zarr"), folder / "hg38.tars", window=2048, shard_bytes=20_000)
    (folder / "genomes.toml").write_text('format = 1\n[collection]\nname = "genomes"\nstores = "hg*.zarr"\n')
    build_index(read(folder / "genomes.toml", Collection))
    return folder


def opened(folder, table):
    """The loader for training of a run with such a [data]."""
    (folder / "run.toml").write_text(RUN.format(data=table))
    run = Run.read(folder / "run.toml")
    store = run.open_store()
    return run.loader(store, run.build_objective(store), "train", training=True)


def test_the_page_on_the_loader_does_what_it_says(folder, s3, monkeypatch, capsys):  # noqa: F811
    monkeypatch.chdir(folder)
    build(read(folder / "hg38.toml", Recipe), locate("s3://genomes/hg38.zarr"))
    names, said = {}, None
    for kind, text in BLOCKS:
        if kind == "toml":
            said = opened(folder, text)
            continue
        exec(text, names)
        if said is not None:  # a table of [data], and after it the same in Python
            same = names["loader"]
            assert said.identity() == same.identity()
            one, other = said.batch(2, 0), same.batch(2, 0)
            assert torch.equal(one.keys, other.keys)
            assert one.where() == other.where()
            said = None
    assert re.match(r"chr1:\d+-\d+ tensor\(0\)\n", capsys.readouterr().out)
    assert len(BLOCKS) > 20
    assert names["classes_B"].tolist() == [0, 1] * 16
    assert names["labels"].shape == (3, 1)
    assert names["cu_seqlens"].tolist()[-1] == 32
    assert sorted(names["owners"].tolist())[-3:] == [0, 1, 2]
    assert (names["values"].shape, names["known"].shape, names["seen"].shape) == ((32, 8, 1), (32, 8, 1), (32, 16, 1))
    assert torch.equal(names["values"], 2.5 * names["known"])
    assert names["by_condition"].shape == (32, 2)
    assert names["rows_B"].tolist() == [0] * 8
    assert list(names["state"]) == ["data", "order", "seed", "epoch", "position", "batch_size"]
    assert next(iter(names["half"])).samples.tolist() == list(range(48, 64))


def test_the_page_works_in_a_function_of_ray_train(folder, tmp_path):
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    text = next(text for _, text in BLOCKS if "import ray.train" in text)
    names = {}
    exec("from distgen import GenomeLoader\n" + text.replace("hg38.zarr", str(folder / "hg38.zarr")), names)
    trainer = TorchTrainer(
        names["train_on_one_worker"],
        scaling_config=ScalingConfig(num_workers=0),  # in this process
        run_config=RunConfig(storage_path=str(tmp_path), name="page"),
    )
    assert trainer.fit().metrics == {"samples": 32}
