"""Ensembles: averaged probabilities, evaluated like a model."""

import json

import pytest
import torch
from torch import nn

from distgen import objectives
from distgen.cli import run as command
from distgen.errors import ConfigError
from distgen.train.ensemble import Averaged
from distgen.train.evaluation import evaluate, open_trained
from distgen.train.run import Run
from tests.conftest import fit

CLASSES = ["objective.kind=base_classes", "objective.track=genes", "train.steps=6"]


class Says(nn.Module):
    """Always predicts the same."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, x):
        return self.logits


def test_probabilities_of_bases_are_averaged(small):
    objective = objectives.MaskedLM(objectives.MaskedLMConfig(kind="masked_lm"))
    logits = 5 * torch.randn(3, 2, 4, 7)
    found = Averaged([Says(one) for one in logits], objective)(torch.zeros(1))
    assert torch.allclose(found.softmax(1), logits.softmax(2).mean(0), atol=1e-6)
    assert torch.allclose(found.exp(), found.softmax(1), atol=1e-6)


def test_probabilities_of_classes_are_averaged_without_rounding_to_one(small):
    objective = objectives.BaseClasses(objectives.BaseClassesConfig(kind="base_classes", track="genes"), small)
    logits = torch.tensor([[[[-1.0, 60.0, -80.0]]], [[[2.0, 70.0, -90.0]]]])
    found = Averaged([Says(one) for one in logits], objective)(torch.zeros(1))
    p = logits.double().sigmoid().mean(0)
    assert torch.allclose(found.double().sigmoid(), p, atol=1e-7)
    assert found[0, 0, 1] == pytest.approx(60.69, abs=0.01)  # the mean of 1 - 1e-26 and 1 - 1e-30 is not 1
    assert found[0, 0, 2] == pytest.approx(-80.69, abs=0.01)


@pytest.fixture
def two(run_file, tmp_path):
    for seed in (1, 2):
        run = Run.read(run_file, [*CLASSES, f"data.seed={seed}"])
        fit(run, tmp_path / f"r{seed}")
        run.write(tmp_path / f"r{seed}" / "run.toml")
    return tmp_path / "r1", tmp_path / "r2"


def test_an_ensemble_is_evaluated_like_a_model(two, tmp_path, capsys):
    out = tmp_path / "both"
    assert command(["ensemble", *map(str, two), "--out", str(out)]) == 0
    capsys.readouterr()
    assert command(["evaluate", str(out), "--split", "valid", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    alone = [evaluate(one, "valid")[1] for one in two]
    assert found["metrics"].keys() == alone[0]["metrics"].keys()
    assert found["checkpoint"] == [one["checkpoint"] for one in alone]
    # Log loss is convex: the mean prediction is no worse than the members are on average.
    assert found["metrics"]["loss"] <= sum(one["metrics"]["loss"] for one in alone) / 2
    assert (out / "report.html").exists()
    members, both = [open_trained(one) for one in two], open_trained(out)
    x = torch.randn(2, 4, 64)
    with torch.no_grad():
        mean = sum(member.model.eval()(x).sigmoid() for member in members) / 2
        assert torch.allclose(both.model.eval()(x).sigmoid(), mean, atol=1e-6)


def test_a_member_asked_otherwise_is_refused_and_nothing_is_left(two, run_file, tmp_path, capsys):
    run = Run.read(run_file, ["train.steps=2"])
    fit(run, tmp_path / "lm")
    run.write(tmp_path / "lm" / "run.toml")
    assert command(["ensemble", str(two[0]), str(tmp_path / "lm"), "--out", str(tmp_path / "no")]) == 2
    assert "cannot be averaged" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        (["r1"], "two members or more"),
        (["r1", "r1"], "named twice"),
        (["r1", "nowhere"], "is no run directory"),
    ],
)
def test_what_makes_no_ensemble_is_refused(two, tmp_path, capsys, members, problem):
    paths = [str(tmp_path / member) for member in members]
    assert command(["ensemble", *paths, "--out", str(tmp_path / "no")]) == 2
    assert problem in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_a_member_that_is_gone_is_named(two, tmp_path):
    assert command(["ensemble", *map(str, two), "--out", str(tmp_path / "both")]) == 0
    two[1].rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="r2 is no run directory"):
        open_trained(tmp_path / "both")
