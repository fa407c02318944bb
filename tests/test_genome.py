import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.errors import ConfigError, SourceError
from distgen.genome import Contigs, match, subtract

CONTIGS = Contigs(("chr1", "chr2", "scaffold_10"), np.array([1000, 10, 64]), np.array([0, 1024, 1088]), ("", "II", ""))

intervals = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=8).map(
    lambda pairs: np.array(sorted((s, s + n) for s, n in pairs), np.int64).reshape(-1, 2)
)


def covered(table: np.ndarray) -> set[int]:
    return {base for start, end in table.tolist() for base in range(start, end)}


ONE = Contigs(("c",), np.array([80]), np.array([0]), ("",))


@given(intervals)
def test_joining_keeps_the_bases_and_leaves_nothing_that_touches(table):
    joined = ONE.join(table[::-1])
    assert covered(joined) == covered(table)
    assert (joined[1:, 0] > joined[:-1, 1]).all()


@given(intervals, intervals)
def test_subtracting_is_the_difference_of_sets(table, holes):
    assert covered(subtract(ONE.join(table), ONE.join(holes))) == covered(table) - covered(holes)


def test_contigs_that_touch_stay_apart():
    two = Contigs(("a", "b"), np.array([64, 64]), np.array([0, 64]), ("", ""))
    assert two.join(np.array([[64, 128], [0, 32], [32, 64]])).tolist() == [[0, 64], [64, 128]]


def test_a_pattern_that_is_a_name_is_no_glob():
    assert match("scaffold[1]", ["scaffold1", "scaffold[1]"]) == [1]
    assert match("HLA*01:01", ["HLA*01:01:02", "HLA*01:01"]) == [1]
    assert match("scaffold[12]", ["scaffold1", "scaffold2", "scaffold3"]) == [0, 1]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("chr1", [[0, 1000]]),
        ("II", [[1024, 1034]]),
        ("chr*", [[0, 1000], [1024, 1034]]),
        ("chr1:10-20", [[10, 20]]),
        ("chr1:90%-100%", [[900, 1000]]),
        ("chr1:1,0-2,0", [[10, 20]]),
    ],
)
def test_patterns_name_contigs_and_parts_of_them(pattern, expected):
    assert CONTIGS.regions([pattern]).tolist() == expected


@pytest.mark.parametrize("pattern", ["chr3", "chrX*", "chr1:0-1001", "chr1:5-5", "chr1:0%-101%"])
def test_a_pattern_that_matches_nothing_is_refused(pattern):
    with pytest.raises(ConfigError, match=r"chr|contig"):
        CONTIGS.regions([pattern])


def test_an_unknown_contig_suggests_the_nearest():
    with pytest.raises(ConfigError, match='Did you mean "scaffold_10"'):
        CONTIGS.index("scafold_10")


def test_positions_are_located_with_padding_in_the_contig_before():
    assert CONTIGS.locate([0, 999, 1023, 1024, 1087, 1088]).tolist() == [0, 0, 0, 1, 1, 2]


NAMED = Contigs(("1", "chr2", "MT"), np.array([1000, 10, 64]), np.array([0, 1024, 1088]), ("", "II NC_2.1", "chrM"))


def test_a_file_may_call_contigs_by_alias_or_with_the_chr_prefix():
    assert NAMED.rows(["chr1", "2", "NC_2.1x", "chrM"], "a.bw").tolist() == [0, 1, -1, 2]
    assert NAMED.rows(["NC_2.1"], "a.bw", [10]).tolist() == [1]
    assert NAMED.rows([], "a.bw").tolist() == []


@pytest.mark.parametrize(
    ("names", "lengths", "message"),
    [
        (["chr9", "chr8"], None, r"a\.bw: none of its contigs \(chr9, chr8\) is one of the assembly's \(1, chr2, MT\)"),
        (["1", "chr1"], None, '"1" and "chr1" both mean contig "1"'),
        (["chrM"], [65], '"chrM" has 65 bases here and 64 in the assembly'),
        (["chr1"], [999], "none of its contigs"),
    ],
)
def test_a_file_of_another_assembly_is_refused(names, lengths, message):
    with pytest.raises(SourceError, match=message):
        NAMED.rows(names, "a.bw", lengths)


@given(st.integers(1, 9), st.integers(0, 100), st.integers(1, 100))
def test_aligned_regions_begin_on_a_bin_of_their_contig(bin_bp, start, length):
    contigs = Contigs(("a", "b"), np.array([70, 300]), np.array([0, 128]), ("", ""))
    (aligned,) = contigs.align(np.array([[128 + start, 128 + start + length]]), bin_bp).tolist() or [None]
    first = next(p for p in range(start, start + bin_bp) if p % bin_bp == 0)
    assert aligned == ([128 + first, 128 + start + length] if first < start + length else None)
