"""Runs of models that share parameters between strands, and runs whose validation asks both."""

import json

import pytest
import torch

import distgen
from distgen.cli import run as command
from distgen.errors import ConfigError
from distgen.train.evaluation import evaluate
from distgen.train.loop import train as train_on
from distgen.train.records import read_records
from distgen.train.run import Run
from distgen.train.weights import export_weights
from tests.conftest import fit, weights
from tests.models.test_strands import MASKED, far, windows
from tests.train.ranks import on_ranks

SHARE = "model.rc=share"


def train(run_file, out, *changes):
    run = Run.read(run_file, ["train.steps=6", *changes])
    run.check()
    out.mkdir(exist_ok=True)
    run.write(out / "run.toml")
    (out / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in fit(run, out)))
    return out


def test_trained_and_exported_models_are_alike_on_both_strands(run_file, tmp_path):
    how = ["optimizer.kind=muon", "optimizer.ema=0.9", "train.activation_checkpointing=true"]
    out = train(run_file, tmp_path / "out", SHARE, *how)
    export_weights(out, tmp_path / "exported")
    model, config = distgen.load_model(tmp_path / "exported")
    assert config["model"]["rc"] == "share"
    assert far(model.double(), windows(MASKED), MASKED) < 1e-12
    alone, both = (evaluate(out, "valid", both_strands=both)[1]["metrics"]["loss"] for both in (False, True))
    assert both == pytest.approx(alone, rel=1e-5)


def test_a_fine_tuning_shares_as_well(run_file, tmp_path):
    first = train(run_file, tmp_path / "first", SHARE)
    tuned = train(run_file, tmp_path / "tuned", SHARE, f"finetune.init_from='{first}'", "finetune.lora_rank=2")
    assert any(name.endswith("weight.0.up") for name in weights(tuned))
    model, _ = distgen.load_model(tuned)
    assert model.state_dict().keys() == weights(first).keys()
    assert far(model.double(), windows(MASKED), MASKED) < 1e-12
    with pytest.raises(ConfigError, match=r"finetune\.init_from: .* has another model: stem\.weight is \(4, 5, 1, 3\)"):
        Run.read(run_file, [f"finetune.init_from='{first}'"]).check()


def _on_a_rank(worker, path, changes):
    run = Run.read(path, changes)
    if worker.leads:
        run.write(worker.out / "run.toml")
    train_on(run, worker)


def test_workers_that_hold_shards_learn_the_same(run_file, tmp_path):
    changes = [SHARE, "train.both_strands=true"]
    one = train(run_file, tmp_path / "one", *changes)
    (tmp_path / "sharded").mkdir()
    on_ranks(2, tmp_path / "sharded", _on_a_rank, run_file, ["train.steps=6", *changes, "cluster.parallel=fsdp"])
    expected, found = (distgen.load_model(out)[0].state_dict() for out in (one, tmp_path / "sharded"))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_validation_asks_both_strands_where_a_run_says_so(run_file, tmp_path, capsys):
    out = train(run_file, tmp_path / "out", "train.both_strands=true", "train.valid_every=6")
    last = [record for record in read_records(out) if "valid" in record][-1]["valid"]
    assert last == evaluate(out, "valid")[1]["metrics"]
    assert command(["evaluate", str(out), "--split", "valid", "--no-both-strands", "--json"]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert "both_strands" not in alone
    assert alone["metrics"]["loss"] != last["loss"]
    assert command(["evaluate", str(out), "--split", "valid", "--both-strands"]) == 0
    assert "both, averaged" in capsys.readouterr().out
    kept = {path.name: json.loads(path.read_text())["metrics"] for path in out.glob("evaluate-*.json")}
    assert kept == {"evaluate-valid.json": alone["metrics"], "evaluate-valid-both-strands.json": last}


def test_an_ensemble_is_asked_both_strands(run_file, tmp_path):
    for seed in (1, 2):
        train(run_file, tmp_path / f"r{seed}", f"data.seed={seed}")
    assert command(["ensemble", str(tmp_path / "r1"), str(tmp_path / "r2"), "--out", str(tmp_path / "both")]) == 0
    alone, both = (evaluate(tmp_path / "both", "valid", both_strands=both)[1] for both in (False, True))
    assert both["both_strands"]
    assert both["metrics"]["loss"] != alone["metrics"]["loss"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([SHARE, "model.channels=7"], r"model\.dilated\.channels: 7 is no pair|model\.channels: 7 is no pair"),
        ([SHARE, "train.precision=fp8"], r"train\.precision: layers that both strands share"),
        ([SHARE, "data.strand=region"], r"model\.rc: windows lie on their regions' strands"),
        (["train.both_strands=true", "data.strand=region"], r"train\.both_strands: windows lie on"),
        (["train.both_strands=true", "cluster.context=2", "cluster.workers=2"], r"train\.both_strands: .*not turned"),
    ],
)  # fmt: skip
def test_what_strands_cannot_share_is_refused_by_name(run_file, changes, message):
    with pytest.raises(ConfigError, match=message):
        Run.read(run_file, changes).check()


def test_evaluation_refuses_windows_that_lie_on_a_strand(annotated, run_file, tmp_path, capsys):
    peaks = annotated.path.parent / "peaks.bed"
    text = run_file.read_text().replace("stride = 32\n", "").replace("jitter = 5", 'strand = "region"')
    text = text.replace('strand = "random"\n', "").replace("[model]", f'[data.regions]\nsource = "{peaks}"\n[model]')
    run_file.write_text(text)
    out = train(run_file, tmp_path / "out", f"data.store={annotated.path}", "data.batch_size=2")
    capsys.readouterr()
    assert command(["evaluate", str(out), "--split", "valid", "--both-strands"]) == 2
    assert "windows lie on their regions' strands" in capsys.readouterr().err
