"""What the runs that come with distgen must reach, trained in full: minutes each (make accuracy)."""

import json
import os
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.test_cli import distgen

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def measure(tmp_path, recipe, run):
    store = tmp_path / "a.zarr"
    data = os.environ.get("DISTGEN_DATA", "")
    distgen("build", ROOT / "shards/recipes" / recipe, "--out", store, cwd=tmp_path, DISTGEN_DATA=data)
    distgen("train", ROOT / "launch/runs" / run, f"data.store={store}", "--out", "out", cwd=tmp_path, timeout=1700)
    return json.loads(distgen("evaluate", "out", "--json", cwd=tmp_path))


def test_quickstart_beats_every_baseline(tmp_path):
    found = measure(tmp_path, "ecoli536.toml", "quickstart.toml")
    assert found["metrics"]["bits_per_base"] < 1.85
    assert found["metrics"]["bits_per_base"] < min(found["baselines"].values())


@pytest.mark.data
def test_yeast_coding_tells_the_strands_apart(data: Path, tmp_path):
    found = measure(tmp_path, "sacCer3-genes.toml", "yeast-coding.toml")
    assert min(found["metrics"]["auroc"][name] for name in ("cds+", "cds-")) > 0.985
