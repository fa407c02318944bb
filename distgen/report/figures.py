"""The figures of a report, as SVG to stand in a page."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from distgen.genome import Contigs
from distgen.loader.coverage import along
from distgen.loader.windows import Windows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"train": "#3b75af", "valid": "#ef9636", "test": "#c03d6e"}
_GREY = "#e3e3e3"
BARS = 24  # of a figure, at most
_BINS = 300  # along the longest of them
_UNITS = ((10**6, "Mb"), (10**3, "kb"), (1, "bases"))


class Bar(NamedTuple):
    """A stretch of an assembly, of which each part takes the share that its targets cover.

    Args:
        name: what stands beside it.
        contigs: the assembly's.
        first, end: of the stretch, flat.
        parts: windows by "train", "valid" and "test".
    """

    name: str
    contigs: Contigs
    first: int
    end: int
    parts: Mapping[str, Sequence[Windows]]


def contig_bars(contigs: Contigs, parts: Mapping[str, Sequence[Windows]]) -> list[Bar]:
    """One for each of the longest contigs."""
    longest = np.sort(np.argsort(-contigs.lengths, kind="stable")[:BARS]).tolist()
    stretches = zip(longest, contigs.whole()[longest].tolist(), strict=True)
    return [Bar(contigs.names[row], contigs, first, end, parts) for row, (first, end) in stretches]


def store_bar(name: str, contigs: Contigs, parts: Mapping[str, Sequence[Windows]]) -> Bar:
    """One for a whole assembly, its contigs one after another."""
    return Bar(name, contigs, 0, int(contigs.whole()[:, 1].max()), parts)


def coverage_figure(bars: Sequence[Bar]) -> str:
    """What targets of each part cover along some stretches, at most `BARS`."""
    return svg(coverage(bars))


def coverage(bars: Sequence[Bar]) -> Figure:
    """The figure of `coverage_figure`."""
    from matplotlib.patches import Patch

    most = max(bar.end - bar.first for bar in bars)
    unit, unit_name = next((size, name) for size, name in _UNITS if most >= 2 * size or size == 1)
    figure, axes = axes_of(1.1 + max(0.5, 0.28 * len(bars)))
    for row, bar in enumerate(bars):
        length = bar.end - bar.first
        bins = min(length, max(1, round(_BINS * length / most)))
        edges = np.arange(bins + 1) * length // bins / unit
        bottom = np.zeros(bins)
        _steps(axes, row, edges, bottom, np.ones(bins), _GREY)
        for part, pools in bar.parts.items():
            sizes, held = along(pools, bar.contigs, bar.first, bar.end, bins)
            top = bottom + held / np.maximum(sizes, 1)  # padding between contigs has no bases
            _steps(axes, row, edges, bottom, top, COLOURS[part])
            bottom = top
    names = [bar.name if len(bar.name) <= 20 else f"{bar.name[:19]}…" for bar in bars]
    axes.set_yticks(range(len(bars)), names)
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xlim(0, most / unit)
    axes.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.set_xlabel(f"position ({unit_name})" if unit > 1 else "position (base)")
    parts = [part for part in COLOURS if any(part in bar.parts for bar in bars)]
    handles = [Patch(color=COLOURS[part], label=part) for part in parts] + [Patch(color=_GREY, label="no target")]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False)
    return figure


def shown(contigs: Contigs) -> str:
    """Which contigs `contig_bars` leave out, in a sentence; "" if none."""
    order = np.argsort(-contigs.lengths, kind="stable")[BARS:]
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


def axes_of(height: float) -> tuple[Figure, Axes]:
    """A figure of the page's width and so many inches height."""
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


LINES = 8  # of questions in one figure, at most


def reliability_figure(found: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """A reliability diagram of the questions that most windows answered: what share of the answers that were given with some
    confidence is right, over that confidence; points by how many there are (Niculescu-Mizil and Caruana 2005).

    Args:
        found: of each question the "confidence", "share" and "count" of bins.
    """
    return svg(reliability(found))


def reliability(found: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """The figure of `reliability_figure`."""
    figure, axes = axes_of(4.2)
    axes.plot([0, 1], [0, 1], color=_GREY, linewidth=3, zorder=0)
    names = sorted(found, key=lambda name: -sum(found[name]["count"]))[:LINES]
    for name in names:
        bins = found[name]
        counts = np.array(bins["count"], float)
        (line,) = axes.plot(bins["confidence"], bins["share"], linewidth=1, label=name)
        axes.scatter(bins["confidence"], bins["share"], 8 + 120 * counts / counts.sum(), color=line.get_color())
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.02, 1.02)
    axes.set_aspect("equal")
    axes.set_xlabel("confidence")
    axes.set_ylabel("share that is right")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure
