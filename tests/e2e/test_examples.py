"""The recipes and runs that come with distgen, on the real genomes, with a tiny budget."""

import json

import pytest
import torch

from tests.conftest import ROOT
from tests.test_cli import distgen

TINY = ["train.steps=3", "log.every=1", "data.batch_size=4"]


def test_the_quickstart(ecoli, tmp_path):
    run = ROOT / "launch/runs/quickstart.toml"
    distgen("train", run, f"data.store={ecoli.path}", *TINY, "--out", "out", cwd=tmp_path)
    found = json.loads(distgen("evaluate", "out", "--json", cwd=tmp_path))
    assert 1.8 < found["metrics"]["bits_per_base"] < 2.5
    # Facts of the genome and of the split, not of the network.
    assert found["baselines"]["markov order 0"]["metrics"]["bits_per_base"] == pytest.approx(2.0001, abs=1e-4)
    assert found["baselines"]["markov order 8"]["metrics"]["bits_per_base"] == pytest.approx(1.9351, abs=1e-3)
    assert found["baselines"]["counts, 4 bases either side"]["metrics"]["bits_per_base"] == pytest.approx(
        1.8549, abs=1e-3
    )


@pytest.mark.data
def test_yeast_coding(data, tmp_path):
    store = tmp_path / "yeast.zarr"
    distgen("build", ROOT / "shards/recipes/sacCer3-genes.toml", "--out", store, cwd=tmp_path, DISTGEN_DATA=str(data))
    info = json.loads(distgen("info", store, "--json", cwd=tmp_path))
    assert (info["bases"], len(info["contigs"])) == (12_157_105 - 85_779, 16)
    run = ROOT / "launch/runs/yeast-coding.toml"
    distgen("train", run, f"data.store={store}", *TINY, "train.valid_every=3", "--out", "out", cwd=tmp_path)
    found = json.loads(distgen("evaluate", "out", "--json", cwd=tmp_path))["metrics"]
    assert set(found["auroc"]) == set(found["auprc"]) == {"cds+", "cds-", "neither"}


@pytest.mark.data
def test_language_models_of_yeast(data, tmp_path):
    fasta = data / "sacCer3/sacCer3.fa.gz"
    split = '[split]\nvalid = ["chrV:0-100000"]\ntest = ["chrII", "chrXIV"]\n'
    (tmp_path / "a.toml").write_text(f'format = 1\n[assembly]\nname = "yeast"\nfasta = "{fasta}"\n{split}')
    distgen("build", "a.toml", "--out", "a.zarr", cwd=tmp_path)
    for kind in ("masked", "causal"):
        run = ROOT / f"launch/runs/yeast-{kind}-lm.toml"
        distgen(
            "train", run, f"data.store={tmp_path}/a.zarr", *TINY, "train.valid_every=3", "--out", kind, cwd=tmp_path
        )
        found = json.loads(distgen("evaluate", kind, "--split", "valid", "--json", cwd=tmp_path))
        assert 1.8 < found["metrics"]["bits_per_base"] < 2.5
        counted = {name: entry["metrics"]["bits_per_base"] for name, entry in found["baselines"].items()}
        assert 1.85 < counted["markov order 11"] < counted["markov order 0"] < 2


@pytest.mark.data
def test_bases_that_code_on_both_strands_keep_both_classes(data, tmp_path):
    from distgen.store.reader import open_store

    store = tmp_path / "yeast.zarr"
    distgen("build", ROOT / "shards/recipes/sacCer3-genes.toml", "--out", store, cwd=tmp_path, DISTGEN_DATA=str(data))
    genes = open_store(store).track("genes").decoded
    assert int((genes.sum(1) == 2).sum()) == pytest.approx(144_238, rel=0.01)


@pytest.mark.data
def test_human_chromosome_20_reads_the_same_from_both_placements(data, tmp_path):
    from distgen import GenomeLoader, kernels

    fasta = data / "human_b37_chr20/20.fa.gz"
    (tmp_path / "a.toml").write_text(f'format = 1\n[assembly]\nname = "chr20"\nfasta = "{fasta}"\n')
    distgen("build", "a.toml", "--out", "a.zarr", cwd=tmp_path)
    assert "whole" in distgen("verify", "a.zarr", cwd=tmp_path)
    arguments = {"window": 8192, "stride": 60_000, "batch_size": 50, "strand": "random", "jitter": 999}
    ambiguous = bases = 0
    loaders = [GenomeLoader(tmp_path / "a.zarr", placement=name, **arguments) for name in ("device", "host")]
    for batches in zip(*loaders, strict=True):
        one, other = (
            kernels.tokens(b.plane, b.starts, b.length, reverse=b.reverse, ambiguous=b.ambiguous, limits=b.limits)
            for b in batches
        )
        assert torch.equal(one, other)
        ambiguous, bases = ambiguous + int((one == 4).sum()), bases + one.numel()
    assert ambiguous / bases == pytest.approx(3_520_000 / 63_025_520, rel=0.1)
