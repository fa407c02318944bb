"""Programs of torch.export against the models and the ops that they hold."""

import json
import zipfile

import pytest
import torch

import distgen
from distgen import kernels
from distgen.cli import run as command
from distgen.errors import ConfigError
from distgen.models.schema import Schema
from distgen.train.program import save_program
from distgen.train.run import Run
from tests.conftest import fit
from tests.families import KINDS, built

MASKED = Schema(("A", "C", "G", "T", "mask"), ("A", "C", "G", "T"), None, (("A", "T"), ("C", "G")))
LABEL = Schema(MASKED.inputs[:4], ("yes",), 46, ())
CASES = [
    *[(name, {}, MASKED) for name in KINDS],
    ("cnn", {}, LABEL),
    ("hopfield", {}, LABEL),
    ("transformer", {"rc": "share"}, LABEL),
]


def called(rows, length):
    plane, ambiguous = torch.randint(0, 256, (100 + rows,), dtype=torch.uint8), torch.zeros(50, dtype=torch.uint8)
    ambiguous[3] = 5
    limits = torch.tensor([[2, 380]]).expand(rows, 2).contiguous()
    starts, reverse, hidden = torch.randint(-5, 370, (rows,)), torch.rand(rows) < 0.5, torch.rand(rows, length) < 0.2
    return {
        "plane": plane,
        "starts": starts,
        "reverse": reverse,
        "ambiguous": ambiguous,
        "limits": limits,
        "hidden": hidden,
    }


def logits(model, given, length, masked):
    """By the ops and the model themselves."""
    hidden_B1L = given.pop("hidden")[:, None]
    x_BCL = kernels.one_hot(**given, length=length, dtype=torch.float32)
    if masked:
        x_BCL = torch.cat([x_BCL * ~hidden_B1L, hidden_B1L.float()], dim=1)
    with torch.no_grad():
        return model(x_BCL)


@pytest.mark.parametrize(("name", "sizes", "schema"), CASES)
def test_a_program_gives_what_its_model_gives_for_any_number_of_windows(name, sizes, schema, tmp_path):
    model, length = built(name, sizes, schema), schema.window or 48
    takes = save_program(model, schema, length, tmp_path / "model.pt2")
    program = torch.export.load(tmp_path / "model.pt2").module()
    for rows in (1, 4):
        given = called(rows, length)
        found = program(*(given[name] for name in takes))
        torch.testing.assert_close(found, logits(model, given, length, schema is MASKED))


def test_a_program_holds_plain_operations_and_neither_pickled_weights_nor_paths(tmp_path):
    save_program(built("dilated", {}, MASKED), MASKED, 32, tmp_path / "model.pt2")
    graph = torch.export.load(tmp_path / "model.pt2").graph
    called = [node.target for node in graph.nodes if node.op == "call_function"]
    assert {str(target).split(".")[0] for target in called} == {"aten"}
    with zipfile.ZipFile(tmp_path / "model.pt2") as file:
        texts = [file.read(name).decode() for name in file.namelist() if name.endswith(".json")]
    assert not any('"use_pickle": true' in text for text in texts)
    assert any('"use_pickle": false' in text for text in texts)
    assert not any("distgen/" in text for text in texts)


def test_channels_that_are_no_bases_are_refused(tmp_path):
    schema = Schema((*LABEL.inputs, "atac"), ("yes",), None, ())
    with pytest.raises(ConfigError, match="the model takes atac"):
        save_program(built("dilated", {}, schema), schema, 32, tmp_path / "model.pt2")


class Undecided(torch.nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_what_torch_cannot_export_is_refused_and_nothing_is_left(run_file, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="makes no program of this model"):
        save_program(Undecided(), LABEL, 46, tmp_path / "model.pt2")
    run = Run.read(run_file, ["train.steps=2"])
    fit(run, tmp_path / "out")
    run.write(tmp_path / "out/run.toml")
    monkeypatch.setattr("distgen.train.program.Program.forward", lambda self, *given: Undecided()(given[0].float()))
    assert command(["export-weights", str(tmp_path / "out"), "--out", str(tmp_path / "exported"), "--program"]) == 2
    assert [path.name for path in tmp_path.iterdir() if "exported" in path.name] == []


def test_the_command_writes_a_program_beside_the_weights(run_file, tmp_path):
    run = Run.read(run_file, ["train.steps=2"])
    fit(run, tmp_path / "out")
    run.write(tmp_path / "out/run.toml")
    assert command(["export-weights", str(tmp_path / "out"), "--out", str(tmp_path / "exported"), "--program"]) == 0
    config = json.loads((tmp_path / "exported/config.json").read_text())
    said = config["program"]
    assert said["takes"] == ["plane", "starts", "reverse", "ambiguous", "limits", "hidden"]
    assert said["length"] == 64
    model, _ = distgen.load_model(tmp_path / "exported")
    given = called(3, 64)
    found = torch.export.load(tmp_path / "exported/model.pt2").module()(*(given[name] for name in said["takes"]))
    torch.testing.assert_close(found, logits(model, given, 64, masked=True))
