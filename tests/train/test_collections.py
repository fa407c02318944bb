"""Runs on a collection: many genomes, one training."""

import json

import numpy as np
import pytest
import torch

from distgen.config import Recipe, read
from distgen.errors import CheckpointError, ConfigError
from distgen.store.build import build
from distgen.train.checkpoint import open_checkpoint
from distgen.train.evaluation import evaluate
from distgen.train.run import Run
from tests.conftest import RUN, fit
from tests.store.conftest import index_of, tiny_store
from tests.test_cli import distgen

SIZES = (700, 1100, 2500)


@pytest.fixture
def folder(tmp_path):
    """Three genomes, of which g0 and g2 have peaks, g1 and g2 a valid part, and all one to train on; and a run."""
    (tmp_path / "stores").mkdir()
    random = np.random.default_rng(1)
    for number, size in enumerate(SIZES):
        name = f"g{number}"
        tiny_store(tmp_path, name, "".join("ACGT"[c] for c in random.integers(0, 4, size)), track=number != 1)
        recipe = tmp_path / f"{name}.toml"
        valid = f'valid = ["{name}-1:0-200"]' if number else f'valid = []\ntest = ["{name}-2"]'
        recipe.write_text(recipe.read_text() + f"[split]\n{valid}\n")
        build(read(recipe, Recipe), tmp_path / "stores" / f"{name}.zarr")
    (tmp_path / "tiny.toml").write_text(RUN.format(store=index_of(tmp_path)))
    return tmp_path


def test_a_mixture_trains_and_says_how_each_store_fares(folder):
    run = Run.read(folder / "tiny.toml", ["log.every=4"])
    shown = fit(run, folder / "out")
    records = [r for r in shown if "loss" in r]
    store = run.open_store()
    loader = run.loader(store, run.build_objective(store), "train", training=True)
    served = dict.fromkeys(store.names, 0)
    for record in records:
        for step in range(record["step"] - 4, record["step"]):
            served[loader.source(*loader.plan.at_step(step))] += 1
        for name, found in record["stores"].items():
            assert found["epochs"] == pytest.approx(served[name] / len(loader.loader(store.index(name))))
            assert 0 < found["loss"] < 3
    assert all(served.values())
    assert [r["step"] for r in shown if "valid" in r] == [6, 12]
    valid = run.loader(store, run.build_objective(store), "valid")
    assert {place.contig for batch in valid for place in batch.where()} == {"g1-1", "g2-1"}


def test_a_mixture_goes_on_where_it_was_and_ends_the_same(folder):
    fit(Run.read(folder / "tiny.toml"), folder / "whole")
    fit(Run.read(folder / "tiny.toml", ["train.steps=8"]), folder / "cut")
    # The learning rate's schedule knows how many steps there are: compare samples, which do not.
    state = open_checkpoint(folder / "whole" / "checkpoints" / "step-00000008").state["loader"]
    assert open_checkpoint(folder / "cut" / "checkpoints" / "step-00000008").state["loader"] == state
    shown = fit(Run.read(folder / "tiny.toml"), folder / "cut")
    assert [r["step"] for r in shown if "loss" in r] == [9, 10, 11, 12]


def test_a_checkpoint_of_other_stores_is_refused(folder):
    fit(Run.read(folder / "tiny.toml", ["train.steps=4"]), folder / "out")
    text = (folder / "g0.toml").read_text().replace('test = ["g0-2"]', 'test = ["g0-1:0-100"]')
    (folder / "g0.toml").write_text(text)
    build(read(folder / "g0.toml", Recipe), folder / "stores" / "g0.zarr")
    index_of(folder)
    with pytest.raises(CheckpointError, match="stores"):
        fit(Run.read(folder / "tiny.toml"), folder / "out")


def test_a_track_that_some_stores_lack_is_learnt_from_the_others(folder):
    text = (folder / "tiny.toml").read_text().replace('kind = "masked_lm"', 'kind = "base_classes"\ntrack = "peaks"')
    (folder / "tiny.toml").write_text(text)
    shown = fit(Run.read(folder / "tiny.toml", ["data.jitter=0", "train.steps=40"]), folder / "out")
    of = {name: record["stores"][name]["loss"] for record in shown for name in record.get("stores", {})}
    assert of.keys() == {"g0", "g1", "g2"}
    assert of["g1"] == 0 < min(of["g0"], of["g2"])
    assert all(torch.isfinite(torch.tensor(r["loss"])) for r in shown if "loss" in r)


def test_a_mixture_is_evaluated_on_all_its_stores(folder):
    fit(Run.read(folder / "tiny.toml"), folder / "out")
    Run.read(folder / "tiny.toml").write(folder / "out" / "run.toml")
    _, found = evaluate(folder / "out", "valid")
    last = json.loads((folder / "out" / "metrics.jsonl").read_text().splitlines()[-1])
    assert found["metrics"] == last["valid"]
    assert "baselines" not in found


def test_an_epoch_of_a_mixture_has_the_batches_one_says(folder):
    run = Run.read(folder / "tiny.toml", ["data.epoch_batches=7"])
    store = run.open_store()
    assert len(run.loader(store, run.build_objective(store), "train", training=True)) == 7
    text = (folder / "tiny.toml").read_text().replace(str(store.path), str(folder / "stores" / "g0.zarr"))
    (folder / "tiny.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"data.epoch_batches: .*g0.zarr is one store"):
        Run.read(folder / "tiny.toml", ["data.epoch_batches=7"]).check()


def test_a_store_that_does_not_fit_is_found_before_anything_is_written(folder):
    with pytest.raises(ConfigError, match='data.*store "g0" of .*split'):
        Run.read(folder / "tiny.toml", ["data.split=folds"]).check()


def test_the_command_line_knows_mixtures(folder):
    def told(*words, expect=0):
        return distgen(*words, cwd=folder, expect=expect)

    run = Run.read(folder / "tiny.toml")
    store = run.open_store()
    loader = run.loader(store, run.build_objective(store), "train", training=True)
    names = set()
    for step in (1, 2, 3):
        batch = loader.batch(*loader.plan.at_step(step - 1))
        lines = [line.split("\t") for line in told("samples", "tiny.toml", "--step", step).splitlines()]
        places = [(str(s), w.contig, str(w.start)) for s, w in zip(batch.samples.tolist(), batch.where(), strict=True)]
        assert [tuple(line[:3]) for line in lines] == places
        assert {line[-1] for line in lines} == {store.names[int(batch.source[0])]}
        names |= {line[-1] for line in lines}
    assert len(names) > 1
    lines = told("info", "--windows", "tiny.toml").splitlines()
    assert lines[0] == f"tiny (tiny.toml): windows of {store.path}, split default"
    assert [line for line in lines if line[0] != " "][1:] == ["store g2", "store g1", "store g0"]
    found = json.loads(told("info", "--windows", "tiny.toml", "--json"))
    assert found["parts"]["train"]["epoch_batches"] == len(loader)
    assert list(found["stores"]) == list(store.names)
