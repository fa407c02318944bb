"""Sweeps for real: trials on Ray Tune, on this machine."""

import json
from pathlib import Path

import pytest

from distgen.cli import run as command
from distgen.train.ensemble import Ensemble

SWEEP = """run = "tiny.toml"
{search}
[space]
{space}
"""


def sweep_file(run_file, space, search="", name="sweep.toml"):
    path = run_file.parent / name
    path.write_text(SWEEP.format(search=search, space=space))
    return path


@pytest.fixture
def ray_session():
    yield
    import ray

    ray.shutdown()


def test_four_trials_are_run_directories_and_the_best_is_first(run_file, tmp_path, ray_session, capsys):
    path = sweep_file(run_file, "optimizer.lr = [1.0, 3e-3]", "seeds = [0, 1]")
    out = tmp_path / "out"
    assert command(["sweep", str(path), "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((out / "leaderboard.json").read_text())
    first, second = found["configurations"]
    assert first["values"] == {"optimizer.lr": 3e-3}
    assert first["mean"] < second["mean"]
    assert first["sd"] is not None
    assert {row["state"] for row in found["trials"]} == {"done"}
    assert sorted(path.name for path in (out / "trials").iterdir()) == [
        "000-seed0", "000-seed1", "001-seed0", "001-seed1"
    ]  # fmt: skip
    assert not (out / ".ray").exists()
    for trial in (out / "trials").iterdir():
        assert {"run.toml", "metrics.jsonl", "checkpoints"} <= {path.name for path in trial.iterdir()}
    assert command(["evaluate", str(out / "trials/001-seed0"), "--json"]) == 0
    assert (
        command(["train", str(path.parent / "tiny.toml"), "--out", str(tmp_path / "alone"), "optimizer.lr=3e-3"]) == 0
    )
    # What has ended is not trained again, and the same is said.
    metrics = {path: path.stat().st_mtime_ns for path in out.glob("trials/*/metrics.jsonl")}
    capsys.readouterr()
    assert command(["sweep", str(path), "--out", str(out), "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found
    assert metrics == {path: path.stat().st_mtime_ns for path in out.glob("trials/*/metrics.jsonl")}
    # And the best two make an ensemble.
    assert command(["ensemble", str(out), "--top", "2", "--out", str(tmp_path / "best")]) == 0
    assert [Path(member).name for member in Ensemble.find(tmp_path / "best").members] == [
        row["trial"] for row in found["trials"][:2]
    ]
    # The same run by itself ends in the same checkpoint.
    last = [json.loads(path.read_text()) for path in (
        out / "trials/001-seed0/checkpoints/last/state.json", tmp_path / "alone/checkpoints/last/state.json")]  # fmt: skip
    assert last[0]["best"] == last[1]["best"]


def test_one_that_fails_ends_no_other_and_the_worst_are_stopped(run_file, tmp_path, ray_session, capsys):
    search = "parallel = 1\n[asha]\ngrace_steps = 3\nreduction = 2"
    path = sweep_file(
        run_file, "optimizer.lr = [1e-9, 3e-3, 1e30]\ntrain.valid_every = [3]\ntrain.steps = [18]", search
    )
    out = tmp_path / "out"
    assert command(["sweep", str(path), "--out", str(out)]) == 0
    found = json.loads((out / "leaderboard.json").read_text())
    states = {row["trial"]: row for row in found["trials"]}
    assert [states[name]["state"] for name in ("000", "001", "002")] == ["done", "stopped", "failed"]
    assert "lower optimizer.lr" in states["002"]["error"]
    assert "002 failed: the loss of step" in capsys.readouterr().out
    assert states["001"]["step"] == 3
    assert (out / "trials/001/checkpoints/last").exists()
    assert [one["configuration"] for one in found["configurations"]] == [0, 1, 2]
    assert "lower optimizer.lr" in (out / "report.html").read_text()
    # Only what failed is tried again; what was stopped stays so.
    assert command(["sweep", str(path), "--out", str(out), "--resume"]) == 0
    assert capsys.readouterr().out.count("002  failed") == 1
    assert json.loads((out / "leaderboard.json").read_text())["trials"] == found["trials"]
