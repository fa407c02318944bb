"""Whether one model is better than another, or only was on these chromosomes: a paired bootstrap.

Neighbouring windows resemble each other, whole contigs far less: it is contigs that are drawn, with replacement, the same for
both models (Efron and Tibshirani 1993, chapters 8 and 16).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
RESAMPLES = 1000
FEWEST = 6  # units; of fewer there are too few different resamples to speak of an interval


class Difference(NamedTuple):
    """How much one metric is above another.

    Args:
        value: on the units as they are.
        low, high: an interval that 95 % of the resamples lie in.
        p: two-sided, of there being no difference; never below 2 / (resamples + 1), which resampling cannot tell from 0.
    """

    value: float
    low: float
    high: float
    p: float


def resampled_means(values: Floats, targets: Floats, *, seed: int = 0, resamples: int = RESAMPLES) -> Floats:
    """A metric on the units as they are, then on resamples of them; the same seed draws the same units.

    A metric on a resample is the mean over its units, weighted by their targets: for a mean of targets (loss, bits, accuracy)
    exactly what pooling the resample's targets gives; for a rank metric (AUROC) the mean within units.

    Args:
        values: (U,) the metric of a model on each unit.
        targets: (U,) how many targets a unit has.
        seed: of the draws.

    Returns:
        float64 (1 + resamples,).

    Raises:
        ValueError: there are fewer than `FEWEST` units.
    """
    if len(values) < FEWEST:
        raise ValueError(f"{len(values)} units are too few to resample")
    generator = np.random.default_rng(seed)
    times_RU = generator.multinomial(len(values), np.full(len(values), 1 / len(values)), size=resamples)
    weights_RU = np.concatenate([np.ones((1, len(values))), times_RU]) * targets
    means: Floats = weights_RU @ values / weights_RU.sum(1)
    return means


def interval(values: Floats) -> list[float] | None:
    """What 95 % of the resamples lie between; None where the metric is defined on none. The first value is no resample."""
    drawn = values[1:][~np.isnan(values[1:])]
    return np.quantile(drawn, [0.025, 0.975]).tolist() if len(drawn) else None


def paired(one: Floats, other: Floats) -> Difference | None:
    """How much one metric is above another, both on the units as they are and then on the same resamples; None where one of
    them is defined on none."""
    differences = one - other
    if (bounds := interval(differences)) is None:
        return None
    drawn = differences[1:][~np.isnan(differences[1:])]
    above, below = int((drawn >= 0).sum()), int((drawn <= 0).sum())
    p = min(1.0, 2 * (min(above, below) + 1) / (len(drawn) + 1))
    low, high = bounds
    return Difference(float(differences[0]), low, high, p)


def holm(ps: list[float]) -> list[float]:
    """The p values of several comparisons, each so large that with a bound on it no more than that share of such families has
    a difference found where there is none (Holm 1979)."""
    order = np.argsort(ps, kind="stable")
    times = len(ps) - np.arange(len(ps))
    found = np.empty(len(ps))
    found[order] = np.minimum(np.maximum.accumulate(np.asarray(ps)[order] * times), 1.0)
    return found.tolist()
