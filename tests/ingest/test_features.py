import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.errors import SourceError
from distgen.genome import Contigs
from distgen.ingest.features import Features, paint, read_gtf

CONTIGS = Contigs(("chr1", "chr2"), np.array([100, 50]), np.array([0, 128]), ("", "II"))


def line(contig="chr1", feature="CDS", start=11, end=20, strand="+"):
    return f"{contig}\tsource\t{feature}\t{start}\t{end}\t.\t{strand}\t.\tgene_id\n"


def read(tmp_path, text, classes=("cds+",)):
    path = tmp_path / "a.gtf"
    path.write_text(text)
    return read_gtf(path, classes, CONTIGS)


def test_positions_become_0_based_and_half_open(tmp_path):
    found = read(tmp_path, line(start=1, end=1) + line(contig="II", start=11, end=50))
    assert found.contig.tolist() == [0, 1]
    assert found.start.tolist() == [0, 10]
    assert found.end.tolist() == [1, 50]


def test_classes_tell_feature_types_and_strands_apart(tmp_path):
    text = line() + line(strand="-") + line(feature="exon") + line(feature="exon", strand="-")
    found = read(tmp_path, text, ("cds-", "exon", "CDS"))
    assert sorted(found.klass.tolist()) == [0, 1, 1, 2, 2]


def test_features_on_other_contigs_are_counted(tmp_path):
    assert read(tmp_path, line() + line(contig="chrX") * 3).skipped == {"chrX": 3}


def test_comments_blank_lines_and_a_gff3_tail_of_fasta_are_no_features(tmp_path):
    found = read(tmp_path, "##gff-version 3\n\n" + line() + "##FASTA\n>chr1\nACGT\n")
    assert len(found.start) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no features"),
        (line() + "chr1\tx\tCDS\t5\n", r"a\.gtf:2: this is no GTF line"),
        (line() + line(start="five"), r"a\.gtf:2: this is no GTF line"),
        (line(strand="plus"), r"a\.gtf:1: this is no GTF line"),
        (line() + line(end=101), r'a\.gtf:2: chr1:11-101 is no stretch of contig "chr1", which has 100 bases'),
        (line(start=0), r"a\.gtf:1: chr1:0-20 is no stretch"),
        (line(feature="exon"), 'no feature is a "cds".*Valid: exon'),
        (line(contig="1"), r"its contigs \(1\) are none of the assembly's \(chr1, chr2\)"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, text, message):
    with pytest.raises(SourceError, match=message):
        read(tmp_path, text)


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(1, 40), st.integers(0, 2))), st.integers(1, 9))
def test_painting_equals_marking_base_by_base(stretches, bin_bp):
    start = np.array([s for s, _, _ in stretches], np.int64)
    end = np.minimum(start + np.array([n for _, n, _ in stretches], np.int64), 100)
    klass = np.array([k for _, _, k in stretches], np.int64)
    expected = np.zeros((-(-100 // bin_bp), 3), np.uint8)
    for s, e, k in zip(start, end, klass, strict=True):
        for base in range(s, e):
            expected[base // bin_bp, k] = 1
    features = Features(np.zeros_like(start), start, end, klass, {})
    assert np.array_equal(paint(features, 0, 100, 3, bin_bp), expected)
