"""Where a training runs, and what it claims."""

import multiprocessing

import pytest

from distgen.errors import ConfigError
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
