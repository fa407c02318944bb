"""Places that are told what a training tells, by configuration: TensorBoard, MLflow, Weights & Biases."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import logging
import math
import os
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import Full, Queue
from typing import Any, Protocol

from distgen.config import TIMEOUTS
from distgen.errors import redact

log = logging.getLogger("distgen")

Values = dict[str, float]
# What has to be installed for each: the package that is imported, and what brings it.
PACKAGES = {
    "tensorboard": ("tensorboardX", "tensorboardX"),
    "mlflow": ("mlflow", "distgen[mlflow]"),
    "wandb": ("wandb", "distgen[wandb]"),
}
_QUEUED = 1000  # records that wait for a place that is slow, at most


class Sink(Protocol):
    """A place that is told; whatever it raises ends nothing but its own being told."""

    def add(self, step: int, values: Values) -> None:
        """The values of one record, such as "valid/loss"; those of a step may come in several."""

    def close(self, status: str) -> None:
        """No more will come: training "finished", or it "failed"."""


def missing(names: tuple[str, ...]) -> str | None:
    """What to install for the places that are asked for; None if all is there."""
    absent = [PACKAGES[name] for name in names if importlib.util.find_spec(PACKAGES[name][0]) is None]
    if not absent:
        return None
    modules = " and ".join(module for module, _ in absent)
    return f"{modules} cannot be imported here. Run: pip install {' '.join(repr(brings) for _, brings in absent)}"


def open_sink(name: str, folder: Path, run: dict[str, Any], step: int) -> Sink:
    """A place by its name in `log.to`, where a training goes on after a step without telling any twice.

    Args:
        folder: the run directory; what a place needs to go on is kept there.
        run: as it is written to run.toml. URIs are told without what may be secret in them.
        step: after which records come.
    """
    opened: dict[str, Callable[..., Sink]] = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": Wandb}
    return opened[name](folder, _flat(run), step)


class Teller:
    """Tells one place from a thread of its own: a server that is slow or gone stops no training. The first failure is a
    warning; what comes later is tried all the same.

    Args:
        name: of the place.
        opened: makes the sink; may take its time.
    """

    def __init__(self, name: str, opened: Callable[[], Sink]):
        self._name, self._opened, self._warned, self._lost = name, opened, False, 0
        self._queue: Queue[tuple[int, Values] | str] = Queue(_QUEUED)
        # A daemon: a server that never answers must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name=f"distgen-{name}", daemon=True)
        self._thread.start()

    def add(self, record: dict[str, Any]) -> None:
        """Have a record told, soon."""
        values = {key: float(value) for key, value in _flat(record).items() if isinstance(value, int | float)}
        step = int(values.pop("step"))
        values.pop("steps", None)
        try:
            self._queue.put_nowait((step, values))
        except Full:
            self._fails(f"it is {_QUEUED:,} records behind")

    def close(self, status: str) -> None:
        """Wait until all is told, at most `TIMEOUTS["told"]` seconds."""
        until = time.monotonic() + TIMEOUTS["told"]
        with contextlib.suppress(Full):
            self._queue.put(status, timeout=TIMEOUTS["told"])
        self._thread.join(max(until - time.monotonic(), 0))
        if self._thread.is_alive():
            self._lost += self._queue.qsize()
            self._warned = False
            self._fails("it did not take all in time")
        if self._lost:
            log.warning("%s was not told of %d records; metrics.jsonl has all", self._name, self._lost)

    def _run(self) -> None:
        sink: Sink | None = None
        while True:
            item = self._queue.get()
            try:
                if isinstance(item, str):
                    if sink is not None:
                        sink.close(item)
                    return
                sink = sink or self._opened()
                sink.add(*item)
            except Exception as error:  # a logger that fails is no reason for a training to
                self._lost += not isinstance(item, str)
                self._fails(f"{type(error).__name__}: {error}")
                if isinstance(item, str):
                    return

    def _fails(self, problem: str) -> None:
        if not self._warned:
            self._warned = True
            log.warning("%s cannot be told: %s. Training goes on.", self._name, redact(problem))


class TensorBoard:
    """Event files in DIR/tensorboard. A reader drops what an earlier file has of steps that are taken again."""

    def __init__(self, folder: Path, run: dict[str, Any], step: int):
        from tensorboardX import SummaryWriter

        # Its files are named by the second: a training that goes on within one would write over what was.
        suffix = f".{time.time_ns()}"
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1, filename_suffix=suffix)

    def add(self, step: int, values: Values) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self, status: str) -> None:
        self._writer.close()


class MLflow:
    """A run on the server that MLFLOW_TRACKING_URI names, or in files under `mlruns` beside the run directory.

    DIR/mlflow.json holds its id. What the server has of a step is not told again.
    """

    def __init__(self, folder: Path, run: dict[str, Any], step: int):
        uri = os.environ.get("MLFLOW_TRACKING_URI") or (folder.resolve().parent / "mlruns").as_uri()
        if "://" not in uri or uri.startswith("file:"):
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # asked for by name, or there is no other
        # Its own retries go on for minutes; records that fail are lost, not waited for.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._client, self._metric = MlflowClient(uri), Metric
        kept = folder / "mlflow.json"
        self._told = {"loss": 0, "valid/loss": 0}
        if kept.exists():
            self._id = json.loads(kept.read_text())["run_id"]
            self._client.update_run(self._id, status="RUNNING")
            for name in self._told:
                history = self._client.get_metric_history(self._id, name)
                self._told[name] = max((metric.step for metric in history), default=0)
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "distgen")
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        self._id = self._client.create_run(experiment, run_name=str(run["name"])).info.run_id
        parameters = [Param(key, redact(str(value))[:6000]) for key, value in run.items()]
        for first in range(0, len(parameters), 100):  # as many as a call takes
            self._client.log_batch(self._id, params=parameters[first : first + 100])
        _write(kept, {"run_id": self._id})

    def add(self, step: int, values: Values) -> None:
        kind = _kind(values)
        if step <= self._told[kind]:
            return
        now = int(time.time() * 1000)
        metrics = [self._metric(_plain(name), value, now, step) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics[:1000])
        self._told[kind] = step

    def close(self, status: str) -> None:
        self._client.set_terminated(self._id, "FINISHED" if status == "finished" else "FAILED")


class Wandb:
    """A run of Weights & Biases, whose settings are its own environment variables (WANDB_MODE, WANDB_PROJECT, ...).

    W&B drops what comes after a later step, as validation beside the training does: `step` is a metric of its own there, the
    axis of all others. DIR/wandb.json holds the run's id and up to where it was told.
    """

    def __init__(self, folder: Path, run: dict[str, Any], step: int):
        wandb = importlib.import_module("wandb")
        self._path = folder / "wandb.json"
        kept = {"run_id": secrets.token_hex(8), "loss": 0, "valid/loss": 0}
        self._kept: dict[str, Any] = json.loads(self._path.read_text()) if self._path.exists() else kept
        _write(self._path, self._kept)
        self._run = wandb.init(
            id=self._kept["run_id"],
            resume="allow",
            project=os.environ.get("WANDB_PROJECT", "distgen"),
            name=str(run["name"]),
            dir=str(folder),
            config={key: redact(value) if isinstance(value, str) else value for key, value in run.items()},
            settings=wandb.Settings(console="off", silent=True),
        )
        self._run.define_metric("*", step_metric="step")

    def add(self, step: int, values: Values) -> None:
        kind = _kind(values)
        if step > self._kept[kind]:
            self._run.log(values | {"step": step})
            self._kept[kind] = step
            _write(self._path, self._kept)

    def close(self, status: str) -> None:
        self._run.finish(exit_code=0 if status == "finished" else 1)


def _kind(values: Values) -> str:
    """Whether a record is of validation or of training: the two come in their own order."""
    return "valid/loss" if "valid/loss" in values else "loss"


def _flat(table: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Values by their whole names, such as "valid/loss"."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= _flat(value, f"{above}{key}/") if isinstance(value, dict) else {f"{above}{key}": value}
    return {key: value for key, value in found.items() if not (isinstance(value, float) and math.isnan(value))}


def _plain(name: str) -> str:
    """A name of the letters that MLflow takes."""
    return "".join(c if c.isalnum() or c in "_-. /" else {"+": "plus"}.get(c, "_") for c in name)


def _write(path: Path, content: dict[str, Any]) -> None:
    draft = path.with_suffix(".writing")
    draft.write_text(json.dumps(content) + "\n")
    draft.replace(path)
