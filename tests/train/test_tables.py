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
