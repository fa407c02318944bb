import gzip
import itertools
from pathlib import Path
from typing import get_args

import numpy as np
import pyBigWig
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.errors import SourceError
from distgen.genome import Contigs
from distgen.ingest import binning, signal
from distgen.ingest.signal import Absent, Reduce, Section, Signal, explicit, open_signal

CONTIGS = Contigs(("chr1", "chr2", "chr3"), np.array([100, 50, 20]), np.array([0, 128, 192]), ("", "II", ""))


def per_base(records, length):
    """The value of every base, NaN in gaps."""
    values = np.full(length, np.nan)
    for start, end, value in records:
        values[start:end] = value
    return values


def reduce_bases(values, bin_bp, reduce, absent, min_covered):
    """What a bin is, base by base: the specification."""
    out = []
    for first in range(0, len(values), bin_bp):
        bases = values[first : first + bin_bp]
        data = [0.0 if np.isnan(v) else v for v in bases] if absent == "zero" else [v for v in bases if not np.isnan(v)]
        if len(data) / len(bases) < min_covered:
            out.append(np.nan)
        elif reduce == "coverage":
            out.append(sum(not np.isnan(v) for v in bases) / len(bases))
        elif not data:
            out.append(np.nan)
        else:
            out.append(
                {
                    "mean": sum(data) / len(bases),
                    "mean_covered": sum(data) / len(data),
                    "max": max(data),
                    "sum": sum(data),
                }[reduce]
            )
    return np.array(out, np.float32)


@st.composite
def tracks(draw):
    """A contig's length and sorted disjoint records; quarters, so that sums are exact in any order."""
    records, at = [], 0
    value = st.one_of(st.integers(-400, 400).map(lambda v: v / 4), st.just(float("nan")))
    for gap, bases in draw(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 40)), min_size=1, max_size=12)):
        records.append((at + gap, at + gap + bases, draw(value)))
        at += gap + bases
    return at + draw(st.integers(0, 30)), records


def one_contig(length):
    return Contigs(("c",), np.array([length]), np.array([0]), ("",))


def write_bedgraph(path, records, contig="c"):
    path.write_text("".join(f"{contig}\t{s}\t{e}\t{v}\n" for s, e, v in records))
    return path


def write_bigwig(path, records, length, contig="c"):
    with pyBigWig.open(str(path), "w") as file:
        file.addHeader([(contig, length)])
        starts, ends, values = zip(*records, strict=True)
        file.addEntries([contig] * len(starts), list(starts), ends=list(ends), values=list(values))
    return path


@pytest.mark.parametrize("write", [write_bedgraph, lambda p, r: write_bigwig(p, r, 10_000)])
@given(
    track=tracks(),
    bin_bp=st.sampled_from([1, 2, 3, 7, 16, 64, 1000]),
    min_covered=st.sampled_from([0.0, 0.1, 0.5, 0.7, 1.0]),
)
def test_every_reduction_equals_the_reference(tmp_path, write, track, bin_bp, min_covered):
    length, records = track
    if write is not write_bedgraph:
        length = 10_000
    file = open_signal(write(tmp_path / "a", records), one_contig(length), tmp_path)
    values = per_base(records, length)
    for reduce, absent in itertools.product(get_args(Reduce), get_args(Absent)):
        found = file.bins(0, 0, -(-length // bin_bp), bin_bp, reduce, absent=absent, min_covered=min_covered)
        expected = reduce_bases(values, bin_bp, reduce, absent, min_covered)
        np.testing.assert_array_equal(found[:, 0], expected, f"{reduce} {absent}")


@given(track=tracks(), bin_bp=st.integers(1, 30), cuts=st.tuples(st.integers(0, 200), st.integers(0, 200)))
def test_a_stretch_of_bins_is_that_stretch_of_all_bins(tmp_path, track, bin_bp, cuts):
    length, records = track
    file = open_signal(write_bedgraph(tmp_path / "a", records), one_contig(length), tmp_path)
    bins = -(-length // bin_bp)
    first, last = sorted(min(cut, bins) for cut in cuts)
    whole = file.bins(0, 0, bins, bin_bp, "mean", absent="missing")
    part = file.bins(0, first, last, bin_bp, "mean", absent="missing")
    assert part.dtype == np.float32
    np.testing.assert_array_equal(part, whole[first:last])


def test_reducing_in_many_pieces_changes_nothing(tmp_path, monkeypatch):
    records = [(i * 10, i * 10 + 7, float(i)) for i in range(30)]
    file = open_signal(write_bigwig(tmp_path / "a", records, 305), one_contig(305), tmp_path)
    whole = file.bins(0, 0, 61, 5, "mean", absent="missing")
    monkeypatch.setattr(signal, "_PIECE", 4)
    np.testing.assert_array_equal(file.bins(0, 0, 61, 5, "mean", absent="missing"), whole)


def test_records_beyond_the_asked_contig_or_column_play_no_part(tmp_path):
    path = tmp_path / "a.bedGraph"
    path.write_text("chr2\t0\t50\t2\nchr1\t99\t100\t1\nchr3\t0\t1\t3\n")
    file = open_signal(path, CONTIGS, tmp_path)
    assert file.columns == ("a",)
    assert file.bins(0, 0, 2, 50, "sum", absent="zero")[:, 0].tolist() == [0, 1]
    assert file.bins(1, 0, 1, 50, "sum", absent="zero")[:, 0].tolist() == [100]
    assert file.bins(2, 0, 1, 50, "sum", absent="zero")[:, 0].tolist() == [3]


def test_a_contig_that_the_file_does_not_know_is_missing_even_where_gaps_are_zeros(tmp_path):
    file = open_signal(write_bedgraph(tmp_path / "a", [(0, 5, 1)], "chr1"), CONTIGS, tmp_path)
    assert file.known.tolist() == [True, False, False]
    for reduce in get_args(Reduce):
        assert np.isnan(file.bins(1, 0, 5, 10, reduce, absent="zero")).all()


def test_a_bedgraph_may_be_gzipped_unsorted_and_have_headers_aliases_and_crlf(tmp_path):
    path = tmp_path / "b.bedGraph.gz"
    text = (
        "browser position chr1:1-9\ntrack type=bedGraph\n# note\n\nII 5 6 1.5\r\nchr1 7 9 nan\ntrack x\nchr1 0 7 -2e0\n"
    )
    path.write_bytes(gzip.compress(text.encode()))
    file = open_signal(path, CONTIGS, tmp_path)
    assert file.columns == ("b",)
    assert file.bins(0, 0, 3, 3, "mean", absent="missing")[:, 0].tolist() == pytest.approx([-2, -2, -2 / 3])
    assert file.bins(1, 5, 6, 1, "max", absent="missing")[:, 0].tolist() == [1.5]


def test_a_large_bedgraph_goes_through_the_disk_in_sorted_runs(tmp_path, monkeypatch):
    monkeypatch.setattr("distgen.ingest.spool._MEMORY", 64)
    order = np.random.default_rng(0).permutation(5000)
    records = [(int(i) * 3, int(i) * 3 + 2, float(i % 17)) for i in order]
    file = open_signal(write_bedgraph(tmp_path / "a", records), one_contig(15_000), tmp_path)
    found = file.bins(0, 0, 15_000, 1, "mean", absent="missing")[:, 0]
    np.testing.assert_array_equal(found, per_base(records, 15_000).astype(np.float32))


def test_bases_on_contigs_that_the_assembly_lacks_are_counted(tmp_path):
    path = tmp_path / "a.bedGraph"
    path.write_text("chrX\t0\t50\t2\nchr1\t99\t100\t1\nchrY\t10\t11\t3\nchrX\t100\t107\t3\n")
    assert open_signal(path, CONTIGS, tmp_path).skipped == {"chrX": 57, "chrY": 1}


GOOD = "chr1\t0\t10\t1\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"a\.bedGraph: the file holds no bedGraph records"),
        ("track type=bedGraph\n", "holds no bedGraph records"),
        (GOOD + "chr1\t20\t30\n", r"a\.bedGraph:2: a line of bedGraph has 4 columns \(contig, start, end, value\)"),
        (GOOD + "chr1\t20\t30\t1\t2\n", r"a\.bedGraph:2: a line of bedGraph has 4 columns"),
        ("# head\n" + GOOD + "chr1\t2x\t30\t1\n", r"a\.bedGraph:3: start \(column 2\) must be an int"),
        (GOOD + "chr1\t20\t30\tNA\n", r"a\.bedGraph:2: value \(column 4\) must be a number"),
        (GOOD + "chr1\t20\t30\t1_0\n", r"a\.bedGraph:2: value"),
        (GOOD + "chr1\t20.0\t30\t1\n", r"a\.bedGraph:2: start \(column 2\) must"),
        (
            GOOD + "\n\nchr1\t20\t101\t1\n",
            r'a\.bedGraph:4: the feature ends at 101, contig "chr1" of the assembly has 100 bases',
        ),
        (GOOD + "chr1\t20\t20\t1\n", r"a\.bedGraph:2: start is at least 0 and below end"),
        (GOOD + "chr1\t-2\t20\t1\n", r"a\.bedGraph:2: start is at least 0"),
        (GOOD + "chrX\t9\t3\t1\n", r"a\.bedGraph:2: start is at least 0 .*chrX"),
        (GOOD + "chr1\t20\t30\tinf\n", r"a\.bedGraph:2: the value is infinite"),
        (GOOD + "chr1\t20\t30\t1e300\n", r"a\.bedGraph:2: the value is infinite"),
        (GOOD + "chr2\t0\t9\t1\nchr1\t9\t11\t1\n", r"a\.bedGraph:3: this record overlaps the one in line 1"),
        ("chr1\t5\t6\t1\n" + GOOD, r"a\.bedGraph:2: this record overlaps the one in line 1"),
        ("chrX\t0\t1\t1\n", "none of its contigs"),
        (GOOD + "1\t20\t30\t1\n", '"chr1" and "1" both mean contig "chr1"'),
    ],
)
def test_what_is_wrong_with_a_bedgraph_is_named_with_its_line(tmp_path, text, message):
    path = tmp_path / "a.bedGraph"
    path.write_text(text)
    with pytest.raises(SourceError, match=message):
        open_signal(path, CONTIGS, tmp_path)


def test_an_overlap_is_seen_between_blocks_that_come_from_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("distgen.ingest.spool._MEMORY", 1)
    monkeypatch.setattr("distgen.ingest.spool._LEAST", 1)
    path = write_bedgraph(tmp_path / "a", [(0, 10, 1), (10, 20, 1), (19, 30, 1)])
    with pytest.raises(SourceError, match="a:3: this record overlaps the one in line 2"):
        open_signal(path, one_contig(100), tmp_path)


@pytest.mark.parametrize(
    ("name", "head", "message"),
    [
        ("a.bw", b"chr1\t0\t10\t1\n", "this is no bigWig"),
        ("a.bigWig", b"", "this is no bigWig"),
        ("a.bb", (0x8789F2EB).to_bytes(4, "little") + bytes(60), "this is a bigBed"),
        ("a.bedGraph", b"\x00\xff" * 100, "a.bedGraph:1: this is no text"),
    ],
)
def test_a_file_of_another_kind_is_told_apart(tmp_path, name, head, message):
    (tmp_path / name).write_bytes(head)
    with pytest.raises(SourceError, match=message):
        open_signal(tmp_path / name, CONTIGS, tmp_path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SourceError, match=r"b\.bw: there is no such file"):
        open_signal(tmp_path / "b.bw", CONTIGS, tmp_path)


class Given(Signal):
    """A signal of given sections, good or bad."""

    def __init__(self, *given):
        super().__init__(Path("a.bw"), ("a",), one_contig(100), np.array([True]), {})
        self.given = given

    def sections(self, column, row, low, high):
        yield from self.given


def section(*records, kind=1, **geometry):
    words = [np.array(r[:-1], np.uint32).tobytes() + np.float32(r[-1]).tobytes() for r in records]
    return Section(np.frombuffer(b"".join(words), np.uint32), kind, **geometry)


@pytest.mark.parametrize(
    "given",
    [
        section((2, 5, 1.0), (5, 8, 2.0)),
        section((2, 1.0), (5, 2.0), kind=2, span=3),
        section((1.0,), (2.0,), kind=3, start=2, step=3, span=3),
    ],
)
def test_the_three_kinds_of_sections_say_the_same(given):
    starts, ends, values = explicit(given)
    assert (starts.tolist(), ends.tolist(), values.tolist()) == ([2, 5], [5, 8], [1, 2])
    assert Given(given).bins(0, 0, 2, 5, "sum", absent="zero")[:, 0].tolist() == [3, 6]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([section((5, 9, 1.0), (8, 10, 1.0))], r"c:8-10 .* begins before the end of the record before it \(9\)"),
        ([section((5, 9, 1.0)), section((1, 2, 1.0))], r"c:1-2 .* begins before the end of the record before it \(9\)"),
        ([section((5, 5, 1.0))], "c:5-5 .* is an empty record"),
        ([section((5, 101, 1.0))], "c:5-101 .* leaves its contig, which has 100 bases"),
        ([section((5, 9, np.inf))], "c:5-9 .* has the value inf"),
        ([section((1.0,), (2.0,), kind=3, start=2, step=2, span=3)], "c:4-7 .* begins before .* it .5.:"),
    ],
)
def test_records_that_contradict_are_refused(given, message):
    with pytest.raises(SourceError, match=r"a\.bw: " + message):
        Given(*given).bins(0, 0, 1, 100, "mean", absent="zero")


def test_the_reductions_have_one_order():
    assert get_args(Reduce) == binning.REDUCES


@pytest.mark.data
def test_the_real_bigwigs_hold_their_whole_contig(data, tmp_path):
    contigs = Contigs(("chrI", "chrII"), np.array([230_218, 813_184]), np.array([0, 230_272]), ("", ""))
    path = data / "sacCer3/mnase_G2_coverage.bw"
    file = open_signal(path, contigs, tmp_path)
    bases = pyBigWig.open(str(path)).values("chrII", 0, 813_184, numpy=True).astype(np.float64)
    for bin_bp in (1, 128, 1000):
        found = file.bins(1, 0, -(-813_184 // bin_bp), bin_bp, "mean_covered", absent="missing")[:, 0]
        expected = [bases[at : at + bin_bp].mean() for at in range(0, 813_184, bin_bp)]
        np.testing.assert_array_equal(found, np.array(expected, np.float32))
    assert np.isnan(file.bins(0, 0, 100, 128, "mean", absent="zero")).all()
