"""Where a training runs, and what it claims."""

import multiprocessing

import pytest

from distgen.errors import CheckpointError, ConfigError
from distgen.train.launch import launch
from distgen.train.run import Run


def test_two_trainings_in_one_directory_are_refused_and_one_after_another_are_not(run_file, tmp_path):
    def second(record):
        if record["step"] == 3 and "loss" in record:
            with pytest.raises(ConfigError, match="another training writes to .*out: wait for it"):
                launch(Run.read(run_file), tmp_path / "out", lambda record: None)

    launch(Run.read(run_file), tmp_path / "out", second)
    launch(Run.read(run_file, ["train.steps=13"]), tmp_path / "out", lambda record: None)


def test_a_training_without_workers_imports_neither_ray_nor_metrics_before_its_first_step(run_file, tmp_path):
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=_train_and_look, args=(run_file, tmp_path / "out"))
    child.start()
    child.join(120)
    assert child.exitcode == 0


def _train_and_look(run_file, out):
    import sys

    slow = {"ray", "torchmetrics", "matplotlib"}

    def look(record):
        if record["step"] == 1:
            assert not slow & sys.modules.keys()

    before = slow & sys.modules.keys()
    assert not before, before
    launch(Run.read(run_file, ["train.steps=2", "train.valid_every=2"]), out, look)


def test_a_precision_that_this_machine_lacks_is_refused_before_ray_starts(run_file, tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    run = Run.read(run_file, ["cluster.workers=2", "train.precision=fp8", "cluster.gpus_per_worker=0"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    monkeypatch.setattr("distgen.train.prepare._fits_float8", lambda module, name: True)
    monkeypatch.setattr("distgen.cluster.connect", lambda *asked: pytest.fail("Ray started"))
    with pytest.raises(ConfigError, match='train.precision: the CPU cannot multiply "fp8"'):
        launch(run, tmp_path / "out", lambda record: None)


def test_checkpoints_of_another_run_that_are_kept_elsewhere_are_said_to_be(run_file, tmp_path):
    elsewhere = f"train.checkpoints='{tmp_path / 'elsewhere'}'"
    launch(Run.read(run_file, ["train.steps=2", elsewhere]), tmp_path / "out", lambda record: None)
    with pytest.raises(CheckpointError, match="belongs to another run"):
        launch(Run.read(run_file, ["data.seed=3", elsewhere]), tmp_path / "other", lambda record: None)
    assert not (tmp_path / "other").exists()
