"""Ray Train for real: two workers on this machine."""

import json
import os

import pytest

from distgen.errors import ConfigError, TrainError
from distgen.train.launch import launch
from distgen.train.run import Run
from tests.conftest import fit, weights


def losses(out):
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [r["loss"] for r in records if "loss" in r], [r["valid"]["loss"] for r in records if "valid" in r]


def test_two_workers_train_as_one(run_file, tmp_path):
    fit(Run.read(run_file), tmp_path / "one")
    (tmp_path / "two").mkdir()
    shown = []
    launch(Run.read(run_file, ["cluster.workers=2"]), tmp_path / "two", shown.append)
    (one, one_valid), (two, two_valid) = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert two == pytest.approx(one, abs=1e-5)
    assert two_valid == pytest.approx(one_valid, abs=1e-5)
    assert [r["step"] for r in shown if "loss" in r] == list(range(1, 13))
    assert not (tmp_path / "two" / ".ray").exists()
    # And a run of two workers goes on as one.
    fit(Run.read(run_file, ["train.steps=14"]), tmp_path / "two")
    fit(Run.read(run_file, ["train.steps=14"]), tmp_path / "one")
    both = [weights(tmp_path / name) for name in ("one", "two")]
    for key in both[0]:
        assert both[1][key].flatten().tolist() == pytest.approx(both[0][key].flatten().tolist(), abs=1e-3)


def test_no_workers_starts_no_ray(run_file, tmp_path):
    import ray

    ray.shutdown()
    (tmp_path / "out").mkdir()
    launch(Run.read(run_file, ["train.steps=2"]), tmp_path / "out", lambda record: None)
    assert not ray.is_initialized()


def test_more_workers_than_cores_ends_with_a_clear_error(run_file, tmp_path):
    import ray

    ray.shutdown()
    with pytest.raises(ConfigError, match=f"640 cores are asked for, there are {os.cpu_count()}"):
        launch(
            Run.read(
                run_file,
                ["cluster.workers=640", "data.batch_size=640", "data.window=8", "data.stride=1"],
            ),
            tmp_path / "out",
            lambda record: None,
        )
    assert not ray.is_initialized()
    assert not (tmp_path / "out").exists()


def test_a_failing_worker_tells_why(run_file, tmp_path):
    (tmp_path / "out").mkdir()
    run = Run.read(run_file, ["cluster.workers=2", "optimizer.lr=1e30", "train.steps=20"])
    with pytest.raises(TrainError, match="gradient's norm (nan|inf)"):
        launch(run, tmp_path / "out", lambda record: None)
