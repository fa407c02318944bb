"""What the curves of a training say, in words: all rules are here.

Validation losses v and those of a sample of the training part t, measured alike at the same steps, are compared as means of
a few neighbouring points; what differs by less than `_SURE` standard errors of such a mean is noise. The noise of a curve is
estimated from its second differences, in which a trend cancels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

_FEWEST = 8  # validations, to say anything
_SURE = 5.0  # standard errors
_LITTLE = 0.02  # of all that a loss fell is no difference to speak of, however sure it is
_LEARNED = 0.01  # of the first loss, by which it falls where anything is learned
_SPIKE = 0.5  # of all that the training loss fell, lost again at once

Curve = npt.NDArray[np.float64]


class Verdict(NamedTuple):
    """What became of a training.

    Args:
        word: "too short", "unstable", "overfits", "still falling", "underfits" or "settled".
        said: why, with the numbers that it rests on, and what may help.
    """

    word: str
    said: str


def judge(records: Sequence[dict[str, Any]]) -> Verdict:
    """The verdict on a training.

    Args:
        records: of metrics.jsonl.
    """
    valid = [record for record in records if "valid" in record]
    if len(valid) < _FEWEST:
        return Verdict(
            "too short",
            f"{_count(len(valid), 'validation')} cannot tell over- from underfitting: {_FEWEST} are the fewest "
            "(train.valid_every says after how many steps there is one).",
        )
    steps = [int(record["step"]) for record in valid]
    v = np.array([record["valid"]["loss"] for record in valid])
    paired = all("train" in record for record in valid)
    t = np.array([record["train"]["loss"] for record in valid]) if paired else None
    losses = np.array([record["loss"] for record in records if "loss" in record])
    return _jumps(records, losses) or _rises(steps, v, t, losses) or _falls(steps, v) or _stays(steps, v, t, losses)


def _jumps(records: Sequence[dict[str, Any]], losses: Curve) -> Verdict | None:
    """Unstable: the training loss goes up at once by much of what it had fallen."""
    if len(losses) < 12:
        return None
    middle = np.array([np.median(losses[max(0, i - 5) : i]) for i in range(1, len(losses))])
    up = losses[1:] - middle
    up[: len(up) // 10] = 0  # a warm-up may begin with anything
    at = int(up.argmax())
    fell = max(middle[0] - middle.min(), 0.0)
    if up[at] <= max(_SPIKE * fell, 10 * float(np.median(np.abs(up)))):
        return None
    step = [record["step"] for record in records if "loss" in record][at + 1]
    return Verdict(
        "unstable",
        f"The training loss jumped from about {middle[at]:.4g} to {losses[at + 1]:.4g} at step {step:,}. A lower optimizer.lr, "
        "a longer optimizer.warmup_steps or a smaller optimizer.clip_norm may help.",
    )


def _rises(steps: list[int], v: Curve, t: Curve | None, losses: Curve) -> Verdict | None:
    """Overfits, or is unstable: the validation loss ends above its best."""
    width = max(2, len(v) // 6)
    means = np.convolve(v, np.ones(width) / width, "valid")
    at = int(means.argmin())
    least = _least(v, width, max(v[0], losses[0] if len(losses) else v[0]) - means[at])
    if means[-1] - means[at] <= least:
        return None
    step = steps[at + width // 2]
    said = f"From step {step:,} to {steps[-1]:,} the validation loss rose from {means[at]:.4g} to {means[-1]:.4g}"
    if t is None:
        return Verdict("overfits", f"{said}. How the training part fares was not measured (log.gap_batches).")
    seen = np.convolve(t, np.ones(width) / width, "valid")
    said += f", that of the training part went from {seen[at]:.4g} to {seen[-1]:.4g}"
    if (means[-1] - seen[-1]) - (means[at] - seen[at]) <= least / 2:
        return Verdict("unstable", f"{said}: both rise. A lower optimizer.lr may help.")
    return Verdict(
        "overfits",
        f"{said}. The best checkpoint is of before. More or augmented data (data.strand, data.jitter), a smaller model, more "
        "optimizer.weight_decay, or an end by train.patience may help.",
    )


def _falls(steps: list[int], v: Curve) -> Verdict | None:
    """Still falling: over its last half the validation loss became lower."""
    half = max(2, len(v) // 4)
    before, after = v[-2 * half : -half].mean(), v[-half:].mean()
    if before - after <= _least(v, half, v[0] - v.min()):
        return None
    return Verdict(
        "still falling",
        f"The validation loss fell from {before:.4g} to {after:.4g} between the last {2 * half} validations (steps "
        f"{steps[-2 * half]:,} to {steps[-1]:,}), after {v[0]:.4g} at the first. Train longer (train.steps, train.epochs).",
    )


def _stays(steps: list[int], v: Curve, t: Curve | None, losses: Curve) -> Verdict:
    """Underfits, if the training part fares no better; else settled."""
    width = max(2, len(v) // 6)
    first, end = max(v[0], losses[0] if len(losses) else v[0]), v[-width:].mean()
    said = f"The validation loss is {end:.4g} and falls no more"
    if first - end <= _LEARNED * abs(first):
        return Verdict(
            "underfits",
            f"{said}; it began at {first:.4g}, so hardly anything was learned. Another optimizer.lr, another model, or longer "
            "windows may help; the baselines of distgen evaluate say what there is to learn.",
        )
    if t is None:
        return Verdict("settled", f"{said}. How the training part fares was not measured (log.gap_batches).")
    seen = t[-width:].mean()
    if end - seen <= max(_least(v, width, first - end), _least(t, width, first - end)):
        return Verdict(
            "underfits",
            f"{said}; that of the training part is {seen:.4g}, no lower: the model, not the amount of data, is the limit, or "
            "there is no more to learn. A larger model or another optimizer.lr may help.",
        )
    return Verdict(
        "settled",
        f"{said}; that of the training part is {seen:.4g}: a gap of {end - seen:.2g} that no longer grows. It is what the model "
        "knows by heart, and by how much the held-out part is harder. More or augmented data may narrow it.",
    )


def _least(curve: Curve, width: int, fell: float) -> float:
    """The least difference of two means of so many points that says anything."""
    return max(_SURE * _noise(curve) * math.sqrt(2 / width), _LITTLE * fell)


def _noise(curve: Curve) -> float:
    """The standard deviation of a curve's points around its trend."""
    if len(curve) < 4:
        return 0.0
    # The variance of y[i-1] - 2 y[i] + y[i+1] is six times that of y. Where a curve is steep they are no noise alone: the
    # median does not mind a few such places, and the last half has none.
    second = np.abs(np.diff(curve, 2))
    whole, later = np.median(second) / 0.6745, np.sqrt(np.mean(second[len(second) // 2 :] ** 2))
    return float(max(whole, later)) / 6**0.5


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"
