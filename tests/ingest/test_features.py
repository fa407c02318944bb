from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.errors import ConfigError
from distgen.ingest.features import gather, paint

LENGTH = 100  # of both contigs


@st.composite
def stretches(draw, valued):
    """Features of two contigs in any order, with an obvious twin: (row, start, end, column, value or step)."""
    number = st.integers(1, 3) if not valued else st.sampled_from([-2.0, 0.0, 0.5, 3.0])
    one = st.tuples(st.integers(0, 1), st.integers(0, LENGTH - 1), st.integers(1, 60), st.integers(0, 2), number)
    twin = [(row, start, min(start + n, LENGTH), k, x) for row, start, n, k, x in draw(st.lists(one, max_size=12))]
    row, start, end, klass, number = (np.array([t[i] for t in twin]) for i in range(5))
    extra = {"value": number.astype(np.float32)} if valued else {"step": number.astype(np.uint8)}
    return twin, gather(row, start, end, klass, {}, **extra)


@given(stretches(valued=False), st.integers(1, 9))
def test_painting_equals_marking_base_by_base(drawn, bin_bp):
    twin, found = drawn
    bins = -(-LENGTH // bin_bp)
    for row in (0, 1):
        expected = np.zeros((bins, 3), np.uint8)
        for contig, start, end, column, step in twin:
            for base in range(start, end, step) if contig == row else ():
                expected[base // bin_bp, column] = 1
        painted = paint(found, row, 0, bins, 3, bin_bp)
        assert painted.dtype == np.uint8
        assert np.array_equal(painted, expected)


@given(stretches(valued=True), st.integers(1, 9))
def test_a_bin_gets_the_largest_value_that_touches_it(drawn, bin_bp):
    twin, found = drawn
    bins = -(-LENGTH // bin_bp)
    expected = np.full((bins, 3), np.nan, np.float32)
    for row, start, end, column, value in twin:
        for base in range(start, end) if row == 0 else ():
            expected[base // bin_bp, column] = np.fmax(expected[base // bin_bp, column], value)
    painted = paint(found, 0, 0, bins, 3, bin_bp)
    assert painted.dtype == np.float32
    assert np.array_equal(painted, expected, equal_nan=True)
    assert np.array_equal(paint(found, 0, 0, bins, 3, bin_bp, absent=0), np.where(np.isnan(expected), 0, expected))


@given(st.booleans().flatmap(stretches), st.integers(1, 9), st.lists(st.integers(0, LENGTH), max_size=5))
def test_pieces_of_a_contig_give_the_whole(drawn, bin_bp, cuts):
    _, found = drawn
    bins = -(-LENGTH // bin_bp)
    edges = sorted({0, bins, *(min(cut, bins) for cut in cuts)})
    pieces = [paint(found, 1, a, b, 3, bin_bp) for a, b in pairwise(edges)]
    assert np.array_equal(np.concatenate(pieces), paint(found, 1, 0, bins, 3, bin_bp), equal_nan=True)


def test_only_features_near_the_piece_are_looked_at():
    start = np.arange(0, 10_000, 10)
    found = gather(np.repeat([0, 1, 2], 1000), np.tile(start, 3), np.tile(start + 5, 3), np.zeros(3000), {})
    here = found.overlapping(1, 500, 600)
    assert (found.contig[here] == 1).all()
    assert found.start[here].tolist() == list(range(500, 600, 10))


def test_positions_beyond_32_bits_are_kept():
    far = 5_000_000_000
    found = gather([1, 0], [far, 7], [far + 2, 9], [0, 0], {})
    assert (found.start.dtype, found.start.tolist()) == (np.int64, [7, far])
    assert paint(found, 1, far - 1, far + 3, 1, 1)[:, 0].tolist() == [0, 1, 1, 0]
    assert gather([0], [7], [9], [0], {}).start.dtype == np.int32


def test_a_column_that_the_track_lacks_is_refused():
    with pytest.raises(ConfigError, match="column 3, the track has 3"):
        paint(gather([0], [0], [5], [3], {}), 0, 0, 9, 3, 1)
