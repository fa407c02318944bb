import json
import logging
import math
import re
from itertools import pairwise

import pytest
import torch
from torch import nn

from distgen.errors import ConfigError, TrainError
from distgen.objectives.masked_lm import MaskedLM
from distgen.train import precision as module
from distgen.train.checkpoint import open_checkpoint
from distgen.train.loop import start_or_resume
from distgen.train.precision import Precision, check_precision, multiplied
from distgen.train.run import Run
from distgen.train.step import train_step
from tests.conftest import fit, fit_until, weights
from tests.train.ranks import on_ranks

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_gradient_is_that_of_the_mean_over_targets(dtype):
    weight = nn.Parameter(torch.tensor([2.0]))
    precision = Precision(dtype, CPU, targets=5)
    precision.scaled((weight * torch.tensor([1.0, 2.0, 6.0])).sum()).backward()
    norm = precision.mean([weight], torch.tensor(3.0, dtype=torch.float64), clip_norm=10)
    assert (float(weight.grad), float(norm)) == (3.0, 3.0)


def test_a_gradient_is_shortened_over_all_parameters_and_its_norm_told_as_it_was():
    pair = [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(2, 1))]
    pair[0].grad, pair[1].grad = torch.tensor([6.0]), torch.tensor([[0.0], [8.0]])
    norm = Precision(torch.float32, CPU, 1).mean(pair, torch.tensor(2.0, dtype=torch.float64), clip_norm=2.5)
    assert float(norm) == 5.0
    assert [p.grad.flatten().tolist() for p in pair] == [pytest.approx([1.5]), pytest.approx([0, 2.0])]


def test_without_a_target_nothing_moves():
    weight = nn.Parameter(torch.ones(1))
    weight.grad = torch.zeros(1)
    norm = Precision(torch.float32, CPU, 1).mean([weight], torch.tensor(0.0, dtype=torch.float64), clip_norm=1)
    assert (float(norm), float(weight.grad)) == (0, 0)


# ---- the scale of float16 ---------------------------------------------------------------------


def skips(precision, norm, total=1.0):
    return precision.skips(torch.tensor(total), torch.tensor(norm))


def test_the_scale_falls_with_each_overflow_and_rises_after_many_steps_without(monkeypatch):
    monkeypatch.setattr(module, "_GROWS_AFTER", 3)
    precision = Precision(torch.float16, CPU, 100)
    first = precision.scale
    assert [skips(precision, n) for n in (math.inf, 1.0, math.nan, 1.0, 1.0)] == [True, False, True, False, False]
    assert precision.scale == first / 4
    assert not skips(precision, 1.0)
    assert precision.scale == first / 2


def test_the_scale_has_an_end_on_either_side(monkeypatch):
    monkeypatch.setattr(module, "_GROWS_AFTER", 1)
    precision = Precision(torch.float16, CPU, 100)
    skipped = 0
    while skips(precision, math.inf):
        skipped += 1
    assert (skipped, precision.scale) == (16, 1.0)
    for _ in range(40):
        assert not skips(precision, 1.0)
    assert precision.scale == 2.0**24


def test_a_loss_that_is_not_finite_is_no_matter_of_scale():
    precision = Precision(torch.float16, CPU, 100)
    assert not skips(precision, math.nan, total=math.nan)
    assert precision.scale == 2.0**16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_precisions_never_leave_out_a_step(dtype):
    assert not skips(Precision(dtype, CPU, 100), math.inf)


class Overflowing:
    """The loss of a masked language model whose gradient overflows, or which is NaN itself, in some steps (from 0)."""

    def __init__(self, monkeypatch, steps, nan=False):
        self.step, self.steps, self.nan, self.loss = -1, steps, nan, MaskedLM.loss
        monkeypatch.setattr(MaskedLM, "loss", lambda *args: self(*args))

    def __call__(self, objective, logits_BOL, *args):
        if torch.is_grad_enabled():
            self.step += 1
            if self.step in self.steps:
                if self.nan:
                    logits_BOL = logits_BOL * math.nan
                else:
                    logits_BOL.register_hook(lambda grad: grad * math.inf)
        return self.loss(objective, logits_BOL, *args)


FP16 = ["train.precision=fp16", "log.every=1", "train.valid_every=100"]


def test_steps_that_overflow_change_nothing_and_are_told(run_file, tmp_path, monkeypatch):
    Overflowing(monkeypatch, {0, 1, 5})
    shown = [
        r
        for r in fit(Run.read(run_file, [*FP16, "train.checkpoint_every=1", "train.keep=20"]), tmp_path / "out")
        if "loss" in r
    ]
    assert [r["skipped"] for r in shown] == [1, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert shown[-1]["scale"] == 2.0**13
    assert all(math.isfinite(r["norm"]) for r in shown)
    states = [weights(tmp_path / "out", f"step-{step:08d}")["head.weight"] for step in range(1, 13)]
    moved = [not torch.equal(*pair) for pair in pairwise(states)]
    assert moved == [step not in (1, 5) for step in range(1, 12)]


def test_the_scale_goes_on_where_it_was(run_file, tmp_path, monkeypatch):
    Overflowing(monkeypatch, {0, 2, 5})
    fit(Run.read(run_file, FP16), tmp_path / "whole")
    Overflowing(monkeypatch, {0, 2, 5})
    with pytest.raises(KeyboardInterrupt):
        fit_until(Run.read(run_file, FP16), tmp_path / "parted", 7)
    state = open_checkpoint(tmp_path / "parted" / "checkpoints" / "last").state
    assert (state["step"], state["precision"]) == (4, {"scale": 2.0**14, "good": 1})
    Overflowing(monkeypatch, {1})  # the sixth step, taken again
    fit(Run.read(run_file, FP16), tmp_path / "parted")
    whole, parted = weights(tmp_path / "whole"), weights(tmp_path / "parted")
    assert all(torch.equal(whole[name], parted[name]) for name in whole)


def test_overflows_without_end_stop_and_name_the_windows(run_file, tmp_path, monkeypatch):
    Overflowing(monkeypatch, range(1000))
    with pytest.raises(TrainError, match=r"the loss of step 17 is \d.* norm (inf|nan); its 8 windows .*precision bf16"):
        fit(Run.read(run_file, [*FP16, "train.steps=40", "train.checkpoint_every=40"]), tmp_path / "out")


def test_a_loss_that_is_nan_stops_at_once_also_in_float16(run_file, tmp_path, monkeypatch):
    Overflowing(monkeypatch, {3}, nan=True)
    with pytest.raises(TrainError, match=r"the loss of step 4 is nan"):
        fit(Run.read(run_file, FP16), tmp_path / "out")


def bad_step(worker, file, bad):
    run = Run.read(file, ["train.precision=fp32", "train.steps=12", "log.every=5", "train.valid_every=100"])
    state = start_or_resume(run, worker)
    try:
        for batch in state.batches():
            if worker.rank == 1 and state.step == bad:
                state.learner.model.head.bias.register_hook(lambda grad: grad * math.nan)
            state.saw(train_step(state.learner, batch, state.step, state.clock), batch)
    except TrainError as error:
        state.close()
        return state.step, str(error)


def test_all_workers_stop_at_the_very_step_that_one_of_them_broke_and_name_its_windows(run_file, tmp_path):
    found = on_ranks(2, tmp_path, bad_step, run_file, 6)
    assert found[0] == found[1]
    step, message = found[0]
    assert step == 7
    run = Run.read(run_file)
    store = run.open_store()
    loader = run.loader(store, run.build_objective(store), "train", training=True)
    _, places = loader.places(*loader.plan.at_step(6))
    assert re.match(r"the loss of step 7 is \d.\d+ and the gradient's norm nan; its 8 windows", message)
    assert ", ".join(f"{place}({place.strand})" for place in places[:4]) in message


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precisions_learn_about_what_full_precision_does(run_file, tmp_path, precision):
    losses = {}
    for name in ("fp32", precision):
        shown = fit(Run.read(run_file, ["train.steps=40", f"train.precision={name}", "log.every=40"]), tmp_path / name)
        losses[name] = next(r["loss"] for r in reversed(shown) if "loss" in r)
    assert losses[precision] == pytest.approx(losses["fp32"], rel=0.02)
    records = (tmp_path / precision / "metrics.jsonl").read_text().splitlines()
    assert all(math.isfinite(json.loads(line).get("norm", 0)) for line in records)


# ---- what a device has ------------------------------------------------------------------------


def gpu(monkeypatch, capability):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA Test")
    return torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("capability", "has"),
    [((6, 1), ["fp32"]), ((7, 5), ["fp32", "fp16"]), ((8, 0), ["fp32", "fp16", "bf16"]), ((9, 0), ["fp32", "fp16", "bf16", "fp8"])],
)  # fmt: skip
def test_a_gpu_has_the_precisions_of_its_capability(monkeypatch, capability, has):
    assert multiplied(gpu(monkeypatch, capability)) == has


def test_eight_bits_are_refused_where_nothing_multiplies_them(monkeypatch):
    message = r'NVIDIA Test \(compute capability 8\.6\) cannot multiply "fp8".*8\.9\. Use fp32 or fp16 or bf16'
    with pytest.raises(ConfigError, match=message):
        check_precision("fp8", gpu(monkeypatch, (8, 6)))
    check_precision("fp8", gpu(monkeypatch, (8, 9)))
    with pytest.raises(ConfigError, match='the CPU cannot multiply "fp8"'):
        check_precision("fp8", CPU)


def test_what_is_emulated_is_warned_of(monkeypatch, caplog):
    with caplog.at_level(logging.WARNING):
        check_precision("bf16", gpu(monkeypatch, (7, 5)))
        assert "no multipliers for bf16 and computes it slowly; it has them for fp32, fp16" in caplog.text
        caplog.clear()
        check_precision("fp16", gpu(monkeypatch, (7, 5)))
        check_precision("auto", gpu(monkeypatch, (6, 1)))
    assert not caplog.text
