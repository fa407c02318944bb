"""Sweeps for real: trials on Ray Tune, on this machine."""

import json

import pytest

from distgen.cli import run as command

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
    path = sweep_file(run_file, "optimizer.lr = [1e-9, 3e-3]", "seeds = [0, 1]")
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
    # The same run by itself ends in the same checkpoint.
    last = [json.loads(path.read_text()) for path in (
        out / "trials/001-seed0/checkpoints/last/state.json", tmp_path / "alone/checkpoints/last/state.json")]  # fmt: skip
    assert last[0]["best"] == last[1]["best"]
