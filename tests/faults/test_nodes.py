"""Hosts of one cluster, each in a network namespace with an address of its own: one is cut off for 30 s, one is killed."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch

from tests.conftest import weights
from tests.faults.test_killed import TORCHRUN, start
from tests.faults.test_ray import wait_for
from tests.faults.test_restarts import records

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("ip"), reason="namespaces need root and iproute2"),
]
STEPS = 3000
RUN = [f"train.steps={STEPS}", "train.checkpoint_every=100", f"train.valid_every={STEPS}", "train.deterministic=true"]


class Nodes:
    """Ray nodes of one core at 10.77.0.1 (the head), .2 and so on, joined by a bridge in a namespace of its own."""

    def __init__(self, count):
        self._name = f"dg{os.getpid()}"
        self._folder = Path(tempfile.mkdtemp(prefix="dg", dir="/tmp"))  # sockets have short names
        self._environment = os.environ | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "GLOO_SOCKET_IFNAME": "eth0",
        }
        self._ip("netns", "add", f"{self._name}-0")
        self._ip("-n", f"{self._name}-0", "link", "add", "br0", "up", "type", "bridge")
        for number in range(1, count + 1):
            self._join(number)
            self._start(number)

    def _ip(self, *arguments):
        subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)

    def _join(self, number):
        space = f"{self._name}-{number}"
        self._ip("netns", "add", space)
        self._ip("-n", f"{self._name}-0", "link", "add", f"v{number}", "type", "veth", "peer", "eth0", "netns", space)
        self._ip("-n", f"{self._name}-0", "link", "set", f"v{number}", "master", "br0", "up")
        self._ip("-n", space, "addr", "add", f"10.77.0.{number}/24", "dev", "eth0")
        for link in ("lo", "eth0"):
            self._ip("-n", space, "link", "set", link, "up")

    def _start(self, number):
        where = ["--head", "--port=6379", "--include-dashboard=false"] if number == 1 else ["--address=10.77.0.1:6379"]
        command = ["ray", "start", *where, f"--node-ip-address=10.77.0.{number}", "--num-cpus=1"]
        command += ["--object-store-memory=80000000", f"--temp-dir={self._folder / str(number)}"]
        self.run(number, sys.executable, "-m", "ray.scripts.scripts", *command[1:]).communicate(timeout=180)

    def run(self, number, *command, **options):
        """A process on a node."""
        inside = ["ip", "netns", "exec", f"{self._name}-{number}", *map(str, command)]
        return subprocess.Popen(inside, env=self._environment, stdout=subprocess.DEVNULL, text=True, **options)

    def processes(self, number, name=""):
        """Process ids on a node, of those with a name in their command line."""
        listed = subprocess.run(
            ["ip", "netns", "pids", f"{self._name}-{number}"], capture_output=True, text=True, check=True
        )
        found = []
        for pid in map(int, listed.stdout.split()):
            with contextlib.suppress(OSError):
                if name in Path(f"/proc/{pid}/cmdline").read_bytes().decode():
                    found.append(pid)
        return found

    def cut(self, number, down=True):
        """Cut a node off, or join it again."""
        self._ip("-n", f"{self._name}-0", "link", "set", f"v{number}", "down" if down else "up")

    def kill(self, number):
        """SIGKILL to all that runs on a node."""
        for pid in self.processes(number):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def close(self, count):
        """Leave nothing behind."""
        for number in range(1, count + 1):
            with contextlib.suppress(subprocess.CalledProcessError):
                self.kill(number)
        for number in range(count + 1):
            subprocess.run(["ip", "netns", "del", f"{self._name}-{number}"], check=False, capture_output=True)
        shutil.rmtree(self._folder, ignore_errors=True)


@pytest.fixture
def nodes(request):
    made = Nodes(request.param)
    yield made
    made.close(request.param)


def undisturbed(run_file, tmp_path):
    assert start("train", run_file, *RUN, "--out", "whole", cwd=tmp_path, by=TORCHRUN).wait(300) == 0
    return weights(tmp_path / "whole")


def train(nodes, run_file, tmp_path, workers, *overrides):
    command = [sys.executable, "-m", "distgen.cli", "train", run_file, *RUN, *overrides, "--workers", workers]
    options = ["--ray-address", "10.77.0.1:6379", "--out", "out"]
    return nodes.run(1, *command, *options, cwd=tmp_path, stderr=subprocess.PIPE)


def with_worker(nodes, count):
    """A node that trains and is not the head."""
    return next(number for number in range(2, count + 1) if nodes.processes(number, "ray::RayTrainWorker"))


def losses(out):
    """By step."""
    found = [r for r in map(json.loads, (out / "metrics.jsonl").read_text().splitlines()) if "loss" in r]
    assert [record["step"] for record in found] == list(range(1, STEPS + 1))
    return {record["step"]: record["loss"] for record in found}


@pytest.mark.parametrize("nodes", [3], indirect=True)
def test_one_node_is_cut_off_and_one_is_killed(nodes, run_file, tmp_path):
    whole = undisturbed(run_file, tmp_path)
    process = train(nodes, run_file, tmp_path, 2, "cluster.placement=STRICT_SPREAD")
    wait_for(150, process, tmp_path / "out")
    victim = with_worker(nodes, 3)
    nodes.cut(victim)
    time.sleep(30)
    seen = records(tmp_path / "out")
    nodes.cut(victim, down=False)
    wait_for(seen + 150, process, tmp_path / "out")
    nodes.kill(with_worker(nodes, 3))  # the third node takes its place
    said = process.communicate(timeout=400)[1]
    assert process.returncode == 0, said
    assert "started again from the newest checkpoint" in said
    found = weights(tmp_path / "out")
    assert all(torch.equal(whole[key], found[key]) for key in whole)
    assert losses(tmp_path / "out")


@pytest.mark.parametrize("nodes", [2], indirect=True)
def test_an_elastic_training_goes_on_with_fewer_nodes(nodes, run_file, tmp_path):
    undisturbed(run_file, tmp_path)
    process = train(nodes, run_file, tmp_path, "1-2")
    wait_for(150, process, tmp_path / "out")
    nodes.kill(2)
    said = process.communicate(timeout=400)[1]
    assert process.returncode == 0, said
    # Of the same samples; the sum over one worker is rounded otherwise than that over two, and with time that grows.
    whole, found = (list(losses(tmp_path / name).values())[:600] for name in ("whole", "out"))
    assert whole[99] > 0.05
    assert found == pytest.approx(whole, rel=1e-5, abs=1e-4)
