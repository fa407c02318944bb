import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.errors import ConfigError
from distgen.loader.exclusions import Exclusions
from distgen.loader.windows import Geometry, Tiles


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(1, 90)), min_size=1, max_size=5),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 60),
)
def test_targets_tile_every_region_and_begin_inside_it(gaps, target, extra, stride):
    regions, position = [], 0
    for gap, length in gaps:
        regions.append((position + gap, position + gap + length))
        position += gap + length
    tiles = Tiles(np.array(regions), Geometry(target + extra, target, stride))
    starts, limits, *_ = tiles.locate(np.arange(len(tiles)))
    expected = []
    for start, end in regions:
        for at in range(start, end, stride):
            expected.append((at, start, end))
            if at + target >= end:
                break
    assert [(s, *m) for s, m in zip(starts.tolist(), limits.tolist(), strict=True)] == expected
    assert tiles.geometry.margin == extra // 2


def test_a_window_is_found_among_any_number_of_them():
    regions = np.array([[0, 30], [40, 10**15], [10**15 + 5, 10**15 + 6]])
    tiles = Tiles(regions, Geometry(10, 10, 10))
    assert len(tiles) == 3 + 10**14 - 4 + 1
    located = tiles.locate(np.array([2, 3, 10**12, len(tiles) - 2, len(tiles) - 1]))
    assert located.target_starts.tolist() == [20, 40, 10**13 + 10, 10**15 - 10, 10**15 + 5]
    assert located.limits.tolist() == [regions[row].tolist() for row in (0, 1, 1, 1, 2)]


def test_another_length_shares_what_is_excluded():
    exclusions = Exclusions(np.array([[0, 25]]), np.array([[50, 60]]), 0.5)
    found = [Tiles(np.array([[0, 100]]), Geometry(length, length, length), exclusions) for length in (10, 20, 50)]
    assert [tiles.locate(np.arange(len(tiles))).target_starts.tolist() for tiles in found] == [
        [20, 30, 40, 60, 70, 80, 90],
        [20, 40, 60, 80],
        [0, 50],
    ]


def test_no_windows_at_all_say_why():
    with pytest.raises(ConfigError, match="no window is left"):
        Tiles(np.empty((0, 2), np.int64), Geometry(10, 10, 10))
    with pytest.raises(ConfigError, match="no window is left: 2 excluded"):
        Tiles(np.array([[5, 25]]), Geometry(10, 10, 10), Exclusions(np.array([[0, 100]])))


def test_windows_are_known_by_what_is_left_of_them():
    region, hole = np.array([[0, 100]]), Exclusions(np.array([[0, 10]]))
    one = Tiles(region, Geometry(10, 10, 10))
    assert one.identity == Tiles(region, Geometry(10, 10, 10), Exclusions(np.array([[0, 5]]))).identity
    others = [
        Tiles(region, Geometry(10, 10, 10), hole),
        Tiles(region, Geometry(20, 10, 10)),
        Tiles(region, Geometry(10, 10, 10, jitter=1)),
    ]
    assert len({str(tiles.identity) for tiles in [one, *others]}) == 4
