"""Many trainings of one run on Ray Tune: which come next, and which are stopped early.

DIR/trials/NAME is a run directory like any other. All that was found lies there as JSON, and a sweep that goes on reads it
from there: Tune's own state is pickled, and is thrown away.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from distgen import cluster
from distgen.config import TIMEOUTS, Cluster, Sweep
from distgen.errors import LostError, PreemptedError
from distgen.train.launch import taken
from distgen.train.plan import Plan
from distgen.train.signals import asked_to_leave
from distgen.train.trial import Outcome, Training, Trial, base

Show = Callable[[Trial, Outcome], None]


def sweep(asked: Sweep, out: Path, show: Show) -> list[Trial]:
    """Train every trial of a sweep that has not ended yet.

    Args:
        asked: which.
        out: its directory; what is there of this sweep goes on.
        show: called with "step" and "value" of each validation of a trial, and with how it ended ("state").

    Returns:
        All trials, also those that ended in earlier times.

    Raises:
        ConfigError: a value does not fit, or DIR is that of another sweep, or another process writes to it.
        TrainError: Ray did not start. LostError: it went away.
        PreemptedError: this process was asked to leave; trials have kept checkpoints.
    """
    plan = Plan(asked, out)
    if not plan.most:
        return plan.trials
    run = base(asked)
    cluster.connect(run.cluster.cpus_per_worker, run.cluster.address or "")
    each = _resources(asked, run.cluster)
    from ray.exceptions import RayError

    from distgen.train.ray import in_a_line

    with taken(out), asked_to_leave() as leaving:
        plan.begin()
        try:
            _tune(plan, out, each, run.cluster.max_failures, show, _Here(leaving))
        except RayError as error:
            raise LostError(f"Ray was lost ({in_a_line(error)}); go on with --resume") from None
        if leaving() and plan.most:
            raise PreemptedError(f"asked to leave, with {plan.most} trials that have not ended; go on with --resume")
    return plan.trials


class _Here:
    """What this process alone is asked. Tune pickles all it is given, for copies that nobody uses."""

    def __init__(self, asked: Callable[[], bool]):
        self._asked = asked

    def __call__(self) -> bool:
        return self._asked()

    def __reduce__(self) -> tuple[Any, ...]:
        return _Here, (bool,)  # says no


def _tune(
    plan: Plan, out: Path, each: dict[str, float], max_failures: int, show: Show, leaving: Callable[[], bool]
) -> None:
    """Have Tune train what the plan has yet, until this process is asked to leave."""
    asked = plan.asked
    os.environ.update(
        TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",  # each trial tells its own directory
        TUNE_DISABLE_SIGINT_HANDLER="1",
        TUNE_DISABLE_STRICT_METRIC_CHECKING="1",  # what fails before its first validation has none
        RAY_AIR_NEW_OUTPUT="0",  # the new one prints tables also when asked for nothing
        TUNE_FORCE_TRIAL_CLEANUP_S=str(int(TIMEOUTS["trial_stop"])),
    )
    scratch = out / ".ray"
    shutil.rmtree(scratch, ignore_errors=True)
    from ray import tune

    config = tune.TuneConfig(
        search_alg=_searcher(plan, show, leaving),
        scheduler=_asha(asked, plan) if asked.asha else None,
        num_samples=plan.most,
        max_concurrent_trials=asked.parallel or max(cluster.room(each, "PACK"), 1),
    )
    tuner = tune.Tuner(
        tune.with_resources(_trainable(), each),
        tune_config=config,
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(scratch.resolve()),
            verbose=0,
            stop=_stopper(leaving, each),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # trials have their own
            failure_config=tune.FailureConfig(max_failures=max_failures),
        ),
    )
    try:
        grid = tuner.fit()
        for result in (grid[number] for number in range(len(grid))):
            trial = plan.named(Path((result.config or {})["out"]).name)
            if result.error and trial.outcome is None:
                outcome = {"state": "failed", "error": f"its process died: {str(result.error).splitlines()[-1]}"}
                trial.end(outcome)
                show(trial, outcome)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _resources(asked: Sweep, asks: Cluster) -> dict[str, float]:
    """What a trial has. Raises ConfigError: no node of the Ray cluster has it."""
    gpus = float(cluster.has("GPU")) if asks.gpus_per_worker is None else asks.gpus_per_worker
    each = {"CPU": float(asks.cpus_per_worker), "GPU": gpus, **asks.resources}
    if asks.accelerator:
        each[f"accelerator_type:{asks.accelerator}"] = (
            0.001  # a node with such a GPU has one of it, for any number of tasks
        )
    with asked.at("run"):
        cluster.expect_room(each, 1, "PACK")
    return {name: amount for name, amount in each.items() if amount}


def _trainable() -> Any:
    """What Tune runs in a process of its own for every trial."""
    from ray import tune

    class DistgenTrial(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            self._training = Training(Path(config["out"]), config["metric"])

        def step(self) -> dict[str, Any]:
            result = self._training.step()
            return result | {"done": "state" in result}

        def cleanup(self) -> None:
            self._training.leave()

    return DistgenTrial


def _stopper(leaving: Callable[[], bool], each: dict[str, float]) -> Any:
    """What Tune asks, all the time, whether to stop all trials: it would wait for ever for nodes that are gone.

    Raises:
        LostError: when it is asked, and no node has had room for a trial for so long as a worker may take to start.
    """
    from ray.tune import Stopper

    class Leaving(Stopper):
        _looked = _had = time.monotonic()

        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return False

        def stop_all(self) -> bool:
            now = time.monotonic()
            if now - self._looked > 5:
                self._looked = now
                self._had = now if cluster.room(each, "PACK") else self._had
            if now - self._had > TIMEOUTS["worker_start"]:
                raise LostError(f"no node has had room for a trial for {now - self._had:.0f} s; go on with --resume")
            return leaving()

    return Leaving()


def _searcher(plan: Plan, show: Show, leaving: Callable[[], bool]) -> Any:
    """What Tune asks for trials, and tells of them."""
    from ray.tune.search import Searcher

    class Planned(Searcher):
        def __init__(self) -> None:
            super().__init__(metric="value", mode=plan.asked.better)
            self._trials: dict[str, Trial] = {}

        def suggest(self, trial_id: str) -> Any:
            trial = None if leaving() else plan.next()
            if trial is None:
                return Searcher.FINISHED
            self._trials[trial_id] = trial
            return {"out": str(trial.out.resolve()), "metric": plan.asked.metric}

        def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
            show(self._trials[trial_id], _said(result))

        def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
            if error or not result:  # its process died: what Tune knows of that is told when all have ended
                return
            if leaving() and "state" not in result:
                return  # it goes on later
            outcome = {"state": "stopped"} | _said(result)
            self._trials[trial_id].end(outcome)
            show(self._trials[trial_id], outcome)

        def save(self, checkpoint_path: str) -> None:
            """Nothing: what there is to keep lies in the trials' directories."""

    return Planned()


def _said(result: dict[str, Any]) -> Outcome:
    """What a trial said itself of all that Tune makes a result of."""
    return {key: result[key] for key in ("step", "value", "state", "error") if key in result}


def _asha(asked: Sweep, plan: Plan) -> Any:
    """The scheduler that stops trials, which knows what trials reached in earlier times."""
    from ray.tune.schedulers import ASHAScheduler

    assert asked.asha

    class Remembering(ASHAScheduler):
        def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
            super().on_trial_add(tune_controller, trial)
            name = Path(trial.config["out"]).name
            for _, recorded in self._brackets[0]._rungs:
                if name in recorded:
                    recorded[trial.trial_id] = recorded.pop(name)

    scheduler = Remembering(
        time_attr="step",
        metric="value",
        mode=asked.better,
        max_t=plan.steps,
        grace_period=asked.asha.grace_steps,
        reduction_factor=asked.asha.reduction,
    )
    sign = 1 if asked.better == "max" else -1
    for trial in plan.trials:
        for step, value in trial.values(asked.metric):
            known: Any = SimpleNamespace(trial_id=trial.out.name)
            scheduler._brackets[0].on_result(known, step, sign * value)
    return scheduler
