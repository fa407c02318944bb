import gzip

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.errors import SourceError
from distgen.genome import Contigs
from distgen.ingest.features import paint
from distgen.ingest.intervals import read_intervals, read_listed

CONTIGS = Contigs(("20", "21"), np.array([100, 50]), np.array([0, 128]), ("", "NC_21"))
PEAK = "chr20\t10\t30\tp\t606\t.\t21.5\t-1\t3.9\t5\n"
BED12 = "20\t10\t60\tx\t0\t+\t10\t60\t0\t2\t10,20,\t0,30,\n"


def read(tmp_path, text, name="a.bed", **options):
    (tmp_path / name).write_text(text)
    return read_intervals([tmp_path / name], CONTIGS, **options)


def spans(found):
    return list(zip(found.contig.tolist(), found.start.tolist(), found.end.tolist(), strict=True))


def test_column_k_holds_file_k(tmp_path):
    (tmp_path / "a.bed").write_text("chr20\t10\t30\n")
    (tmp_path / "b.bed.gz").write_bytes(gzip.compress(b"chr21\t0\t50\r\nchr20\t5\t7\r\n"))
    found = read_intervals([tmp_path / "a.bed", tmp_path / "b.bed.gz"], CONTIGS)
    assert spans(found) == [(0, 5, 7), (0, 10, 30), (1, 0, 50)]
    assert found.klass.tolist() == [1, 0, 1]
    assert found.value is None


def test_headers_comments_and_further_columns_are_left_alone(tmp_path):
    header = "browser position chr20\ntrack\ttype=bed\n#chrom\tstart\tend\n\n"
    assert spans(read(tmp_path, header + "20\t1\t2\tname\t7\t+\n#\n20\t3\t4\n")) == [(0, 1, 2), (0, 3, 4)]


def test_intervals_on_other_contigs_are_counted_over_all_files(tmp_path):
    (tmp_path / "a.bed").write_text("chr20\t10\t30\nchrX\t1\t2\n")
    found = read_intervals([tmp_path / "a.bed"] * 2, CONTIGS)
    assert found.skipped == {"chrX": 2}
    assert len(found) == 2


def test_a_summit_and_its_surroundings_end_with_the_contig(tmp_path):
    at_the_end = "chr20\t90\t100\t.\t0\t.\t1\t-1\t-1\t10\n"  # as SPP writes some: the offset is the peak's length
    found = read(tmp_path, PEAK + at_the_end, "a.narrowPeak", summit=3)
    assert spans(found) == [(0, 12, 19), (0, 97, 100)]
    assert spans(read(tmp_path, PEAK, summit=0)) == [(0, 15, 16)]
    assert spans(read(tmp_path, PEAK, summit=40)) == [(0, 0, 56)]


def test_values_come_from_the_score_or_the_signal(tmp_path):
    assert read(tmp_path, PEAK, value="score").value.tolist() == [606]
    assert read(tmp_path, PEAK, value="signalValue").value.tolist() == [21.5]
    broad = "\t".join(PEAK.split("\t")[:9]) + "\n"
    assert read(tmp_path, broad, "a.BroadPeak", value="signalValue").value.tolist() == [21.5]
    scored = read(tmp_path, "20\t5\t9\ta\t2\n20\t1\t6\tb\t3\n", value="score")
    assert paint(scored, 0, 0, 10, 1, 1, absent=0)[:, 0].tolist() == [0, 3, 3, 3, 3, 3, 2, 2, 2, 0]


def test_blocks_take_the_place_of_their_line(tmp_path):
    assert spans(read(tmp_path, BED12, blocks=True)) == [(0, 10, 20), (0, 40, 60)]
    assert spans(read(tmp_path, BED12)) == [(0, 10, 60)]


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 49), st.integers(1, 50)), min_size=1, max_size=20))
def test_intervals_are_read_as_they_were_written(tmp_path_factory, intervals):
    expected = [(row, start, min(start + n, 50)) for row, start, n in intervals]
    text = "".join(f"chr2{row}\t{start}\t{end}\n" for row, start, end in expected)
    assert sorted(spans(read(tmp_path_factory.mktemp("bed"), text))) == sorted(expected)


@pytest.mark.parametrize(
    ("text", "name", "options", "message"),
    [
        ("", "a.bed", {}, "a.bed: the file holds no intervals"),
        ("track name=x\n#\n", "a.bed", {}, "a.bed: the file holds no intervals"),
        ("20\t1\t2\n20\t5\n", "a.bed", {}, "a.bed:2: a line of BED has 3 columns or more .* parted by tabs"),
        ("20 1,2\n", "a.bed", {}, "a.bed:1: .*parted by tabs or blanks: '20 1,2'"),
        ("20\t1\t2\n\n20\t1.5\t2\n", "a.bed", {}, r"a.bed:3: start \(column 2\) must be an integer"),
        ("20\t1\t\n", "a.bed", {}, r"a.bed:1: end \(column 3\) must be an integer"),
        ("20\t-1\t2\n", "a.bed", {}, "a.bed:1: start is at least 0"),
        ("20\t5\t5\n", "a.bed", {}, "a.bed:1: start is at least 0 and below end"),
        ("20\t6\t5\n", "a.bed", {}, "a.bed:1: start is at least 0 and below end"),
        ("20\t1\t2\n20\t90\t101\n", "a.bed", {}, 'a.bed:2: the feature ends at 101, contig "20" .* has 100 bases'),
        ("X\t1\t2\n", "a.bed", {}, r"none of its contigs \(X\)"),
        ("20\t1\t2\nchr20\t1\t2\n", "a.bed", {}, '"20" and "chr20" both mean'),
        ("20\t1\t2\n", "a.bed", {"value": "score"}, r"a.bed:1: a line of BED has 5 columns or more \(.*, score\)"),
        ("20\t1\t2\ta\t.\n", "a.bed", {"value": "score"}, r"a.bed:1: score \(column 5\)"),
        ("20\t1\t2\ta\tnan\n", "a.bed", {"value": "score"}, r"a.bed:1: score \(column 5\)"),
        ("20\t1\t2\ta\t1\n", "a.bed", {"value": "signalValue"}, "a.bed: BED has no signalValue: narrowPeak and"),
        (
            PEAK.replace("21.5", "inf"),
            "a.bed",
            {"value": "signalValue"},
            r"signalValue \(column 7\) must be a finite number",
        ),
        ("20\t1\t2\n", "a.bed", {"summit": 5}, "a.bed: BED has no summits: narrowPeak does"),
        (PEAK, "a.broadPeak", {"summit": 5}, "broadPeak has no summits"),
        (PEAK.replace("\t5\n", "\t-1\n"), "a.bed", {"summit": 5}, "a.bed:1: the summit .* -1 means that there is none"),
        (PEAK.replace("\t5\n", "\t21\n"), "a.bed", {"summit": 5}, "a.bed:1: the summit .* must lie in the peak"),
        (PEAK.replace("\t5\n", "\n"), "a.narrowPeak", {"summit": 5}, "narrowPeak:1: a line .* 10 columns"),
        (PEAK, "a.bed", {"blocks": True}, "narrowPeak has no blocks: BED with twelve columns does"),
        ("20\t1\t2\n", "a.bed", {"blocks": True}, "a.bed:1: a line of BED has 12 columns .*blockStarts"),
        (BED12.replace("\t2\t10", "\t3\t10"), "a.bed", {"blocks": True}, "a.bed:1: .* must hold blockCount integers"),
        (BED12.replace("0,30,", "0,"), "a.bed", {"blocks": True}, "a.bed:1: .* must hold blockCount integers"),
        (BED12.replace("0,30,", "0,x,"), "a.bed", {"blocks": True}, "a.bed:1: each block must be integers"),
        (BED12.replace("10,20,", "10,0,"), "a.bed", {"blocks": True}, "a.bed:1: each block must .* hold a base"),
        (BED12.replace("0,30,", "0,31,"), "a.bed", {"blocks": True}, "a.bed:1: .* lie in its line's stretch"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, text, name, options, message):
    with pytest.raises(SourceError, match=message):
        read(tmp_path, text, name, **options)


@pytest.mark.data
def test_peaks_of_109_experiments_are_109_columns(data):
    contigs = Contigs(("20",), np.array([63_025_520]), np.array([0]), ("",))
    paths = sorted((data / "human_b37_chr20/chipseq_peaks").glob("*.narrowPeak.gz"))
    found = read_intervals(paths, contigs)
    assert np.bincount(found.klass).tolist() == [gzip.decompress(path.read_bytes()).count(b"\n") for path in paths]
    summits = read_intervals(paths, contigs, value="signalValue", summit=0)
    assert len(paths) == 109
    assert len(summits) == len(found) == 97_675
    assert summits.value.min() > 0
    assert found.skipped == {}


@pytest.mark.data
def test_the_introns_of_spliceai_are_introns_of_gencode(data):
    from distgen.ingest.annotation import read_annotation

    folder = data / "human_b37_chr20/annotation"
    contigs = Contigs(("20",), np.array([63_025_520]), np.array([0]), ("",))
    table = read_annotation(folder / "spliceai_grch37_transcripts.tsv.gz", ("intron",), contigs)
    gencode = read_intervals([folder / "gencode_v19.intron.merged.bed.gz"], contigs)
    # Merging moves some edges of GENCODE's introns; a base's shift would move them all.
    same = [np.isin(table.start + shift, gencode.start).mean() for shift in (-1, 0, 1)]
    assert same[1] > 0.8
    assert max(same[0], same[2]) < 0.01


def test_listed_intervals_keep_the_order_and_the_row_of_the_file_with_strand_and_summit(tmp_path):
    peak = PEAK.replace("\t.\t", "\t{}\t")
    lines = [peak.format("-"), peak.format("+").replace("chr20", "chrX"), "21\t4\t9\tq\t0\t.\t1\t-1\t-1\t0\n"]
    (tmp_path / "a.narrowPeak").write_text("# peaks\n" + "".join(lines) + lines[0].replace("10\t30", "0\t8"))
    found = read_listed(tmp_path / "a.narrowPeak", CONTIGS, summit=True)
    assert spans(found) == [(0, 10, 30), (1, 4, 9), (0, 0, 8)]
    assert found.rows.tolist() == [0, 2, 3]
    assert found.strand.tolist() == [-1, 0, -1]
    assert found.summit.tolist() == [15, 4, 5]
    assert found.skipped == {"chrX": 1}


def test_intervals_without_a_strand_have_none_and_another_one_is_refused(tmp_path):
    (tmp_path / "a.bed").write_text("20\t1\t2\tname\t7\n")
    assert read_listed(tmp_path / "a.bed", CONTIGS).strand.tolist() == [0]
    (tmp_path / "a.bed").write_text("20 1 2 name 7 +\n20 1 2 name 7 x\n")
    with pytest.raises(SourceError, match=r"a\.bed:2: the strand \(column 6\) must be \+ - or \."):
        read_listed(tmp_path / "a.bed", CONTIGS)
    with pytest.raises(SourceError, match="BED has no summits"):
        read_listed(tmp_path / "a.bed", CONTIGS, summit=True)
