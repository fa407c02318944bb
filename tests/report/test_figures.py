import re

import numpy as np
import pytest
from matplotlib.colors import to_hex

from distgen.genome import Contigs
from distgen.loader.windows import Geometry, Tiles
from distgen.report.figures import COLOURS, LINES, contig_bars, coverage, coverage_figure, reliability, shown, store_bar


def areas(figure):
    """What each colour fills, in bars of height 0.7 and thousands of bases."""
    found = {}
    for fill in figure.axes[0].collections:
        x, y = fill.get_paths()[0].vertices.T
        area = abs(np.sum(x * np.roll(y, 1) - np.roll(x, 1) * y)) / 2
        colour = to_hex(fill.get_facecolor()[0])
        found[colour] = found.get(colour, 0) + area
    return found


def test_each_part_fills_the_share_that_its_targets_cover():
    contigs = Contigs(("a", "b"), np.array([40_000, 10_000]), np.array([0, 40_000]))
    parts = {
        "train": [Tiles(np.array([[0, 20_000]]), Geometry(100, 100, 200))],
        "valid": [Tiles(np.array([[20_000, 25_000]]), Geometry(100, 100, 50))],
        "test": [Tiles(np.array([[40_000, 50_000]]), Geometry(70, 70, 70))],
    }
    found = areas(coverage(contig_bars(contigs, parts)))
    expected = {"train": 10, "valid": 5, "test": 10}
    assert {part: round(found[colour] / 0.7, 6) for part, colour in COLOURS.items()} == expected
    assert max(found.values()) / 0.7 == 50


def test_an_assembly_in_one_bar_has_its_contigs_one_after_another():
    contigs = Contigs(("a", "b"), np.array([40_001, 9_000]), np.array([0, 40_064]))
    whole = store_bar("ab", contigs, {"train": [Tiles(contigs.whole()[:1], Geometry(100, 100, 100))]})
    small = Contigs(("c",), np.array([1]), np.array([0]))
    figure = coverage([whole, store_bar("c", small, {"valid": [Tiles(small.whole(), Geometry(4, 4, 4))]})])
    found = areas(figure)
    assert found[COLOURS["train"]] / 0.7 == pytest.approx(40, rel=0.01)
    assert found[COLOURS["valid"]] / 0.7 == pytest.approx(0.001)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["ab", "c"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["train", "valid", "no target"]


def test_the_longest_contigs_are_shown_and_the_others_counted():
    names = tuple(f"scaffold-{number}-of-a-long-name" for number in range(30))
    lengths = np.arange(30)[::-1] + 1
    contigs = Contigs(names, lengths, np.arange(30) * 64)
    figure = coverage(contig_bars(contigs, {"train": [Tiles(contigs.whole(), Geometry(1, 1, 1))]}))
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(labels) == 24
    assert labels[0] == "scaffold-0-of-a-lon…"
    named = ", ".join(names[24:29])
    assert shown(contigs) == f"6 shorter contigs of 21 bases in all are not shown: {named}, …"
    assert shown(Contigs(("a",), np.array([5]), np.array([0]))) == ""


def test_the_same_windows_give_the_same_picture_which_loads_nothing():
    contigs = Contigs(("a",), np.array([1000]), np.array([0]))
    bars = contig_bars(contigs, {"train": [Tiles(contigs.whole(), Geometry(9, 9, 11))]})
    one, other = (coverage_figure(bars) for _ in range(2))
    assert one == other
    assert one.startswith("<svg")
    assert not re.search(r"(?:src|href)=\"(?!#)", one)


def test_a_reliability_diagram_has_each_bin_at_its_confidence_and_share():
    bins = {"confidence": [0.1, 0.9], "share": [0.2, 0.7], "count": [30, 10]}
    (points,) = reliability({"yes": bins}).axes[0].collections
    assert points.get_offsets().tolist() == [[0.1, 0.2], [0.9, 0.7]]
    large, small = points.get_sizes()
    assert large - 8 == pytest.approx(3 * (small - 8))


def test_of_many_questions_those_are_drawn_that_most_windows_answered():
    found = {f"q{n}": {"confidence": [0.5], "share": [0.5], "count": [n + 1]} for n in range(LINES + 2)}
    legend = reliability(found).axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == [f"q{n}" for n in range(LINES + 1, 1, -1)]
