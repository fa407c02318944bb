import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.config import Lengths
from distgen.errors import ConfigError
from distgen.genome import Contigs
from distgen.loader.exclusions import Exclusions
from distgen.loader.windows import Geometry, Tiles, align, check_lengths


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


@given(st.integers(1, 9), st.integers(0, 100), st.integers(1, 100))
def test_aligned_regions_begin_on_a_bin_of_their_contig(bin_bp, start, length):
    contigs = Contigs(("a", "b"), np.array([70, 300]), np.array([0, 128]), ("", ""))
    (aligned,) = align(np.array([[128 + start, 128 + start + length]]), contigs, bin_bp).tolist() or [None]
    first = next(p for p in range(start, start + bin_bp) if p % bin_bp == 0)
    assert aligned == ([128 + first, 128 + start + length] if first < start + length else None)


@pytest.mark.parametrize(
    ("key", "value", "good"), [("jitter", 16, "0 or 128"), ("stride", 300, "256 or 384"), ("target_length", 100, "128")]
)
def test_a_length_that_is_no_multiple_of_a_bin_names_the_nearest_good_ones(key, value, good):
    jitter = value if key == "jitter" else 0
    given = {"window": 1024, "target_length": 1024, "stride": 1024} | ({} if key == "jitter" else {key: value})
    message = rf'{key}: {value} is no multiple of track "atac" with bin_bp 128. Use {good}\.'
    with pytest.raises(ConfigError, match=message):
        check_lengths(Lengths(epochs=1, **given), jitter, [("atac", 128)])


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
