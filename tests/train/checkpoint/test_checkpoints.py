import logging
import math
import resource
import tempfile
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distgen.cli.training import train
from distgen.config import TIMEOUTS
from distgen.errors import CheckpointError, ConfigError, RemoteError
from distgen.ingest.objects import locate
from distgen.train.checkpoint import Checkpoints, newest, open_checkpoint
from distgen.train.checkpoint.format import read_state, state_json
from distgen.train.checkpoint.storage import Folder
from distgen.train.evaluation import evaluate
from distgen.train.launch import launch
from distgen.train.run import Run
from distgen.train.worker import Worker
from tests.conftest import fit
from tests.ingest.test_remote import moto_server, quick, s3  # noqa: F401 - fixtures


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


# ---- without a training ------------------------------------------------------------------------


def opened(place, keep=2, keep_best=1):
    return Checkpoints(place, Worker(0, 1, torch.device("cpu"), Path()), keep=keep, keep_best=keep_best)


def keep_steps(kept, *scores, first=1):
    """Keep a checkpoint for each score, at steps from the first on; each holds its step."""
    for step, score in enumerate(scores, first):
        kept.save({"w": torch.tensor([float(step)])}, {"step": step}, score)
    return kept.wait()


@settings(max_examples=25)
@given(
    scores=st.lists(st.one_of(st.sampled_from([0.0, 1.0, 2.0, math.inf])), min_size=1, max_size=7),
    keep=st.integers(1, 3),
    keep_best=st.integers(1, 3),
    again=st.booleans(),
)
def test_the_newest_and_the_best_stay(scores, keep, keep_best, again):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, score in enumerate(scores):
            if number == 0 or again:  # what a process knew is in the files
                kept = opened(folder, keep, keep_best)
                kept.newest()
            keep_steps(kept, score, first=number + 1)
        there = {int(path.name[5:]) for path in folder.glob("step-*")}
        assert int((folder / "last").resolve().name[5:]) == len(scores)
        best = int((folder / "best").resolve().name[5:])
        assert scores[best - 1] == min(scores[step - 1] for step in there)
        assert set(range(len(scores) - keep + 1, len(scores) + 1)) & set(range(1, 9)) <= there
        assert len(there) <= keep + keep_best
        assert min(scores) == scores[best - 1]  # the best was never removed
        assert sorted(path.name for path in folder.iterdir()) == [
            "best",
            "last",
            *sorted(f"step-{s:08d}" for s in there),
        ]


def test_a_save_returns_before_anything_is_written(tmp_path, monkeypatch):
    go_on, wrote = threading.Event(), Folder.write
    monkeypatch.setattr(Folder, "write", lambda *given: go_on.wait(60) and wrote(*given))
    kept, weight = opened(tmp_path), torch.ones(3)
    kept.save({"w": weight}, {"step": 1}, 0.0)
    weight.zero_()  # the next step
    assert newest(tmp_path) is None
    go_on.set()
    assert kept.wait() == str(tmp_path / "step-00000001")
    assert newest(tmp_path).read()["w"].tolist() == [1, 1, 1]


def test_a_disk_that_fills_is_told_leaves_what_was_there_and_the_next_save_works(tmp_path):
    kept = opened(tmp_path)
    keep_steps(kept, 0.0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        kept.save({"w": torch.ones(10_000)}, {"step": 2}, 0.0)
        with pytest.raises(
            CheckpointError, match=r"step-00000002.* cannot be written: File too large .* are free there"
        ):
            kept.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "last", "step-00000001"]
    assert kept.wait() == str(tmp_path / "step-00000001")
    keep_steps(kept, 0.0, first=3)
    assert newest(tmp_path).state["step"] == 3


def test_a_write_that_takes_too_long_ends_in_an_error(tmp_path, monkeypatch):
    go_on, wrote = threading.Event(), Folder.write
    monkeypatch.setattr(Folder, "write", lambda *given: go_on.wait(60) and wrote(*given))
    monkeypatch.setitem(TIMEOUTS, "checkpoint", 0.1)
    kept = opened(tmp_path)
    kept.save({"w": torch.ones(3)}, {"step": 1}, 0.0)
    with pytest.raises(CheckpointError, match="was not written to .* in 0 s; is what keeps it too slow"):
        kept.wait()
    go_on.set()


def test_a_training_that_fell_back_leaves_its_way_and_the_damaged_one_goes(tmp_path):
    keep_steps(opened(tmp_path, keep=3), 0.0, 0.0, 0.0)
    (tmp_path / "step-00000003" / "shard-00000-0000.safetensors").unlink()
    kept = opened(tmp_path, keep=3)
    assert kept.newest().state["step"] == 2
    assert kept.wait() == str(tmp_path / "step-00000002")
    keep_steps(kept, 0.0, first=3)
    assert newest(tmp_path).state["step"] == 3
    assert newest(tmp_path).read()["w"].tolist() == [3]


def test_what_a_dead_training_left_half_done_is_cleared_away_and_what_it_moved_aside_comes_back(tmp_path):
    keep_steps(opened(tmp_path), 0.0, 0.0)
    (tmp_path / "step-00000002").rename(tmp_path / ".step-00000002.replaced")
    (tmp_path / ".step-00000003.1a2b3c4d").mkdir()
    (tmp_path / ".last.1a2b3c4d").symlink_to("step-00000003")
    (tmp_path / ".step-00000000.removed").mkdir()
    assert opened(tmp_path).newest().state["step"] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "last", "step-00000001", "step-00000002"]


def test_a_checkpoint_whose_worth_is_no_number_is_never_the_best(tmp_path):
    kept = opened(tmp_path, keep=4)
    keep_steps(kept, 2.0, None, 1.0, 3.0)
    kept.rescore(2, math.nan)
    kept.wait()
    assert (tmp_path / "best").resolve().name == "step-00000003"
    assert open_checkpoint(tmp_path / "step-00000002").state["score"] is None
    assert [step for step, _ in kept.unscored()] == [2]


# ---- in an object store ------------------------------------------------------------------------


def names(client):
    return [item["Key"] for item in client.list_objects_v2(Bucket="genomes").get("Contents", [])]


def test_a_bucket_keeps_checkpoints_as_a_folder_does(s3, tmp_path, caplog):  # noqa: F811
    place = locate("s3://genomes/runs/one")
    kept = opened(place)
    assert kept.newest() is None
    assert keep_steps(kept, 0.5, 2.0, 1.0, 3.0) == "s3://genomes/runs/one/step-00000004"
    assert {name.split("/")[2] for name in names(s3)} == {
        "best", "last", "step-00000001", "step-00000003", "step-00000004",
    }  # fmt: skip
    assert open_checkpoint(place / "best").read()["w"].tolist() == [1]
    assert open_checkpoint(place / "last").read()["w"].tolist() == [4]
    # The same step again takes the place of what is there.
    keep_steps(kept, 3.0, first=4)
    assert len([name for name in names(s3) if "step-00000004" in name]) == 3
    shard = next(name for name in names(s3) if "step-00000004" in name and "shard" in name)
    s3.put_object(Bucket="genomes", Key=shard, Body=b"")
    s3.put_object(Bucket="genomes", Key="runs/one/step-00000005/abc-shard-00000-0000.safetensors", Body=b"half")
    with caplog.at_level(logging.WARNING):
        assert opened(place).newest().state["step"] == 3
    assert "step-00000004 is damaged" in caplog.text
    assert not [name for name in names(s3) if "step-00000005" in name]


def test_a_training_keeps_its_checkpoints_in_a_bucket_and_goes_on_from_there(s3, run_file, tmp_path):  # noqa: F811
    changes = ["train.checkpoints=s3://genomes/runs/two", "train.steps=8"]
    fit(Run.read(run_file, [*changes, "train.steps=4"]), tmp_path / "cut")
    records = fit(Run.read(run_file, changes), tmp_path / "cut")
    assert min(record["step"] for record in records) == 5
    assert not (tmp_path / "cut" / "checkpoints").exists()
    (tmp_path / "cut" / "run.toml").write_text("")
    run = Run.read(run_file, changes)
    run.write(tmp_path / "cut" / "run.toml")
    _, found = evaluate(tmp_path / "cut", "valid")
    assert found["checkpoint"] == "s3://genomes/runs/two/step-00000008"


def test_a_bucket_that_is_not_there_is_told_before_anything_is_trained(s3, run_file, tmp_path):  # noqa: F811
    run = Run.read(run_file, ["train.checkpoints=s3://nowhere/runs"])
    with pytest.raises(RemoteError, match="s3://nowhere/runs"):
        launch(run, tmp_path / "out", print)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "problem"), [("s3://genomes", "names no place in a bucket"), ("ftp://a/b", "can lie in s3://")]
)
def test_a_place_that_is_none_is_told_with_its_line(run_file, tmp_path, given, problem):
    with pytest.raises(ConfigError, match=rf"train.checkpoints: {given}.*{problem}"):
        launch(Run.read(run_file, [f"train.checkpoints={given}"]), tmp_path / "out", print)
    assert not (tmp_path / "out").exists()


def test_checkpoints_that_are_elsewhere_are_gone_on_from_only_if_asked(run_file, tmp_path, capsys):
    place = tmp_path / "elsewhere"
    changes = [f"train.checkpoints={place}", "train.steps=4"]
    train(run_file, changes, tmp_path / "one")
    assert f"checkpoint  {place}/best" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"train.checkpoints: .*/step-00000004 is there. Give --resume"):
        train(run_file, changes, tmp_path / "two")
    assert not (tmp_path / "two").exists()
    train(run_file, [*changes, "train.steps=6"], tmp_path / "two", resume=True)
    assert newest(place).state["step"] == 6


# ---- another machine ---------------------------------------------------------------------------


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_deterministic_resume_elsewhere_says_that_rounding_may_differ(run_file, tmp_path, caplog, deterministic):
    changes = [f"train.deterministic={str(deterministic).lower()}", "train.steps=8", "train.checkpoint_every=4"]
    fit(Run.read(run_file, [*changes, "train.steps=4"]), tmp_path / "out")
    path = tmp_path / "out/checkpoints/step-00000004/state.json"
    state = read_state(path.read_bytes())
    assert state["made"]["world_size"] == 1
    assert state["made"]["precision"] == "float32"
    path.write_bytes(state_json(state | {"made": state["made"] | {"torch": "2.9.0", "world_size": 3}}))
    with caplog.at_level(logging.WARNING):
        fit(Run.read(run_file, changes), tmp_path / "out")
    said = f"was made with torch 2.9.0, now {torch.__version__}; world_size 3, now 1: the result may differ in rounding"
    assert (said in caplog.text) == deterministic
