"""How sure a metric is, and whether a model is better than another or only was on these windows: a bootstrap over rows of a
table, or over units of a genome.

Every metric, rank metrics too, is taken anew on each resample, of all that is in it; two models are measured on the same
resamples (Efron and Tibshirani 1993, chapters 8 and 16). Compiled by numba on first use.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from distgen.compiled import compiled
from distgen.evaluate.bootstrap import FEWEST, RESAMPLES
from distgen.evaluate.kept import Predictions
from distgen.evaluate.kmers import Floats
from distgen.genome import Int64

Times = npt.NDArray[np.int32]
_TOGETHER = 1 << 24  # numbers of times a unit is drawn, that are in memory at the same time


def resampled(models: Sequence[Predictions], resamples: int = RESAMPLES, seed: int = 0) -> list[dict[str, Floats]]:
    """The metrics of models on the windows as they are, then on resamples of them, the same for all models.

    Args:
        models: what they predict of the same windows.
        resamples: how many.
        seed: of the draws.

    Returns:
        For each model its metrics (1 + resamples,) by name, "auroc.NAME" of one output and "auroc" of their mean; NaN where
        a resample has none, as it has no yes or no no.
    """
    if not models:
        return []
    units = models[0].units
    found: list[list[dict[str, Floats]]] = [[] for _ in models]
    for times_RU in _draws(int(units.max(initial=-1)) + 1, resamples, seed):
        for model, parts in zip(models, found, strict=True):
            parts.append(_metrics(model, times_RU))
    return [{name: np.concatenate([part[name] for part in parts]) for name in parts[0]} for parts in found]


def enough(predictions: Predictions) -> bool:
    """Whether there are units enough to resample."""
    return int(predictions.units.max(initial=-1)) + 1 >= FEWEST


def _draws(units: int, resamples: int, seed: int) -> Iterator[Times]:
    """How often each unit is in each resample (R, units), some resamples at a time; the first is all of them once."""
    generator = np.random.default_rng(seed)
    yield np.ones((1, units), np.int32)
    at_once = max(_TOGETHER // max(units, 1), 1)
    for first in range(0, resamples, at_once):
        drawn = [generator.integers(0, units, units) for _ in range(min(at_once, resamples - first))]
        yield np.stack([np.bincount(draw, minlength=units) for draw in drawn]).astype(np.int32)


def _metrics(model: Predictions, times_RU: Times) -> dict[str, Floats]:
    of_output = {"binary": _yes_or_no, "regression": _numbers}.get(model.kind)
    found: dict[str, Floats] = {}
    columns: dict[str, list[Floats]] = {}
    if model.kind == "classes":
        found |= _classes(model, times_RU)
        of_output = _one_of_classes
    assert of_output is not None
    for column, name in enumerate(model.outputs):
        known = model.known[:, min(column, model.known.shape[1] - 1)]
        scores, truth = model.scores[known, column], model.truth[known, column]
        if model.kind == "binary" and len(np.unique(truth > 0)) < 2:
            continue  # as the metrics leave out what is not answered both ways
        for metric, values in of_output(scores, truth, model.units[known], times_RU).items():
            columns.setdefault(metric, []).append(values)
            found[f"{metric}.{name}"] = values
    for metric, of_outputs in columns.items():
        defined = ~np.isnan(of_outputs)
        total = np.where(defined, of_outputs, 0).sum(0)
        found[metric] = np.where(defined.any(0), total / np.maximum(defined.sum(0), 1), np.nan)
    return found


def _yes_or_no(scores: Floats, truth: Floats, units: Int64, times_RU: Times) -> dict[str, Floats]:
    yes, called = truth > 0, scores > 0
    cells = [called & yes, called & ~yes, ~called & yes, ~called & ~yes]
    tp, fp, fn, tn = (times_RU @ np.bincount(units[cell], minlength=times_RU.shape[1]).astype(float) for cell in cells)
    with np.errstate(invalid="ignore", divide="ignore"):
        accuracy = (tp + tn) / (tp + fp + fn + tn)
    mcc = _matthews(np.stack([tp, fn, fp, tn], 1).reshape(-1, 2, 2))
    return _one_of_classes(scores, truth, units, times_RU) | {"mcc": mcc, "accuracy": accuracy}


def _one_of_classes(scores: Floats, truth: Floats, units: Int64, times_RU: Times) -> dict[str, Floats]:
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)[: len(order)]
    auroc, auprc = np.full((2, len(times_RU)), np.nan)
    _ranked(times_RU, units[order], truth[order] > 0, last, auroc, auprc)
    return {"auroc": auroc, "auprc": auprc}


def _classes(model: Predictions, times_RU: Times) -> dict[str, Floats]:
    """Accuracy, Matthews' correlation of several classes (Gorodkin 2004), and per cent of each class taken for another."""
    known = model.known[:, 0]
    right, called = model.truth[known].argmax(1), model.scores[known].argmax(1)
    classes, units = len(model.outputs), model.units[known]
    cells = np.zeros((times_RU.shape[1], classes * classes))
    np.add.at(cells, (units, right * classes + called), 1)
    counts = (times_RU @ cells).reshape(-1, classes, classes)
    total, hits, held = counts.sum((1, 2)), np.trace(counts, axis1=1, axis2=2), counts.sum(2)
    with np.errstate(invalid="ignore", divide="ignore"):
        errors = {
            f"error.{name}": 100 * (1 - counts[:, column, column] / held[:, column])
            for column, name in enumerate(model.outputs)
        }
        return {"accuracy": hits / total, "mcc": _matthews(counts)} | errors


def _matthews(counts_RCC: Floats) -> Floats:
    """As `distgen.objectives.classes.matthews`, of each resample (R,)."""
    total, hits = counts_RCC.sum((1, 2)), np.trace(counts_RCC, axis1=1, axis2=2)
    truth, said = counts_RCC.sum(2), counts_RCC.sum(1)
    scale = np.sqrt((total**2 - (said**2).sum(1)) * (total**2 - (truth**2).sum(1)))
    found: Floats = np.where(scale > 0, hits * total - (truth * said).sum(1), 0.0) / np.where(scale > 0, scale, 1.0)
    return found


def _numbers(scores: Floats, truth: Floats, units: Int64, times_RU: Times) -> dict[str, Floats]:
    # Around their means: what is left of large squares would be rounding.
    x, y = scores - scores.mean() if len(scores) else scores, truth - truth.mean() if len(truth) else truth
    offset = (truth.mean() - scores.mean()) if len(scores) else 0.0
    sums = [np.bincount(units, v, times_RU.shape[1]) for v in (np.ones(len(x)), x, y, x * x, y * y, x * y)]
    n, sx, sy, sxx, syy, sxy = (times_RU @ column for column in sums)
    errors = times_RU @ np.bincount(units, (y - x + offset) ** 2, times_RU.shape[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        vx, vy = sxx - sx * sx / n, syy - sy * sy / n
        pearson, r2 = (sxy - sx * sy / n) / np.sqrt(vx * vy), 1 - errors / vy
    orders = [np.argsort(values, kind="stable") for values in (scores, truth)]
    lasts = [
        np.append(np.diff(values[order]) != 0, True)[: len(order)]
        for values, order in zip((scores, truth), orders, strict=True)
    ]
    spearman = np.full(len(times_RU), np.nan)
    _spearman(times_RU, units, orders[0], lasts[0], orders[1], lasts[1], spearman)
    return {"pearson": pearson, "spearman": spearman, "r2": r2}


@compiled
def _ranked(
    times: Times, units: Int64, yes: npt.NDArray[np.bool_], last: npt.NDArray[np.bool_], auroc: Floats, auprc: Floats
) -> None:
    """AUROC and average precision of rows from the highest score to the lowest; `last` ends each stretch of equal scores."""
    for draw in range(times.shape[0]):
        tp, fp, area, precision = 0.0, 0.0, 0.0, 0.0
        more_tp, more_fp = 0.0, 0.0
        for row in range(units.size):
            count = times[draw, units[row]]
            if yes[row]:
                more_tp += count
            else:
                more_fp += count
            if last[row]:
                area += more_fp * (tp + more_tp / 2)
                tp, fp = tp + more_tp, fp + more_fp
                if more_tp > 0:
                    precision += more_tp * tp / (tp + fp)
                more_tp, more_fp = 0.0, 0.0
        if tp > 0 and fp > 0:
            auroc[draw], auprc[draw] = area / (tp * fp), precision / tp


@compiled
def _middle_ranks(times: Int64, units: Int64, order: Int64, last: npt.NDArray[np.bool_], ranks: Floats) -> None:
    """Of each row, where it stands among the drawn ones; equal ones stand at the middle of their places."""
    before, here, first = 0.0, 0.0, 0
    for at in range(order.size):
        here += times[units[order[at]]]
        if last[at]:
            for tied in range(first, at + 1):
                ranks[order[tied]] = before + (here + 1) / 2
            before, here, first = before + here, 0.0, at + 1


@compiled
def _correlation(times: Int64, units: Int64, x: Floats, y: Floats) -> float:
    """Pearson's, of rows that are there so many times; NaN where one of both is constant."""
    n, mx, my = 0.0, 0.0, 0.0
    for row in range(units.size):
        count = times[units[row]]
        n, mx, my = n + count, mx + count * x[row], my + count * y[row]
    if n == 0:
        return np.nan
    mx, my = mx / n, my / n
    xx, yy, xy = 0.0, 0.0, 0.0
    for row in range(units.size):
        count, dx, dy = times[units[row]], x[row] - mx, y[row] - my
        xx, yy, xy = xx + count * dx * dx, yy + count * dy * dy, xy + count * dx * dy
    return xy / np.sqrt(xx * yy) if xx > 0 and yy > 0 else np.nan


def _spearman(
    times: Times,
    units: Int64,
    order_x: Int64,
    last_x: npt.NDArray[np.bool_],
    order_y: Int64,
    last_y: npt.NDArray[np.bool_],
    found: Floats,
) -> None:
    x, y = np.empty((2, units.size))
    for draw in range(len(times)):
        _middle_ranks(times[draw], units, order_x, last_x, x)
        _middle_ranks(times[draw], units, order_y, last_y, y)
        found[draw] = _correlation(times[draw], units, x, y)
