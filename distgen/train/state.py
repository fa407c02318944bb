"""What training changes, and how it is looked at and kept."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

import distgen
from distgen import kernels
from distgen.errors import PreemptedError, TrainError
from distgen.evaluate.metrics import Values, measure
from distgen.loader.base import Loader
from distgen.loader.batch import Batch
from distgen.loader.mixture import MixtureLoader
from distgen.loader.sampled import Sampled
from distgen.train.checkpoint import Checkpoint, Checkpoints
from distgen.train.clock import Clock
from distgen.train.model import Schema
from distgen.train.optimizer import learning_rate
from distgen.train.profile import Profile
from distgen.train.records import Records, memory
from distgen.train.run import Run, Stores
from distgen.train.step import Learner
from distgen.train.watch import Watch
from distgen.train.worker import Worker

log = logging.getLogger("distgen")
_LAG = 8  # steps until what came out of one is looked at, so that no step waits for a device to have done it


class State:
    """A training between two steps.

    Args:
        store, loader, valid: what is read, and what serves it.
        learner: what a step changes.
        kept: the run's checkpoints.
        steps: of the whole training.
        clock: that the steps are timed by.

    Attributes:
        step: how many steps were taken.
        leaves: whether a worker was asked to leave; the same on all, at the same step.
        worse: how many validations there were since the best.
    """

    def __init__(
        self,
        run: Run,
        worker: Worker,
        store: Stores,
        learner: Learner,
        loader: Loader,
        valid: Loader | None,
        kept: Checkpoints,
        steps: int,
        clock: Clock,
    ):
        self.run, self.worker, self.learner, self.loader, self.steps = run, worker, learner, loader, steps
        self.clock, self.step, self.leaves, self.worse = clock, 0, False, 0
        self._watch = Watch(worker.out, worker.rank)
        self._store, self._valid, self._kept = store, valid, kept
        self._records = worker.records or Records(worker.out, worker.show, run)
        self._profile = Profile(worker.out / "profile", run.log.profile if worker.leads else None, clock)
        self._best, self._best_step = math.inf, 0
        self._arriving: deque[_Arriving] = deque()
        self._sums = _Sums()  # since the last record
        self._of: dict[int, _Sums] = {}  # likewise, by the row of a collection's store

    @property
    def ends(self) -> bool:
        """Whether the step before was the last, since all are taken, `train.patience` is at its end, or a worker leaves."""
        return self.step >= self.steps or self.leaves or self._impatient

    @property
    def _impatient(self) -> bool:
        return self.run.train.patience is not None and self.worse >= self.run.train.patience

    def batches(self) -> Iterator[Batch]:
        """The batches still to be trained on, epochs on end; fewer if training ends early."""
        if self.worker.leads:
            self._records.begin(self.step)
        self._profile.at(self.step)
        with self._watch.watching():
            while not self.ends:
                for batch in self.clock.waiting(self.loader):
                    self._watch.moved()
                    yield batch
                    if self.ends:
                        break

    def saw(self, sums: Tensor, batch: Batch) -> None:
        """Count a step; nothing waits for the device here.

        Raises:
            TrainError: its loss or gradient is not finite; names the windows.
        """
        self.step += 1
        source = None if batch.source is None else int(batch.source[0])  # all ranks' rows are of one store
        self._arriving.append(_Arriving(self.step, sums, source))
        self._look(until=self.step - (_LAG if sums.is_cuda else 0))
        self._profile.at(self.step)

    def _look(self, until: int) -> None:
        """See what came out of steps up to one, on all workers at the same step; sooner would be waiting for the device."""
        while self._arriving and (self.step == self.steps or self._arriving[0].step <= until):
            seen = self._arriving.popleft()
            total, count, leaving, norm, skipped = seen.numbers()
            if not math.isfinite(total + norm):
                self._refuse(seen.step, total, norm)
            self.leaves |= leaving > 0
            self._sums.add(total, count, norm, skipped)
            if seen.source is not None:
                self._of.setdefault(seen.source, _Sums()).add(total, count, norm, skipped)

    def _refuse(self, step: int, total: float, norm: float) -> None:
        """Raise TrainError: what a step's windows were."""
        self._kept.wait()  # what is being written is finished: all workers come here at the same step
        epoch, position = self.loader.plan.at_step(step - 1)
        _, found = self.loader.places(epoch, position)
        places = ", ".join(f"{place}({place.strand})" for place in found[:4])
        raise TrainError(
            f"the loss of step {step} is {total} and the gradient's norm {norm}; its {len(found)} windows began with {places} "
            f"(all of them: distgen samples {self.worker.out} --step {step}). {self._remedy}"
        )

    @property
    def _remedy(self) -> str:
        if self.learner.precision.dtype == torch.float16:
            return "Start another run with a lower optimizer.lr, or with more than float16 holds: train.precision bf16."
        return "Start another run with a lower optimizer.lr."

    def due(self, every: int | None) -> bool:
        """Is it time for what happens every so many steps, and after the last?"""
        return self.step == self.steps or (every is not None and self.step % every == 0)

    def log(self) -> None:
        """Record the mean loss per target and the speed since the last record; of a collection also of each store that was
        served: its loss, and how often all of it has been."""
        self._look(until=self.step)
        kernels.check(self.worker.device)
        sums, self._sums, of, self._of = self._sums, _Sums(), self._of, {}
        loss = sums.loss
        record: dict[str, Any] = {
            "loss": loss,
            "norm": sums.norm / max(sums.steps - sums.skipped, 1),
            "lr": learning_rate(self.run.optimizer, self.step - 1, self.steps),
            **self.clock.record(),
            "memory_bytes": memory(self.worker.device),
        }
        if self.learner.precision.dtype == torch.float16:
            record |= {"skipped": int(sums.skipped), "scale": self.learner.precision.scale}
        if self.run.objective.kind == "masked_lm":
            record["bits_per_base"] = loss / math.log(2)
        if isinstance(self.loader, MixtureLoader):
            epochs = self.loader.own_epochs(list(of)).items()
            record["stores"] = {
                name: {"loss": sums.loss, "epochs": own} for (name, own), sums in zip(epochs, of.values(), strict=True)
            }
        self._add(record)

    def _add(self, record: dict[str, Any]) -> None:
        if self.worker.leads:
            self._records.add({"step": self.step, "steps": self.steps, "epoch": self.loader.epoch} | record)

    def validate(self) -> bool:
        """Measure the whole validation part, if there is one, all ranks together; is this the best so far?"""
        if self._valid is None:
            return False
        with self.clock.paused(), self._watch.paused(), self.learner.updater.averaged():
            values = self._measure(self._valid)
            seen = self._measure(self._sample) if self._sample else None
        loss = values["loss"]
        assert isinstance(loss, float)
        better = loss < self._best
        self.worse = 0 if better else self.worse + 1
        if better:
            self._best, self._best_step = loss, self.step
        stopped = {"stopped": f"no better validation in {self.worse}"} if self._impatient else {}
        self._add({"valid": values} | ({"train": seen} if seen else {}) | stopped)
        return better

    def _measure(self, loader: Loader | Sampled) -> Values:
        return measure(self.learner.parallel.model, self.learner.objective, loader, self.learner.precision.dtype)

    @cached_property
    def _sample(self) -> Sampled | None:
        """Batches of the training part to measure beside the validation part, as that is: not shuffled, hidden or turned as
        in training, whose loss is another."""
        wanted = self.run.log.gap_batches
        if self._valid is None or not wanted:
            return None
        rank, world_size, device = self.worker.data_rank, self.worker.data_size, self.worker.device
        objective = self.learner.objective
        whole = self.run.loader(self._store, objective, "train", rank=rank, world_size=world_size, device=device)
        return Sampled(whole, min(wanted, len(self._valid)))

    def save(self) -> None:
        """Keep a checkpoint; without validation the newest is the best."""
        self._look(until=self.step)
        kernels.check(self.worker.device)
        with self.clock.paused(), self._watch.paused():
            self._report()
            state = {
                "step": self.step,
                "run": self.run.hash(),
                "store": self.run.identity(self._store, self.learner.objective),
                "schema": asdict(Schema.of(self.learner.objective)),
                "loader": self.loader.state_dict(),
                "best": None if math.isinf(self._best) else self._best,
                "best_step": self._best_step,
                "worse": self.worse,
                "precision": self.learner.precision.state(),
                "distgen": distgen.__version__,
                "made": self._made(),
            }
            # Without validation, and between two of them, it has the score of none.
            score = -self.step if self._valid is None else self._best if self._best_step == self.step else math.inf
            self._kept.save(self._tensors(), state, score)

    def _report(self) -> None:
        """Tell the launcher of the checkpoint before, at the same step on all ranks: it may wait for all of them."""
        if (path := self._kept.wait()) is not None:
            self.worker.report(path, {"step": self.step})

    def load(self, found: Checkpoint) -> None:
        """Go on where a checkpoint of this run was written."""
        found.load(self._tensors())
        self._compare(found)
        self.loader.load_state_dict(found.state["loader"])
        self.learner.precision.load(found.state["precision"])
        self.step, self._best_step, self.worse = (found.state[key] for key in ("step", "best_step", "worse"))
        self._best = math.inf if found.state["best"] is None else found.state["best"]

    def _made(self) -> dict[str, Any]:
        """What numbers depend on in their last bits, beside the run."""
        device = self.worker.device
        return {
            "torch": torch.__version__,
            "cpu": torch.backends.cpu.get_cpu_capability(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "world_size": self.worker.world_size,
            "micro_batch": self.learner.micro_batch,
            "precision": str(self.learner.precision.dtype).removeprefix("torch."),
            "deterministic": self.run.train.deterministic,
        }

    def _compare(self, found: Checkpoint) -> None:
        """Say what keeps a deterministic training from ending in the bits it would have without a stop."""
        now, before = self._made(), found.state["made"]
        differ = [f"{key} {before.get(key)}, now {value}" for key, value in now.items() if before.get(key) != value]
        if self.run.train.deterministic and differ and self.worker.leads:
            log.warning("%s was made with %s: the result may differ in rounding", found.path, "; ".join(differ))

    def _tensors(self) -> dict[str, Tensor]:
        """All that a step changes, by the names a checkpoint knows."""
        model = {f"model/{name}": value for name, value in self.learner.model.state_dict().items()}
        optimizer = {f"optimizer/{name}": value for name, value in self.learner.updater.tensors().items()}
        return model | optimizer | {f"ema/{name}": value for name, value in self.learner.updater.averages().items()}

    @contextmanager
    def told(self) -> Iterator[None]:
        """Inside, training goes on; whoever is told of it hears how it ended."""
        status = "failed"
        try:
            yield
            status = "finished"
        finally:
            self._profile.end(self.step)
            self._records.end(status)

    def close(self) -> None:
        """Tell of the last steps if training ended before its time, and wait for what is being written.

        Raises:
            PreemptedError: training ended because a worker was asked to leave.
        """
        if self._impatient and self._sums.steps:
            self.log()
        self._report()
        if self.leaves and self.step < self.steps:
            raise PreemptedError(f"asked to leave at step {self.step} of {self.steps}; go on with --resume")


@dataclass
class _Sums:
    """Of some steps."""

    total: float = 0.0
    count: float = 0.0
    norm: float = 0.0
    skipped: float = 0.0
    steps: int = 0

    def add(self, total: float, count: float, norm: float, skipped: float) -> None:
        self.total, self.count, self.norm = self.total + total, self.count + count, self.norm + norm
        self.skipped, self.steps = self.skipped + skipped, self.steps + 1

    @property
    def loss(self) -> float:
        """Per target."""
        return self.total / max(self.count, 1)


class _Arriving:
    """What came out of a step, on its way to the host."""

    def __init__(self, step: int, sums: Tensor, source: int | None):
        self.step, self.source, self._event = step, source, None
        if sums.is_cuda:
            self._sums = torch.empty(sums.shape, dtype=sums.dtype, pin_memory=True).copy_(sums, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._sums = sums

    def numbers(self) -> list[float]:
        """As numbers, when they are here."""
        if self._event is not None:
            self._event.synchronize()
        return self._sums.tolist()
