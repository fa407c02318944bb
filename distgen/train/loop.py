"""The whole training, top to bottom. It knows nothing of Ray: any launcher that makes a `Worker` can run it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import distgen
from distgen import kernels, models
from distgen.errors import TrainError
from distgen.evaluate.metrics import measure
from distgen.loader.base import Loader
from distgen.loader.batch import Batch
from distgen.loader.mixture import MixtureLoader
from distgen.objectives import Objective
from distgen.train import checkpoint
from distgen.train.parallel import Worker, broadcast_parameters
from distgen.train.run import Run, Stores
from distgen.train.step import Stepped, learning_rate, make_optimizer, train_step


def train(run: Run, worker: Worker) -> None:
    """Train a run to its end, from its newest checkpoint if there is one.

    Args:
        run: what to train.
        worker: which rank this is; all ranks call this with the same run.
    """
    state = start_or_resume(run, worker)
    clock = Clock()
    while state.step < state.steps:
        for batch in clock.waiting(state.loader):
            stepped = train_step(
                state.model,
                state.objective,
                state.optimizer,
                batch,
                lr=learning_rate(run.optimizer, state.step, state.steps),
                clip_norm=run.optimizer.clip_norm,
                precision=state.precision,
            )
            state.step += 1
            clock.count(stepped, batch)
            if state.due(run.log.every):
                state.log(clock.record(batch, run, state.loader))
            with clock.paused():
                better = state.due(run.train.valid_every) and state.validate()
                if better or state.due(run.train.checkpoint_every):
                    clock.refuse_broken_numbers(batch)
                    state.save()
            if state.step == state.steps:
                break


@dataclass
class State:
    """What training changes, and how it is looked at and kept."""

    run: Run
    worker: Worker
    store: Stores
    objective: Objective
    model: nn.Module
    optimizer: torch.optim.Optimizer
    loader: Loader
    valid: Loader | None
    precision: torch.dtype
    steps: int
    step: int
    best: float
    best_step: int

    def due(self, every: int | None) -> bool:
        """Is it time for what happens every so many steps, and after the last?"""
        return self.step == self.steps or (every is not None and self.step % every == 0)

    def log(self, record: dict[str, Any]) -> None:
        """Add a record to metrics.jsonl and show it."""
        if self.worker.leads:
            record = {"step": self.step, "steps": self.steps, "epoch": self.loader.epoch} | record
            with (self.worker.out / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(record) + "\n")
            self.worker.show(record)

    def validate(self) -> bool:
        """Measure the whole validation part, if there is one, all ranks together; is this the best so far?"""
        if self.valid is None:
            return False
        values = measure(self.model, self.objective, self.valid, self.precision)
        loss = values["loss"]
        assert isinstance(loss, float)
        better = loss < self.best
        if better:
            self.best, self.best_step = loss, self.step
        self.log({"valid": values})
        return better

    def save(self) -> None:
        """Keep a checkpoint; without validation the newest is the best."""
        best = self.valid is None or self.best_step == self.step
        if self.worker.leads:
            checkpoint.save(
                self.worker.out / "checkpoints",
                self.model,
                self.optimizer,
                {
                    "step": self.step,
                    "run": self.run.hash(),
                    "store": self.run.identity(self.store, self.objective),
                    "loader": self.loader.state_dict(),
                    "best": None if math.isinf(self.best) else self.best,
                    "best_step": self.best_step,
                    "distgen": distgen.__version__,
                    "torch": torch.__version__,
                },
                keep=self.run.train.keep,
                best=best,
            )
        self.worker.wait_for_all()
        self.worker.report({"step": self.step})


class Clock:
    """Sums what happens between two logs: loss, bases, time, and the part of it spent waiting for data."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._since = time.perf_counter()
        self._waited, self._bases = 0.0, 0
        self._total, self._count = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        self._norm = torch.zeros(())
        self._of: dict[
            int, tuple[Tensor | float, Tensor | float]
        ] = {}  # by the row of a collection's store: loss and count

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside is no training, and counts for no speed."""
        began = time.perf_counter()
        yield
        self._since += time.perf_counter() - began

    def refuse_broken_numbers(self, batch: Batch) -> None:
        """Stop before anything is kept of steps whose loss or gradient was not finite; all ranks see the same sums.

        Raises:
            TrainError: names what this worker's last batch was made of.
            WindowError: a kernel was asked for bases beyond its plane since the last time.
        """
        kernels.check(batch.plane.device)
        loss, norm = float(self._total), float(self._norm)
        if not math.isfinite(loss + norm):
            places = ", ".join(f"{place}({place.strand})" for place in batch.where()[:4])
            raise TrainError(
                f"the loss is {loss} and the gradient's norm {norm}; the last batch began with {places}. "
                "Start another run with a lower optimizer.lr."
            )

    def count(self, stepped: Stepped, batch: Batch) -> None:
        """Add a step's loss; nothing waits for the device here."""
        if batch.source is not None:  # all ranks' rows are of one store
            total, count = self._of.get(row := int(batch.source[0]), (0.0, 0.0))
            self._of[row] = total + stepped.total, count + stepped.count
        self._total, self._count = self._total + stepped.total, self._count + stepped.count
        self._norm = self._norm + stepped.norm

    def waiting(self, loader: Loader) -> Iterator[Batch]:
        """The loader's batches; the time until each comes is counted as waiting."""
        batches = iter(loader)
        while True:
            began = time.perf_counter()
            batch = next(batches, None)
            self._waited += time.perf_counter() - began
            if batch is None:
                return
            self._bases += loader.batch_size * batch.length
            yield batch

    def record(self, batch: Batch, run: Run, loader: Loader) -> dict[str, Any]:
        """The mean loss per target and the speed since the last record; of a collection also of each store that was
        served: its loss, and how often all of it has been."""
        self.refuse_broken_numbers(batch)
        loss = float(self._total / self._count.clamp(min=1))
        seconds = time.perf_counter() - self._since
        record: dict[str, Any] = {
            "loss": loss,
            "bases_per_second": self._bases / seconds,
            "wait_share": self._waited / seconds,
        }
        if run.objective.kind == "masked_lm":
            record["bits_per_base"] = loss / math.log(2)
        if isinstance(loader, MixtureLoader):
            epochs = loader.own_epochs(list(self._of)).items()
            losses = [float(total) / max(float(count), 1) for total, count in self._of.values()]
            record["stores"] = {
                name: {"loss": loss, "epochs": own} for (name, own), loss in zip(epochs, losses, strict=True)
            }
        self._reset()
        return record


def start_or_resume(run: Run, worker: Worker) -> State:
    """Everything as it was at the newest checkpoint of this run directory, or new."""
    if run.train.threads:
        torch.set_num_threads(run.train.threads)
    store = run.open_store()
    objective = run.build_objective(store)
    ranks: dict[str, Any] = {"rank": worker.rank, "world_size": worker.world_size, "device": worker.device}
    loader = run.loader(store, objective, "train", training=True, **ranks)
    valid = run.loader(store, objective, "valid", **ranks) if run.has("valid", store) else None
    torch.manual_seed(run.data.seed)
    model = models.build(run.model, objective.in_channels, objective.out_channels).to(worker.device)
    optimizer = make_optimizer(run.optimizer, model)
    state = State(
        run,
        worker,
        store,
        objective,
        model,
        optimizer,
        loader,
        valid,
        run.precision(worker.device),
        steps=run.train.steps or loader.plan.steps(run.train.epochs or 0),
        step=0,
        best=math.inf,
        best_step=0,
    )
    found = checkpoint.newest(worker.out / "checkpoints")
    if found is not None:
        found.expect(run=run.hash(), store=run.identity(store, objective))
        found.load(model, optimizer)
        loader.load_state_dict(found.state["loader"])
        state.step, state.best_step = found.state["step"], found.state["best_step"]
        state.best = math.inf if found.state["best"] is None else found.state["best"]
    if worker.leads:
        forget_later_records(worker.out, state.step)
    broadcast_parameters(model)
    return state


def forget_later_records(out: Path, step: int) -> None:
    """Drop the records of steps that were taken but not kept (they are taken again), and a line cut short."""
    path = out / "metrics.jsonl"
    if path.exists():
        whole = (line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n"))
        path.write_text("".join(line for line in whole if json.loads(line)["step"] <= step))
