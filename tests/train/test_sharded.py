"""Families whose parameters are spread over workers, against one process."""

from dataclasses import replace

import pytest
import torch

from distgen.errors import ConfigError
from distgen.train.loop import train
from distgen.train.run import Run
from distgen.train.worker import Worker
from tests.conftest import RUN, weights
from tests.train.ranks import on_ranks

DILATED = 'family = "dilated"\nchannels = 8\nstem_width = 3\ndilations = [1, 2]\n'
FAMILIES = {  # with what else is asked for, and how far losses may be apart
    "lstm": (
        'family = "recurrent"\nchannels = 8\nwidth = 5\nsize = 6\ndepth = 2\n',
        ["train.deterministic=true"],
        1e-5,
    ),
    "gru": (  # Muon multiplies in bfloat16
        'family = "recurrent"\nchannels = 8\nsize = 6\ncell = "gru"\ncausal = true\n',
        ["optimizer.kind=muon"],
        1e-3,
    ),
    "bf16": (
        'family = "recurrent"\nchannels = 8\nsize = 8\n',
        ["train.precision=bf16", "train.activation_checkpointing=true"],
        1e-2,
    ),
    "mlp": (
        'family = "mlp"\nhidden = [8, 8, 6]\nwidth = 7\nk = [2]\nboth_strands = true\n',
        ["train.deterministic=true"],
        1e-5,
    ),
    "hopfield": ('family = "hopfield"\nchannels = 8\nstem_width = 5\ndim = 8\nhidden = 8\nupdates = 1\n', [], 1e-5),
}
SAME = [
    "train.steps=3",
    "log.gap_batches=0",
    "optimizer.ema=0.8",
    "model.dropout=0.0",
    "data.batch_size=7",
    "train.micro_batch=2",
]


def trained(worker, folder, changes):
    """What a run of each family tells, and where the weights are that it ends with."""
    found = {}
    for name, (_, own, _) in FAMILIES.items():
        shown, out = [], folder / f"{name}-{worker.world_size}"
        out.mkdir(exist_ok=True)
        train(Run.read(folder / f"{name}.toml", [*SAME, *own, *changes]), replace(worker, out=out, show=shown.append))
        found[name] = [r["loss"] if "loss" in r else r["valid"]["loss"] for r in shown], out
    return found


def test_recurrent_cells_bags_and_memories_train_in_shards_as_in_one_process(small, tmp_path):
    for name, (model, _, _) in FAMILIES.items():
        (tmp_path / f"{name}.toml").write_text(RUN.format(store=small.path).replace(DILATED, model))
    one = trained(Worker(0, 1, torch.device("cpu"), tmp_path), tmp_path, [])
    two = on_ranks(2, tmp_path, trained, tmp_path, ["cluster.parallel=fsdp"])[0]
    for name, (losses, out) in two.items():
        expected, there = one[name]
        close = FAMILIES[name][2]
        assert len(losses) == len(expected) == 4, name
        assert losses == pytest.approx(expected, rel=close), name
        found, wanted = weights(out), weights(there)
        assert list(found) == list(wanted), name
        for key, value in wanted.items():
            torch.testing.assert_close(found[key], value, atol=max(2e-4, 2 * close), rtol=0, msg=f"{name}: {key}")


def test_a_family_that_takes_whole_windows_is_refused_where_workers_share_them(small, tmp_path):
    (tmp_path / "run.toml").write_text(RUN.format(store=small.path).replace(DILATED, FAMILIES["lstm"][0]))
    with pytest.raises(ConfigError, match='cluster.context: family "recurrent" takes whole windows'):
        Run.read(tmp_path / "run.toml", ["cluster.workers=2", "cluster.context=2"]).check()
