"""kill -9 in the middle of a training, and look at what a user would find."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from tests.conftest import weights


def start(*arguments, cwd):
    return subprocess.Popen(
        [sys.executable, "-m", "distgen.cli", *map(str, arguments)],
        cwd=cwd,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def wait_for(condition, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the process ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.002)


def kill(process):
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def _train_killed(run_file, tmp_path, kills):
    """Train to the end, with SIGKILL after so many records each time; returns the last weights."""
    metrics = tmp_path / "killed" / "metrics.jsonl"
    arguments = ["train", run_file, "train.steps=60", "train.checkpoint_every=5", "--out", "killed"]
    resume: list[str] = []
    for records in kills:
        process = start(*arguments, *resume, cwd=tmp_path)
        wait_for(lambda n=records: metrics.exists() and len(metrics.read_text().splitlines()) >= n, process)
        kill(process)
        resume = ["--resume"]
    assert start(*arguments, *resume, cwd=tmp_path).wait() == 0
    return weights(tmp_path / "killed")


def test_a_training_that_is_killed_ends_in_the_same_weights(run_file, tmp_path):
    assert start("train", run_file, "train.steps=60", "--out", "whole", cwd=tmp_path).wait() == 0
    whole = weights(tmp_path / "whole")
    killed = _train_killed(run_file, tmp_path, kills=[1, 17])
    assert all(torch.equal(whole[key], killed[key]) for key in whole)


@pytest.mark.slow
def test_a_training_that_is_killed_again_and_again_ends_in_the_same_weights(run_file, tmp_path):
    assert start("train", run_file, "train.steps=60", "--out", "whole", cwd=tmp_path).wait() == 0
    whole = weights(tmp_path / "whole")
    killed = _train_killed(run_file, tmp_path, kills=list(range(3, 63, 6)))
    assert all(torch.equal(whole[key], killed[key]) for key in whole)
