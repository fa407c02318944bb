"""What the answers of the training part are like: how often each is yes, which classes there are, where values lie.

Counted over the windows of an epoch, as often as a training draws them, but neither moved nor turned: so pools and their shares,
regions, strides and exclusions count as they train.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from distgen.errors import ConfigError, some
from distgen.loader.batch import Batch
from distgen.objectives.source import Answers

if TYPE_CHECKING:
    from distgen.objectives import Objective

Served = Callable[
    ["Objective", str], Iterable[Batch]
]  # the windows of a part, with the tracks that an objective asks for
MOST = 100.0  # what a rare answer weighs, at most: beyond, a step follows one window


@runtime_checkable
class Answered(Protocol):
    """A question of which a part of a split may know too little."""

    def lacks(self, batches: Iterable[Batch]) -> str:
        """What is missing in the answers of a part to learn from them or to measure by them; "" if nothing is."""


def counts(
    answers: Callable[[Batch], tuple[Tensor, Tensor]],
    batches: Iterable[Batch],
    columns: int,
    *,
    classes: bool = False,
    until_mixed: bool = False,
) -> tuple[Tensor, Tensor]:
    """How often an answer of each column is yes, and how often it is known: int64 (columns,) both; of classes how often
    each of them is the answer, and of how many windows any is.

    Args:
        answers: of a batch, (n, columns), or (n,) of classes; and which of them are known, likewise or (n, 1).
        batches: of a part.
        columns: how many there are, or how many classes.
        classes: each answer is the number of one.
        until_mixed: stop when each column has a yes and a no, or each class a window.
    """
    yes, known = torch.zeros(2, columns, dtype=torch.int64)
    for batch in batches:
        values, valid = answers(batch)
        if classes:
            yes += torch.bincount(values[valid], minlength=columns)
            known += valid.sum()
        else:
            yes += ((values > 0) & valid).sum(0)
            known += valid.sum(0)
        if until_mixed and bool(((yes > 0) & (classes | (yes < known))).all()):
            break
    return yes, known


class Moments(NamedTuple):
    """Of the known values of each column: how many, mean, standard deviation, least and greatest; float64 (columns,)."""

    known: Tensor
    mean: Tensor
    deviation: Tensor
    least: Tensor
    most: Tensor


def moments(answers: Answers, batches: Iterable[Batch]) -> Moments:
    """Of the answers of a part, of kind "regression". What is known of no column is NaN."""
    columns = len(answers.columns)
    known, mean, squares = torch.zeros(3, columns, dtype=torch.float64)
    least, most = (torch.full((columns,), sign * torch.inf, dtype=torch.float64) for sign in (1, -1))
    for batch in batches:
        values, valid = answers.of(batch)
        values = values.double()
        # Chan et al. 1979: sums of squares about each batch's own mean, so that no large number is taken from another.
        n = valid.sum(0)
        here = torch.where(valid, values, 0).sum(0) / n.clamp(min=1)
        away = torch.where(valid, values - here, 0).square().sum(0)
        total = (known + n).clamp(min=1)
        squares += away + (here - mean).square() * known * n / total
        mean += (here - mean) * n / total
        known += n
        least = torch.minimum(least, torch.where(valid, values, torch.inf).amin(0))
        most = torch.maximum(most, torch.where(valid, values, -torch.inf).amax(0))
    mean[known == 0] = torch.nan
    return Moments(known, mean, (squares / known.clamp(min=1)).sqrt(), least, most)


def constants(values: Sequence[float], like: Tensor) -> Tensor:
    """float32 (n,) on the device of `like`, whose host does not wait until it has come."""
    made = torch.tensor(values, dtype=torch.float32)
    return made.pin_memory().to(like.device, non_blocking=True) if like.is_cuda else made


def weights_of(weights: dict[str, float], outputs: Sequence[str]) -> tuple[float, ...]:
    """What each output weighs, 1 where nothing is said. Raises ConfigError: there is no such output."""
    if unknown := sorted(weights.keys() - set(outputs)):
        there = f"there are {some(list(outputs))}"
        raise ConfigError(f'there is no output "{unknown[0]}": {there}', key="objective.weights")
    return tuple(weights.get(name, 1.0) for name in outputs)
