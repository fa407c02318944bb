"""kill -9 in the middle of a training, and look at what a user would find."""

import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.conftest import weights

TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "2", "-m"]


def start(*arguments, cwd, by=(), log=subprocess.DEVNULL):
    return subprocess.Popen(
        [sys.executable, "-m", *by, "distgen.cli", *map(str, arguments)],
        cwd=cwd,
        stdout=log,
        stderr=log,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
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


# ---- one of several workers ------------------------------------------------------------------------


def workers(process, words):
    """The processes below one whose command lines have some words."""
    found = []
    for child in children(process):
        found += workers(child, words)
        try:
            line = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # it has just ended
            continue
        if all(word in line for word in words):
            found.append(child)
    return found


def children(process):
    try:
        return [
            int(n) for task in Path(f"/proc/{process}/task").iterdir() for n in (task / "children").read_text().split()
        ]
    except OSError:
        return []


def processor_seconds(process):
    """What a process has used, whatever else the machine does; None if it has ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Cluster:
    """A run on two workers, in deterministic mode.

    Args:
        run_file: the run.
        by: what starts the workers, before `distgen.cli`.
        options: of `distgen train`.
        words: what is in the workers' command lines.
    """

    def __init__(self, run_file, by, options, words):
        self.folder, self._by, self._words = run_file.parent, by, words
        changes = ["train.steps=80", "train.checkpoint_every=7", "train.deterministic=true", "log.every=10"]
        self._arguments = ["train", run_file, *changes, *options]

    def train(self, out, moments=()):
        """Train to the end; a random one of the workers is killed after so many seconds of its processor's time, and so on
        with those that take over.

        Returns:
            How many seconds the last ones took, and how many were killed.
        """
        log = self.folder / f"{out}.log"
        with log.open("w") as file:
            process = start(*self._arguments, "--out", out, cwd=self.folder, by=self._by, log=file)
        try:
            found = self._follow(process, moments)
            assert process.wait(240) == 0, log.read_text()
            return found
        finally:
            process.terminate()  # where it did not end as it should

    def _follow(self, process, moments):
        gone: set[int] = set()
        killed, seconds = 0, 0.0
        for moment in [*moments, math.inf]:
            alive = self._wait_for_workers(process, gone)
            chosen = random.choice([*alive]) if alive else 0
            while process.poll() is None and (now := processor_seconds(chosen)) is not None and now < moment:
                seconds = now
                time.sleep(0.005)
            if processor_seconds(chosen) is None or process.poll() is not None:
                break
            os.kill(chosen, signal.SIGKILL)
            killed, gone = killed + 1, gone | alive
        return seconds, killed

    def _wait_for_workers(self, process, gone):
        deadline = time.monotonic() + 120
        while process.poll() is None:
            alive = set(workers(process.pid, self._words)) - gone
            if len(alive) == 2:
                return alive
            assert time.monotonic() < deadline, "the workers did not come"
            time.sleep(0.01)
        return set()

    def equal(self, one, other):
        """Are the weights of two run directories the same to the bit?"""
        one, other = weights(self.folder / one), weights(self.folder / other)
        return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.fixture
def torchrun(run_file):
    return Cluster(run_file, TORCHRUN, ["--resume"], ["distgen.cli", "train"])


def survived(cluster, runs):
    """Of so many runs of which a random worker dies at a random moment, how many end as one that nobody disturbs does.
    Moments after the end don't count."""
    seconds, _ = cluster.train("whole")
    equal = tried = 0
    while tried < runs:
        _, killed = cluster.train(f"killed-{tried}", [random.uniform(0, seconds)])
        if killed:
            tried += 1
            equal += cluster.equal("whole", f"killed-{tried - 1}")
        else:
            shutil.rmtree(cluster.folder / f"killed-{tried}")
    return equal


@pytest.mark.slow
def test_workers_that_die_twice_change_nothing(torchrun):
    seconds, _ = torchrun.train("whole")
    _, killed = torchrun.train("killed", [share * seconds for share in (0.7, random.uniform(0.1, 0.9))])
    assert killed == 2
    assert torchrun.equal("whole", "killed")


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_fifty_of_fifty_runs_end_in_the_same_weights_when_a_random_worker_dies_at_a_random_moment(torchrun):
    assert survived(torchrun, 50) == 50


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_five_of_five_end_in_the_same_weights_when_a_ray_worker_dies(run_file):
    assert survived(Cluster(run_file, [], ["--workers", "2"], ["ray::", "TrainWorker"]), 5) == 5
