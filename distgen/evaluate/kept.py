"""Predictions of windows that have one answer each, or of bins, kept so that metrics can be taken of any resample of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from distgen.evaluate.kmers import Floats
from distgen.evaluate.logistic import Answers, Kind
from distgen.genome import Bits, Int64, Interval
from distgen.loader.batch import Batch
from distgen.objectives import Binned, Objective

KINDS: dict[str, Kind] = {  # how the answers of a question are taken
    "binary": "binary",
    "multilabel": "binary",
    "classes": "classes",
    "regression": "regression",
    "base_classes": "binary",
    "track": "regression",
}


@dataclass(frozen=True)
class Predictions:
    """What was predicted of windows (or bins of windows), and what is true.

    Args:
        kind: see `Answers`.
        outputs: names of the O outputs.
        scores: float64 (N, O), logits or predicted numbers.
        truth: float64 (N, O); of classes 1 in the column of the right one.
        known: bool (N, O), whether there is an answer.
        units: int64 (N,), in which unit of resampling each lies, from 0 on.
    """

    kind: Kind
    outputs: tuple[str, ...]
    scores: Floats
    truth: Floats
    known: Bits
    units: Int64

    def of(self, rows: Bits) -> Predictions:
        """Those of some windows (N,)."""
        units = np.unique(self.units[rows], return_inverse=True)[1].reshape(-1)
        return Predictions(self.kind, self.outputs, self.scores[rows], self.truth[rows], self.known[rows], units)


def answers_of(kind: Kind, target: Tensor, valid: Tensor, outputs: int) -> Answers:
    """Targets and their validity, as an objective encodes them, a column for each output."""
    values, known = target.detach().cpu().double().numpy(), valid.detach().cpu().double().numpy()
    if kind == "classes":
        right, known = values.reshape(len(values), -1)[:, 0], known.reshape(len(known), -1)[:, :1]
        values = (right[:, None] == np.arange(outputs)).astype(np.float64)
    known = np.broadcast_to(known.reshape(len(values), -1), values.shape).copy()
    return Answers(kind, np.where(known > 0, values, 0.0), known)


class Kept:
    """Collects the predictions of a whole part; see `distgen.evaluate.metrics.Collector`.

    Args:
        kind: of answers.
        unit: the unit that a window lies in; None: each is one by itself, as the sequences of a table are.
        logs: what is predicted is the log of what is true, as of Poisson rates.
    """

    def __init__(self, kind: Kind, unit: Callable[[Interval], str] | None = None, *, logs: bool = False):
        self._kind, self._unit, self._logs = kind, unit, logs
        self._scores: list[Floats] = []
        self._answers: list[Answers] = []
        self._units: list[str] = []
        self._outputs: tuple[str, ...] = ()

    def update(self, objective: Objective, batch: Batch, logits: Tensor, target: Tensor, valid: Tensor) -> None:
        """Add a batch of predictions (B, O, 1), or (B, O, L) along windows."""
        counted, self._outputs, bins = batch.weight > 0, objective.outputs, 1
        logits, target, valid = logits[counted], target[counted], valid[counted]
        if objective.window is None:
            assert isinstance(objective, Binned)
            bins = target.shape[1]
            found = objective.predictions(logits, bins).flatten(0, 1)
            target, valid = target.flatten(0, 1), valid.flatten(0, 1)
        else:
            found = logits[..., 0]
        scores = found.detach().cpu().double()
        self._scores.append((scores.exp() if self._logs else scores).numpy())
        self._answers.append(answers_of(self._kind, target, valid, len(objective.outputs)))
        if self._unit is not None:
            some = counted.cpu().tolist()
            units = [self._unit(place) for place, counts in zip(batch.where(), some, strict=True) if counts]
            self._units += [unit for unit in units for _ in range(bins)]

    def predictions(self) -> Predictions:
        """All of them, in the order in which they came."""
        scores = np.concatenate(self._scores)
        truth = np.concatenate([answers.values for answers in self._answers])
        known = np.concatenate([answers.weights for answers in self._answers]) > 0
        units = np.arange(len(scores))
        if self._unit is not None:
            units = np.unique(self._units, return_inverse=True)[1].reshape(-1)
        return Predictions(self._kind, self._outputs, scores, truth, known, units)
