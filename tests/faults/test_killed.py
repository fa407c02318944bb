"""kill -9 in the middle, and look at what a user would find."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from distgen.config import Recipe, read
from distgen.store.build import build
from distgen.store.reader import open_store
from distgen.store.verify import verify


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


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT])
def test_a_build_that_is_killed_leaves_no_store_and_the_next_one_is_whole(tmp_path, signal_number):
    letters = np.frombuffer(b"ACGTacgt", np.uint8)[np.random.default_rng(0).integers(0, 8, 100_000_000, np.uint8)]
    (tmp_path / "a.fa").write_bytes(b">a\n" + letters.tobytes() + b"\n")
    (tmp_path / "a.toml").write_text('format = 1\n[assembly]\nname = "a"\nfasta = "a.fa"\n')
    process = start("build", "a.toml", "--out", "a.zarr", cwd=tmp_path)
    wait_for(lambda: list(tmp_path.glob(".a.zarr.*.building")), process)
    time.sleep(0.1)
    process.send_signal(signal_number)
    assert process.wait() != 0
    assert not (tmp_path / "a.zarr").exists()
    build(read(tmp_path / "a.toml", Recipe), tmp_path / "a.zarr")
    verify(open_store(tmp_path / "a.zarr"))
    assert {p.name for p in tmp_path.iterdir()} == {"a.fa", "a.toml", "a.zarr"}


def test_a_full_disk_leaves_no_store(small_recipe, tmp_path, monkeypatch):
    from distgen.errors import StoreError
    from distgen.store import format

    monkeypatch.setattr(format.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(StoreError, match="the build stopped .No space left on device.; nothing was published"):
        build(read(small_recipe, Recipe), tmp_path / "a.zarr")
    assert {p.name for p in tmp_path.iterdir()} == {"small.fa", "small.gtf", "small.toml"}


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
    return load_file(tmp_path / "killed/checkpoints/last/model.safetensors")


def test_a_training_that_is_killed_ends_in_the_same_weights(run_file, tmp_path):
    assert start("train", run_file, "train.steps=60", "--out", "whole", cwd=tmp_path).wait() == 0
    whole = load_file(tmp_path / "whole/checkpoints/last/model.safetensors")
    killed = _train_killed(run_file, tmp_path, kills=[1, 17])
    assert all(torch.equal(whole[key], killed[key]) for key in whole)


@pytest.mark.slow
def test_a_training_that_is_killed_again_and_again_ends_in_the_same_weights(run_file, tmp_path):
    assert start("train", run_file, "train.steps=60", "--out", "whole", cwd=tmp_path).wait() == 0
    whole = load_file(tmp_path / "whole/checkpoints/last/model.safetensors")
    killed = _train_killed(run_file, tmp_path, kills=list(range(3, 63, 6)))
    assert all(torch.equal(whole[key], killed[key]) for key in whole)
