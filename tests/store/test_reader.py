import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.errors import ConfigError
from distgen.genome import Interval
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


def test_rows_with_a_step_are_refused_not_served_without_it(small):
    for what in (small.planes["sequence"], small.track("genes")):
        with pytest.raises(ConfigError, match="only whole stretches are read"):
            what[0:10:5]
