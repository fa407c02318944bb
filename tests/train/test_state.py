import json

import pytest
import torch

from distgen.errors import CheckpointError
from distgen.evaluate.metrics import measure
from distgen.train import state
from distgen.train.checkpoint import open_checkpoint
from distgen.train.evaluation import evaluate
from distgen.train.loop import start_or_resume, train
from distgen.train.run import Run
from distgen.train.worker import Worker
from tests.conftest import fit, fit_until, weights
from tests.train.ranks import on_ranks

CPU = torch.device("cpu")


# ---- patience ---------------------------------------------------------------------------------


@pytest.fixture
def losses(monkeypatch):
    """What validations find, one after another."""
    found = [3.0, 2.0, 2.5, 2.0, 2.2, 1.0, 1.5]
    measured = iter(found)
    monkeypatch.setattr(state, "measure", lambda *args: {"loss": next(measured)})
    return found


PATIENT = ["train.valid_every=2", "train.patience=3", "log.every=3", "log.gap_batches=0", "train.checkpoint_every=100"]


def records(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_training_stops_after_validations_without_a_better_one_and_says_so(run_file, tmp_path, losses):
    out = tmp_path / "out"
    fit(Run.read(run_file, [*PATIENT, "train.steps=40"]), out)
    valid = [r for r in records(out) if "valid" in r]
    assert [r["valid"]["loss"] for r in valid] == losses[:5]
    assert [r.get("stopped") for r in valid] == [None] * 4 + ["no better validation in 3"]
    assert [r["step"] for r in records(out) if "loss" in r] == [3, 6, 9, 10]
    assert (out / "checkpoints" / "last").resolve().name == "step-00000010"
    assert (out / "checkpoints" / "best").resolve().name == "step-00000004"


def test_a_training_that_stopped_stays_so_until_it_is_given_more_patience(run_file, tmp_path, losses):
    out = tmp_path / "out"
    fit(Run.read(run_file, [*PATIENT, "train.steps=14"]), out)
    assert fit(Run.read(run_file, [*PATIENT, "train.steps=14"]), out) == []
    shown = fit(Run.read(run_file, [*PATIENT, "train.steps=14", "train.patience=4"]), out)
    assert [(r["step"], r["valid"]["loss"]) for r in shown if "valid" in r] == [(12, 1.0), (14, 1.5)]
    assert open_checkpoint(out / "checkpoints" / "last").state["worse"] == 1


def test_patience_is_kept_where_training_was_killed(run_file, tmp_path, losses):
    out = tmp_path / "out"
    every = ["train.valid_every=3", "train.checkpoint_every=1", "log.every=1"]
    changes = [*PATIENT, "train.steps=40", *every]
    with pytest.raises(KeyboardInterrupt):  # the checkpoint of step 13 may still be on its way, that of 12 is there
        fit_until(Run.read(run_file, changes), out, 14)
    assert open_checkpoint(out / "checkpoints" / "last").state["worse"] == 2
    shown = fit(Run.read(run_file, changes), out)
    assert [r["step"] for r in shown if "stopped" in r] == [15]


# ---- averaged weights -------------------------------------------------------------------------


def test_averaged_weights_are_validated_kept_and_evaluated_in_place_of_the_trained_ones(run_file, tmp_path):
    out = tmp_path / "out"
    run = Run.read(run_file, ["optimizer.ema=0.8", "optimizer.lr=0.05"])
    fit(run, out)
    run.write(out / "run.toml")
    checkpoint = open_checkpoint(out / "checkpoints" / "last")
    trained, averaged = weights(out), checkpoint.read("ema/")
    assert averaged.keys() == trained.keys()
    assert not any(torch.equal(trained[name], averaged[name]) for name in trained)
    _, found = evaluate(out / "checkpoints" / "step-00000012", "valid")
    last = next(r["valid"] for r in reversed(records(out)) if "valid" in r)
    assert found["metrics"]["loss"] == pytest.approx(last["loss"], rel=1e-6)
    # And these are others than those of the trained weights.
    found = start_or_resume(run, Worker(0, 1, CPU, out))
    model, objective = found.learner.model, found.learner.objective
    assert all(torch.equal(model.get_parameter(name), trained[name]) for name in trained)
    plain = measure(model, objective, found._judged["valid"], torch.float32)
    assert plain["loss"] != pytest.approx(last["loss"], rel=1e-4)


def test_averages_change_nothing_of_the_training_and_go_on_where_they_were(run_file, tmp_path):
    fit(Run.read(run_file), tmp_path / "without")
    run = Run.read(run_file, ["optimizer.ema=0.9"])
    fit(run, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit_until(run, tmp_path / "parted", 7)
    fit(run, tmp_path / "parted")
    without, whole = weights(tmp_path / "without"), weights(tmp_path / "whole")
    assert all(torch.equal(without[name], whole[name]) for name in without)
    kept = [open_checkpoint(tmp_path / name / "checkpoints" / "last").read("ema/") for name in ("whole", "parted")]
    assert all(torch.equal(kept[0][name], kept[1][name]) for name in kept[0])


def test_a_checkpoint_without_averages_is_no_start_for_a_run_with_them(run_file, tmp_path):
    fit(Run.read(run_file, ["train.steps=4"]), tmp_path / "out")
    with pytest.raises(CheckpointError, match="belongs to another run"):
        fit(Run.read(run_file, ["optimizer.ema=0.9"]), tmp_path / "out")


# ---- optimizers and averages on shards ----------------------------------------------------------

SHARDED = {"fsdp": ["cluster.parallel=fsdp"], "flat": ["train.deterministic=true"]}
LEARNING = [
    "train.steps=6",
    "optimizer.ema=0.9",
    "optimizer.clip_norm=0.05",
    "train.valid_every=3",
    "log.gap_batches=0",
]


def on_each(worker, file, out):
    """The losses of whole runs on two workers, and in what they ended."""
    found = {}
    for kind in ("adamw", "muon"):
        for parallel, changes in SHARDED.items():
            folder, shown = out / f"{kind}-{parallel}", []
            folder.mkdir(exist_ok=True)
            run = Run.read(file, [*LEARNING, f"optimizer.kind={kind}", *changes])
            train(run, Worker(worker.rank, worker.world_size, CPU, folder, show=shown.append))
            found[kind, parallel] = shown
    return found


def test_optimizers_and_averages_do_on_shards_what_they_do_on_whole_weights(run_file, tmp_path):
    (shown, _) = on_ranks(2, tmp_path, on_each, run_file, tmp_path)
    for kind in ("adamw", "muon"):
        # Newton-Schulz is in bfloat16, and its sums are cut elsewhere.
        near = {"rel": 1e-5} if kind == "adamw" else {"rel": 2e-3}
        one = fit(Run.read(run_file, [*LEARNING, f"optimizer.kind={kind}"]), tmp_path / kind)
        expected = open_checkpoint(tmp_path / kind / "checkpoints" / "last")
        for parallel in SHARDED:
            two = shown[kind, parallel]
            for name in ("loss", "norm"):
                assert [r[name] for r in two if name in r] == pytest.approx([r[name] for r in one if name in r], **near)
            valid = [[r["valid"]["loss"] for r in records if "valid" in r] for records in (one, two)]
            assert valid[1] == pytest.approx(valid[0], **near), (kind, parallel)
            found = open_checkpoint(tmp_path / f"{kind}-{parallel}" / "checkpoints" / "last")
            assert found.names() == expected.names()
            # What one wrote the other goes on from: momenta are in the shape and order of their weights.
            for prefix in ("optimizer/momentum_buffer/", "optimizer/exp_avg/", "ema/"):
                there = found.read(prefix)
                for name, value in expected.read(prefix).items():
                    torch.testing.assert_close(
                        there[name], value, rtol=0.02, atol=2e-2 * float(value.abs().max() + 1e-9)
                    )
