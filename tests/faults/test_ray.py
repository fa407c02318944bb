"""Ray Train loses a worker, its controller, its driver: the training goes on with the same samples to the same weights."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import ray
import torch
from ray.cluster_utils import Cluster

from distgen.errors import PreemptedError
from distgen.train.launch import launch
from distgen.train.run import Run
from tests.conftest import weights
from tests.faults.test_killed import TORCHRUN, start
from tests.faults.test_restarts import records

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
LONG = ["train.steps=120", "train.checkpoint_every=20", "train.valid_every=120", "train.deterministic=true"]
KEPT = {}  # what is the same for all tests of this file


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


@pytest.fixture
def whole(run_file, tmp_path):
    """The weights after a training that nothing disturbed, on two processes of torchrun."""
    if not KEPT:
        assert start("train", run_file, *LONG, "--out", "whole", cwd=tmp_path, by=TORCHRUN).wait(280) == 0
        KEPT.update(weights(tmp_path / "whole"))
    return KEPT


def wait_for(count, process, out):
    """Until there are so many records."""
    deadline = time.monotonic() + 280
    while records(out) < count:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def killed(process, name, out, count):
    """SIGKILL to one of Ray's processes when there are so many records."""
    wait_for(count, process, out)
    os.kill(of(name, process.pid)[-1], signal.SIGKILL)


def same(whole, out):
    found = weights(out)
    assert all(torch.equal(whole[key], found[key]) for key in whole)
    steps = [r["step"] for r in map(json.loads, (out / "metrics.jsonl").read_text().splitlines()) if "loss" in r]
    assert steps == list(range(1, 121))


def test_two_workers_of_ray_end_in_the_same_bits_as_two_of_torchrun(whole, run_file, tmp_path):
    process = train(run_file, *LONG, "--workers", "2", "--out", "out", cwd=tmp_path)
    said = process.communicate(timeout=280)[1]
    assert process.returncode == 0, said
    same(whole, tmp_path / "out")


def test_a_worker_that_is_killed_is_started_again(whole, run_file, tmp_path):
    process = train(run_file, *LONG, "--workers", "2", "--out", "out", cwd=tmp_path)
    killed(process, "ray::RayTrainWorker", tmp_path / "out", 33)
    said = process.communicate(timeout=280)[1]
    assert process.returncode == 0, said
    assert "started again from the newest checkpoint" in said
    same(whole, tmp_path / "out")


@pytest.mark.parametrize("name", ["ray::TrainController", "distgen.cli train", "ray::Desk"])
def test_a_controller_or_a_driver_that_is_killed_is_started_again(whole, run_file, tmp_path, name):
    process = train(run_file, *LONG, "cluster.restarts=1", "--workers", "2", "--out", "out", cwd=tmp_path)
    killed(process, name, tmp_path / "out", 51)
    said = process.communicate(timeout=280)[1]
    assert process.returncode == 0, said
    assert "it is started again (1 of 1)" in said
    same(whole, tmp_path / "out")


def test_a_node_that_is_taken_away_is_left_with_a_checkpoint(whole, run_file, tmp_path):
    """Ray is told that a node goes: the workers keep a checkpoint, and go on where there is room."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        asks = ["--workers", "2", "--ray-address", cluster.address, "cluster.placement=STRICT_SPREAD"]
        process = train(run_file, *LONG, *asks, "cluster.max_failures=0", "--out", "out", cwd=tmp_path)
        wait_for(30, process, tmp_path / "out")
        raylets = {node.node_id: node.all_processes["raylet"][0].process.pid for node in cluster.worker_nodes}
        leaves = next(name for name, raylet in raylets.items() if of("ray::RayTrainWorker", raylet))
        command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", cluster.address]
        command += ["--node-id", leaves, "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "taken away"]
        subprocess.run([*command, "--deadline-remaining-seconds", "120"], check=True, capture_output=True, timeout=60)
        said = process.communicate(timeout=280)[1]
        assert process.returncode == 0, said
        assert "a node is taken away, and what was trained is kept" in said
        same(whole, tmp_path / "out")
    finally:
        cluster.shutdown()


def test_an_elastic_training_takes_in_a_node_that_comes_and_no_step_is_taken_twice(
    run_file, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr("distgen.train.ray._RESIZE_EVERY", 3.0)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    taken, grown = [], []

    def show(record):
        if "loss" not in record:
            return
        taken.append(record["step"])
        if record["step"] == 30:
            cluster.add_node(num_cpus=1)
        if "training goes on with 2 workers" in caplog.text:
            grown.append(record["step"])
        if len(grown) == 50:
            os.kill(os.getpid(), signal.SIGUSR1)  # a node that is added takes SIGTERM for itself

    asks = ["cluster.workers=[1, 2]", f'cluster.address="{cluster.address}"', "train.checkpoint_every=1000000"]
    try:
        with pytest.raises(PreemptedError):
            launch(
                Run.read(run_file, [*asks, "train.steps=1000000", "train.valid_every=1000000"]), tmp_path / "out", show
            )
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert taken == list(range(1, len(taken) + 1))
    assert (
        len(list((tmp_path / "out" / "checkpoints").glob("step-*"))) == 2
    )  # when the second worker came, and the last
