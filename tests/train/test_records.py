import json

import pytest
import torch

from distgen.train.flops import Flops
from distgen.train.model import build_model, schema_of
from distgen.train.records import memory, read_records
from distgen.train.run import Run
from tests.conftest import fit


def test_records_drop_steps_that_are_taken_again_and_a_line_cut_short(run_file, tmp_path):
    fit(Run.read(run_file, ["train.steps=8"]), tmp_path / "out")
    path = tmp_path / "out" / "metrics.jsonl"
    whole = path.read_text()
    late = "".join(json.dumps({"step": step, "loss": 9.0}) + "\n" for step in (9, 10))
    path.write_text(whole + late + '{"step": 11, "lo')
    fit(Run.read(run_file, ["train.steps=9"]), tmp_path / "out")
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [r["step"] for r in records if "loss" in r] == list(range(1, 10))
    assert all(r["loss"] < 9 for r in records if "loss" in r)


def test_validation_measures_both_parts_alike(run_file, tmp_path):
    shown = fit(Run.read(run_file, ["train.steps=12", "optimizer.lr=1e-12"]), tmp_path / "out")
    (first, last) = [r for r in shown if "valid" in r]
    assert first["train"].keys() == first["valid"].keys()
    # Weights hardly move: what changes from step to step in training is what it draws, and here nothing is drawn.
    assert last["train"]["loss"] == pytest.approx(first["train"]["loss"], rel=1e-5)
    assert len({r["loss"] for r in shown if "loss" in r}) == 12


def test_the_training_part_is_measured_only_if_asked_for(run_file, tmp_path):
    shown = fit(Run.read(run_file, ["log.gap_batches=0"]), tmp_path / "out")
    assert all("train" not in r for r in shown)


def test_measuring_the_training_part_changes_no_step(run_file, tmp_path):
    with_gap = fit(Run.read(run_file), tmp_path / "a")
    without = fit(Run.read(run_file, ["log.gap_batches=0"]), tmp_path / "b")
    assert [r["loss"] for r in with_gap if "loss" in r] == [r["loss"] for r in without if "loss" in r]
    assert [r["valid"] for r in with_gap if "valid" in r] == [r["valid"] for r in without if "valid" in r]


def test_mfu_is_told_where_a_peak_is_known(run_file, tmp_path):
    run = Run.read(run_file, ["log.peak_tflops=0.001", "train.steps=3"])
    for record in fit(run, tmp_path / "out"):
        if "loss" in record:
            store = run.open_store()
            objective = run.build_objective(store)

            flops = Flops(build_model(run.model, schema_of(objective)), objective.in_channels)
            assert record["mfu"] == pytest.approx(flops(64) * record["samples_per_second"] / 1e9)


def test_memory_is_in_bytes():
    held = torch.ones(50_000_000)
    assert 200_000_000 < memory(torch.device("cpu"))["host"] < 1 << 40
    assert held.sum() == 50_000_000


def test_a_line_cut_short_is_no_record_and_no_file_has_none(tmp_path):
    assert read_records(tmp_path) == []
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "lo')
    assert read_records(tmp_path) == [{"step": 1}]
