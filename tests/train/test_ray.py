"""Ray Train for real: two workers on this machine."""

import contextlib
import json
import os
import re
import signal
import socket
import threading
import time
import urllib.request
from importlib.util import find_spec

import pytest
from ray.exceptions import ActorDiedError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2.api.exceptions import WorkerGroupError

from distgen import cluster
from distgen.config import TIMEOUTS
from distgen.errors import ConfigError, DamageError, DistgenError, LostError, PreemptedError, TrainError
from distgen.train.checkpoint import newest
from distgen.train.launch import launch
from distgen.train.ray import _explained, _worker
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


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            ["cluster.placement=STRICT_SPREAD"],
            r"room for 1 of 2 workers \(STRICT_SPREAD\) with CPU 1 each; .* has 1 nodes",
        ),
        (["cluster.resources={ssd=1}"], "room for 0 of 2 workers .* with CPU 1, ssd 1 each; .* with CPU .*, ssd 0"),
        (["cluster.gpus_per_worker=1"], "room for 0 of 2 workers"),
        (['cluster.accelerator="A100"'], "accelerator_type:A100 0"),
    ],
)
def test_workers_that_cannot_be_placed_are_refused_before_anything_is_written(run_file, tmp_path, asked, said):
    with pytest.raises(ConfigError, match=said):
        launch(Run.read(run_file, ["cluster.workers=2", *asked]), tmp_path / "out", lambda record: None)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("workers", ["2", "[2, 3]"])
def test_workers_that_never_start_end_in_a_clear_error(run_file, tmp_path, monkeypatch, workers):
    import ray

    cluster.connect(1)
    monkeypatch.setitem(TIMEOUTS, "worker_start", 5.0)
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "5")

    @ray.remote(num_cpus=os.cpu_count())
    class Other:
        def here(self):
            return True

    other = Other.remote()
    assert ray.get(other.here.remote(), timeout=60)
    try:
        with pytest.raises(LostError, match="no workers could be started in 5 s: 2 workers .* free in all: CPU 0"):
            launch(Run.read(run_file, [f"cluster.workers={workers}"]), tmp_path / "out", lambda record: None)
    finally:
        ray.kill(other)
    assert not (tmp_path / "out").exists()


def test_a_signal_to_the_driver_reaches_the_workers(run_file, tmp_path):
    run = Run.read(run_file, ["cluster.workers=2", "train.steps=5000", "train.valid_every=5000", "log.every=10"])
    threading.Timer(0, ask_when, (tmp_path / "out" / "metrics.jsonl",)).start()
    with pytest.raises(PreemptedError, match="asked to leave at step"):
        launch(run, tmp_path / "out", lambda record: None)
    left = newest(tmp_path / "out" / "checkpoints").state["step"]
    steps = left + 3
    run = Run.read(run_file, [f"train.steps={steps}", "train.valid_every=5000", "log.every=10"])
    assert fit(run, tmp_path / "out")[-1]["step"] == steps


def ask_when(path):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not path.exists():
        time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_worker_that_does_not_see_the_run_directory_says_so(run_file, tmp_path):
    with pytest.raises(ConfigError, match="does not see .*out of the machine where the training was started"):
        _worker(Run.read(run_file), tmp_path / "out", tmp_path / "out" / "mark", None)


@pytest.mark.parametrize(
    ("failures", "said"),
    [
        ({0: RuntimeError("[gloo/transport/tcp/pair.cc:1] x"), 1: DamageError("shard 7 is damaged")}, "^shard 7 is"),
        ({0: RuntimeError("Connection closed by peer"), 1: ValueError("a bug")}, "ValueError: a bug"),
        ({0: ValueError("late"), 1: WorkerHealthCheckFailedError("x", ActorDiedError())}, "a worker or its node died"),
    ],
)
def test_the_one_who_knows_is_heard(failures, said):
    with pytest.raises(DistgenError, match=said):
        raise _explained(WorkerGroupError("many", failures))


@pytest.mark.skipif(find_spec("aiohttp_cors") is None, reason="Ray serves metrics where ray[default] is installed")
def test_prometheus_reads_what_records_say():
    import ray

    from distgen.train.ray import _gauges

    ray.shutdown()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray.init(num_cpus=1, include_dashboard=False, _metrics_export_port=port)
    try:
        _gauges("tiny")({"step": 3, "valid": {"loss": 1.5}, "step_ms": {"wait": 2.0}})
        found, until = "", time.monotonic() + 60
        while "distgen_valid_loss" not in found and time.monotonic() < until:
            time.sleep(1)
            with contextlib.suppress(OSError):
                found = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
        assert re.search(r'ray_distgen_valid_loss\{.*run="tiny".*\} 1.5', found)
        assert re.search(r'ray_distgen_step_ms\{.*part="wait".*run="tiny".*\} 2.0', found)
    finally:
        ray.shutdown()
