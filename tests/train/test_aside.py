"""Validation by another process: the same numbers, later."""

import json
import logging
import multiprocessing
import os
import time
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

import pytest
import torch

from distgen.errors import PreemptedError
from distgen.train.aside import Aside, _Other, beside
from distgen.train.checkpoint import newest, open_checkpoint
from distgen.train.launch import launch
from distgen.train.loop import train
from distgen.train.run import Run
from distgen.train.worker import Worker
from tests.conftest import fit
from tests.train.ranks import on_ranks

CHANGES = ["train.valid_every=4", "train.keep=1", "optimizer.lr=0.02"]


def valid(out):
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(r["step"], r["valid"], r["train"]) for r in records if "valid" in r]


def scores(out):
    return {path.name: open_checkpoint(path).state["score"] for path in (out / "checkpoints").glob("step-*")}


class Slow:
    """Answers when it is told to."""

    def __init__(self):
        self.asked = []

    def __call__(self, path):
        self.asked.append((path, Future()))
        return self.asked[-1][1]


def fit_with(measure, run, out, show=lambda record: None):
    out.mkdir(exist_ok=True)
    train(run, Worker(0, 1, torch.device("cpu"), out, aside=measure, show=show))


def found(loss):
    return {"valid": {"loss": loss}}


def test_another_process_finds_what_the_training_itself_would(run_file, tmp_path):
    changes = [*CHANGES, "log.gap_batches=2"]
    fit(Run.read(run_file, changes), tmp_path / "within")
    launch(Run.read(run_file, [*changes, "cluster.valid_aside=true"]), tmp_path / "aside", lambda record: None)
    assert valid(tmp_path / "aside") == valid(tmp_path / "within")
    assert [step for step, *_ in valid(tmp_path / "aside")] == [4, 8, 12]
    best = [(out / "checkpoints/best").resolve().name for out in (tmp_path / "aside", tmp_path / "within")]
    assert best[0] == best[1]
    assert scores(tmp_path / "aside")[best[0]] == scores(tmp_path / "within")[best[0]]


def test_checkpoints_stay_until_they_are_measured(run_file, tmp_path):
    slow, there = Slow(), {}

    def measure(path):
        future = slow(path)
        if path.endswith("step-00000012"):  # the last: nobody is there any more to answer it later
            future.set_result(found(2.0))
        return future

    def show(record):
        there[record["step"]] = {int(path.name[5:]) for path in (tmp_path / "out/checkpoints").glob("step-*")}
        if record["step"] == 11:
            for loss, (_, future) in zip((3.0, 1.0), slow.asked, strict=True):
                future.set_result(found(loss))

    fit_with(measure, Run.read(run_file, [*CHANGES, "train.checkpoint_every=2"]), tmp_path / "out", show)
    assert {4, 8} <= there[11]
    numbered = {int(path.name[5:]) for path in (tmp_path / "out/checkpoints").glob("step-*")}
    assert numbered == {8, 12}
    assert (tmp_path / "out/checkpoints/best").resolve().name == "step-00000008"


def test_a_training_whose_validation_fails_says_so_and_goes_on(run_file, tmp_path, caplog):
    def broken(path):
        future = Future()
        future.set_exception(MemoryError("no room"))
        return future

    with caplog.at_level(logging.WARNING):
        fit_with(broken, Run.read(run_file, CHANGES), tmp_path / "out")
    assert "step 8 was not validated: no room. Training goes on." in caplog.text
    assert newest(tmp_path / "out/checkpoints").state["step"] == 12


def test_patience_ends_a_training_by_what_it_hears(run_file, tmp_path):
    losses = iter([1.0, 2.0, 3.0, 0.5])

    def quick(path):
        future = Future()
        future.set_result(found(next(losses)))
        return future

    changes = ["train.valid_every=4", "train.patience=2", "train.steps=200", "log.every=1"]
    fit_with(quick, Run.read(run_file, changes), tmp_path / "out")
    records = [json.loads(line) for line in (tmp_path / "out/metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if "stopped" in r] == [12]
    assert records[-1]["step"] < 40


def test_answers_come_in_the_order_of_the_questions():
    slow = Slow()
    aside = Aside(slow)
    for step in (4, 8):
        aside.ask(step, f"step-{step}")
    slow.asked[1][1].set_result(found(2.0))
    assert list(aside.heard()) == []
    assert aside.asked == {4, 8}
    slow.asked[0][1].set_result(found(1.0))
    assert [step for step, _ in aside.heard()] == [4, 8]
    assert aside.asked == set()


def test_all_that_was_not_heard_before_a_stop_is_asked_for_again(run_file, tmp_path):
    def stop(record):
        if record["step"] == 11:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_with(Slow(), Run.read(run_file, CHANGES), tmp_path / "out", stop)
    asked = []

    def quick(path):
        asked.append(int(path.rsplit("-", 1)[1]))
        future = Future()
        future.set_result(found(float(asked[-1])))
        return future

    fit_with(quick, Run.read(run_file, CHANGES), tmp_path / "out")
    assert asked == [4, 8, 12]
    assert (tmp_path / "out/checkpoints/best").resolve().name == "step-00000004"


def test_whoever_is_asked_to_leave_waits_for_no_validation(run_file, tmp_path):
    slow, seen = Slow(), []
    out = tmp_path / "out"
    out.mkdir()
    worker = Worker(0, 1, torch.device("cpu"), out, aside=slow, show=seen.append, leaving=lambda: len(seen) > 4)
    with pytest.raises(PreemptedError):
        train(Run.read(run_file, CHANGES), worker)
    assert [future.done() for _, future in slow.asked] == [False]


def test_a_question_that_cannot_be_asked_ends_no_training(run_file, tmp_path, caplog):
    def broken(path):
        raise OSError

    with caplog.at_level(logging.WARNING):
        fit_with(broken, Run.read(run_file, CHANGES), tmp_path / "out")
    assert "step 12 was not validated: OSError. Training goes on." in caplog.text


class Deadly(Run):
    """A run whose store ends the process that opens it."""

    def open_store(self):
        os._exit(1)


def test_where_the_other_process_died_another_takes_its_place(run_file, tmp_path):
    fit(Run.read(run_file, [*CHANGES, "train.steps=4"]), tmp_path / "out")
    run, path = Run.read(run_file, [*CHANGES, "cluster.valid_aside=true"]), str(tmp_path / "out/checkpoints/last")
    other = _Other(Deadly.read(run_file), torch.device("cpu"))
    try:
        with pytest.raises(BrokenProcessPool):
            other.measure(path).result(60)
        other._run = run
        assert other.measure(path).result(60)["valid"]["loss"] > 0
    finally:
        other.end()


class Endless(Run):
    """A run whose store never opens."""

    def open_store(self):
        time.sleep(600)


def test_a_training_that_ends_leaves_no_process_behind_and_waits_for_none(run_file):
    others = set(multiprocessing.active_children())
    with beside(Endless.read(run_file, ["cluster.valid_aside=true"]), torch.device("cpu")) as measure:
        future = measure("nowhere")
        while not future.running():
            time.sleep(0.01)
        (process,) = set(multiprocessing.active_children()) - others
    end = time.monotonic() + 30
    while lives(process.pid):
        assert time.monotonic() < end
        time.sleep(0.01)


def lives(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def on_each(worker, file, out):
    """Where a training on two workers ends of which one alone knows why, and whether it was asked to leave."""
    losses, ended = iter([1.0, 2.0, 3.0, 0.5]), []

    def quick(path):
        future = Future()
        future.set_result(found(next(losses)))
        return future

    changes = ["train.valid_every=4", "train.patience=2", "train.steps=60", "train.checkpoint_every=100"]
    for name, leaving in (("impatient", lambda: False), ("leaves", lambda: worker.rank == 1)):
        folder, shown = out / name, []
        folder.mkdir(exist_ok=True)
        aside = replace(worker, out=folder, aside=quick, leaving=leaving, show=shown.append)
        try:
            train(Run.read(file, changes), aside)
            ended.append(False)
        except PreemptedError:
            ended.append(True)
    return ended


def test_what_one_worker_alone_knows_ends_the_training_of_all_at_the_same_step(run_file, tmp_path):
    assert on_ranks(2, tmp_path, on_each, run_file, tmp_path) == [[False, True]] * 2
    steps = [newest(tmp_path / name / "checkpoints").state["step"] for name in ("impatient", "leaves")]
    assert 12 < steps[0] < 40
    assert steps[1] == 1
