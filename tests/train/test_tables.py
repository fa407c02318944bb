"""Trainings on tables of labelled sequences, where each window has one answer."""

import json

import pytest
import torch

from distgen import load_model
from distgen.errors import ConfigError
from distgen.train.evaluation import evaluate
from distgen.train.run import Run
from distgen.train.weights import export_weights
from tests.conftest import fit, motifs, table_store

RUN = """name = "motif"
[data]
store = "t.zarr"
batch_size = 32
strand = "random"
[model]
family = "cnn"
channels = [16, 16]
widths = [9, 3]
pools = [4, 2]
hidden = 16
dropout = 0.0
[objective]
kind = "binary"
[optimizer]
lr = 1e-2
warmup_steps = 2
[train]
steps = 200
valid_every = 100
precision = "fp32"
threads = 1
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    parts = {"train": motifs(0, 1000), "valid": motifs(1, 100), "test": motifs(2, 101)}
    table_store(folder, "binary", parts)
    (folder / "run.toml").write_text(RUN)
    (folder / "out").mkdir()
    run = Run.read(folder / "run.toml")
    run.check()
    run.write(folder / "out/run.toml")
    fit(run, folder / "out")
    return folder


def test_a_planted_motif_is_learned_and_measured_on_every_sequence_once(folder):
    _, found = evaluate(folder / "out", "test")
    assert found["metrics"]["auroc"] > 0.9


def test_exported_weights_say_that_a_window_has_one_answer_and_of_how_many_bases(folder):
    export_weights(folder / "out", folder / "exported")
    config = json.loads((folder / "exported/config.json").read_text())
    assert (config["per_window"], config["window"], config["outputs"]) == (40, 40, ["1"])
    model, _ = load_model(folder / "exported")
    trained, _ = load_model(folder / "out")
    x = torch.rand(3, 4, 40)
    assert model(x).shape == (3, 1, 1)
    assert torch.equal(model(x), trained(x))


def test_workers_do_not_share_windows_that_have_one_answer(folder):
    run = Run.read(folder / "run.toml", ["cluster.workers=2", "cluster.context=2"])
    with pytest.raises(ConfigError, match="cluster.context: windows that have one answer are not shared by workers"):
        run.check()


def test_evaluation_says_how_far_probabilities_can_be_trusted(folder):
    _, found = evaluate(folder / "out", "test")
    bins = found["reliability"]["1"]
    assert sum(bins["count"]) == 101
    yes = sum(count * share for count, share in zip(bins["count"], bins["share"], strict=True))
    assert yes == pytest.approx(50)


def test_a_part_that_answers_one_way_only_is_refused_before_training(folder, tmp_path):
    only_no = [row for row in motifs(3, 20) if not row[1]]
    table_store(tmp_path, "binary", {"train": motifs(0, 100), "valid": only_no})
    (tmp_path / "run.toml").write_text(RUN)
    problem = 'data.split: part "valid" of "default" is of no use: no window is a yes to 1'
    with pytest.raises(ConfigError, match=problem):
        Run.read(tmp_path / "run.toml").check()


def test_numbers_are_learned_in_their_own_unit(tmp_path):
    def rows(seed, count):
        return [(letters, 1000 + 50.0 * yes) for letters, yes in motifs(seed, count)]

    table_store(tmp_path, "regression", {"train": rows(0, 1000), "valid": rows(1, 50), "test": rows(2, 101)})
    (tmp_path / "run.toml").write_text(RUN.replace('"binary"', '"regression"'))
    run = Run.read(tmp_path / "run.toml")
    run.check()
    (tmp_path / "out").mkdir()
    run.write(tmp_path / "out/run.toml")
    fit(run, tmp_path / "out")
    _, found = evaluate(tmp_path / "out", "test")
    assert found["metrics"]["pearson"] > 0.8
    assert 0 < found["metrics"]["rmse"] < 20
    export_weights(tmp_path / "out", tmp_path / "exported")
    units = json.loads((tmp_path / "exported/config.json").read_text())["units"]
    assert units == {"shift": [pytest.approx(1025)], "scale": [pytest.approx(25)]}
