"""Linear models of what a window has: logistic regression of yes or no and of classes, ridge regression of numbers.

The sum of squares of the weights is penalised; how strongly is chosen on rows that are not fitted to, for each output by itself.
Fitted by L-BFGS in float64 (Liu and Nocedal 1989) on columns whose means are taken off, without making them dense.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from distgen.evaluate.kmers import Floats, Sparse
from distgen.genome import Bits

Kind = Literal["binary", "classes", "regression"]
STRENGTHS = (1e-2, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 1e-6)  # penalties of one row's loss, from the strongest to the weakest
_STEPS = 150


@dataclass(frozen=True)
class Answers:
    """What is to be predicted of some rows.

    Args:
        kind: "binary" for any number of independent questions, "classes", or "regression".
        values: float64 (N, O); of classes 1 in the column of the right one.
        weights: float64 (N, O), 0 where an answer is not known.
    """

    kind: Kind
    values: Floats
    weights: Floats

    def losses(self, scores: Floats) -> tuple[Floats, Floats]:
        """The weighted losses (N, O) of scores (N, O), and their derivatives."""
        if self.kind == "binary":
            losses, slopes = np.logaddexp(0, scores) - self.values * scores, _sigmoid(scores) - self.values
        elif self.kind == "classes":
            logs = scores - np.logaddexp.reduce(scores, 1, keepdims=True)
            losses, slopes = -self.values * logs, np.exp(logs) - self.values
        else:
            losses, slopes = (scores - self.values) ** 2 / 2, scores - self.values
        return losses * self.weights, slopes * self.weights

    def of(self, rows: Bits) -> Answers:
        """Those of some rows."""
        return Answers(self.kind, self.values[rows], self.weights[rows])


@dataclass(frozen=True)
class Linear:
    """Scores of rows: logits, or what a regression predicts.

    Args:
        weights: float64 (width, O).
        bias: float64 (O,).
        strengths: (O,) the penalty that was chosen for each output.
    """

    weights: Floats
    bias: Floats
    strengths: tuple[float, ...]

    def scores(self, rows: Sparse) -> Floats:
        """float64 (N, O)."""
        return rows.times(self.weights) + self.bias


def fit(rows: Sparse, answers: Answers, held_out: Bits) -> Linear:
    """Fit on the rows that are not held out, with the penalty that does best on those that are; that model is the result.

    Args:
        rows: of all windows.
        answers: theirs.
        held_out: bool (N,), which choose the penalty and are never fitted to.
    """
    fitted = ~held_out
    weighed, seen = answers.of(held_out), Answers(answers.kind, answers.values, answers.weights * fitted[:, None])
    problem = _Problem(rows, seen)
    best = np.full(answers.values.shape[1], np.inf)
    weights, bias = np.zeros((rows.width, len(best))), np.zeros(len(best))
    chosen, start = np.zeros(len(best)), problem.begin()
    for strength in STRENGTHS:
        found = Linear(*problem.solve(strength, start), ())
        start = np.concatenate([found.weights, found.bias[None]])
        losses, _ = weighed.losses(found.scores(rows)[held_out])
        of_output = losses.sum(0) if answers.kind != "classes" else np.full(len(best), losses.sum())
        better = of_output < best
        if not better.any():
            break  # weaker ones fit what is not there
        weights[:, better], bias[better], chosen[better] = found.weights[:, better], found.bias[better], strength
        best[better] = of_output[better]
    return Linear(weights, bias, tuple(chosen.tolist()))


def refit(rows: Sparse, answers: Answers, chosen: Linear) -> Linear:
    """Fit to all rows, with the penalties of a model of some of them."""
    start = np.concatenate([chosen.weights, chosen.bias[None]])
    return Linear(*_Problem(rows, answers).solve(np.array(chosen.strengths), start), chosen.strengths)


class _Problem:
    """The penalised mean loss over rows, in the weights of columns without their means: those are the bias's to explain."""

    def __init__(self, rows: Sparse, answers: Answers):
        self._rows, self._answers = rows, answers
        self._known = np.maximum(answers.weights.sum(0), 1e-12)
        self._means = rows.transposed_times(np.ones((len(rows), 1))) / max(len(rows), 1)

    def begin(self) -> Floats:
        """No weights, and for a regression the mean as bias."""
        begins = np.zeros((self._rows.width + 1, len(self._known)))
        if self._answers.kind == "regression":
            begins[-1] = (self._answers.values * self._answers.weights).sum(0) / self._known
        return begins

    def solve(self, strength: float | Floats, start: Floats) -> tuple[Floats, Floats]:
        """Weights and bias of the columns as they are, from others on."""
        parameters = torch.from_numpy(start.copy())
        parameters[-1] += torch.from_numpy((self._means * start[:-1]).sum(0))
        optimizer = torch.optim.LBFGS(
            [parameters], max_iter=_STEPS, tolerance_grad=1e-5, tolerance_change=1e-8, line_search_fn="strong_wolfe"
        )

        def closure() -> float:
            loss, slopes = self._loss(parameters.numpy(), strength)
            parameters.grad = torch.from_numpy(slopes)
            return loss

        optimizer.step(closure)
        weights, bias = parameters.numpy()[:-1], parameters.numpy()[-1]
        return weights.copy(), bias - (self._means * weights).sum(0)

    def _loss(self, parameters: Floats, strength: float | Floats) -> tuple[float, Floats]:
        weights, bias = parameters[:-1], parameters[-1]
        scores = self._rows.times(weights) - (self._means * weights).sum(0) + bias
        losses, slopes = self._answers.losses(scores)
        slopes /= self._known
        loss = (losses.sum(0) / self._known).sum() + (strength * weights**2).sum() / 2
        totals = slopes.sum(0)
        gradient = self._rows.transposed_times(slopes) - self._means * totals + strength * weights
        return float(loss), np.concatenate([gradient, totals[None]])


def _sigmoid(scores: Floats) -> Floats:
    return np.exp(-np.logaddexp(0, -scores))
