import contextlib
import math
import socket
from dataclasses import replace
from unittest import mock

import pytest
import torch
from torch import nn

from distgen.config import Cluster
from distgen.errors import ConfigError, PreemptedError, TrainError
from distgen.train import loop
from distgen.train.parallel import Overlapped, Replicated, broadcast_parameters, local, parallelize, total_norm
from distgen.train.run import Run
from distgen.train.sharded import Sharded
from distgen.train.worker import Worker
from tests.conftest import fit, weights
from tests.train.ranks import on_ranks

KINDS = {
    "flat": ["train.deterministic=true"],
    "ddp": [],
    "fsdp": ["cluster.parallel=fsdp"],
    "hybrid": ["cluster.parallel=hybrid", "cluster.shards=2"],
    "copies": ["cluster.parallel=hybrid", "cluster.shards=1"],
}
RAGGED = ["data.batch_size=7", "train.micro_batch=1"]  # some ranks have fewer rows, and give a micro-batch of nothing


def overlapped(model, worker, cluster, **how):
    """What `parallelize` chooses on a GPU."""
    if worker.world_size > 1 and cluster.parallel == "ddp" and not how["deterministic"]:
        return Overlapped(model)
    return parallelize(model, worker, cluster, **how)


def whole(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


# ---- whole trainings ------------------------------------------------------------------------


def steps(worker, file, *overrides):
    """What came out of every step of a run, and the weights it ends with."""
    with mock.patch.object(loop, "parallelize", overlapped):
        state = loop.start_or_resume(Run.read(file, ["train.steps=20", *overrides]), worker)
    seen = []
    for batch in state.batches():
        seen.append(loop.train_step(state.learner, batch, state.step, state.clock).tolist())
        state.step += 1
    entries = state.learner.model.state_dict()
    return seen, {name: whole(entry).flatten().tolist() for name, entry in entries.items()}


def trained(worker, file, kinds):
    return [steps(worker, file, *KINDS[kind], *RAGGED) for kind in kinds]


@pytest.mark.parametrize(
    ("world_size", "kinds"),
    [(2, ["ddp", "copies", "flat", "fsdp", "flat", "fsdp"]), (4, ["ddp", "hybrid", "flat", "fsdp"])],
)
def test_workers_of_every_kind_train_as_one_process(run_file, tmp_path, world_size, kinds):
    expected, expected_weights = steps(Worker(0, 1, torch.device("cpu"), tmp_path), run_file, *RAGGED)
    for found in on_ranks(world_size, tmp_path, trained, run_file, kinds):
        for kind, (seen, ends) in zip(kinds, found, strict=True):
            for sums, wanted in zip(seen, expected, strict=True):
                assert sums == pytest.approx(wanted, rel=1e-5), kind
            assert list(ends) == list(expected_weights), kind
            for name, values in expected_weights.items():
                assert ends[name] == pytest.approx(values, abs=2e-4), (kind, name)
        assert found[kinds.index("flat")] == found[-2]  # to the bit
        assert found[kinds.index("fsdp")] == found[-1]


# ---- gradients ------------------------------------------------------------------------------


class _Model(nn.Module):
    """`some` is used where asked for; `none` never."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(3, 3), nn.Conv2d(3, 3, (1, 3), padding="same")])
        self.blocks[1].to(memory_format=torch.channels_last)
        self.some, self.none = nn.Linear(3, 3), nn.Parameter(torch.zeros(2))
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x, some):
        x = self.blocks[1](self.blocks[0](x).T[None, :, None])
        self.seen += x.detach().mean()
        return x.sum() + (self.some(x[0, :, 0].T).sum() if some else 0)


ROWS = torch.arange(24.0).view(8, 3) / 10


def gradients(model, called, rows, some):
    for part in rows:
        called(part, some).backward()
    return {name: whole(p.grad) for name, p in model.named_parameters() if p.grad is not None}


def one_process(some):
    torch.manual_seed(3)
    model = _Model()
    found = gradients(model, model, [ROWS[start : start + 2] for start in range(0, 8, 2)], some)
    return model, found | {name: torch.zeros_like(p) for name, p in model.named_parameters() if p.grad is None}


def each_way(worker):
    made = {
        "flat": Replicated,
        "ddp": Overlapped,
        "fsdp": lambda model: Sharded(model, worker, 2, torch.float32),
        "copies": lambda model: Sharded(model, worker, 1, torch.float32),
    }
    found = {}
    for kind, way in made.items():
        torch.manual_seed(3 + worker.rank)
        model = _Model()
        broadcast_parameters(model)
        parallel = way(model)
        for step in range(3):
            model.zero_grad(set_to_none=True)
            some = kind != "ddp" or step > 0
            for last in (False, True):
                with parallel.accumulating(last):
                    rows = ROWS[4 * worker.rank + 2 * last :][:2]
                    parallel.model(rows, some).backward()
            sums = parallel.reduce(torch.tensor([1.0, worker.rank], dtype=torch.float64))
            _, expected = one_process(some)
            values = [p.grad for p in model.parameters()]
            norm = total_norm(values)
            for name, p in model.named_parameters():
                torch.testing.assert_close(whole(p.grad), expected[name], msg=f"{kind}, step {step}, {name}")
                assert local(p.grad).stride() == local(p.data).stride(), (kind, name)
            length = math.sqrt(sum(float(g.square().sum()) for g in expected.values()))
            assert float(norm) == pytest.approx(length, rel=1e-6), kind
        found[kind] = (sums.tolist(), model.seen.tolist(), list(model.state_dict()))
    return found


def test_gradients_are_those_of_the_loss_summed_over_all_workers(tmp_path):
    names = list(_Model().state_dict())
    first, second = on_ranks(2, tmp_path, each_way)
    for kind in ("flat", "ddp", "fsdp", "copies"):
        assert first[kind] == second[kind]
        assert first[kind][0] == [2.0, 1.0]
        assert first[kind][2] == names


def comes_and_goes(worker):
    parallel = Overlapped(model := nn.ModuleDict({"a": nn.Linear(1, 1), "b": nn.Linear(1, 1)}))
    model.forward = lambda x, both: model["a"](x).sum() + (model["b"](x).sum() if both else 0)
    parallel.model(torch.ones(1, 1), True).backward()
    parallel.reduce(torch.zeros(1))
    model.zero_grad(set_to_none=True)
    parallel.model(torch.ones(1, 1), False).backward()
    with pytest.raises(TrainError, match="b.weight has no gradient in this step"):
        parallel.reduce(torch.zeros(1))


def test_ddp_never_takes_gradients_for_sums_that_crossed_no_network(tmp_path):
    on_ranks(2, tmp_path, comes_and_goes)


def test_statistics_of_a_workers_rows_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="layer 0 .BatchNorm1d. normalises over the rows of a worker"):
        parallelize(
            nn.Sequential(nn.BatchNorm1d(3)),
            Worker(0, 2, torch.device("cpu"), tmp_path),
            Cluster(),
            deterministic=False,
            dtype=torch.float32,
        )


# ---- groups of workers ----------------------------------------------------------------------


def on_hosts(worker, cases):
    found = []
    for hosts in cases:
        model = nn.Sequential(nn.Linear(8, 8))
        with mock.patch.object(socket, "gethostname", lambda hosts=hosts: hosts[worker.rank]):
            try:
                parallelize(model, worker, Cluster(parallel="hybrid"), deterministic=False, dtype=torch.float32)
                found.append(model[0].weight.device_mesh.mesh.tolist())
            except ConfigError as error:
                found.append(str(error))
    return found


def test_the_workers_of_a_node_hold_a_model_together(tmp_path):
    two, apart, one, uneven = on_ranks(4, tmp_path, on_hosts, ["aabb", "abab", "aaaa", "aaab"])[0]
    assert two == [[0, 1], [2, 3]]
    assert apart == [[0, 2], [1, 3]]
    assert one == [0, 1, 2, 3]
    assert "the nodes have 3, 1 workers" in uneven
    assert "Set cluster.shards to one of [1, 2, 4]" in uneven


# ---- from one number of workers and kind to another -------------------------------------------


def leg(worker, file, overrides, until):
    """Train on, as far as a step; the samples of this worker and the losses of all."""
    samples, losses = [], []

    def spy(learner, batch, step, *others, **given):
        sums = step_taken(learner, batch, step, *others, **given)
        samples.append((step, batch.samples[batch.weight.cpu() > 0].tolist()))
        losses.append(float(sums[0] / sums[1]))
        return sums

    step_taken = loop.train_step
    patched = mock.patch.multiple(loop, train_step=spy, parallelize=overlapped)
    with patched, contextlib.suppress(PreemptedError):
        loop.train(Run.read(file, overrides), replace(worker, leaving=lambda: len(losses) + 1 >= until))
    return samples, losses


def test_a_run_goes_on_with_other_workers_and_kinds_as_one_process(run_file, tmp_path):
    one = [r["loss"] for r in fit(Run.read(run_file, RAGGED[:1]), tmp_path / "one") if "loss" in r]
    out, losses, samples = tmp_path / "out", [], []
    out.mkdir()
    for world_size, kind, until in ((2, "fsdp", 4), (1, "ddp", 4), (4, "hybrid", 99)):
        found = on_ranks(world_size, out, leg, run_file, [*RAGGED, *KINDS[kind]], until)
        assert len({tuple(of) for _, of in found}) == 1
        losses += found[0][1]
        for parts in zip(*(taken for taken, _ in found), strict=True):
            samples.append((parts[0][0], [sample for _, rows in parts for sample in rows]))
    assert losses == pytest.approx(one, rel=1e-5)
    run = Run.read(run_file, RAGGED)
    store = run.open_store()
    loader = run.loader(store, run.build_objective(store), "train", training=True)
    wanted = [(step, batch.samples.tolist()) for step, batch in zip(range(12), loader, strict=False)]
    assert samples[: len(wanted)] == wanted
    assert [step for step, _ in samples] == list(range(12))
    for name, values in weights(tmp_path / "one").items():
        torch.testing.assert_close(weights(out)[name], values, atol=2e-4, rtol=1e-4)


# ---- with what else changes a model -------------------------------------------------------------


def records(worker, file, overrides):
    shown = []
    loop.train(Run.read(file, overrides), replace(worker, show=shown.append))
    return [(r["step"], r["loss"]) for r in shown if "loss" in r], [r["valid"]["loss"] for r in shown if "valid" in r]


@pytest.mark.parametrize(
    "extra", [["train.activation_checkpointing=true", "optimizer.ema=0.8"], ["train.precision=bf16"]]
)
def test_shards_train_as_one_process_with_averaged_weights_recomputed_blocks_and_fewer_bits(run_file, tmp_path, extra):
    overrides = [*RAGGED, *extra]
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one = records(Worker(0, 1, torch.device("cpu"), tmp_path / "one"), run_file, overrides)
    two = on_ranks(2, tmp_path / "two", records, run_file, [*overrides, *KINDS["fsdp"]])[0]
    close = 1e-2 if "train.precision=bf16" in extra else 1e-5
    assert [step for step, _ in two[0]] == [step for step, _ in one[0]]
    assert [loss for _, loss in two[0]] == pytest.approx([loss for _, loss in one[0]], rel=close)
    assert two[1] == pytest.approx(one[1], rel=close)
    assert len(two[1]) == 2


def sharing_windows(worker, file, overrides):
    return records(replace(worker, context=2), file, [*overrides, "cluster.context=2"])


@pytest.mark.parametrize("kind", ["ddp", "fsdp", "hybrid"])
def test_workers_that_share_windows_also_share_models(run_file, tmp_path, kind):
    text = run_file.read_text().replace('family = "dilated"', 'family = "transformer"')
    run_file.write_text(text.replace("stem_width = 3\ndilations = [1, 2]\n", "depth = 2\ndim = 16\npool = 4\n"))
    for name in ("one", "four"):
        (tmp_path / name).mkdir()
    one = records(Worker(0, 1, torch.device("cpu"), tmp_path / "one"), run_file, ["train.steps=6"])
    overrides = ["train.steps=6", *KINDS[kind]]
    losses, valid = on_ranks(4, tmp_path / "four", sharing_windows, run_file, overrides)[0]
    assert [loss for _, loss in losses] == pytest.approx([loss for _, loss in one[0]], rel=1e-5)
    assert valid == pytest.approx(one[1], rel=1e-5)


FAMILIES = {
    "longconv": "reach = 32\n",
    "ssm": "heads = 2\nstates = 4\n",
}


@pytest.mark.parametrize("family", FAMILIES)
def test_families_with_filters_and_states_are_sharded_as_one_process(run_file, tmp_path, family):
    text = run_file.read_text().replace('family = "dilated"', f'family = "{family}"\ndepth = 2')
    run_file.write_text(text.replace("dilations = [1, 2]\n", FAMILIES[family]))
    overrides = ["train.steps=6", *RAGGED]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one = records(Worker(0, 1, torch.device("cpu"), tmp_path / "one"), run_file, overrides)
    losses, valid = on_ranks(2, tmp_path / "two", records, run_file, [*overrides, *KINDS["fsdp"]])[0]
    assert [loss for _, loss in losses] == pytest.approx([loss for _, loss in one[0]], rel=1e-5)
    assert valid == pytest.approx(one[1], rel=1e-5)
