import json

import pytest
import torch

from distgen.errors import CheckpointError, TrainError
from distgen.store.reader import open_store
from distgen.train.checkpoint import open_checkpoint
from distgen.train.run import Run
from tests.conftest import fit, fit_until, weights

TIMES = ("bases_per_second", "samples_per_second", "wait_share", "step_ms", "memory_bytes")


def assert_equal(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_training_lowers_the_loss_and_writes_what_it_says(run_file, tmp_path):
    out = tmp_path / "out"
    shown = fit(Run.read(run_file, ["train.steps=150", "log.every=10", "optimizer.lr=0.01"]), out)
    losses = [r["loss"] for r in shown if "loss" in r]
    assert losses[-1] < losses[0] - 0.1
    assert [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()] == shown
    assert {
        "step",
        "steps",
        "epoch",
        "loss",
        "norm",
        "step_ms",
        "bits_per_base",
        "bases_per_second",
        "samples_per_second",
        "wait_share",
        "lr",
        "memory_bytes",
    } == set(next(r for r in shown if "loss" in r))
    assert [r["step"] for r in shown if "valid" in r] == list(range(6, 151, 6))


@pytest.mark.parametrize("stop", [1, 4, 6, 7, 9, 11])
def test_a_run_stopped_anywhere_ends_in_the_same_weights(run_file, tmp_path, stop):
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    fit(Run.read(run_file), whole)
    with pytest.raises(KeyboardInterrupt):
        fit_until(Run.read(run_file), parted, stop)
    fit(Run.read(run_file), parted)
    assert_equal(weights(whole), weights(parted))
    assert without_times(whole) == without_times(parted)


def without_times(out):
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in r.items() if k not in TIMES} for r in records]


def test_a_longer_run_goes_on_where_the_shorter_one_ended(run_file, tmp_path):
    fit(Run.read(run_file), tmp_path / "out")
    shown = fit(Run.read(run_file, ["train.steps=15"]), tmp_path / "out")
    assert [r["step"] for r in shown if "loss" in r] == [13, 14, 15]


def test_epochs_are_counted_in_whole_batches(run_file, tmp_path):
    text = run_file.read_text().replace("steps = 12", "epochs = 2")
    run_file.write_text(text)
    run = Run.read(run_file)
    store = run.open_store()
    batches = len(run.loader(store, run.build_objective(store), "train", training=True))
    assert fit(run, tmp_path / "out")[-1]["step"] == 2 * batches


def test_the_best_checkpoint_is_the_one_with_the_lowest_validation_loss(run_file, tmp_path):
    out = tmp_path / "out"
    shown = fit(Run.read(run_file, ["train.valid_every=4", "train.keep=1"]), out)
    losses = {r["step"]: r["valid"]["loss"] for r in shown if "valid" in r}
    best = min(losses, key=losses.__getitem__)
    assert (out / "checkpoints" / "best").resolve().name == f"step-{best:08d}"
    assert (out / "checkpoints" / "last").resolve().name == "step-00000012"
    numbered = {p.name for p in (out / "checkpoints").glob("step-*")}
    assert numbered == {f"step-{best:08d}", "step-00000012"}


@pytest.mark.parametrize("valid_every", [1, 5])
def test_the_best_checkpoint_is_there_whatever_the_periods(run_file, tmp_path, valid_every):
    out = tmp_path / "out"
    changes = [f"train.valid_every={valid_every}", "train.checkpoint_every=100", "optimizer.lr=0.2"]
    shown = fit(Run.read(run_file, changes), out)
    losses = {r["step"]: r["valid"]["loss"] for r in shown if "valid" in r}
    best = min(losses, key=losses.__getitem__)
    assert (out / "checkpoints" / "best" / "state.json").exists()
    assert (out / "checkpoints" / "best").resolve().name == f"step-{best:08d}"


def test_broken_numbers_are_never_kept(run_file, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(TrainError, match="lower optimizer.lr"):
        fit(
            Run.read(
                run_file, ["optimizer.lr=1e30", "train.checkpoint_every=1", "log.every=100", "train.valid_every=100"]
            ),
            out,
        )
    for checkpoint in (out / "checkpoints").glob("step-*"):
        assert all(t.isfinite().all() for t in weights(out, checkpoint.name).values())


def test_a_checkpoint_of_another_run_or_store_is_refused(run_file, small, small_recipe, tmp_path):
    fit(Run.read(run_file), tmp_path / "out")
    with pytest.raises(CheckpointError, match="belongs to another run"):
        fit(Run.read(run_file, ["optimizer.lr=1e-5"]), tmp_path / "out")
    from distgen.config import Recipe, read
    from distgen.store.build import build

    fasta = small_recipe.parent / "small.fa"
    fasta.write_text(fasta.read_text().replace("GATTACA", "GATTACC"))
    build(read(small_recipe, Recipe), small.path)
    assert open_store(small.path).planes["sequence"].id != small.planes["sequence"].id
    with pytest.raises(CheckpointError, match="belongs to another store"):
        fit(Run.read(run_file), tmp_path / "out")


def test_a_loss_that_is_not_finite_stops_with_the_place(run_file, tmp_path):
    with pytest.raises(
        TrainError,
        match=r"the loss of step \d is .* and the gradient's norm (nan|inf); its 8 windows began with chr\d:",
    ):
        fit(Run.read(run_file, ["optimizer.lr=1e30", "train.steps=20"]), tmp_path / "out")


def test_seeds_give_different_runs_and_the_same_seed_the_same(run_file, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        fit(Run.read(run_file, [f"data.seed={seed}"]), tmp_path / name)
    assert_equal(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not torch.equal(weights(tmp_path / "a")["head.weight"], weights(tmp_path / "c")["head.weight"])


def test_sequences_of_many_lengths_train_in_packed_rows(run_file, small_recipe, tmp_path):
    (tmp_path / "genes.bed").write_text("".join(f"chr1\t{s}\t{s + 5 + s % 40}\n" for s in range(3, 800, 17)))
    (tmp_path / "held.bed").write_text("chr2\t10\t40\nchr2\t90\t100\n")
    text = run_file.read_text().replace("stride = 32", "packed = true").replace("jitter = 5\n", "")
    run_file.write_text(text + '[data.regions]\nsource = "genes.bed"\nat = "whole"\n')
    with open(tmp_path / "genes.bed", "a") as bed:
        bed.write((tmp_path / "held.bed").read_text())
    run = Run.read(run_file)
    fit(Run.read(run_file, ["train.steps=8"]), tmp_path / "cut")
    shown = fit(run, tmp_path / "out")
    assert [r["step"] for r in shown if "valid" in r] == [6, 12]
    assert shown[0]["loss"] > 0
    store = run.open_store()
    loader = run.loader(store, run.build_objective(store), "valid")
    assert {str(w) for batch in loader for w in batch.where()} == {"chr2:10-40", "chr2:90-100"}
    state = open_checkpoint(tmp_path / "cut" / "checkpoints" / "step-00000008").state["loader"]
    assert open_checkpoint(tmp_path / "out" / "checkpoints" / "step-00000008").state["loader"] == state
