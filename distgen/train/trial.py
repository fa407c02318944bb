"""One training of a sweep: what it is called and trained on, and how it hands its validations over. Nothing here knows Ray."""

from __future__ import annotations

import json
import math
import os
import queue
import threading
import time
from dataclasses import dataclass
from fcntl import LOCK_EX
from pathlib import Path
from typing import Any

import tomli_w
import torch

from distgen.config import TIMEOUTS, Point, Sweep, digest
from distgen.errors import ConfigError, DistgenError, PreemptedError, TrainError
from distgen.evaluate.metrics import named_value
from distgen.store.locks import locked
from distgen.train.checkpoint import open_checkpoint
from distgen.train.evaluation import evaluate
from distgen.train.loop import train
from distgen.train.records import read_records
from distgen.train.run import Run
from distgen.train.worker import Worker

Outcome = dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """One run directory of a sweep.

    Args:
        out: DIR/trials/NAME.
        number: of the configuration, from 0 on.
        point: what the configuration sets in the run.
        repeat: the seed and the split that tell it from other trials of the same configuration.
    """

    out: Path
    number: int
    point: Point
    repeat: Point

    def run(self, sweep: Sweep) -> Run:
        """The whole run of this trial. Raises ConfigError: its values do not fit each other."""
        values, kept = self.repeat | self.point, base(sweep).train.checkpoints
        if kept:  # in a place of their own there
            values["train.checkpoints"] = f"{kept.rstrip('/')}/{self.out.name}"
        return base(sweep, values).model_copy(update={"name": self.out.name})

    @property
    def outcome(self) -> Outcome | None:
        """How it ended: "state" is done, stopped or failed; None if it has not."""
        path = self.out / "outcome.json"
        return json.loads(path.read_text()) if path.exists() else None

    @property
    def ended(self) -> bool:
        """It is not to be trained any further; what failed is tried again."""
        return self.outcome is not None and self.outcome["state"] != "failed"

    def end(self, outcome: Outcome) -> None:
        """Keep how it ended."""
        draft = self.out / ".outcome.writing"
        draft.write_text(json.dumps(outcome, indent=1) + "\n")
        draft.replace(self.out / "outcome.json")

    def begin(self, sweep: Sweep) -> None:
        """Make the run directory, if it is not there."""
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "outcome.json").unlink(missing_ok=True)
        self.run(sweep).write(self.out / "run.toml")

    def expect(self, sweep: Sweep) -> None:
        """Refuse a run directory of another trial. Raises ConfigError: what differs."""
        path = self.out / "run.toml"
        if not path.exists():
            return
        run, before = self.run(sweep), Run.read(path)
        differ = run.differences(path)
        for key in ("steps", "epochs"):  # trials of a sweep are compared: all of them are to be trained as long
            now, then = getattr(run.train, key), getattr(before.train, key)
            differ += [f"train.{key} {then}, now {now}"] * (now != then)
        if differ:
            raise ConfigError(
                f"{path} is another trial: {'; '.join(differ)}. Leave it as it was, or give another --out"
            )

    def values(self, metric: str) -> list[tuple[int, float]]:
        """The validations so far, by their steps."""
        found = [(r["step"], named_value(r["valid"], metric)) for r in read_records(self.out) if "valid" in r]
        return [(step, value) for step, value in found if value is not None]


def base(sweep: Sweep, values: Point | None = None) -> Run:
    """The run that a sweep is about, with some of its keys set."""
    path = sweep.resolve(sweep.run, "run")
    return Run.read(path, [f"{key}={tomli_w.dumps({'v': value})[4:]}" for key, value in (values or {}).items()])


def trials(sweep: Sweep, folder: Path, number: int, point: Point) -> list[Trial]:
    """The trials of one configuration: one for each fold and seed."""
    run = base(sweep)
    found = []
    for repeat in sweep.repeats(run.data.seed, run.data.split):
        fold = f"-{repeat['data.split']}" if sweep.folds else ""
        seed = f"-seed{repeat['data.seed']}" if sweep.seeds else ""
        own = {key: value for key, value in repeat.items() if key not in point}
        found.append(Trial(folder / "trials" / f"{number:03d}{fold}{seed}", number, point, own))
    return found


def check(sweep: Sweep, folder: Path, points: list[Point]) -> None:
    """Refuse what could not be trained, before anything is trained.

    Args:
        points: the configurations; of a search that makes them up as it goes, some that reach as far as it may.

    Raises:
        ConfigError: the key of the sweep and its line, and what is wrong with which value of it.
    """
    with sweep.at("run"):
        run = base(sweep)
    if run.cluster.workers != 0:
        problem = "a trial of a sweep is trained in one process. Set cluster.workers = 0 there; `parallel` says how many train"
        raise sweep.error("run", f"{run.path} asks for {run.cluster.workers} workers: {problem}")
    for key, instead in _WITHOUT.items():
        if getattr(run.cluster, key):
            raise sweep.error("run", f"{run.path} has cluster.{key}: {instead}")
    # Nodes of another cluster may have other devices.
    elsewhere = run.cluster.address or os.environ.get("RAY_ADDRESS")
    device = None if elsewhere else _device()
    seen: set[str] = set()
    for number, point in enumerate(points):
        if (error := _refusal(trials(sweep, folder, number, point), sweep, device, seen)) is None:
            continue
        for key, value in point.items():  # if it is one value that does not fit, that is said
            alone = _refusal(trials(sweep, folder, 0, {key: value}), sweep, device, set())
            if alone and alone.problem == error.problem:
                point, at = {key: value}, f"space.{key}"
                break
        else:
            at = "folds" if sweep.folds and not point else "space" if point else "run"
        values = ", ".join(f"{name} = {json.dumps(value)}" for name, value in point.items())
        hint = ""
        if sweep.folds and "has no split" in str(error):
            hint = f". A store has them if its recipe says [splits.{run.data.split}] folds = {sweep.folds}"
        raise sweep.error(at, f"{values}{': ' if values else ''}{error.problem}{hint}")


def _refusal(some: list[Trial], sweep: Sweep, device: torch.device | None, seen: set[str]) -> ConfigError | None:
    """Why a configuration's trials cannot be trained; None if they can. `seen` keeps what was looked at, to do it once."""
    try:
        for trial in some:
            made = trial.run(sweep)
            # Opening a store takes a while, and rates of learning say nothing about it.
            table = made.resolved()
            del table["name"], table["data"]["seed"]
            table["optimizer"] = table["optimizer"]["kind"]
            if digest(table) in seen:
                continue
            seen.add(digest(table))
            made.check(device=device)
            store = made.open_store()
            if not made.has("valid", store):
                problem = f'split "{made.data.split}" of {store.path} has no part "valid", by which a sweep compares'
                raise ConfigError(problem)
    except ConfigError as error:
        return error
    return None


_WITHOUT = {
    "valid_aside": "a trial waits after each validation until it is told to go on. Leave it out",
    "restarts": "a sweep that was interrupted goes on with distgen sweep --resume. Leave it out",
}


def _device() -> torch.device:
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


class Training:
    """A trial that trains in a thread, and waits after each validation until it is told to go on.

    Args:
        trial: whose DIR has its run.toml.
        metric: which one of the validation is handed over.
    """

    def __init__(self, out: Path, metric: str):
        self._out, self._metric = out, metric
        self._results: queue.Queue[Outcome] = queue.Queue()
        self._pending: Outcome = {}
        self._on, self._leave = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._train, name="distgen-trial", daemon=True)
        self._thread.start()

    def step(self) -> Outcome:
        """Go on until the next validation, or the end.

        Returns:
            "step" and "value" of the newest validation; at the end also "state", and of what failed "error".
        """
        self._on.set()
        while True:
            try:
                return self._results.get(timeout=1)
            except queue.Empty:
                if not self._thread.is_alive() and self._results.empty():
                    raise TrainError(f"the thread that trained {self._out} is gone") from None

    def leave(self) -> None:
        """Have it keep a checkpoint and end; wait for that."""
        self._leave.set()
        self._on.set()
        self._thread.join(TIMEOUTS["trial_stop"])

    def _train(self) -> None:
        try:
            lock = _lock(self._out)
            try:
                worker = Worker(0, 1, _device(), self._out, self._show, leaving=self._leaving)
                train(Run.read(self._out / "run.toml"), worker)
                measured(self._out)
            finally:
                os.close(lock)
            self._results.put(self._pending | {"state": "done"})
        except PreemptedError:
            self._results.put(self._pending | {"state": "stopped"})
        except Exception as error:  # whatever it is: other trials go on, and it is told at the end
            kind = "" if isinstance(error, DistgenError) else f"{type(error).__name__}: "
            self._results.put(self._pending | {"state": "failed", "error": f"{kind}{error}"})

    def _show(self, record: dict[str, Any]) -> None:
        if "valid" not in record:
            return
        value = named_value(record["valid"], self._metric)
        if value is None:
            raise TrainError(f'the validation has no "{self._metric}"; it has {", ".join(record["valid"])}')
        if not math.isfinite(value):
            raise TrainError(f'the "{self._metric}" of the validation of step {record["step"]} is {value}')
        self._pending = {"step": record["step"], "value": value}

    def _leaving(self) -> bool:
        # A step begins, so what a validation found to be the best so far is kept already.
        if self._pending:
            self._on.clear()
            self._results.put(self._pending)
            self._pending = {}
            while not self._on.wait(1) and not self._leave.is_set():
                pass
        return self._leave.is_set()


def measured(out: Path) -> dict[str, Any]:
    """How the best checkpoint of a trial does on the validation part, by contig; measured once, and kept in its directory."""
    run, path = Run.read(out / "run.toml"), out / "evaluate-valid.json"
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_text())
        if found["checkpoint"] == str(open_checkpoint(run.checkpoints(out) / "best").path) and (
            "by_unit" in found or run.data.packed
        ):
            return found
    _, found = evaluate(out, "valid", by_contig=not run.data.packed)
    draft = out / ".evaluate-valid.writing"
    draft.write_text(json.dumps(found, indent=1) + "\n")
    draft.replace(path)
    return found


def _lock(out: Path) -> int:
    """Have a trial's directory for this process alone: a trainer whose driver was killed may live for some seconds more."""
    end = time.monotonic() + TIMEOUTS["worker_start"]
    while (file := locked(out / ".lock", LOCK_EX, os.O_CREAT)) is None:
        if time.monotonic() > end:
            raise TrainError(f"another process trains {out}, for more than {TIMEOUTS['worker_start']:.0f} s")
        time.sleep(0.2)
    return file
