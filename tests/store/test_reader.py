import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.config import Recipe, read
from distgen.errors import ConfigError, StoreError
from distgen.genome import Interval
from distgen.store.build import build
from distgen.store.reader import open_store
from distgen.store.verify import describe
from tests.conftest import flat_codes


@given(st.data())
def test_any_stretch_on_any_strand(small, draw):
    row = draw.draw(st.integers(0, 2))
    length = int(small.contigs.lengths[row])
    start = draw.draw(st.integers(0, length))
    end = draw.draw(st.integers(start, length))
    name, offset = small.contigs.names[row], int(small.contigs.offsets[row])
    expected = flat_codes(small)[offset + start : offset + end]
    assert np.array_equal(small.codes(Interval(name, start, end)), expected)
    other = [3 - c if c < 4 else 4 for c in expected[::-1].tolist()]
    assert small.codes(Interval(name, start, end, "-")).tolist() == other


@pytest.mark.parametrize("interval", [Interval("chr9", 0, 1), Interval("chr3", 0, 8), Interval("chr3", -1, 2)])
def test_a_stretch_that_does_not_exist_is_refused(small, interval):
    with pytest.raises(ConfigError, match=r'no contig "chr9"|no stretch of a contig with 7 bases'):
        small.codes(interval)


def test_a_missing_store_suggests_its_neighbour(small):
    with pytest.raises(ConfigError, match=r"smal\.zarr does not exist.*Did you mean \".*small\.zarr\""):
        open_store(small.path.parent / "smal.zarr")


def test_a_store_without_manifest_is_no_store(small):
    (small.path / "manifest").unlink()
    with pytest.raises(ConfigError, match="has lost its manifest. Run: distgen build RECIPE --force"):
        open_store(small.path)


def test_another_format_is_refused(small):
    path = small.path / "manifest"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    with pytest.raises(StoreError, match="has format 2, this version reads 1"):
        open_store(small.path)


def test_unknown_parts_and_tracks_suggest_the_nearest(small):
    with pytest.raises(ConfigError, match='no part "tset".*Did you mean "test"'):
        small.regions("tset")
    with pytest.raises(ConfigError, match='no split "fold1".*Valid: default'):
        small.regions("train", "fold1")
    with pytest.raises(ConfigError, match='no track "gene".*Did you mean "genes"'):
        small.track("gene")


def test_info_counts_what_is_there(small):
    found = describe(small)
    assert found["bases"] == 857 + 900 + 7
    assert found["ambiguous"] == int((flat_codes(small) == 4).sum()) - (small.length - found["bases"])
    assert found["splits"]["default"]["valid"] == 200
    assert json.loads(json.dumps(found)) == found


def test_the_embedded_genome(ecoli):
    found = describe(ecoli)
    assert (found["bases"], found["ambiguous"]) == (4_938_920, 0)
    assert ecoli.contigs.index("gi|110640213|ref|NC_008253.1|") == 0
    assert ecoli.sequence(Interval("NC_008253.1", 0, 20)) == "AGCTTTTCATTCTGACTGCA"
    assert found["bytes"] < 0.34 * found["bases"]


def test_a_lost_or_foolish_manifest_is_told_and_the_store_built_anew_by_force(small_recipe, small):
    recipe = read(small_recipe, Recipe)
    (small.path / "manifest").write_text("[1, 2]")
    with pytest.raises(StoreError, match="the manifest is damaged. Run: distgen build RECIPE --force"):
        open_store(small.path)
    build(recipe, small.path)
    (small.path / "manifest").unlink()
    with pytest.raises(ConfigError, match="a store that has lost its manifest: give another --out, or replace it with"):
        build(recipe, small.path)
    assert build(recipe, small.path, force=True) == 1764
    assert open_store(small.path).contigs.names == ("chr1", "chr2", "chr3")


def test_a_folder_that_is_no_store_is_not_suggested_for_itself(tmp_path):
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "b.zarr").mkdir()
    with pytest.raises(ConfigError, match=r"b\.zarr has no manifest.*Valid: \S+a\.zarr\.$"):
        open_store(tmp_path / "b.zarr")


def test_rows_with_a_step_are_refused_not_served_without_it(small):
    for what in (small.planes["sequence"], small.track("genes")):
        with pytest.raises(ConfigError, match="only whole stretches are read"):
            what[0:10:5]
