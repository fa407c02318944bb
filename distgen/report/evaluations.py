"""An evaluation as rows of a table: the model's metrics with their intervals, and what is beside it."""

from __future__ import annotations

from typing import Any

from distgen.evaluate.metrics import named_value

_HEADLINES = {"bits_per_base": -1, "auroc": 1, "pearson": 1, "accuracy": 1}  # what says who wins, and which way


_DIFFERENCES = (*_HEADLINES, "auprc", "top_k", "loss")  # what a model is told to be above a baseline in


def evaluation_rows(evaluation: dict[str, Any]) -> list[tuple[str, str]]:
    """An evaluation as rows of name and value, nested metrics as "auroc cds+"."""
    intervals = evaluation.get("intervals", {})
    rows = [("strands", "both, averaged")] if evaluation.get("both_strands") else []
    rows += [
        (name, _value(value, intervals.get(name.replace(" ", ".", 1)))) for name, value in flat(evaluation["metrics"])
    ]
    rows += _means(evaluation["metrics"], intervals)
    rows += _beside(evaluation.get("baselines", {}), "")
    if less := evaluation.get("without_leaks"):
        rows.append((f"windows that share {less['k']} bases with train", f"{less['leaked']:,} of {less['windows']:,}"))
        intervals = less.get("intervals", {})
        rows += [(f"{name}, without these", _value(v, intervals.get(name))) for name, v in _plain(less["metrics"])]
        rows += _beside(less.get("baselines", {}), ", without these")
    return rows


def lost(evaluation: dict[str, Any]) -> list[str]:
    """What is said of the baselines that are no worse than the model."""
    said = []
    for name, entry in evaluation.get("baselines", {}).items():
        for metric, sign in _HEADLINES.items():
            mine, other = (named_value(values, metric) for values in (evaluation["metrics"], entry["metrics"]))
            if mine is None or other is None:
                continue
            if sign * mine <= sign * other:
                unit = "bits" if metric == "bits_per_base" else metric
                said.append(f"The network loses to the baseline {name}: {mine:.4f} against {other:.4f} {unit}.")
            break
    return said


def flat(metrics: dict[str, Any]) -> list[tuple[str, float]]:
    """Metrics by names such as "auroc cds+"."""
    found = []
    for name, value in metrics.items():
        nested = value.items() if isinstance(value, dict) else [("", value)]
        found += [(f"{name} {inner}".strip(), float(number)) for inner, number in nested]
    return found


def _beside(baselines: dict[str, Any], where: str) -> list[tuple[str, str]]:
    rows = []
    for name, entry in baselines.items():
        intervals, differences, ps = (entry.get(key, {}) for key in ("intervals", "difference", "p"))
        for metric, value in _plain(entry["metrics"]):
            rows.append((f"{metric}, {name}{where}", _value(value, intervals.get(metric))))
        for metric, difference in differences.items():
            if metric in _DIFFERENCES:
                low, high = (f"{difference[key]:+.4f}" for key in ("low", "high"))
                said = f"{difference['value']:+.4f} ({low} to {high}), p {ps[metric]:.2g}"
                rows.append((f"{metric}, above {name}{where}", said))
    return rows


def _plain(metrics: dict[str, Any]) -> list[tuple[str, float]]:
    """Each metric as one number: of one that has several, their mean."""
    named = ((name, named_value(metrics, name)) for name in metrics)
    return [(name, value) for name, value in named if value is not None]


def _means(metrics: dict[str, Any], intervals: dict[str, Any]) -> list[tuple[str, str]]:
    """Metrics of several outputs, as their means."""
    several = [
        name for name, value in metrics.items() if isinstance(value, dict) and len(value) > 1 and name in intervals
    ]
    return [(f"{name}, mean", _value(named_value(metrics, name) or 0.0, intervals[name])) for name in several]


def _value(value: float, interval: list[float] | None) -> str:
    return f"{value:.4f}" + (f" ({interval[0]:.4f} to {interval[1]:.4f})" if interval else "")
