"""A sweep that is killed, asked to leave, or loses Ray goes on."""

import json
import os
import signal
import subprocess
import sys

import pytest

from distgen.cli import run as command
from distgen.train.run import Run
from tests.conftest import fit, weights
from tests.faults.test_killed import wait_for, workers

LAST = 60


@pytest.fixture
def begun(run_file, tmp_path):
    """The process of a sweep of two trials that has just begun to train the first, and what goes on with it."""
    steps = f"train.steps = [{LAST}]\ntrain.checkpoint_every = [5]\ntrain.valid_every = [10]"
    file, out = tmp_path / "s.toml", tmp_path / "out"
    file.write_text(f'run = "{run_file.name}"\nparallel = 1\n[space]\noptimizer.lr = [1e-3, 2e-3]\n{steps}\n')
    arguments = ["sweep", str(file), "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "distgen.cli", *arguments], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    wait_for(lambda: list(out.glob("trials/000/checkpoints/step-*")), process, 200)
    yield process, [*arguments, "--resume"]
    process.kill()


def goes_on(arguments, tmp_path):
    """The rest of a sweep, which ends as if nothing had come between."""
    out = tmp_path / "out"
    first = json.loads((out / "trials/000/metrics.jsonl").read_text().splitlines()[0])
    assert command(arguments) == 0
    import ray

    ray.shutdown()
    found = json.loads((out / "leaderboard.json").read_text())
    assert {row["trial"]: row["state"] for row in found["trials"]} == {"000": "done", "001": "done"}
    # The first trial went on where it was: its first record is the one from before.
    records = [json.loads(line) for line in (out / "trials/000/metrics.jsonl").read_text().splitlines()]
    assert records[0] == first
    assert [record["step"] for record in records if "loss" in record] == list(range(1, LAST + 1))
    for name in ("000", "001"):
        fit(Run.read(out / "trials" / name / "run.toml"), tmp_path / name)
        there, alone = weights(out / "trials" / name), weights(tmp_path / name)
        assert all((there[key] == alone[key]).all() for key in alone)


def test_a_killed_sweep_goes_on_with_the_same_trials(begun, tmp_path):
    process, resume = begun
    process.kill()
    process.wait()
    goes_on(resume, tmp_path)


def test_a_sweep_that_is_asked_to_leave_keeps_checkpoints_and_goes_on(begun, tmp_path):
    process, resume = begun
    process.send_signal(signal.SIGTERM)
    assert "asked to leave, with 2 trials that have not ended; go on with --resume" in process.communicate()[1]
    assert process.returncode == 75
    goes_on(resume, tmp_path)


@pytest.mark.slow
def test_a_sweep_whose_node_dies_says_so_and_goes_on(begun, tmp_path):
    process, resume = begun
    (raylet,) = workers(process.pid, ["raylet/raylet"])
    os.kill(raylet, signal.SIGKILL)
    assert "no node has had room for a trial" in process.communicate(timeout=250)[1]
    assert process.returncode == 69
    goes_on(resume, tmp_path)
