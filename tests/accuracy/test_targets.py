"""What the runs that come with distgen must reach: a sample here, trained in full (minutes each) with make accuracy."""

import json
import os
from pathlib import Path

import pytest
import torch

from distgen.train.run import Run
from tests.conftest import ROOT
from tests.test_cli import distgen


def measure(tmp_path, recipe, run, *overrides):
    store = tmp_path / "a.zarr"
    data = os.environ.get("DISTGEN_DATA", "")
    distgen("build", ROOT / "shards/recipes" / recipe, "--out", store, cwd=tmp_path, DISTGEN_DATA=data)
    run = ROOT / "launch/runs" / run
    distgen("train", run, f"data.store={store}", *overrides, "--out", "out", cwd=tmp_path, timeout=1700)
    return json.loads(distgen("evaluate", "out", "--json", cwd=tmp_path))


def test_a_sample_of_the_quickstart_learns_what_order_3_knows(tmp_path):
    found = measure(tmp_path, "ecoli536.toml", "quickstart.toml", "train.steps=100", "optimizer.warmup_steps=10")
    assert found["metrics"]["bits_per_base"] < found["baselines"]["markov order 3"]["metrics"]["bits_per_base"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_quickstart_beats_every_baseline(tmp_path):
    found = measure(tmp_path, "ecoli536.toml", "quickstart.toml")
    precision = Run.read(ROOT / "launch/runs/quickstart.toml").precision(torch.device("cpu"))
    assert found["metrics"]["bits_per_base"] < (1.85 if precision == torch.bfloat16 else 1.88)
    assert found["metrics"]["bits_per_base"] < min(
        entry["metrics"]["bits_per_base"] for entry in found["baselines"].values()
    )


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_yeast_coding_tells_the_strands_apart(data: Path, tmp_path):
    found = measure(tmp_path, "sacCer3-genes.toml", "yeast-coding.toml")
    assert min(found["metrics"]["auroc"][name] for name in ("cds+", "cds-")) > 0.985
