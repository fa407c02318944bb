import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.errors import ConfigError
from distgen.genome import union
from distgen.loader.exclusions import Exclusions, read_holes
from distgen.loader.windows import Geometry, Tiles
from distgen.store.reader import Store

RUNS = st.lists(st.tuples(st.integers(0, 250), st.integers(1, 60)), max_size=6).map(
    lambda found: union(np.array([(at, at + length) for at, length in found], np.int64).reshape(-1, 2))
)
REGIONS = st.lists(st.tuples(st.sampled_from([0, 0, 7, 30]), st.integers(1, 90)), min_size=1, max_size=4)


def stretches(gaps):
    """Sorted disjoint regions, some of which touch, as those of two contigs may."""
    ends = np.cumsum(np.array(gaps).ravel()).reshape(-1, 2)
    return ends


def inside(runs, position):
    return any(start <= position < end for start, end in runs.tolist())


def is_bad(exclusions, region, geometry, start):
    """Whether a target may not begin at `start`, base by base."""
    window = range(start - geometry.margin, start - geometry.margin + geometry.window)
    ambiguous = [not region[0] <= p < region[1] or inside(exclusions.unknown, p) for p in window]
    target = [p for p in range(start, start + geometry.target_length) if region[0] <= p < region[1]]
    if sum(ambiguous) > round(exclusions.max_ambiguous * 100) * geometry.window / 100:
        return "ambiguous"
    return "excluded" if all(inside(exclusions.holes, p) for p in target) else None


def reach(region, geometry, start):
    """The starts that jitter can give a target."""
    g = geometry
    fitting = [p for p in range(region[0], region[1], g.unit) if p + g.target_length <= region[1]]
    top = max([start, *fitting[-1:]])
    return [p for p in range(start - g.jitter, start + g.jitter + 1, g.unit) if region[0] <= p <= top]


@given(
    REGIONS,
    RUNS,
    RUNS,
    st.integers(0, 100),
    st.integers(1, 3),
    st.integers(1, 12),
    st.integers(0, 30),
    st.integers(1, 12),
    st.integers(0, 4),
)
def test_tiles_are_left_out_if_a_position_that_they_can_have_is_excluded_and_only_then(
    gaps, unknown, holes, percent, unit, target, extra, stride, jitter
):
    geometry = Geometry(target * unit + 2 * extra, target * unit, stride * unit, jitter * unit, unit)
    regions, exclusions = stretches(gaps), Exclusions(holes, unknown, percent / 100)
    expected, left_out = [], {"ambiguous": 0, "excluded": 0}
    for region in regions.tolist():
        for start in range(*region, geometry.stride):
            reasons = {is_bad(exclusions, region, geometry, p) for p in reach(region, geometry, start)}
            reason = min(reasons - {None}, default=None)
            if reason is None:
                expected.append((start, *region))
            else:
                left_out[reason] += 1
            if start + geometry.target_length >= region[1]:
                break

    def made():
        return Tiles(regions, geometry, exclusions)

    if not expected:
        with pytest.raises(ConfigError, match=f"no window is left.*{max(left_out.values()):,}"):
            made()
        return
    tiles = made()
    starts, limits, reverse, rows, _ = tiles.locate(np.arange(len(tiles)))
    assert [(s, *m) for s, m in zip(starts.tolist(), limits.tolist(), strict=True)] == expected
    assert dict(tiles.left_out) == left_out
    assert reverse is None
    assert rows is None
    draws = np.random.default_rng(0).integers(0, 2**32, len(tiles))
    for start, moved, region in zip(starts, tiles.geometry.moved(starts, limits, draws), limits.tolist(), strict=True):
        assert moved in reach(region, geometry, start)


def test_holes_are_what_bed_files_cover_together(small: Store, tmp_path):
    (tmp_path / "a.bed").write_text("chr1\t10\t20\nchr1\t15\t30\nchr9\t1\t2\n")
    (tmp_path / "b.bed").write_text("chr1\t30\t40\nchr2\t0\t5\n")
    second = int(small.contigs.offsets[1])
    holes = read_holes([tmp_path / "a.bed", tmp_path / "b.bed"], small.contigs)
    assert holes.tolist() == [[10, 40], [second, second + 5]]
    assert Exclusions.of(small, [tmp_path / "b.bed"], 0.5).unknown.tolist() == small.unknown.tolist()
    assert not len(Exclusions.of(small).unknown)
