"""Ray Train puts the loop on N workers and brings it back after a fault.

The driver (`distgen train`) starts Ray Train's controller, which starts the workers; a *desk* carries records from the
first worker to the driver, and the wish to leave the other way: the run directory need only exist on the driver's machine.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import ActorDiedError, RayError
from ray.train.torch import TorchConfig, get_device
from ray.train.v2._internal.constants import WORKER_GROUP_START_TIMEOUT_S_ENV_VAR
from ray.train.v2._internal.exceptions import RayTrainError
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback
from ray.train.v2._internal.execution.context import get_train_context
from ray.train.v2._internal.execution.controller.state import (
    InitializingState,
    ReschedulingState,
    ResizingState,
    RestartingState,
    SchedulingState,
)
from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.api.exceptions import ControllerError, PreemptionError, TrainingFailedError, WorkerGroupError
from ray.train.v2.torch.torch_trainer import TorchTrainer
from ray.util.metrics import Gauge
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distgen import cluster
from distgen.config import TIMEOUTS
from distgen.errors import ConfigError, DistgenError, LostError, PreemptedError, TrainError
from distgen.train.desk import Desk
from distgen.train.evaluation import validate
from distgen.train.loop import train
from distgen.train.records import Records
from distgen.train.run import Run
from distgen.train.signals import asked_to_leave
from distgen.train.worker import Worker

Show = Callable[[dict[str, Any]], None]
log = logging.getLogger("distgen")
_POLL = 0.5  # seconds between two looks at the desk
_RESIZE_EVERY = 60.0  # seconds between two looks at whether an elastic training may have more workers


def train_on_ray(run: Run, out: Path, show: Show, begin: Callable[[], None]) -> None:
    """Train a run on Ray Train workers.

    Args:
        run, out, show: see `distgen.train.launch.launch`.
        begin: called when there is room for the workers that the run asks for.

    Raises:
        ConfigError: there is none. TrainError: Ray or the workers did not start, or failed more often than they may.
        LostError: Ray or its controller went away. PreemptedError: the driver was asked to leave.
    """
    asks = run.cluster
    if asks.fewest < asks.most:
        # Of a node that has just died Ray still counts the room: soon after it counts again, and takes what there is.
        os.environ.setdefault(WORKER_GROUP_START_TIMEOUT_S_ENV_VAR, str(TIMEOUTS["regroup"]))
    cluster.connect((asks.fewest + asks.valid_aside) * asks.cpus_per_worker, asks.address or "")
    scaling = _scaling(run)
    each = scaling._resources_per_worker_not_none
    cluster.expect_room(each, asks.fewest + asks.valid_aside, asks.placement)
    new = not out.exists()
    begin()
    # Ray resumes silently what has the same name and place: its own folder goes as soon as it returns.
    scratch = out.resolve() / ".ray"
    shutil.rmtree(scratch, ignore_errors=True)
    mark = scratch / uuid.uuid4().hex
    mark.mkdir(parents=True)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    desk_class: Any = ray.remote(Desk)
    desk = desk_class.options(num_cpus=0, scheduling_strategy=here).remote()
    # A UserCallback hears less; what else is given is taken as it is.
    policy: Any = _Policy(desk, each, asks.fewest, asks.placement, asks.max_failures)
    trainer = TorchTrainer(
        partial(_worker, run, out.resolve(), mark, desk),
        torch_config=TorchConfig(timeout_s=int(TIMEOUTS["process_group"])),
        scaling_config=scaling,
        run_config=RunConfig(
            name=run.name,
            storage_path=str(scratch),
            failure_config=FailureConfig(max_failures=asks.max_failures),
            callbacks=[policy],
        ),
    )
    gauges = _gauges(run.name)

    def shown(record: dict[str, Any]) -> None:
        show(record)
        gauges(record)

    records = Records(out, shown, run)
    driver = _Driver(desk, records)
    try:
        driver.fit(trainer)
    except (RayError, TrainingFailedError) as error:
        raise _explained(error) from error
    finally:
        records.end("failed")  # unless the workers said how it ended
        shutil.rmtree(scratch, ignore_errors=True)
        if new and not driver.began and not any((out / "checkpoints").glob("step-*")):  # nobody ever trained
            shutil.rmtree(out, ignore_errors=True)


def _scaling(run: Run) -> ScalingConfig:
    asks = run.cluster
    gpus = cluster.has("GPU") if asks.gpus_per_worker is None else asks.gpus_per_worker
    return ScalingConfig(
        num_workers=asks.workers,
        use_gpu=bool(gpus),
        resources_per_worker={"CPU": asks.cpus_per_worker, **({"GPU": 1} if gpus else {}), **asks.resources},
        placement_strategy=asks.placement,
        accelerator_type=asks.accelerator,
        elastic_resize_monitor_interval_s=_RESIZE_EVERY,
    )


class _Driver:
    """Waits for a training, and keeps what it tells.

    Attributes:
        began: whether the workers ever trained.
    """

    def __init__(self, desk: Any, records: Records):
        self._desk, self._records, self.began = desk, records, False

    def fit(self, trainer: TorchTrainer) -> None:
        """Train to the end. In a thread of its own: in this one Ray would take Ctrl-C for a good end, and signals would wait."""
        ended: list[BaseException | None] = []

        def fit() -> None:
            try:
                trainer.fit()
                ended.append(None)
            except BaseException as error:
                ended.append(error)

        thread = threading.Thread(target=fit, name="distgen-fit", daemon=True)
        try:
            with asked_to_leave() as leaving:
                thread.start()
                while thread.is_alive():
                    thread.join(_POLL)
                    self._hear(leaving())
                self._hear(leaving())
        except BaseException:
            ray.shutdown()  # the controller and its workers belong to this driver, and end with it
            raise
        if ended[0] is not None:
            raise ended[0]

    def _hear(self, leaving: bool) -> None:
        for kind, value in ray.get(self._desk.take.remote(leaving), timeout=TIMEOUTS["desk"]):
            if kind == "begin":
                self.began = True
                self._records.begin(value)
            elif kind == "record":
                self._records.add(value)
            elif kind == "end":
                self._records.end(value)
            else:
                log.warning("%s", value)


class _Policy(ControllerCallback, WorkerGroupCallback):
    """In Ray's controller: what would fail again is not tried again, and workers that do not start are not waited for
    for ever.

    What a callback raises ends the training, if it is none of the errors that Ray starts workers again for.
    """

    def __init__(self, desk: Any, each: dict[str, float], fewest: int, placement: str, most: int):
        self._desk, self._each, self._fewest, self._placement = desk, each, fewest, placement
        self._most, self._failures, self._start = most, 0, TIMEOUTS["worker_start"]
        self._since: float | None = None
        self._resizing = False
        self._group: Any = None

    def after_worker_group_start(self, worker_group: Any) -> None:
        self._group = worker_group

    def before_controller_execute_resize_decision(self, resize_decision: Any) -> None:
        """Ray ends an elastic training's workers before it starts more or fewer: let them keep a checkpoint first."""
        if not self._resizing:
            return  # there are none yet, or no longer
        deadline = time.monotonic() + TIMEOUTS["process_group"]
        ray.get(self._desk.resize.remote(True), timeout=TIMEOUTS["desk"])
        while not (status := self._group.poll_status(timeout=1)).finished and time.monotonic() < deadline:
            if any(not isinstance(error, PreemptedError) for error in status.errors.values()):
                break  # then from the checkpoint before
            time.sleep(_POLL)  # reports wait to be polled
        ray.get(self._desk.resize.remote(False), timeout=TIMEOUTS["desk"])
        self._desk.tell.remote("warning", f"training goes on with {resize_decision.num_workers} workers")

    def after_worker_group_poll_status(self, worker_group_status: Any) -> None:
        if self._resizing:
            return
        drained = worker_group_status.get_preemption_info()
        for error in worker_group_status.errors.values():
            if isinstance(error, PreemptedError) and drained is not None:
                raise PreemptionError(drained)  # what was trained is kept: start again on other nodes
            if isinstance(error, PreemptedError) or (isinstance(error, DistgenError) and not error.passing):
                raise error

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        self._resizing = isinstance(current_state, ResizingState) or (
            self._resizing and isinstance(current_state, SchedulingState)
        )
        if isinstance(current_state, RestartingState) and not isinstance(previous_state, RestartingState):
            self._say(current_state.training_failed_error)
        starting = (InitializingState, SchedulingState, RestartingState, ReschedulingState)
        if not isinstance(current_state, starting):
            self._since = None
            return
        if self._since is None:
            self._since = time.monotonic()
        if time.monotonic() - self._since > self._start:
            wanted = cluster.asked(self._each, self._fewest, self._placement)
            last = getattr(current_state, "training_failed_error", None)
            reason = f". Ray says: {in_a_line(last)}" if last is not None else ""
            raise LostError(f"no workers could be started in {self._start:.0f} s: {wanted}{reason}")
        if type(previous_state) is type(current_state):
            time.sleep(_POLL)  # an elastic training looks for room without a pause

    def _say(self, error: TrainingFailedError) -> None:
        if isinstance(error, PreemptionError):
            why = "a node is taken away, and what was trained is kept"
        else:
            self._failures += 1
            why = f"{_explained(error)} (failure {self._failures}, of which {self._most} are allowed)"
        self._desk.tell.remote("warning", f"{why}; workers are started again from the newest checkpoint")


def _worker(run: Run, out: Path, mark: Path, desk: Any) -> None:
    if run.train.checkpoints is None and not mark.exists():
        raise ConfigError(
            f"the worker on {socket.gethostname()} does not see {out} of the machine where the training was started: "
            "checkpoints need a folder that all nodes share (--out), or an object store (train.checkpoints)"
        )
    context, sent = ray.train.get_context(), _Sent(desk)
    with _listening(desk, context.get_world_rank()) as leaving:
        train(
            run,
            Worker(
                rank=context.get_world_rank(),
                world_size=context.get_world_size(),
                device=get_device(),
                out=out,
                report=_report,
                leaving=leaving,
                records=sent,
                context=run.cluster.context,
                aside=partial(_validated, run) if run.cluster.valid_aside else None,
            ),
        )


def _validated(run: Run, path: str) -> Future[dict[str, Any]]:
    """Have a checkpoint validated by a task with a worker's resources, beside those of the workers."""
    each = dict(_scaling(run)._resources_per_worker_not_none)
    options = {"num_cpus": each.pop("CPU"), "num_gpus": each.pop("GPU", 0), "max_retries": 3}
    options |= {"memory": each.pop("memory", None), "resources": each}
    found: Future[dict[str, Any]] = (
        ray.remote(_validate).options(**options, scheduling_strategy="DEFAULT").remote(run, path).future()
    )
    return found


def _validate(run: Run, path: str) -> dict[str, Any]:
    return validate(run, path, torch.device("cuda", 0) if ray.get_gpu_ids() else torch.device("cpu"))


def _report(path: str, record: dict[str, Any]) -> None:
    """Tell Ray Train of a checkpoint: a barrier for all workers, with the bound that `distgen.cluster` gives it. Ray gets no
    `Checkpoint`: all it would do with one is to restore and to delete, and distgen does both, also without Ray."""
    ray.train.report(record | {"checkpoint": path})


class _Sent:
    """Records on their way to the driver."""

    def __init__(self, desk: Any):
        self._desk, self._writer = desk, uuid.uuid4().hex

    def begin(self, step: int) -> None:
        """See `Told`."""
        self._desk.tell.remote("begin", step, self._writer)

    def add(self, record: dict[str, Any]) -> None:
        """See `Told`."""
        self._desk.tell.remote("record", record, self._writer)

    def end(self, status: str) -> None:
        """See `Told`. Returns when all have arrived: calls of one worker are carried out in their order."""
        ray.get(self._desk.tell.remote("end", status, self._writer), timeout=TIMEOUTS["desk"])


@contextmanager
def _listening(desk: Any, rank: int) -> Iterator[Callable[[], bool]]:
    """Whether to leave: the driver was asked to (rank 0 hears of it), or Ray takes a node of the workers away.

    `ray.train.get_preemption_info` says the same and is a barrier, too slow for every step; all ranks agree in the step.
    """
    asked, done = threading.Event(), threading.Event()

    def listen() -> None:
        while not done.wait(2 * _POLL) and not asked.is_set():
            try:
                if ray.get(desk.leaving.remote(), timeout=TIMEOUTS["desk"]):
                    asked.set()
            except RayError:
                return  # the driver misses its desk as well, and ends the training

    if rank == 0:
        threading.Thread(target=listen, name="distgen-listen", daemon=True).start()
    preemption = get_train_context().preemption_context
    try:
        yield lambda: asked.is_set() or preemption.preemption_info is not None
    finally:
        done.set()


def _explained(error: Exception) -> Exception:
    """What ended a training, in the words of whoever knows it: one worker does, the others only lost it."""
    if isinstance(error, RayError):
        return LostError(f"Ray was lost ({in_a_line(error)}); go on with --resume, or let cluster.restarts do it")
    cause = getattr(error, "controller_failure", error)
    if isinstance(error, WorkerGroupError):
        cause = min(error.worker_failures.values(), key=_distance)
    if isinstance(cause, DistgenError):
        return cause
    kind = LostError if _distance(cause) != _OWN or isinstance(error, ControllerError) else TrainError
    return kind(f"training failed: {in_a_line(cause)}")


_OWN = 2


def _distance(error: Exception) -> int:
    """How far what a worker says may be from what is wrong: an explanation, a death, an exception of its own, the loss of
    another worker."""
    if isinstance(error, DistgenError):
        return 0
    if isinstance(error, RayTrainError):
        return 1
    lost = ("gloo", "NCCL", "Connection closed by peer", "Connection reset", "process group")
    return 3 if any(words in str(error) for words in lost) else _OWN


def in_a_line(error: BaseException) -> str:
    """An error in one line."""
    inner = getattr(error, "health_check_failure", error)
    said = str(inner).splitlines()
    if isinstance(inner, ActorDiedError):  # after a headline it lists ids, each line set in, and then says why
        said = [line for line in said[1:] if not line.startswith("\t")]
    what = "a worker or its node died" if isinstance(inner, ActorDiedError) else type(inner).__name__
    return f"{what}: {' '.join(' '.join(said).split())[:300]}" if said else what


def _gauges(run: str) -> Show:
    """Sets Prometheus metrics to what a record says: Ray serves them with its own, as ray_distgen_..., where its dashboard's
    packages are installed (`pip install 'ray[default]'`)."""
    names = {
        "step": "Steps taken",
        "loss": "Loss of training since the last record, nats per target",
        "valid_loss": "Loss of the last validation, nats per target",
        "norm": "Length of the gradient before clipping",
        "lr": "Learning rate",
        "bases_per_second": "Bases trained on in a second, all workers",
        "samples_per_second": "Windows trained on in a second, all workers",
        "wait_share": "Share of the time that the first worker waits for data",
        "mfu": "Model FLOPs utilization",
    }
    gauges = {name: Gauge(f"distgen_{name}", what, ("run",)) for name, what in names.items()}
    parts = Gauge("distgen_step_ms", "Milliseconds of a step that a part of it takes", ("run", "part"))
    memory = Gauge("distgen_memory_bytes", "The most memory that was in use", ("run", "kind"))

    def show(record: dict[str, Any]) -> None:
        values = record | ({"valid_loss": record["valid"]["loss"]} if "valid" in record else {})
        for name, gauge in gauges.items():
            if name in values:
                gauge.set(values[name], {"run": run})
        for gauge, key, tag in ((parts, "step_ms", "part"), (memory, "memory_bytes", "kind")):
            for name, value in record.get(key, {}).items():
                gauge.set(value, {"run": run, tag: name})

    return show
