"""Many trainings of one run: which keys take which values, how often, and which of them are given up early."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from distgen.config.file import File, Name, NotNegative, Positive, Section, TableError

Point = dict[str, Any]  # values by the dotted keys of a run


class Range(Section):
    """Values from `low` to `high`, evenly, or with `log` evenly by their logarithm; whole numbers if both bounds are."""

    low: int | float
    high: int | float
    log: bool = False

    @model_validator(mode="after")
    def _check(self) -> Range:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"low {self.low} is not below high {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"low {self.low} has no logarithm")
        return self

    @property
    def whole(self) -> bool:
        """Only whole numbers are meant."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def at(self, share: float) -> int | float:
        """The value so far (0 to 1, which is no more reached) along the range."""
        # Of whole numbers each has a stretch of its own, the last one as well.
        low, high = self.low, self.high + 1 if self.whole else self.high
        value = low * (high / low) ** share if self.log else low + share * (high - low)
        return min(int(value), self.high) if self.whole else min(max(float(value), self.low), self.high)


Values = list[Any] | Range


class Asha(Section):
    """Asynchronous successive halving (Li et al. 2020): at `grace_steps`, and at every `reduction` times as many, a trial
    that is not among the best 1/`reduction` of those that came so far is stopped."""

    grace_steps: Positive
    reduction: Annotated[float, Field(ge=2, le=100)] = 4


class Sweep(File):
    """Trains a run with many configurations; `distgen sweep` reads it.

    `space` gives keys of the run (`optimizer.lr`) a list of values or a range { low, high, log }. `grid` trains every
    combination of lists; `random` draws `samples` configurations, `optuna` chooses them by what came before (TPE, Akiba et
    al. 2019). Each is trained with every seed of `seeds` as data.seed, and on each of the `folds` of the store:
    data.split names a [splits.NAME] of its recipe with as many, of which each tests on one and validates on the next. `metric`
    is one of the validation ("loss", "auprc.cds+"); higher is better with `mode = "max"`. `parallel` trials run at a time, by
    default as many as there is room for; each has the cores and GPUs that [cluster] of the run gives a worker.
    """

    name: Name | None = None
    run: str
    search: Literal["grid", "random", "optuna"] = "grid"
    space: dict[str, Any] = Field(default_factory=dict)
    samples: Positive | None = None
    seed: NotNegative = 0
    seeds: Annotated[tuple[NotNegative, ...], Field(strict=False)] = ()
    folds: Annotated[int, Field(ge=3, le=100)] | None = None
    metric: str = "loss"
    mode: Literal["min", "max"] | None = None
    asha: Asha | None = None
    parallel: Positive | None = None

    @model_validator(mode="after")
    def _check(self) -> Sweep:
        values = self.values
        if self.search == "grid":
            if self.samples:
                raise TableError("a grid trains every combination: leave samples out", "samples")
            for key, found in values.items():
                if isinstance(found, Range):
                    problem = 'a grid needs a list of values; a range is for search = "random" or "optuna"'
                    raise TableError(problem, "space", *key.split("."))
        elif not self.samples or not values:
            raise TableError(f'search = "{self.search}" needs samples, and a space to draw them from', "search")
        if len(set(self.seeds)) < len(self.seeds):
            raise TableError("a seed stands there twice", "seeds")
        for key, also in (("data.seed", "seeds"), ("data.split", "folds")):
            if key in values and getattr(self, also):
                raise TableError(f"{also} gives {key} its values already", "space", *key.split("."))
        for key in values:
            if key.split(".")[0] in ("name", "log", "cluster") or key in ("data.store", "train.checkpoints"):
                raise TableError("trials of a sweep do not differ in this: set it in the run", "space", *key.split("."))
        if self.asha and self.folds:
            raise TableError("folds are not equally hard, and trials are stopped beside others: leave one out", "asha")
        if self.mode is None and self.metric.partition(".")[0] not in _MODES:
            raise TableError(f'say whether "{self.metric}" is to be high or low: mode = "max" or "min"', "metric")
        return self

    @property
    def better(self) -> Literal["min", "max"]:
        """Which values of the metric are better."""
        return self.mode or _MODES[self.metric.partition(".")[0]]

    @property
    def values(self) -> dict[str, Values]:
        """What each key of the run may be, by its dotted name.

        Raises:
            TableError: it is neither a list of values nor a range.
        """
        return dict(_leaves(self.space, ()))

    def points(self) -> Iterator[Point]:
        """The configurations of a grid, or those that are drawn; more `samples` only add some."""
        values = self.values
        if self.search == "grid":
            lists = [found for found in values.values() if isinstance(found, list)]
            yield from (dict(zip(values, combined, strict=True)) for combined in itertools.product(*lists))
            return
        for number in range(self.samples or 0):
            yield {key: self._drawn(found, number, key) for key, found in values.items()}

    def _drawn(self, found: Values, number: int, key: str) -> Any:
        share = self.draw(number, key) / 2**32
        return found.at(share) if isinstance(found, Range) else found[int(share * len(found))]

    def draw(self, number: int, what: str = "") -> int:
        """A number below 2^32, the same on any machine; neighbouring seeds have nothing in common."""
        return int.from_bytes(hashlib.sha256(f"{self.seed}:{number}:{what}".encode()).digest()[:4], "big")

    def repeats(self, seed: int, split: str) -> list[Point]:
        """What the trials of one configuration differ in: seeds and folds of a run with this seed and this split."""
        folds = [f"{split}-{number}" for number in range(self.folds)] if self.folds else [split]
        return [{"data.split": fold, "data.seed": one} for fold in folds for one in self.seeds or (seed,)]


# Whether low or high is good, of metrics that need not be told.
_MODES: dict[str, Literal["min", "max"]] = {
    "loss": "min",
    "bits_per_base": "min",
    "accuracy": "max",
    "auroc": "max",
    "auprc": "max",
}


def _leaves(table: dict[str, Any], above: tuple[str, ...]) -> Iterator[tuple[str, Values]]:
    for name, value in table.items():
        key = (*above, *name.split("."))
        if isinstance(value, dict) and not value.keys() & Range.model_fields.keys():
            yield from _leaves(value, key)
            continue
        if isinstance(value, list):
            told = [json.dumps(one, sort_keys=True, default=str) for one in value]
            if not value or len(set(told)) < len(told):
                raise TableError("give values, each once", "space", *key)
            yield ".".join(key), value
        elif isinstance(value, dict):
            try:
                yield ".".join(key), Range.model_validate(value)
            except ValueError as error:
                problem = str(getattr(error, "errors", list)()[0]["msg"]).removeprefix("Value error, ")
                raise TableError(f"{{ low, high, log = false }} is a range: {problem}", "space", *key) from None
        else:
            raise TableError("give a list of values, or a range { low = .., high = .. }", "space", *key)
