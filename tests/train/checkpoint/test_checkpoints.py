import logging

import pytest
import torch

from distgen.errors import CheckpointError
from distgen.train.checkpoint import newest, open_checkpoint
from distgen.train.run import Run
from tests.conftest import fit


@pytest.fixture
def folder(run_file, tmp_path):
    fit(Run.read(run_file), tmp_path / "out")
    return tmp_path / "out" / "checkpoints"


def test_the_newest_is_found(folder):
    assert newest(folder).state["step"] == 12


@pytest.mark.parametrize("file", ["shard-00000-0000.safetensors", "tensors.json", "state.json"])
@pytest.mark.parametrize(
    "spoil", [lambda p: p.unlink(), lambda p: p.write_bytes(p.read_bytes()[:-1]), lambda p: p.write_bytes(b"")]
)
def test_a_damaged_newest_falls_back_and_says_so(folder, file, spoil, caplog):
    spoil(folder / "step-00000012" / file)
    with caplog.at_level(logging.WARNING):
        assert newest(folder).state["step"] == 8
    assert "step-00000012 is" in caplog.text
    assert "looking at the one before" in caplog.text


def test_a_half_written_checkpoint_is_none(folder):
    (folder / "step-00000012").rename(folder / ".step-00000016.writing")
    assert newest(folder).state["step"] == 8


def test_checkpoints_that_are_all_damaged_are_not_passed_over(folder):
    for path in folder.glob("step-*"):
        (path / "tensors.json").write_bytes(b"")
    with pytest.raises(CheckpointError, match="none of the 2 checkpoints in .* is whole"):
        newest(folder)


def test_an_empty_folder_has_none(tmp_path):
    assert newest(tmp_path) is None


def test_what_differs_is_named(folder):
    checkpoint = open_checkpoint(folder / "last")
    with pytest.raises(CheckpointError, match="belongs to another run: it has .*, this is abc"):
        checkpoint.expect(run="abc")


def test_another_model_does_not_fit(folder):
    with pytest.raises(CheckpointError, match="does not fit this model"):
        open_checkpoint(folder / "last").load({"model/head.weight": torch.zeros(2, 2)})
