"""The figures of a report, as SVG to stand in a page."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from distgen.genome import Contigs, Interval
from distgen.loader.coverage import along
from distgen.loader.windows import Windows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"train": "#3b75af", "valid": "#ef9636", "test": "#c03d6e"}
_GREY = "#e3e3e3"
_CONTIGS, _BINS = 24, 300  # at most, and along the longest of them
_UNITS = ((10**6, "Mb"), (10**3, "kb"), (1, "bases"))


def loss_figure(records: list[dict[str, Any]]) -> str:
    """The loss curve: training, and validation where there is any.

    Args:
        records: of metrics.jsonl.
    """
    steps = [r for r in records if "loss" in r]
    valid = [r for r in records if "valid" in r]
    bits = bool(steps) and "bits_per_base" in steps[0]
    figure, axes = _axes(3.5)
    axes.plot(
        [r["step"] for r in steps], [r["bits_per_base" if bits else "loss"] for r in steps], lw=1, label="training"
    )
    if valid:
        values = [r["valid"]["bits_per_base" if bits else "loss"] for r in valid]
        axes.plot([r["step"] for r in valid], values, "o-", label="validation")
    axes.set_xlabel("step")
    axes.set_ylabel("bits per base" if bits else "loss (nats)")
    axes.grid(alpha=0.3)
    axes.legend()
    return svg(figure)


def coverage_figure(contigs: Contigs, parts: Mapping[str, Sequence[Windows]]) -> str:
    """What targets of each part cover along the longest contigs: a bar each, of which a part takes the share that it covers.

    Args:
        contigs: the assembly's.
        parts: windows by "train", "valid" and "test".
    """
    return svg(coverage(contigs, parts))


def coverage(contigs: Contigs, parts: Mapping[str, Sequence[Windows]]) -> Figure:
    """The figure of `coverage_figure`."""
    from matplotlib.patches import Patch

    longest = np.sort(np.argsort(-contigs.lengths, kind="stable")[:_CONTIGS]).tolist()
    most = int(contigs.lengths[longest].max())
    unit, unit_name = next((size, name) for size, name in _UNITS if most >= 2 * size or size == 1)
    figure, axes = _axes(1.1 + max(0.5, 0.28 * len(longest)))
    for row, contig in enumerate(longest):
        length = int(contigs.lengths[contig])
        bins = min(length, max(1, round(_BINS * length / most)))
        edges = np.arange(bins + 1) * length // bins / unit
        bottom = np.zeros(bins)
        _steps(axes, row, edges, bottom, np.ones(bins), _GREY)
        for part, pools in parts.items():
            sizes, held = along(pools, contigs, Interval(contigs.names[contig], 0, length), bins)
            _steps(axes, row, edges, bottom, bottom + held / sizes, COLOURS[part])
            bottom += held / sizes
    names = [contigs.names[contig] for contig in longest]
    axes.set_yticks(range(len(longest)), [name if len(name) <= 20 else f"{name[:19]}…" for name in names])
    axes.set_ylim(len(longest) - 0.4, -0.6)
    axes.set_xlim(0, most / unit)
    axes.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.set_xlabel(f"position ({unit_name})" if unit > 1 else "position (base)")
    handles = [Patch(color=COLOURS[part], label=part) for part in parts] + [Patch(color=_GREY, label="no target")]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False)
    return figure


def shown(contigs: Contigs) -> str:
    """Which contigs `coverage_figure` leaves out, in a sentence; "" if none."""
    order = np.argsort(-contigs.lengths, kind="stable")[_CONTIGS:]
    if not len(order):
        return ""
    bases, names = int(contigs.lengths[order].sum()), [contigs.names[row] for row in order[:5].tolist()]
    return f"{len(order):,} shorter contigs of {bases:,} bases in all are not shown: {', '.join(names)}" + ", …" * (
        len(order) > 5
    )


def svg(figure: Figure) -> str:
    """A figure as an element of a page; the same figure gives the same text."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    text = io.StringIO()
    with rc_context({"svg.hashsalt": "distgen"}):
        FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None})
    found = text.getvalue()
    return found[found.index("<svg") :]


def _axes(height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, height), layout="constrained")
    return figure, figure.add_subplot()


def _steps(
    axes: Axes,
    row: int,
    edges: npt.NDArray[np.float64],
    bottom: npt.NDArray[np.float64],
    top: npt.NDArray[np.float64],
    colour: str,
) -> None:
    """Fill a row's bins between two heights, 0 at its foot and 1 at its head; bins alike are one step."""
    if not (top > bottom).any():
        return
    new = np.r_[True, (np.diff(bottom) != 0) | (np.diff(top) != 0)]
    edges, foot = np.r_[edges[:-1][new], edges[-1]], row + 0.35
    low, high = (foot - 0.7 * np.r_[values[new], values[-1]] for values in (bottom, top))
    axes.fill_between(edges, low, high, step="post", color=colour, linewidth=0)
