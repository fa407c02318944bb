import shutil

import pytest
import torch

import distgen
from distgen.cli import run as command
from distgen.errors import ConfigError
from distgen.train.checkpoint import open_checkpoint
from distgen.train.evaluation import evaluate
from distgen.train.loop import train as train_on
from distgen.train.run import Run
from distgen.train.weights import export_weights
from tests.conftest import RUN, fit, motifs, table_store, weights
from tests.evaluate.test_motifs import JASPAR
from tests.train.ranks import on_ranks

LAYER = "blocks.0.conv"


def train(run_file, out, *changes):
    run = Run.read(run_file, ["train.steps=6", *changes])
    run.check()
    out.mkdir(exist_ok=True)
    run.write(out / "run.toml")
    fit(run, out)
    return out


@pytest.fixture
def first(run_file, tmp_path):
    """A run directory to begin with."""
    return train(run_file, tmp_path / "first", "data.seed=5")


def begun(run_file, out, first, *changes):
    return train(run_file, out, f"finetune.init_from='{first}'", *changes)


@pytest.fixture
def coding(run_file, small_coding):
    """The same run with another question: coding bases, from four channels to two."""
    text = RUN.format(store=small_coding.path).replace('kind = "masked_lm"', 'kind = "base_classes"\ntrack = "genes"')
    path = run_file.with_name("coding.toml")
    path.write_text(text)
    return path


@pytest.mark.parametrize("kind", ["run", "checkpoint", "export"])
def test_a_training_begins_with_the_weights_of_another(run_file, first, tmp_path, kind):
    export_weights(first, tmp_path / "export")
    source = {"run": first, "checkpoint": first / "checkpoints/best", "export": tmp_path / "export"}[kind]
    out = begun(run_file, tmp_path / "out", source, "optimizer.lr=1e-30", "optimizer.weight_decay=0.0")
    kept, found = weights(first, "best"), weights(out)
    assert all(torch.equal(found[name], kept[name]) for name in kept)


def test_frozen_parameters_stay_and_have_no_optimizer_state(run_file, first, tmp_path):
    out = begun(run_file, tmp_path / "out", first, "finetune.freeze=['stem.*', 'blocks.?.conv.*']")
    kept, found = weights(first, "best"), weights(out)
    frozen = {name for name in kept if name.startswith("stem.") or ".conv." in name}
    assert {name for name in kept if torch.equal(kept[name], found[name])} == frozen
    saved = open_checkpoint(out / "checkpoints/last").names()
    assert {n.split("/", 2)[2] for n in saved if n.startswith("optimizer/")} == kept.keys() - frozen


def test_a_language_model_becomes_one_of_classes(coding, run_file, first, tmp_path):
    out = begun(
        coding, tmp_path / "out", first, "finetune.new_head=true", "optimizer.lr=1e-30", "optimizer.weight_decay=0.0"
    )
    kept, found = weights(first, "best"), weights(out)
    same = kept.keys() - {"stem.weight", "head.weight", "head.bias"}
    assert all(torch.equal(kept[name], found[name]) for name in same)
    assert torch.equal(found["stem.weight"], kept["stem.weight"][:, :4])
    drawn = train(coding, tmp_path / "drawn", "optimizer.lr=1e-30", "optimizer.weight_decay=0.0")
    assert torch.equal(found["head.weight"], weights(drawn)["head.weight"])


def test_low_rank_sums_and_a_new_head_are_all_that_learns(coding, first, tmp_path):
    changes = ["finetune.new_head=true", "finetune.lora_rank=2", "finetune.lora=['blocks.*']"]
    out = begun(coding, tmp_path / "out", first, *changes)
    kept, found = weights(first, "best"), weights(out)
    plain = {name.replace("parametrizations.weight.original", "weight"): value for name, value in found.items()}
    same = kept.keys() - {"stem.weight", "head.weight", "head.bias"}
    assert all(torch.equal(kept[name], plain[name]) for name in same)
    learnt = {
        n.split("/", 2)[2] for n in open_checkpoint(out / "checkpoints/last").names() if n.startswith("optimizer/")
    }
    low = {
        f"blocks.{b}.{layer}.parametrizations.weight.0.{m}"
        for b in (0, 1)
        for layer in ("conv", "mix")
        for m in ("up", "down")
    }
    assert learnt == low | {"head.weight", "head.bias"}
    assert all(found[name].abs().max() > 0 for name in low)


def test_a_low_rank_sum_starts_at_nothing(run_file, first, tmp_path):
    tuned = begun(run_file, tmp_path / "tuned", first, "finetune.lora_rank=2", "optimizer.lr=1e-30")
    same = begun(run_file, tmp_path / "same", first, "optimizer.lr=1e-30", "optimizer.weight_decay=0.0")
    assert evaluate(tuned, "valid")[1]["metrics"] == evaluate(same, "valid")[1]["metrics"]


def test_a_fine_tuning_goes_on_without_what_it_began_with(run_file, first, tmp_path):
    changes = ["finetune.lora_rank=2", "train.checkpoint_every=2"]
    whole = begun(run_file, tmp_path / "whole", first, *changes)
    run = Run.find(whole)
    parted = tmp_path / "parted"
    parted.mkdir()
    shutil.copytree(whole / "checkpoints", parted / "checkpoints", symlinks=True)
    shutil.rmtree(parted / "checkpoints/step-00000006")
    first.rename(tmp_path / "moved")
    run.check(begins=False)
    fit(run, parted)
    one, other = weights(whole), weights(parted)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_weights_tuned_by_low_rank_sums_are_begun_with_as_they_act(run_file, first, tmp_path):
    tuned = begun(run_file, tmp_path / "tuned", first, "finetune.lora_rank=2")
    again = begun(run_file, tmp_path / "again", tuned, "optimizer.lr=1e-30", "optimizer.weight_decay=0.0")
    assert weights(again).keys() == weights(first).keys()
    assert evaluate(again, "valid")[1]["metrics"] == evaluate(tuned, "valid")[1]["metrics"]


def _tuned(worker, path, changes):
    run = Run.read(path, changes)
    if worker.leads:
        run.write(worker.out / "run.toml")
    train_on(run, worker)


def test_low_rank_sums_learn_the_same_where_workers_hold_shards(run_file, first, tmp_path):
    changes = [f"finetune.init_from='{first}'", "finetune.lora_rank=2", "train.steps=6"]
    one = begun(run_file, tmp_path / "one", first, *changes[1:])
    (tmp_path / "sharded").mkdir()
    on_ranks(2, tmp_path / "sharded", _tuned, run_file, [*changes, "cluster.parallel=fsdp"])
    expected, found = (distgen.load_model(out)[0].state_dict() for out in (one, tmp_path / "sharded"))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["model.channels=4"], r"finetune\.init_from: .*/step-00000006 has another model: stem\.weight is \(8, 5, 1, 3\) there and \(4, 5, 1, 3\) here, .* in all\)"),
        (["model.dilations=[1]"], r"blocks\.1\.norm\.weight is \(8,\) there and not here"),
        (["finetune.freeze=['stm.*']"], r'finetune\.freeze: no parameter matches "stm\.\*"\. (Did you mean|Valid)'),
        (["finetune.freeze=['*']"], r"finetune\.freeze: all parameters are frozen"),
        (["finetune.lora_rank=2", "finetune.lora=['blocks.0.con']"], r'finetune\.lora: no linear .* matches "blocks\.0\.con"\. Did you mean "blocks\.0\.conv"'),
        (["finetune.lora_rank=2", "finetune.freeze=['*']"], r"finetune\.freeze: with lora_rank all weights stay"),
        (["finetune.lora=['stem']"], r"finetune\.lora_rank: .* Give lora_rank"),
        (["finetune.init_from='nowhere'"], r"finetune\.init_from: .*nowhere is no run directory"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(run_file, first, changes, message):
    with pytest.raises(ConfigError, match=message):
        Run.read(run_file, [f"finetune.init_from='{first}'", *changes]).check()


def test_another_head_is_refused_with_the_key_that_draws_one(coding, run_file, first, tmp_path):
    with pytest.raises(
        ConfigError,
        match=r"finetune\.new_head: the head of .* gives A, C, G, T, and this run's cds\+, cds-\. With new_head",
    ):
        Run.read(coding, [f"finetune.init_from='{first}'"]).check()
    classes = train(coding, tmp_path / "classes")
    with pytest.raises(ConfigError, match=r"finetune\.init_from: .* reads A, C, G, T, and this run mask as well"):
        Run.read(run_file, [f"finetune.init_from='{classes}'", "finetune.new_head=true"]).check()


@pytest.fixture
def known(tmp_path):
    path = tmp_path / "known.jaspar"
    path.write_text(JASPAR)
    return path


def test_filters_begin_as_motifs_and_may_stay_so(run_file, known, tmp_path):
    kept = train(run_file, tmp_path / "kept", f"finetune.motifs='{known}'", "finetune.freeze=['stem.*']")
    assert Run.find(kept).finetune.motifs == str(known)
    known.unlink()  # neither what was trained nor what goes on asks for them again
    assert evaluate(kept, "valid")[1]["metrics"]["loss"] > 0
    assert command(["train", "--resume", "--out", str(kept), str(kept / "run.toml"), "train.steps=8"]) == 0
    stem = weights(kept)["stem.bias"]
    assert stem[:4].tolist() == [-2] * 4
    assert (stem[4:] != -2).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["model.channels=2"], r"finetune\.motifs: 2 motifs are 4 filters, .* has 2"),
        (["finetune.motifs='nowhere'"], r"finetune\.motifs: there is no file .*nowhere"),
        (["finetune.new_head=true"], r"finetune\.new_head: without init_from"),
        (["finetune.init_from='other'"], r"finetune\.motifs: init_from says already"),
    ],
)
def test_motifs_that_do_not_fit_are_refused_by_name(run_file, known, changes, message):
    with pytest.raises(ConfigError, match=message):
        Run.read(run_file, [f"finetune.motifs='{known}'", *changes]).check()


@pytest.mark.parametrize("change", ["freeze=['stem.*']", "new_head=true", "lora_rank=1"])
def test_nothing_is_kept_of_drawn_weights(run_file, change):
    with pytest.raises(ConfigError, match=rf"finetune\.{change.split('=')[0]}: without init_from"):
        Run.read(run_file, [f"finetune.{change}"])


def test_the_command_begins_with_a_path_from_where_it_is_called(run_file, first, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command(["train", str(run_file), "train.steps=2", "--init-from", "first", "--out", "out"]) == 0
    assert Run.find(tmp_path / "out").finetune.init_from == str(first)
    assert command(["train", str(run_file), "model.channels=4", "--init-from", "first", "--out", "other"]) == 2
    assert not (tmp_path / "other").exists()


def test_a_new_head_that_could_not_learn_is_refused(coding, first):
    run = Run.read(coding, [f"finetune.init_from='{first}'", "finetune.new_head=true", "finetune.freeze=['head*']"])
    with pytest.raises(ConfigError, match="finetune.freeze: head.* of the new head would stay as drawn"):
        run.check()


WINDOWS = """name = "windows"
[data]
store = "t.zarr"
batch_size = 8
[model]
{model}
[objective]
kind = "{kind}"
[train]
steps = 2
precision = "fp32"
threads = 1
"""
SEES_ALL = {
    "cnn": 'family = "cnn"\nchannels = [4]\nwidths = [3]\npools = [1]\nhidden = 4',
    "mlp": 'family = "mlp"\nhidden = [4]\nwidth = 5',
}


def of_windows(folder, length, model, kind="binary"):
    """The file of a run on windows of one length."""
    folder.mkdir()
    table_store(folder, "binary", {part: motifs(seed, 40, length) for seed, part in enumerate(("train", "valid"))})
    (folder / "run.toml").write_text(WINDOWS.format(model=model, kind=kind))
    return folder / "run.toml"


@pytest.mark.parametrize(
    ("family", "tensor", "length", "kind", "changes", "answers"),
    [
        ("cnn", "hidden.weight", 24, "binary", [], "windows of 24"),
        ("mlp", "stem.weight", 24, "binary", [], "windows of 24"),
        ("cnn", "hidden.weight", 40, "masked_lm", ["finetune.new_head=true"], "single bases"),
        ("mlp", "stem.weight", 40, "masked_lm", ["finetune.new_head=true"], "single bases"),
    ],
)
def test_weights_that_see_all_of_another_window_are_refused_by_name(
    tmp_path, family, tensor, length, kind, changes, answers
):
    path = of_windows(tmp_path / "there", length, SEES_ALL[family], kind)
    there = train(path, tmp_path / "there/out", "train.steps=1")
    mine = of_windows(tmp_path / "mine", 40, SEES_ALL[family])
    with pytest.raises(
        ConfigError,
        match=rf"finetune\.init_from: .* answers for {answers}, and this run for windows of 40: .*{tensor} is \(",
    ):
        Run.read(mine, [f"finetune.init_from='{there}'", *changes]).check()


@pytest.mark.parametrize(("length", "kind"), [(24, "binary"), (40, "masked_lm")])
def test_what_sees_no_window_whole_goes_on_with_others(tmp_path, length, kind):
    model = 'family = "dilated"\nchannels = 4\ndilations = [1]'
    there = train(of_windows(tmp_path / "there", length, model, kind), tmp_path / "there/out", "train.steps=1")
    changes = ["finetune.new_head=true", "optimizer.lr=1e-30", "optimizer.weight_decay=0.0"]
    out = begun(of_windows(tmp_path / "mine", 40, model), tmp_path / "out", there, *changes)
    kept, found = weights(there, "best"), weights(out)
    assert torch.equal(kept["blocks.0.conv.weight"], found["blocks.0.conv.weight"])
    assert torch.equal(kept["stem.weight"][:, :4], found["stem.weight"])
