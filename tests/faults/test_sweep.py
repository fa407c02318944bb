"""A sweep whose driver is killed goes on."""

import json
import os
import signal
import subprocess
import sys

from distgen.cli import run as command
from tests.conftest import fit, weights
from tests.faults.test_killed import wait_for


def test_a_killed_sweep_goes_on_with_the_same_trials(run_file, tmp_path):
    from distgen.train.run import Run

    steps = "train.steps = [60]\ntrain.checkpoint_every = [5]\ntrain.valid_every = [10]"
    file, out = tmp_path / "s.toml", tmp_path / "out"
    file.write_text(f'run = "{run_file.name}"\nparallel = 1\n[space]\noptimizer.lr = [1e-3, 2e-3]\n{steps}\n')
    process = subprocess.Popen([sys.executable, "-m", "distgen.cli", "sweep", str(file), "--out", str(out)])
    wait_for(lambda: list(out.glob("trials/000/checkpoints/step-*")), process, 200)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    begun = json.loads((out / "trials/000/metrics.jsonl").read_text().splitlines()[0])
    assert command(["sweep", str(file), "--out", str(out), "--resume"]) == 0
    import ray

    ray.shutdown()
    found = json.loads((out / "leaderboard.json").read_text())
    assert {row["trial"]: row["state"] for row in found["trials"]} == {"000": "done", "001": "done"}
    # The first trial went on where it was: its first record is the one from before.
    records = [json.loads(line) for line in (out / "trials/000/metrics.jsonl").read_text().splitlines()]
    assert records[0] == begun
    assert [record["step"] for record in records if "loss" in record] == list(range(1, 61))
    for name in ("000", "001"):
        fit(Run.read(out / "trials" / name / "run.toml"), tmp_path / name)
        there, alone = weights(out / "trials" / name), weights(tmp_path / name)
        assert all((there[key] == alone[key]).all() for key in alone)
