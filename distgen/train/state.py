"""What training changes, and how it is looked at and kept."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

import distgen
from distgen import kernels
from distgen.errors import CheckpointError, PreemptedError, TrainError
from distgen.evaluate.metrics import measure
from distgen.loader.base import Loader
from distgen.loader.batch import Batch
from distgen.loader.mixture import MixtureLoader
from distgen.objectives import Measured, guesses
from distgen.train.aside import Aside
from distgen.train.checkpoint import Checkpoint, Checkpoints
from distgen.train.clock import Clock
from distgen.train.evaluation import asked_model
from distgen.train.model import schema_of
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
        store, loader: what is read, and what serves it.
        judged: what is measured at each validation.
        aside: who measures it beside the training; None: all workers do.
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
        judged: dict[str, Any],
        kept: Checkpoints,
        aside: Aside | None,
        steps: int,
        clock: Clock,
    ):
        self.run, self.worker, self.learner, self.loader, self.steps = run, worker, learner, loader, steps
        self.clock, self.step, self.leaves, self.enough, self.worse = clock, 0, False, False, 0
        self._watch = Watch(worker.out, worker.rank)
        self._store, self._judged, self._kept, self._aside = store, judged, kept, aside

        self._records = worker.records or Records(worker.out, worker.show, run)
        self._profile = Profile(worker.out / "profile", run.log.profile if worker.leads else None, clock)
        self._best = math.inf
        self._found = (0, math.inf)  # the last validation's step and loss
        self._arriving: deque[_Arriving] = deque()
        self._sums = _Sums()  # since the last record
        self._of: dict[int, _Sums] = {}  # likewise, by the row of a collection's store

    @property
    def ends(self) -> bool:
        """Whether the step before was the last, since all are taken, `train.patience` is at its end, or a worker leaves."""
        return self.step >= self.steps or self.leaves or self.enough

    @property
    def _impatient(self) -> bool:
        return self.run.train.patience is not None and self.worse >= self.run.train.patience

    def asks(self) -> tuple[bool, bool]:
        """What this worker asks of all, who agree on it in the next step: to leave, and to end since nothing gets better."""
        return self.worker.leaving(), self._impatient

    def batches(self) -> Iterator[Batch]:
        """The batches still to be trained on, epochs on end; fewer if training ends early."""
        if self.worker.leads:
            self._records.begin(self.step)
        self.clock.begin()
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
        self._hear()
        self._profile.at(self.step)

    def _look(self, until: int) -> None:
        """See what came out of steps up to one, on all workers at the same step; sooner would be waiting for the device."""
        while self._arriving and (self.step == self.steps or self._arriving[0].step <= until):
            seen = self._arriving.popleft()
            total, count, leaving, enough, norm, skipped = seen.numbers()
            if not math.isfinite(total + norm):
                self._refuse(seen.step, total / max(count, 1), norm)
            self.leaves, self.enough = self.leaves or leaving > 0, self.enough or enough > 0
            self._sums.add(total, count, norm, skipped)
            if seen.source is not None:
                self._of.setdefault(seen.source, _Sums()).add(total, count, norm, skipped)

    def _refuse(self, step: int, loss: float, norm: float) -> None:
        """Raise TrainError: what a step's windows were, those of all workers on each of them."""
        with self._watch.paused():
            self._kept.wait()  # what is being written is finished: all workers come here at the same step
        whole = self.run.loader(self._store, self.learner.objective, "train", training=True)
        _, found = whole.places(*whole.plan.at_step(step - 1))
        places = ", ".join(f"{place}({place.strand})" for place in found[:4])
        raise TrainError(
            f"the loss of step {step} is {loss} and the gradient's norm {norm}; its {len(found)} windows began with {places} "
            f"(all of them: distgen samples {self.worker.out} --step {step}). {self._remedy}"
        )

    @property
    def _remedy(self) -> str:
        if self.learner.precision.dtype == torch.float16:
            return "Start another run with a lower optimizer.lr, or with more than float16 holds: train.precision bf16."
        return "Start another run with a lower optimizer.lr."

    def due(self, every: int | None, step: int | None = None) -> bool:
        """Is it time for what happens every so many steps, and after the last? Or was it, after a step?"""
        step = self.step if step is None else step
        return step == self.steps or (every is not None and step % every == 0)

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
        if self.run.objective.kind in guesses.KINDS:
            record["bits_per_base"] = loss / math.log(2)
        if isinstance(self.loader, MixtureLoader):
            epochs = self.loader.own_epochs(list(of)).items()
            record["stores"] = {
                name: {"loss": sums.loss, "epochs": own} for (name, own), sums in zip(epochs, of.values(), strict=True)
            }
        self._add(record)

    def _add(self, record: dict[str, Any], step: int | None = None) -> None:
        if self.worker.leads:
            here = {"step": step or self.step, "steps": self.steps, "epoch": self.loader.epoch}
            self._records.add(here | record)

    def validate(self) -> bool:
        """Measure the whole validation part, if there is one, all ranks together; is there something to keep: the best so far,
        or what is to be measured beside the training?"""
        if not self._judged or self._aside:
            return bool(self._judged)
        with self.clock.paused(), self._watch.paused(), self.learner.updater.averaged():
            objective, precision = self.learner.objective, self.learner.precision
            model = asked_model(self.run, self.learner.parallel.model, objective)
            found = {part: measure(model, objective, loader, precision.dtype) for part, loader in self._judged.items()}
        better = self._judge(self.step, found)
        self.enough |= self._impatient
        return better

    def _judge(self, step: int, found: dict[str, Any]) -> bool:
        """Record what a validation found; is it the best so far?"""
        loss = found["valid"]["loss"]
        better = bool(loss < self._best)
        self.worse = 0 if better else self.worse + 1
        self._best = loss if better else self._best
        self._found = (step, loss)
        self._add(found | ({"stopped": f"no better validation in {self.worse}"} if self._impatient else {}), step)
        return better

    def _hear(self, *, wait: bool = False) -> None:
        """Take in what was measured beside the training."""
        if self._aside and self.worker.leads:
            for step, found in self._aside.heard(wait=wait):
                self._judge(step, found)
                self._kept.rescore(step, found["valid"]["loss"])

    def save(self) -> None:
        """Keep a checkpoint; without validation the newest is the best. Where training ends before its time, also tell of
        the last steps."""
        self._look(until=self.step)
        if self.enough and self._sums.steps:
            self.log()
        kernels.check(self.worker.device)
        with self.clock.paused(), self._watch.paused():
            self._report()
            state = {
                "step": self.step,
                "run": self.run.hash(),
                "store": self.run.identity(self._store, self.learner.objective),
                "schema": asdict(schema_of(self.learner.objective)),
                "units": self.learner.objective.units if isinstance(self.learner.objective, Measured) else None,
                "loader": self.loader.state_dict(),
                "best": None if math.isinf(self._best) else self._best,
                "worse": self.worse,
                "since": [asdict(self._sums), [[row, asdict(sums)] for row, sums in self._of.items()]],
                "precision": self.learner.precision.state(),
                "distgen": distgen.__version__,
                "made": self._made(),
            }
            self._kept.save(self._tensors(), state, self._score)

    @property
    def _score(self) -> float | None:
        """What is known of the worth of these weights; None if that is being found out."""
        if not self._judged:
            return -self.step
        if self._aside and self.due(self.run.train.valid_every):
            return None
        step, loss = self._found
        return loss if step == self.step else math.inf

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
        self.step, self.worse = found.state["step"], found.state["worse"]
        sums, of = found.state["since"]
        self._sums, self._of = _Sums(**sums), {row: _Sums(**own) for row, own in of}
        self._best = math.inf if found.state["best"] is None else found.state["best"]
        self.enough = self._impatient
        if self._aside and self.worker.leads:
            for step, path in self._kept.unscored():
                if self.due(self.run.train.valid_every, step):
                    self._aside.ask(step, path)  # the training before ended before it heard

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
            if status == "failed" and self.worker.world_size == 1:  # with others it may be they who are gone
                with suppress(CheckpointError):
                    self._kept.wait()
            self._profile.end(self.step)
            self._records.end(status)

    def close(self) -> None:
        """Wait for what is being written, and for what is still being measured unless a worker leaves.

        Raises:
            PreemptedError: training ended because a worker was asked to leave.
        """
        self._report()
        early = self.leaves and self.step < self.steps
        self._hear(wait=not early)  # who goes on from here asks again
        self._kept.wait()
        if early:
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
