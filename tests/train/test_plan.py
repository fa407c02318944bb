"""What trials a sweep has."""

import shutil

from distgen.config import Sweep, read
from distgen.train.plan import Plan
from tests.conftest import ROOT


def test_the_sweep_of_the_quickstart_has_a_validation_part_to_compare_by(ecoli, tmp_path):
    for folder in ("launch/runs", "launch/sweeps"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    (tmp_path / "shards/store").mkdir(parents=True)
    (tmp_path / "shards/store/ecoli536.zarr").symlink_to(ecoli.path)
    plan = Plan(read(tmp_path / "launch/sweeps/quickstart.toml", Sweep), tmp_path / "out")
    assert plan.most == 4
    assert plan.steps == 1200
