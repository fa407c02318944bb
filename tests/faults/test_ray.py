"""Ray Train loses a worker, its controller, its driver: the training goes on with the same samples to the same weights."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from tests.conftest import weights
from tests.faults.test_restarts import records

LONG = ["train.steps=400", "train.checkpoint_every=10", "train.valid_every=400", "train.deterministic=true"]


def train(*arguments, cwd, **options):
    command = [sys.executable, "-m", "distgen.cli", "train", *map(str, arguments)]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **options)


def of(name, tree):
    """The processes of Ray below a process that call themselves so."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [
        (int(pid), int(parent), rest[0]) for pid, parent, *rest in (row.split(None, 2) for row in listed.splitlines())
    ]
    inside = {tree}
    for _ in rows:  # as deep as it may be
        grown = inside | {pid for pid, parent, _ in rows if parent in inside}
        if grown == inside:
            break
        inside = grown
    return [pid for pid, _, arguments in rows if pid in inside and name in arguments]


def undisturbed(run_file, tmp_path):
    process = train(run_file, *LONG, "--workers", "2", "--out", "whole", cwd=tmp_path)
    assert process.wait(timeout=200) == 0, process.stderr.read()
    return weights(tmp_path / "whole")


def killed(process, name, out, count):
    """SIGKILL to one of Ray's processes when there are so many records."""
    deadline = time.monotonic() + 150
    while records(out) < count:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(of(name, process.pid)[-1], signal.SIGKILL)


def same(whole, out):
    found = weights(out)
    assert all(torch.equal(whole[key], found[key]) for key in whole)
    steps = [r["step"] for r in map(json.loads, (out / "metrics.jsonl").read_text().splitlines()) if "loss" in r]
    assert steps == list(range(1, 401))


@pytest.mark.slow
def test_two_workers_of_ray_end_in_the_same_bits_as_two_of_torchrun(run_file, tmp_path):
    whole = undisturbed(run_file, tmp_path)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "distgen.cli", "train", str(run_file), *LONG, "--out", "out"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=200, capture_output=True)
    same(whole, tmp_path / "out")


@pytest.mark.slow
def test_a_worker_that_is_killed_is_started_again(run_file, tmp_path):
    whole = undisturbed(run_file, tmp_path)
    process = train(run_file, *LONG, "--workers", "2", "--out", "out", cwd=tmp_path)
    killed(process, "ray::RayTrainWorker", tmp_path / "out", 57)
    said = process.communicate(timeout=280)[1]
    assert process.returncode == 0, said
    assert "started again from the newest checkpoint" in said
    same(whole, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ray::TrainController", "distgen.cli train", "ray::_Desk"])
def test_a_controller_or_a_driver_that_is_killed_is_started_again(run_file, tmp_path, name):
    whole = undisturbed(run_file, tmp_path)
    process = train(run_file, *LONG, "cluster.restarts=1", "--workers", "2", "--out", "out", cwd=tmp_path)
    killed(process, name, tmp_path / "out", 83)
    said = process.communicate(timeout=280)[1]
    assert process.returncode == 0, said
    assert "it is started again (1 of 1)" in said
    same(whole, tmp_path / "out")
