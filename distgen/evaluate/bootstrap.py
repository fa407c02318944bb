"""Whether one model is better than another, or only was on these chromosomes: a paired bootstrap.

Neighbouring windows resemble each other, whole contigs far less: it is contigs that are drawn, with replacement, the same for
both models (Efron and Tibshirani 1993, chapters 8 and 16).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
RESAMPLES = 10_000
FEWEST = 6  # units; of fewer there are too few different resamples to speak of an interval


class Difference(NamedTuple):
    """How much one metric is above another.

    Args:
        value: on the units as they are.
        low, high: an interval that 95 % of the resamples lie in.
        p: two-sided, of there being no difference; never below 1 / (resamples + 1), which resampling cannot tell from 0.
    """

    value: float
    low: float
    high: float
    p: float


def paired_bootstrap(
    one: Floats, other: Floats, targets: Floats, *, seed: int = 0, resamples: int = RESAMPLES
) -> Difference:
    """Compare two models on resampled units of the genome.

    A metric on a resample is the mean over its units, weighted by their targets: for a mean of targets (loss, bits, accuracy)
    exactly what pooling the resample's targets gives; for a rank metric (AUROC) the mean within units.

    Args:
        one, other: (U,) the metric of each model on each unit.
        targets: (U,) how many targets a unit has.
        seed: of the draws.

    Raises:
        ValueError: there are fewer than `FEWEST` units.
    """
    if len(one) < FEWEST:
        raise ValueError(f"{len(one)} units are too few to resample")
    generator = np.random.default_rng(seed)
    times_RU = generator.multinomial(len(one), np.full(len(one), 1 / len(one)), size=resamples)
    weights_RU = times_RU * targets
    differences = weights_RU @ (one - other) / weights_RU.sum(1)
    low, high = np.quantile(differences, [0.025, 0.975])
    above, below = int((differences >= 0).sum()), int((differences <= 0).sum())
    p = min(1.0, 2 * (min(above, below) + 1) / (resamples + 1))
    return Difference(float(targets @ (one - other) / targets.sum()), float(low), float(high), p)


def holm(ps: list[float]) -> list[float]:
    """The p values of several comparisons, each so large that with a bound on it no more than that share of such families has
    a difference found where there is none (Holm 1979)."""
    order = np.argsort(ps, kind="stable")
    times = len(ps) - np.arange(len(ps))
    found = np.empty(len(ps))
    found[order] = np.minimum(np.maximum.accumulate(np.asarray(ps)[order] * times), 1.0)
    return found.tolist()
