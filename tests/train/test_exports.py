"""Runs that train on an export of a store."""

import json

import pytest

from distgen.errors import ConfigError
from distgen.store.webdataset import export
from distgen.train.evaluation import evaluate
from distgen.train.run import Run
from tests.conftest import RUN, fit
from tests.test_cli import distgen

NO_JITTER = RUN.replace("jitter = 5\n", "")


def test_a_run_on_an_export_trains_as_on_the_store_and_either_goes_on_with_the_other(small, tmp_path):
    export(small, tmp_path / "out", window=64, shard_bytes=30_000)
    text = NO_JITTER.replace("stride = 32\n", "").replace("batch_size = 8", "batch_size = 4")
    runs = {}
    for name, place in (("store", small.path), ("export", tmp_path / "out")):
        (tmp_path / f"{name}.toml").write_text(text.format(store=place))
        runs[name] = Run.read(tmp_path / f"{name}.toml")
    assert runs["store"].check() == runs["export"].check()
    shown = {name: fit(run, tmp_path / f"run-{name}") for name, run in runs.items()}
    for one, other in zip(*shown.values(), strict=True):
        for key in ("loss", "valid"):
            assert one.get(key) == other.get(key)
    half = Run.read(tmp_path / "store.toml", ["train.steps=4"])
    fit(half, tmp_path / "half")
    continued = fit(runs["export"], tmp_path / "half")
    assert [record["step"] for record in continued][-1] == 12
    # A shorter run's rate falls sooner: only what is read is the same.
    lines = [json.loads(line) for line in (tmp_path / "half" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 13))
    runs["export"].write(tmp_path / "run-export" / "run.toml")
    _, found = evaluate(tmp_path / "run-export", "test")
    assert found["metrics"]["loss"] > 0
    assert "baselines" not in found


def test_classes_are_learned_from_an_export(small, tmp_path):
    export(small, tmp_path / "out", window=64, target_length=32, stride=16, tracks=("genes",))
    text = NO_JITTER.replace('"masked_lm"', '"base_classes"\ntrack = "genes"').replace("window = 64\nstride = 32\n", "")
    (tmp_path / "a.toml").write_text(text.format(store="out"))
    shown = fit(Run.read(tmp_path / "a.toml"), tmp_path / "run")
    assert "auroc" in shown[-1]["valid"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("window = 64", "window = 48"), r"a.toml:\d+: data.window: 48 is not what .*out was cut with, 64"),
        (("jitter = 5", "jitter = 2"), r"a.toml:\d+: data.jitter: the windows of an export cannot move"),
        (("jitter = 5", 'placement = "device"'), r"a.toml:\d+: data.placement: .device. is no placement for an export"),
        (
            ('"masked_lm"', '"base_classes"\ntrack = "genes"'),
            r'a.toml:\d+: objective.track: .*out has no track "genes"',
        ),
    ],
)
def test_what_a_run_asks_of_an_export_in_vain_is_said_with_file_and_key(small, tmp_path, change, message):
    export(small, tmp_path / "out", window=64, stride=32)
    (tmp_path / "a.toml").write_text(RUN.replace(*change).replace("jitter = 5\n", "").format(store="out"))
    with pytest.raises(ConfigError, match=message):
        Run.read(tmp_path / "a.toml").check()


def test_the_windows_of_a_run_on_an_export_are_those_that_it_has(small, tmp_path):
    found = export(small, tmp_path / "out", window=64)
    (tmp_path / "a.toml").write_text(NO_JITTER.replace("window = 64\nstride = 32\n", "").format(store="out"))
    run = Run.read(tmp_path / "a.toml")
    loaders = run.loaders(run.open_store())
    assert {part: len(loader.plan.sampling(0)) for part, loader in loaders.items()} == found.parts
    said = distgen("info", "--windows", "a.toml", cwd=tmp_path).splitlines()
    assert said[0] == f"tiny (a.toml): windows of {tmp_path / 'out'}, split default"
    told = json.loads(distgen("info", "--windows", "a.toml", "--json", cwd=tmp_path))
    assert {part: entry["stages"][0]["windows"] for part, entry in told["parts"].items()} == found.parts
    assert told["parts"]["train"]["stages"][0]["ambiguous"] is None
