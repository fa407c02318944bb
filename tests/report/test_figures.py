import re

import numpy as np
from matplotlib.colors import to_hex

from distgen.genome import Contigs
from distgen.loader.windows import Geometry, Tiles
from distgen.report.figures import COLOURS, coverage, coverage_figure, shown


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
    found = areas(coverage(contigs, parts))
    expected = {"train": 10, "valid": 5, "test": 10}
    assert {part: round(found[colour] / 0.7, 6) for part, colour in COLOURS.items()} == expected
    assert max(found.values()) / 0.7 == 50


def test_the_longest_contigs_are_shown_and_the_others_counted():
    names = tuple(f"scaffold-{number}-of-a-long-name" for number in range(30))
    lengths = np.arange(30)[::-1] + 1
    contigs = Contigs(names, lengths, np.arange(30) * 64)
    figure = coverage(contigs, {"train": [Tiles(contigs.whole(), Geometry(1, 1, 1))]})
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(labels) == 24
    assert labels[0] == "scaffold-0-of-a-lon…"
    named = ", ".join(names[24:29])
    assert shown(contigs) == f"6 shorter contigs of 21 bases in all are not shown: {named}, …"
    assert shown(Contigs(("a",), np.array([5]), np.array([0]))) == ""


def test_the_same_windows_give_the_same_picture_which_loads_nothing():
    contigs = Contigs(("a",), np.array([1000]), np.array([0]))
    one, other = (coverage_figure(contigs, {"train": [Tiles(contigs.whole(), Geometry(9, 9, 11))]}) for _ in range(2))
    assert one == other
    assert one.startswith("<svg")
    assert not re.search(r"(?:src|href)=\"(?!#)", one)
