import json
import logging
import os
import struct
import threading
from pathlib import Path

import pytest

from distgen.config import TIMEOUTS
from distgen.errors import ConfigError
from distgen.train import sinks
from distgen.train.run import Run
from distgen.train.sinks import Teller, open_sink
from tests.conftest import fit, fit_until


@pytest.fixture(autouse=True)
def _settings(monkeypatch):
    """What the sinks set for libraries ends with the test."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        monkeypatch.delenv(name)


def steps_of(out, key):
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [r["step"] for r in records if key in r]


def events(folder: Path):
    """What a reader of event files keeps: of steps that were taken again, what came last."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(folder.iterdir(), key=lambda p: p.stat().st_mtime_ns):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            event = Event.FromString(content[at + 12 : at + 12 + length])
            at += 16 + length
            if event.HasField("session_log"):
                found = [(step, name, value) for step, name, value in found if step < event.step]
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
    return found


def test_tensorboard_has_each_record_once_also_after_a_stop(run_file, tmp_path):
    run, out = Run.read(run_file, ['log.to=["tensorboard"]']), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        fit_until(run, out, 7)
    fit(run, out)
    found = events(out / "tensorboard")
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [(r["step"], pytest.approx(r["loss"], rel=1e-6)) for r in records if "loss" in r]
    assert [(step, value) for step, name, value in found if name == "loss"] == losses
    names = {name for _, name, _ in found}
    assert {"valid/loss", "train/loss", "step_ms/forward", "memory_bytes/host", "lr"} <= names


def test_mlflow_goes_on_with_its_run_and_has_each_record_once(run_file, tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run, out = Run.read(run_file, ['log.to=["mlflow"]']), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        fit_until(run, out, 7)
    client = MlflowClient((tmp_path / "mlruns").as_uri())
    id = json.loads((out / "mlflow.json").read_text())["run_id"]
    assert client.get_run(id).info.status == "FAILED"
    fit(run, out)
    found = client.get_run(id)
    assert found.info.status == "FINISHED"
    assert found.data.params["optimizer/lr"] == "0.003"
    for key, told in (("loss", "loss"), ("valid", "valid/loss"), ("train", "train/loss")):
        assert [metric.step for metric in client.get_metric_history(id, told)] == steps_of(out, key)
    experiments = [e for e in client.search_experiments() if e.name == "distgen"]
    assert [r.info.run_id for r in client.search_runs([e.experiment_id for e in experiments])] == [id]


def test_wandb_offline_takes_what_it_is_told(run_file, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    out = tmp_path / "out"
    fit(Run.read(run_file, ['log.to=["wandb"]']), out)
    (kept,) = (out / "wandb").glob("offline-run-*/*.wandb")
    assert json.loads((out / "wandb.json").read_text())["run_id"] in kept.name
    assert b"valid" in kept.read_bytes()


def test_a_server_that_is_gone_ends_no_training_and_is_told_of_once(run_file, tmp_path, monkeypatch, caplog):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setitem(TIMEOUTS, "told", 20.0)
    out = tmp_path / "out"
    with caplog.at_level(logging.WARNING, logger="distgen"):
        fit(Run.read(run_file, ['log.to=["mlflow"]']), out)
    said = [record.getMessage() for record in caplog.records if record.name == "distgen"]
    assert len([line for line in said if "mlflow cannot be told" in line]) == 1
    assert any("mlflow was not told of" in line for line in said)
    assert "secret" not in "".join(said)
    assert steps_of(out, "loss") == list(range(1, 13))


class Slow:
    """A place that takes nothing until it is let."""

    def __init__(self):
        self.let, self.told, self.closed = threading.Event(), [], None

    def add(self, step, values):
        self.let.wait()
        self.told.append((step, values))

    def close(self, status):
        self.closed = status


def test_a_slow_place_keeps_nobody_waiting_and_gets_all_in_the_end():
    place = Slow()
    teller = Teller("place", lambda: place)
    for step in range(1, 100):
        teller.add({"step": step, "steps": 100, "loss": 1.5, "valid": {"loss": 2, "auroc": {"cds+": 0.5}}, "name": "x"})
    assert place.told == []
    place.let.set()
    teller.close("finished")
    assert [step for step, _ in place.told] == list(range(1, 100))
    assert place.told[0][1] == {"loss": 1.5, "valid/loss": 2.0, "valid/auroc/cds+": 0.5}
    assert place.closed == "finished"


def test_a_place_that_never_answers_ends_in_bounded_time(monkeypatch, caplog):
    monkeypatch.setitem(TIMEOUTS, "told", 0.2)
    monkeypatch.setattr(sinks, "_QUEUED", 3)
    place = Slow()
    teller = Teller("place", lambda: place)
    with caplog.at_level(logging.WARNING, logger="distgen"):
        for step in range(50):
            teller.add({"step": step})
        teller.close("finished")
    said = [record.getMessage() for record in caplog.records]
    assert sum("cannot be told" in line for line in said) == 2  # that it is behind, and that it did not take the rest
    assert "was not told of" in said[-1]
    place.let.set()


def test_a_failure_in_between_loses_its_record_alone(caplog):
    class Flaky(Slow):
        def add(self, step, values):
            if step in (2, 4):
                raise ConnectionError("no")
            self.told.append(step)

    place = Flaky()
    teller = Teller("place", lambda: place)
    with caplog.at_level(logging.WARNING, logger="distgen"):
        for step in range(6):
            teller.add({"step": step})
        teller.close("finished")
    assert place.told == [0, 1, 3, 5]
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "place cannot be told: ConnectionError: no. Training goes on.",
        "place was not told of 2 records; metrics.jsonl has all",
    ]


def test_a_package_that_is_not_there_is_refused_with_what_brings_it(run_file, monkeypatch):
    monkeypatch.setattr(sinks, "PACKAGES", {"wandb": ("no_such_wandb", "distgen[wandb]")})
    with pytest.raises(ConfigError, match=r"log\.to: no_such_wandb cannot be imported.*pip install 'distgen\[wandb\]'"):
        Run.read(run_file, ['log.to=["wandb"]']).check()


def test_nothing_secret_is_told(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = {"name": "a", "data": {"store": "s3://key:secret@host/genome.zarr?token=secret"}}
    sink = open_sink("mlflow", tmp_path, run, 0)
    sink.add(1, {"loss": 1.0})
    id = json.loads((tmp_path / "mlflow.json").read_text())["run_id"]
    parameters = MlflowClient((tmp_path.parent / "mlruns").as_uri()).get_run(id).data.params
    assert parameters["data/store"] == "s3://host/genome.zarr"
