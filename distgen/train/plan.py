"""Which trials a sweep has, and which is trained next."""

from __future__ import annotations

import json
from importlib.util import find_spec
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import tomli_w

from distgen.config import Point, Range, Sweep, read
from distgen.errors import ConfigError
from distgen.train.trial import Trial, base, check, trials


class Told(NamedTuple):
    """What became of a configuration.

    Args:
        point: the configuration.
        values: by step, the mean of its trials' validations, as far as all of them came.
        state: "running", or how its trials ended: "done", "stopped", "failed".
    """

    point: Point
    values: dict[int, float]
    state: str


class Plan:
    """All trials of one configuration, then those of the next; first of all those that were begun in earlier times.

    Nothing is written before `begin`.

    Args:
        asked: the sweep.
        out: its directory.

    Raises:
        ConfigError: a value does not fit, or DIR is that of another sweep.
    """

    def __init__(self, asked: Sweep, out: Path):
        self.asked, self._out = asked, out
        self._made_up = asked.search == "optuna"
        if self._made_up and find_spec("optuna") is None:
            raise asked.error("search", "optuna is not installed. Run: pip install 'distgen[sweep]'")
        given = _far(asked) if self._made_up else list(asked.points())
        check(asked, out, given)
        self._refuse_other()
        self.steps = self._most_steps(given)
        self._points = self._earlier() if self._made_up else given
        self.trials = [t for number, point in enumerate(self._points) for t in trials(asked, out, number, point)]
        for trial in self.trials:
            trial.expect(asked)
        self._waiting = [trial for trial in self.trials if not trial.ended]
        self._samples = (asked.samples or 0) if self._made_up else len(given)

    @property
    def most(self) -> int:
        """Trials there may yet be, those that train as well; 0 if all have ended."""
        run = base(self.asked)
        repeats = len(self.asked.repeats(run.data.seed, run.data.split))
        return sum(not trial.ended for trial in self.trials) + max(self._samples - len(self._points), 0) * repeats

    def named(self, name: str) -> Trial:
        """A trial by its name."""
        return next(trial for trial in self.trials if trial.out.name == name)

    def begin(self) -> None:
        """Say in the directory which sweep it is of."""
        self._out.mkdir(parents=True, exist_ok=True)
        _write(self._out / "sweep.toml", tomli_w.dumps(_resolved(self.asked)))

    def next(self) -> Trial | None:
        """The trial to train now, its run directory made; None if there is no more."""
        while self._waiting or len(self._points) < self._samples:
            if not self._waiting:
                number, point = len(self._points), propose(self.asked, self._told())
                self._points.append(point)
                _write(self._out / "points.json", json.dumps(self._points, indent=1) + "\n")
                self._waiting = trials(self.asked, self._out, number, point)
                self.trials += self._waiting
            trial = self._waiting.pop(0)
            try:
                trial.begin(self.asked)
                return trial
            except ConfigError as error:  # made up between values that fit: it ends nothing but itself
                trial.end({"state": "failed", "error": error.problem})
        return None

    def _earlier(self) -> list[Point]:
        """The configurations that were made up before, in their order."""
        path = self._out / "points.json"
        found: list[Point] = json.loads(path.read_text()) if path.exists() else []
        return found

    def _told(self) -> list[Told]:
        told = []
        for number, point in enumerate(self._points):
            those = [trial for trial in self.trials if trial.number == number]
            series = [dict(trial.values(self.asked.metric)) for trial in those]
            steps = sorted(set(series[0]).intersection(*series))
            states = [(trial.outcome or {"state": "running"})["state"] for trial in those]
            state = next((s for s in ("running", "failed", "stopped") if s in states), "done")
            told.append(Told(point, {s: sum(one[s] for one in series) / len(series) for s in steps}, state))
        return told

    def _refuse_other(self) -> None:
        path = self._out / "sweep.toml"
        if not path.exists():
            return
        before, now = _resolved(read(path, Sweep)), _resolved(self.asked)
        differ = [key for key in sorted(before | now) if before.get(key) != now.get(key)]
        for key in differ:
            if key not in ("name", "samples", "parallel"):  # more samples only add trials
                problem = f"{self._out} is another sweep, whose {key} is {before.get(key, 'not given')}"
                raise self.asked.error(key, f"{problem}. Leave it as it was, or give another --out")

    def _most_steps(self, given: list[Point]) -> int:
        """The steps of the longest trial. Raises ConfigError: trials that cannot be stopped are to be."""
        runs = [base(self.asked, point).train for point in given]
        if self.asked.asha is None:
            return 0
        most = max(train.steps or 0 for train in runs)
        for train in runs:
            if train.steps is None or train.valid_every is None:
                problem = "trials are stopped after a validation, at so many steps: give the run train.steps and train.valid_every"
                raise self.asked.error("asha", problem)
        if self.asked.asha.grace_steps >= most:
            raise self.asked.error(
                "asha.grace_steps", f"no trial has more than {most} steps: all would be trained to the end"
            )
        return most


def propose(asked: Sweep, told: list[Told]) -> Point:
    """The next configuration, by what became of the others: a pure function of both, so that a sweep that goes on proposes
    what it would have (Akiba et al. 2019; the sampler is TPE)."""
    import optuna
    from optuna.trial import TrialState

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space: dict[str, Any] = {}
    for key, found in asked.values.items():
        if isinstance(found, list):  # what stands in a list need be no number or word: its place is
            space[key] = optuna.distributions.CategoricalDistribution(range(len(found)))
        elif found.whole:
            space[key] = optuna.distributions.IntDistribution(int(found.low), int(found.high), log=found.log)
        else:
            space[key] = optuna.distributions.FloatDistribution(found.low, found.high, log=found.log)
    # Streams of neighbouring seeds have nothing in common: each proposal has its own.
    sampler = optuna.samplers.TPESampler(seed=asked.draw(len(told)), constant_liar=True)
    study = optuna.create_study(sampler=sampler, direction="minimize" if asked.better == "min" else "maximize")
    states = {
        "running": TrialState.RUNNING,
        "failed": TrialState.FAIL,
        "stopped": TrialState.PRUNED,
        "done": TrialState.COMPLETE,
    }
    best = min if asked.better == "min" else max
    for point, values, state in told:
        params = {key: _place(asked, key, value) for key, value in point.items()}
        if state == "done" and not values:
            state = "failed"
        study.add_trial(
            optuna.trial.create_trial(
                state=states[state],
                value=best(values.values()) if state == "done" else None,
                params=params,
                distributions=space,
                intermediate_values=values,
            )
        )
    chosen = study.ask(space).params
    lists = {key: found for key, found in asked.values.items() if isinstance(found, list)}
    return {key: lists[key][value] if key in lists else value for key, value in chosen.items()}


def _place(asked: Sweep, key: str, value: Any) -> Any:
    found = asked.values[key]
    return found.index(value) if isinstance(found, list) else value


def _far(asked: Sweep) -> list[Point]:
    """Configurations that together have every value of every list, and both ends of every range."""
    values = {
        key: [found.low, found.high] if isinstance(found, Range) else found for key, found in asked.values.items()
    }
    most = max(map(len, values.values()))
    columns = [list(islice(cycle(some), most)) for some in values.values()]
    return [dict(zip(values, row, strict=True)) for row in zip(*columns, strict=True)]


def _resolved(asked: Sweep) -> dict[str, Any]:
    """A sweep as plain data, its run by an absolute path."""
    return asked.model_dump(exclude_none=True, mode="json") | {"run": str(asked.resolve(asked.run, "run"))}


def _write(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.writing")
    draft.write_text(text)
    draft.replace(path)
