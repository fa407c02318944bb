"""Trainings of a Boltzmann machine: what it finds, what it goes on with, and what its motifs are good for."""

import json
from dataclasses import replace

import pytest
import torch

from distgen.errors import ConfigError
from distgen.evaluate.filters import find_motifs
from distgen.models.context import dealt
from distgen.train.evaluation import evaluate, open_trained
from distgen.train.flops import Flops
from distgen.train.loop import train
from distgen.train.model import build_model, schema_of
from distgen.train.run import Run
from tests.conftest import fit, fit_until, motifs, table_store, weights
from tests.train.ranks import on_ranks

RUN = """name = "machine"
[data]
store = "t.zarr"
batch_size = 32
strand = "random"
[model]
family = "boltzmann"
motifs = 4
width = 9
chains = 10
density = 0.01
[objective]
kind = "contrastive"
[optimizer]
lr = 2e-2
warmup_steps = 2
[train]
steps = 300
precision = "fp32"
threads = 1
[log]
gap_batches = 0
"""
HEAD = ['objective.kind="binary"', "train.steps=60", "finetune.new_head=true", 'finetune.freeze=["stem*"]']


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    planted = [row for row in motifs(0, 1200) if row[1]]
    table_store(
        folder, "binary", {"train": [*planted, *motifs(3, 400)], "valid": motifs(1, 60), "test": motifs(2, 101)}
    )
    (folder / "run.toml").write_text(RUN)
    run = Run.read(folder / "run.toml")
    run.check()
    (folder / "out").mkdir()
    run.write(folder / "out/run.toml")
    fit(run, folder / "out")
    return folder


def short(folder, *overrides):
    return Run.read(folder / "run.toml", ["train.steps=6", "train.checkpoint_every=3", "log.every=1", *overrides])


def test_a_planted_motif_is_found_without_a_label(folder):
    trained = open_trained(folder / "out")
    loader = trained.run.loader(trained.store, trained.objective, "train")
    found, background = find_motifs(trained.model, trained.objective.inputs, loader)
    both = [(motif.consensus, motif.frequency[::-1, ::-1]) for motif in found]
    assert any("GATTACA" in consensus or "TGTAATC" in consensus for consensus, _ in both)
    assert background.sum() == pytest.approx(1)
    _, values = evaluate(folder / "out", "test")
    assert values["metrics"]["bits_per_base"] < 1.99


def test_its_motifs_are_features_for_another_question(folder):
    def made(*more):
        return Run.read(folder / "run.toml", [*HEAD, f'finetune.init_from="{folder / "out"}"', *more])

    run = made()
    run.check()
    fit(run, folder / "tuned")
    run.write(folder / "tuned/run.toml")
    began, ended = weights(folder / "out"), weights(folder / "tuned")
    assert torch.equal(began["stem.weight"], ended["stem.weight"])
    assert "chain" in began
    assert "chain" not in ended
    _, found = evaluate(folder / "tuned", "test")
    assert found["metrics"]["auroc"] > 0.9
    with pytest.raises(ConfigError, match="new_head"):
        made("finetune.new_head=false").check()


def test_chains_go_on_where_they_were(folder):
    fit(short(folder), folder / "through")
    with pytest.raises(KeyboardInterrupt):
        fit_until(short(folder), folder / "stopped", 5)
    fit(short(folder), folder / "stopped")
    through, stopped = weights(folder / "through"), weights(folder / "stopped")
    assert through.keys() == stopped.keys() >= {"chain", "usage"}
    for name, values in through.items():
        assert torch.equal(values, stopped[name]), name


def each_way(worker, path):
    """Two steps, twice with one flat buffer and once in shards; which chains are this rank's."""
    for name, asked in (("flat", "ddp"), ("again", "ddp"), ("shards", "fsdp")):
        options = ["train.steps=2", "train.deterministic=true", f'cluster.parallel="{asked}"', "cluster.workers=2"]
        train(Run.read(path, options), replace(worker, out=worker.out / name))
    return dealt(10)


def test_each_of_several_workers_carries_on_its_own_chains(folder, tmp_path):
    for name in ("flat", "again", "shards"):
        (tmp_path / name).mkdir()
    assert on_ranks(2, tmp_path, each_way, folder / "run.toml") == [(0, 5, 2), (5, 10, 2)]
    flat, again, shards = (weights(tmp_path / name) for name in ("flat", "again", "shards"))
    for name, values in flat.items():
        assert torch.equal(values, again[name]), name
        torch.testing.assert_close(values, shards[name], rtol=1e-3, atol=1e-4, msg=name)
    chain = flat["chain"]
    assert chain.max() <= 3
    assert (chain.float().std(1) > 0).all()  # nobody's rows were left 0
    assert chain.unique(dim=0).shape == chain.shape


def test_only_a_machine_has_free_energies(folder):
    run = Run.read(folder / "run.toml")
    path = folder / "cnn.toml"
    path.write_text(RUN.replace(RUN[RUN.index("family") : RUN.index("[objective]")], 'family = "cnn"\n'))
    with pytest.raises(ConfigError, match='model.family: objective "contrastive" is of family "boltzmann" alone'):
        Run.read(path).check()
    shared = Run.read(folder / "run.toml", ["cluster.workers=2", "cluster.context=2"])
    with pytest.raises(ConfigError, match="cluster.context: windows that have one answer are not shared"):
        shared.check()
    run.check()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["train.micro_batch=16"], "train.micro_batch: chains .* go on once in a step.*: leave it out"),
        (["train.micro_batch=auto"], "train.micro_batch: chains .* go on once in a step.*: leave it out"),
        (["cluster.workers=[1, 11]"], "model.chains: 11 workers deal 10 among them. Use at least 11"),
    ],
)
def test_chains_that_would_go_on_more_often_or_not_at_all_are_refused(folder, changes, message):
    with pytest.raises(ConfigError, match=message):
        Run.read(folder / "run.toml", changes).check()
    Run.read(folder / "run.toml", ["train.micro_batch=32"]).check()


def test_what_it_computes_is_counted(folder):
    run = Run.read(folder / "run.toml")
    store = run.open_store()
    objective = run.build_objective(store)
    model = build_model(run.model, schema_of(objective))
    before = model.chain.clone()
    conv = 2 * 8 * 4 * 9 * 40  # of one window: both strands of 4 motifs on 4 bases, 9 wide, at 40 positions
    assert Flops(model, 4)(40) > 2 * conv
    assert torch.equal(model.chain, before)


def test_records_say_what_was_measured(folder):
    lines = [json.loads(line) for line in (folder / "out/metrics.jsonl").read_text().splitlines()]
    valid = [line["valid"] for line in lines if "valid" in line]
    assert valid[-1].keys() >= {"loss", "bits_per_base", "rebuilt_bits_per_base", "gap_to_mirrored", "below_mirrored"}
