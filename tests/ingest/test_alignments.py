import gzip
from dataclasses import dataclass

import numpy as np
import pysam
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.errors import ConfigError, SourceError
from distgen.genome import Contigs
from distgen.ingest.alignments import NO_BARCODE, NO_GROUP, OUTSIDE, open_alignments

LENGTHS = {"chr1": 300, "chr2": 120, "chrX": 90}
CONTIGS = Contigs(("chr1", "chr2"), np.array([300, 120]), np.array([0, 320]), ("", ""))
CONSUMES = {0: (1, 1), 1: (0, 1), 2: (1, 0), 3: (1, 0), 4: (0, 1), 5: (0, 0), 7: (1, 1), 8: (1, 1)}  # reference, read


@dataclass
class Read:
    contig: str = "chr1"
    start: int = 10
    cigar: tuple[tuple[int, int], ...] = ((0, 5),)
    flag: int = 0
    mapq: int = 30
    barcode: str | None = "AAA"

    @property
    def covered(self):
        at, bases = self.start, []
        for operation, n in self.cigar:
            if operation in (0, 7, 8):
                bases += range(at, at + n)
            at += n * CONSUMES[operation][0]
        return bases


def write(path, reads, lengths=LENGTHS, mode="wb", **options):
    header = {"HD": {"VN": "1.6"}, "SQ": [{"SN": name, "LN": n} for name, n in lengths.items()]}
    with pysam.AlignmentFile(str(path), mode, header=header, **options) as file:
        for i, read in enumerate(reads):
            line = pysam.AlignedSegment(file.header)
            line.query_name, line.flag, line.mapping_quality = f"read{i}", read.flag, read.mapq
            line.reference_id, line.reference_start = list(lengths).index(read.contig), read.start
            line.cigartuples = read.cigar
            line.query_sequence = "A" * sum(n * CONSUMES[operation][1] for operation, n in read.cigar)
            if read.barcode is not None:
                line.set_tag("CB", read.barcode)
            file.write(line)
    return path


def bases(file, row=0):
    return file.bins(row, 0, int(CONTIGS.lengths[row]), 1, "mean", absent="missing")


READS = st.builds(
    Read,
    contig=st.sampled_from(["chr1", "chr1", "chr2", "chrX"]),
    start=st.integers(0, 40),
    cigar=st.sampled_from(
        [((0, 1),), ((0, 20),), ((4, 3), (0, 9), (3, 20), (0, 4)), ((7, 5), (2, 3), (8, 2), (1, 4), (0, 6), (5, 2))]
    ),
    flag=st.sampled_from([0, 0, 0, 16, 16, 99, 147, 0x100, 0x200, 0x400, 0x800]),
    mapq=st.sampled_from([0, 10, 60]),
    barcode=st.sampled_from(["AAA", "CCC", "GGG", None]),
)


@given(
    reads=st.lists(READS, min_size=1, max_size=25),
    what=st.sampled_from(["coverage", "cuts"]),
    tn5=st.booleans(),
    min_mapq=st.sampled_from([0, 10]),
    grouped=st.booleans(),
)
def test_every_base_counts_what_the_reference_counts(tmp_path, reads, what, tn5, min_mapq, grouped):
    tn5 = tn5 and what == "cuts"
    groups = tmp_path / "groups.tsv"
    groups.write_text("barcode\tgroup\nAAA\tB cells\nCCC\tA cells\nTTT\tB cells\n")
    column = {"AAA": 1, "CCC": 0} if grouped else dict.fromkeys(["AAA", "CCC", "GGG", None], 0)
    expected = {name: np.zeros((n, 1 + grouped)) for name, n in LENGTHS.items()}
    skipped, n = {}, 0
    for read in reads:
        if read.flag & 0xF00 or read.mapq < min_mapq:
            continue
        why = read.contig if read.contig == "chrX" else None
        if why is None and read.barcode not in column:
            why = NO_BARCODE if read.barcode is None else NO_GROUP
        places = read.covered
        if what == "cuts":
            places = [places[-1] - 5 * tn5] if read.flag & 16 else [places[0] + 4 * tn5]
        if why is None and not 0 <= places[0] < LENGTHS[read.contig]:
            why = OUTSIDE
        if why:
            skipped[why] = skipped.get(why, 0) + 1
            continue
        n += 1
        for place in places:
            expected[read.contig][place, column[read.barcode]] += 1
    arguments = {"groups": groups if grouped else None, "tn5": tn5, "min_mapq": min_mapq, "what": what}
    path = write(tmp_path / "a.bam", reads)
    if not n:
        with pytest.raises(SourceError, match="nothing in this file counts"):
            open_alignments(path, CONTIGS, tmp_path, **arguments)
        return
    file = open_alignments(path, CONTIGS, tmp_path, **arguments)
    assert file.columns == (("A cells", "B cells") if grouped else ("a",))
    assert file.skipped == skipped
    for row, name in enumerate(CONTIGS.names):
        np.testing.assert_array_equal(bases(file, row), expected[name])


def test_cut_sites_lie_where_the_enzyme_cut(tmp_path):
    path = write(tmp_path / "a.bam", [Read(start=10, cigar=((0, 30),)), Read(start=50, cigar=((0, 30),), flag=16)])
    plain = bases(open_alignments(path, CONTIGS, tmp_path, what="cuts"))[:, 0]
    shifted = bases(open_alignments(path, CONTIGS, tmp_path, what="cuts", tn5=True))[:, 0]
    assert np.flatnonzero(plain).tolist() == [10, 79]
    assert np.flatnonzero(shifted).tolist() == [14, 74]


def test_a_fragment_file_of_shifted_reads_has_the_same_cuts_as_the_bam(tmp_path):
    pair = [Read(start=10, cigar=((0, 30),), flag=99), Read(start=50, cigar=((0, 30),), flag=147)]
    bam = open_alignments(write(tmp_path / "a.bam", pair), CONTIGS, tmp_path, what="cuts", tn5=True)
    (tmp_path / "a.tsv").write_text("chr1\t14\t75\tAAA\t1\n")
    fragments = open_alignments(tmp_path / "a.tsv", CONTIGS, tmp_path, what="cuts")
    np.testing.assert_array_equal(bases(bam), bases(fragments))


def test_bins_of_alignments_have_no_gaps_whatever_is_asked(tmp_path):
    file = open_alignments(write(tmp_path / "a.bam", [Read()] * 3), CONTIGS, tmp_path)
    for absent in ("zero", "missing"):
        assert file.bins(0, 0, 3, 10, "mean", absent=absent)[:, 0].tolist() == [0, 1.5, 0]
        assert file.bins(1, 0, 12, 10, "max", absent=absent, min_covered=1.0)[:, 0].tolist() == [0] * 12


def test_coverage_is_the_share_of_bases_that_have_reads(tmp_path):
    file = open_alignments(write(tmp_path / "a.bam", [Read(start=10)] * 3 + [Read(start=25)]), CONTIGS, tmp_path)
    (bases_read,) = np.nonzero(bases(file)[:40, 0])
    expected = [(bases_read // 10 == b).mean() * len(bases_read) / 10 for b in range(4)]
    assert 0 < min(e for e in expected if e) < 1
    assert file.bins(0, 0, 4, 10, "coverage", absent="zero")[:, 0].tolist() == pytest.approx(expected)


def test_a_contig_that_the_header_lacks_is_missing(tmp_path):
    path = write(tmp_path / "a.bam", [Read()], {"chr1": 300})
    assert np.isnan(bases(open_alignments(path, CONTIGS, tmp_path), 1)).all()


def test_stacks_at_a_contigs_end_do_not_reach_the_next(tmp_path):
    reads = [Read(start=295)] * 3 + [Read("chr2", 0)] * 3
    file = open_alignments(write(tmp_path / "a.bam", reads), CONTIGS, tmp_path)
    assert bases(file, 0)[290:, 0].tolist() == [0] * 5 + [3] * 5
    assert bases(file, 1)[:7, 0].tolist() == [3] * 5 + [0, 0]


def test_more_reads_than_memory_holds_go_through_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("distgen.ingest.alignments._READS", 10)
    monkeypatch.setattr("distgen.ingest.spool._MEMORY", 16)
    monkeypatch.setattr("distgen.ingest.spool._LEAST", 3)
    starts = np.random.default_rng(0).integers(0, 290, 500)
    file = open_alignments(write(tmp_path / "a.bam", [Read(start=int(s)) for s in starts]), CONTIGS, tmp_path)
    expected = np.zeros(300)
    for start in starts:
        expected[start : start + 5] += 1
    np.testing.assert_array_equal(bases(file)[:, 0], expected)


def test_a_cram_counts_like_the_bam_without_its_reference(tmp_path):
    rng = np.random.default_rng(0)
    text = "".join(f">{name}\n{''.join(rng.choice(list('ACGT'), n))}\n" for name, n in LENGTHS.items())
    (tmp_path / "ref.fa").write_text(text)
    cigar = ((4, 3), (0, 9), (3, 20), (2, 2), (0, 1), (1, 2), (0, 4))
    reads = [Read(start=s, cigar=cigar, flag=flag) for s in (5, 7, 200) for flag in (0, 16)]
    cram = write(tmp_path / "a.cram", reads, mode="wc", reference_filename=str(tmp_path / "ref.fa"))
    (tmp_path / "ref.fa").unlink()
    bam = write(tmp_path / "a.bam", reads)
    (tmp_path / "g.csv").write_text("AAA,T\n")
    for options in ({}, {"what": "cuts", "tn5": True}, {"groups": tmp_path / "g.csv"}):
        found = open_alignments(cram, CONTIGS, tmp_path, **options)
        np.testing.assert_array_equal(bases(found), bases(open_alignments(bam, CONTIGS, tmp_path, **options)))
    for kept in (30, cram.stat().st_size - 60):
        (tmp_path / "b.cram").write_bytes(cram.read_bytes()[:kept])
        with pytest.raises(SourceError, match=r"b\.cram: reading stops with an error"):
            open_alignments(tmp_path / "b.cram", CONTIGS, tmp_path)


def test_a_full_disk_is_not_taken_for_a_damaged_file(tmp_path, monkeypatch):
    def full(self, records):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("distgen.ingest.spool.Spool.add", full)
    with pytest.raises(OSError, match="No space left"):
        open_alignments(write(tmp_path / "a.bam", [Read()]), CONTIGS, tmp_path)


FRAGMENTS = "# id=x\nchr1\t10\t15\tAAA\t7\nchrX\t1\t9\tAAA\t1\nchr2\t0\t120\tCCC\t1\nchr1\t12\t20\tGGG\t1\n"


def test_fragments_count_once_and_as_a_whole(tmp_path):
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress(FRAGMENTS.encode()))
    file = open_alignments(tmp_path / "a.tsv.gz", CONTIGS, tmp_path)
    assert file.columns == ("a",)
    assert file.skipped == {"chrX": 1}
    expected = np.zeros(300)
    expected[10:15] += 1
    expected[12:20] += 1
    np.testing.assert_array_equal(bases(file)[:, 0], expected)
    np.testing.assert_array_equal(bases(file, 1), np.ones((120, 1)))


def test_fragments_by_group_count_what_is_in_no_group(tmp_path):
    (tmp_path / "a.tsv").write_text(FRAGMENTS)
    (tmp_path / "g.csv").write_text("AAA,T\nCCC,B\n")
    file = open_alignments(tmp_path / "a.tsv", CONTIGS, tmp_path, groups=tmp_path / "g.csv", what="cuts")
    assert file.columns == ("B", "T")
    assert file.skipped == {"chrX": 1, NO_GROUP: 1}
    assert np.argwhere(bases(file)).tolist() == [[10, 1], [14, 1]]
    assert np.argwhere(bases(file, 1)).tolist() == [[0, 0], [119, 0]]


def test_a_barcode_at_a_lines_end_is_the_same_with_crlf(tmp_path):
    (tmp_path / "a.tsv").write_bytes(b"chr1\t10\t15\tAAA\r\n" * 3)
    (tmp_path / "g.csv").write_bytes(b"AAA,T\r\n")
    file = open_alignments(tmp_path / "a.tsv", CONTIGS, tmp_path, groups=tmp_path / "g.csv")
    assert file.skipped == {}
    assert bases(file)[10, 0] == 3


GOOD = "chr1\t10\t15\tAAA\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file holds no fragments"),
        (
            GOOD + "chr1\t10\t15\n",
            r"a\.tsv:2: a line of a fragment file has 4 columns or more \(contig, start, end, barcode\)",
        ),
        (GOOD + "chr1\t10\tx\tAAA\n", r"a\.tsv:2: end \(column 3\) must be an integer"),
        (GOOD + "chr1\t-1\t5\tAAA\n", r"a\.tsv:2: start is at least 0"),
        (
            GOOD + "chr2\t100\t121\tAAA\n",
            r'a\.tsv:2: the feature ends at 121, contig "chr2" of the assembly has 120 bases',
        ),
        ("chrX\t1\t2\tAAA\n", "none of its contigs"),
        ("@HD\tVN:1.6\n", r"a\.tsv:1: a line of a fragment file has 4 columns"),
    ],
)
def test_what_is_wrong_with_a_fragment_file_is_named_with_its_line(tmp_path, text, message):
    (tmp_path / "a.tsv").write_text(text)
    with pytest.raises(SourceError, match=message):
        open_alignments(tmp_path / "a.tsv", CONTIGS, tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"g\.tsv: the file holds no barcodes"),
        ("barcode,group\n", "no barcodes below its header"),
        ("AAA\tT\nCCC\n", r"g\.tsv:2: a line of this table is a barcode and its group"),
        ("AAA,T\nCCC,\n", r"g\.tsv:2: a line of this table"),
        ("AAA,T,x\n", r"g\.tsv:1: a line of this table"),
        ("AAA,T\n\nAAA,B\n", r'g\.tsv:3: barcode "AAA" comes a second time \(first in line 1\)'),
        ("AAA-1,T\n", "nothing in this file counts .*do the barcodes of .*g.tsv end like the file's"),
    ],
)
def test_what_is_wrong_with_the_groups_is_named_with_its_line(tmp_path, text, message):
    (tmp_path / "a.tsv").write_text(GOOD)
    (tmp_path / "g.tsv").write_text(text)
    with pytest.raises(SourceError, match=message):
        open_alignments(tmp_path / "a.tsv", CONTIGS, tmp_path, groups=tmp_path / "g.tsv")


@pytest.mark.parametrize(
    ("reads", "lengths", "message"),
    [
        ([Read(start=298)], LENGTHS, r'read "read0" at chr1:298-303 .* leaves its contig, which has 300 bases'),
        ([Read(cigar=((4, 5),))], LENGTHS, 'read "read0" is mapped but has no aligned base'),
        ([Read()], {"chr1": 299}, 'contig "chr1" has 299 bases here and 300 in the assembly'),
        ([Read("ctg")], {"ctg": 300}, "none of its contigs"),
        ([], {}, "its header names no contigs"),
        ([], LENGTHS, "nothing in this file counts .no alignment passes the filters"),
        ([Read(flag=0x400)], LENGTHS, "nothing in this file counts"),
    ],
)
def test_what_is_wrong_with_a_bam_is_named(tmp_path, reads, lengths, message):
    with pytest.raises(SourceError, match=r"a\.bam: " + message):
        open_alignments(write(tmp_path / "a.bam", reads, lengths), CONTIGS, tmp_path)


def test_a_bam_cut_short_or_damaged_is_refused(tmp_path):
    rng = np.random.default_rng(0)
    whole = write(tmp_path / "a.bam", [Read(start=int(s)) for s in rng.integers(0, 290, 20_000)]).read_bytes()
    for kept in (len(whole) - 28, len(whole) // 2):
        (tmp_path / "b.bam").write_bytes(whole[:kept])
        with pytest.raises(SourceError, match=r"b\.bam: .*cut short"):
            open_alignments(tmp_path / "b.bam", CONTIGS, tmp_path)
    damaged = bytearray(whole)
    damaged[len(whole) // 2 : len(whole) // 2 + 200] = bytes(200)
    (tmp_path / "b.bam").write_bytes(damaged)
    with pytest.raises(SourceError, match=r"b\.bam: .*damaged"):
        open_alignments(tmp_path / "b.bam", CONTIGS, tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tn5": True, "what": "cuts"}, "are shifted already: leave out tn5"),
        ({"min_mapq": 5}, "have no mapping quality .*leave out min_mapq"),
        ({"tn5": True}, 'tn5 shifts cut sites; it goes with what = "cuts"'),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, options, message):
    (tmp_path / "a.tsv").write_text(GOOD)
    with pytest.raises(ConfigError, match=message):
        open_alignments(tmp_path / "a.tsv", CONTIGS, tmp_path, **options)
