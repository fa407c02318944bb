"""The figures of a training: how it learned, how fast it went, where the time went."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from distgen.report.figures import COLOURS, axes_of, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST = 1000  # points of a curve: of more, as many means
# Of a step, from below: what is waited for, what is computed, what no part says.
PARTS = {
    "wait": "#c03d6e",
    "transfer": "#e08fb0",
    "encode": "#ef9636",
    "forward": "#3b75af",
    "backward": "#7fa8d1",
    "optimize": "#b9d0e6",
    "communicate": "#5f9e6e",
    "rest": "#c9c9c9",
}
_BOUND = {
    "wait": "data",
    "transfer": "data",
    "encode": "encode",
    "forward": "compute",
    "backward": "compute",
    "optimize": "compute",
    "communicate": "communication",
    "rest": "other",
}

Records = Sequence[dict[str, Any]]


def learning_figure(records: Records) -> str:
    """Loss by step: in training, and where there was validation, of both parts measured alike."""
    bits = any("bits_per_base" in record for record in records)
    key = "bits_per_base" if bits else "loss"
    figure, axes = axes_of(3.5)
    _line(axes, [r for r in records if key in r], lambda r: r[key], "in training", COLOURS["train"], lw=0.8, alpha=0.5)
    for part, label in (("train", "training part"), ("valid", "validation part")):
        found = [record for record in records if part in record]
        _line(axes, found, lambda r, part=part: r[part][key], label, COLOURS[part], marker=".")  # type: ignore[misc]
    return _finished(figure, axes, "bits per base" if bits else "loss (nats)")


def metrics_figure(records: Records) -> str:
    """Learning curves: every other metric of the validation part, the mean over classes where there are some; "" if none."""
    found = [record for record in records if "valid" in record]
    names = sorted({name for record in found for name in record["valid"]} - {"loss", "bits_per_base"})
    if not names:
        return ""
    figure, axes = axes_of(2.6)
    for number, name in enumerate(names):
        some = [record for record in found if name in record["valid"]]
        _line(axes, some, lambda r, name=name: _mean(r["valid"][name]), name, f"C{number}", marker=".")  # type: ignore[misc]
    return _finished(figure, axes, "validation part")


def rate_figure(records: Records) -> str:
    """The learning rate, and the gradient's norm before it was clipped."""
    found = [record for record in records if "lr" in record]
    if not found:
        return ""
    figure, axes = axes_of(2.2)
    _line(axes, found, lambda r: r["lr"], "learning rate", COLOURS["train"])
    other = axes.twinx()
    _line(other, found, lambda r: r["norm"], "gradient norm", COLOURS["valid"], lw=0.8)
    other.set_ylabel("gradient norm")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    axes.set_ylabel("learning rate")
    axes.set_xlabel("step")
    return svg(figure)


def speed_figure(records: Records) -> str:
    """Bases a second."""
    figure, axes = axes_of(2.2)
    _line(axes, records, lambda r: r["bases_per_second"] / 1e6, "", COLOURS["train"])
    axes.set_ylim(bottom=0)
    return _finished(figure, axes, "Mbases/s")


def split_figure(records: Records) -> str:
    """Where the time of a step went, stacked; "" if no record says."""
    found = [record for record in records if "step_ms" in record]
    if not found:
        return ""
    figure, axes = axes_of(3.0)
    steps = _means([record["step"] for record in found])
    parts = [_means([record["step_ms"].get(part, 0.0) for record in found]) for part in PARTS]
    axes.stackplot(steps, np.array(parts), labels=list(PARTS), colors=list(PARTS.values()), linewidth=0)
    axes.set_xlabel("step")
    axes.set_ylabel("ms of a step")
    axes.margins(x=0)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside right upper", frameon=False)
    return svg(figure)


def memory_figure(records: Records) -> str:
    """The most memory that was in use until then; "" if no record says."""
    found = [record for record in records if "memory_bytes" in record]
    if not found:
        return ""
    figure, axes = axes_of(2.2)
    kinds = found[-1]["memory_bytes"]
    for number, kind in enumerate(kinds):
        some = [record for record in found if kind in record["memory_bytes"]]
        _line(axes, some, lambda r, kind=kind: r["memory_bytes"][kind] / 1e9, kind, f"C{number}")  # type: ignore[misc]
    axes.set_ylim(0, 1.2 * max(kinds.values()) / 1e9)
    return _finished(figure, axes, "GB")


def bound(records: Records) -> tuple[str, dict[str, float]] | None:
    """What binds a training: that of data, encode, compute, communication and other on which most of the time of a median
    step went; and the share of each. None if no record says."""
    found = [record["step_ms"] for record in records if "step_ms" in record]
    if not found:
        return None
    spent: dict[str, float] = {}
    for part, group in _BOUND.items():
        spent[group] = spent.get(group, 0.0) + float(np.median([split.get(part, 0.0) for split in found]))
    whole = sum(spent.values()) or 1.0
    shares = {group: value / whole for group, value in spent.items()}
    return max(shares, key=lambda group: shares[group]), shares


def _line(
    axes: Axes, records: Records, value: Callable[[dict[str, Any]], float], label: str, colour: str, **how: Any
) -> None:
    if records:
        steps, values = _means([record["step"] for record in records]), _means([value(record) for record in records])
        axes.plot(steps, values, label=label, color=colour, **({"lw": 1.2} | how))


def _means(values: list[float]) -> list[float]:
    """Of neighbours, where there are more than a figure can show."""
    pieces = np.array_split(np.array(values, float), min(len(values), _MOST))
    return [float(piece.mean()) for piece in pieces]


def _mean(value: Any) -> float:
    return float(np.mean(list(value.values()))) if isinstance(value, dict) else float(value)


def _finished(figure: Figure, axes: Axes, what: str) -> str:
    axes.set_xlabel("step")
    axes.set_ylabel(what)
    axes.grid(alpha=0.3)
    if len(axes.get_legend_handles_labels()[1]) > 0:
        axes.legend()
    return svg(figure)
