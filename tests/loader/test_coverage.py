"""Coverage against arrays of all bases, counted window by window."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.genome import Contigs
from distgen.loader.coverage import along, ambiguous, bases, covered
from distgen.loader.windows import Geometry, Runs, Tiles, Windows
from tests.loader.test_exclusions import REGIONS, RUNS, stretches

LENGTHS = (st.integers(1, 12), st.integers(0, 20), st.integers(1, 40), st.integers(0, 9))


def depth(windows, before, length):
    """How often each base is held."""
    found = np.zeros(1000, np.int64)
    for start, (first, end) in zip(*(a.tolist() for a in windows.locate(np.arange(len(windows)))[:2]), strict=True):
        found[max(start - before, first) : max(min(start - before + length, end), 0)] += 1
    return found


def extents(geometry):
    g = geometry
    reach = (g.margin + g.jitter, g.window + 2 * g.jitter)
    return {"target": (0, g.target_length), "window": (g.margin, g.window), "reach": reach}


@given(REGIONS, RUNS, *LENGTHS, RUNS)
def test_bases_of_tiles_are_those_one_counts(gaps, intervals, target, extra, stride, jitter, unknown):
    tiles = Tiles(stretches(gaps), Geometry(target + 2 * extra, target, stride, jitter))
    for of, extent in extents(tiles.geometry).items():
        held = depth(tiles, *extent)
        assert bases(tiles, intervals, of).tolist() == [held[a:b].sum() for a, b in intervals.tolist()]
        assert covered([tiles], intervals, of).tolist() == [(held[a:b] > 0).sum() for a, b in intervals.tolist()]
    known = depth(tiles, *extents(tiles.geometry)["window"])
    for a, b in unknown.tolist():
        known[a:b] = 0
    assert ambiguous(tiles, unknown) == pytest.approx(1 - known.sum() / (len(tiles) * tiles.window))


@given(st.lists(st.tuples(st.integers(20, 80), st.integers(1, 4)), min_size=1, max_size=8), REGIONS, RUNS, *LENGTHS)
def test_a_base_that_several_pools_hold_is_covered_once(places, gaps, intervals, target, extra, stride, jitter):
    geometry = Geometry(target + 2 * extra, target, stride, jitter)
    starts, counts = np.array(places).T
    limits = np.tile([10, 400], (len(starts), 1))
    pools = [
        Windows(geometry, Runs(starts, counts, limits), limits[:1]),
        Tiles(stretches(gaps), geometry),
    ]
    for of, extent in extents(geometry).items():
        both = [depth(pool, *extent) for pool in pools]
        for chosen, held in (([0], both[0]), ([0, 1], both[0] + both[1])):
            counted = covered([pools[row] for row in chosen], intervals, of)
            assert counted.tolist() == [(held[a:b] > 0).sum() for a, b in intervals.tolist()]


def test_a_stretch_is_told_in_parts_that_differ_by_one_base_at_most():
    contigs = Contigs(("a", "b"), np.array([70, 300]), np.array([0, 128]))
    tiles = [Tiles(np.array([[128, 228], [328, 428]]), Geometry(30, 10, 20))]
    assert [part.tolist() for part in along(tiles, contigs, 128, 428, 3)] == [[100] * 3, [50, 0, 50]]
    assert [part.tolist() for part in along(tiles, contigs, 133, 153, 4)] == [[5] * 4, [5, 0, 0, 5]]
    assert [part.tolist() for part in along(tiles, contigs, 0, 70, 3)] == [[23, 23, 24], [0] * 3]
    assert [part.tolist() for part in along(tiles, contigs, 0, 428, 4)] == [[70, 86, 107, 107], [0, 46, 4, 50]]


def test_tiles_of_any_number_are_counted_without_listing_them():
    tiles = Tiles(np.array([[0, 10**15]]), Geometry(8, 8, 10))
    assert covered([tiles], np.array([[0, 10**15]])).tolist() == [8 * 10**14]
    assert covered([tiles], np.array([[10**15, 10**15 + 5]]), "reach").tolist() == [0]
