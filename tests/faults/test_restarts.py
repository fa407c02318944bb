"""`cluster.restarts`: the process that trains dies, and is started again."""

import os
import signal
import subprocess
import sys

import torch

from distgen.cli.watch import restarts
from tests.conftest import weights
from tests.faults.test_killed import children, start, wait_for


def records(out):
    return len(out.read_text().splitlines()) if (out := out / "metrics.jsonl").exists() else 0


def test_a_watched_training_that_is_killed_goes_on_by_itself(run_file, tmp_path):
    assert start("train", run_file, "train.steps=60", "--out", "whole", cwd=tmp_path).wait() == 0
    arguments = ["train", run_file, "train.steps=60", "train.checkpoint_every=5", "cluster.restarts=2", "--out", "out"]
    watcher = start(*arguments, cwd=tmp_path)
    for count in (7, 23):
        wait_for(lambda n=count: records(tmp_path / "out") >= n, watcher)
        os.kill(children(watcher.pid)[0], signal.SIGKILL)
    assert watcher.wait(timeout=120) == 0
    whole, killed = weights(tmp_path / "whole"), weights(tmp_path / "out")
    assert all(torch.equal(whole[key], killed[key]) for key in whole)


def test_what_is_wrong_is_not_tried_again_and_a_signal_is_passed_on(run_file, tmp_path):
    long = ["train", run_file, "train.steps=100000", "train.valid_every=100000", "cluster.restarts=5", "--out", "out"]
    watcher = start(*long, cwd=tmp_path)
    wait_for(lambda: records(tmp_path / "out") >= 3, watcher)
    watcher.send_signal(signal.SIGUSR1)
    assert watcher.wait(timeout=120) == 75
    command = [sys.executable, "-m", "distgen.cli", *map(str, long)]
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert again.returncode == 2
    assert again.stderr == "error: out exists. Give --resume to go on with it, or another --out.\n"


def test_only_who_watches_starts_again(run_file, tmp_path, monkeypatch):
    assert restarts(run_file, ["cluster.restarts=4"]) == 4
    assert restarts(run_file, ["cluster.restarts=x"]) == restarts(tmp_path / "none.toml", []) == 0
    monkeypatch.setenv("DISTGEN_WATCHED", "1")
    assert restarts(run_file, ["cluster.restarts=4"]) == 0
