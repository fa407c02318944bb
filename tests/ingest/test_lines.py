import re

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.errors import SourceError
from distgen.genome import Contigs
from distgen.ingest import lines
from distgen.ingest.lines import Format, Names, read_columns, read_lines

COLUMNS = {"contig": pl.String, "start": pl.Int64, "end": pl.Int64, "value": pl.Float32}
CONTIGS = Contigs(("chr1", "2"), np.array([100, 50]), np.array([0, 128]), ("", ""))


def write(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    return tmp_path / "a"


def numbered(path, **options):
    return [row for block in read_lines(path, "lines", **options) for row in block.rows()]


# ---- lines ----------------------------------------------------------------------------------


@given(
    st.lists(st.sampled_from([b"", b"a", b"  ", b"chr1\t5", b"\xc3\xa9", b"#c", b"track x", b"tracker"]), max_size=20),
    st.integers(1, 9),
    st.booleans(),
)
def test_lines_keep_their_numbers_whatever_the_blocks(tmp_path, texts, block, comments):
    expected = [
        (i, text.decode())
        for i, text in enumerate(texts, 1)
        if text.strip() and not (comments and re.match(rb"#|track\b", text))
    ]
    for ending in (b"\n", b"\r\n"):
        for last in (b"", ending):
            path = write(tmp_path, ending.join(texts) + last)
            if expected:
                assert numbered(path, comments=comments, block=block) == expected
            else:
                with pytest.raises(SourceError, match="a: the file holds no lines"):
                    numbered(path, comments=comments, block=block)


def test_a_byte_order_mark_is_no_text(tmp_path):
    assert numbered(write(tmp_path, b"\xef\xbb\xbfchr1\n")) == [(1, "chr1")]


def test_other_bytes_than_utf8_are_replaced_or_refused(tmp_path):
    path = write(tmp_path, b"a\nG\xe9ne\n")
    assert numbered(path) == [(1, "a"), (2, "G\ufffdne")]
    with pytest.raises(SourceError, match=r"a:2: this is no UTF-8 text \(byte 0xe9\)"):
        numbered(path, strict=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\n\nb\rc\n", "a:3: a carriage return inside a line; lines must end in LF or CRLF"),
        ("a\nb\n".encode("utf-16"), "a:1: this is no text .it holds zero bytes"),
        (b"a\n" * 9 + b"\0", "a:10: this is no text"),
        (b"x\n" + bytes(2000), "a:2: the line has more than 0 MiB: this is no file of lines"),
    ],
)
def test_what_is_no_text_is_named_with_its_line(tmp_path, monkeypatch, content, message):
    monkeypatch.setattr(lines, "LONGEST", 1000)
    with pytest.raises(SourceError, match=message):
        numbered(write(tmp_path, content), block=16)


# ---- columns --------------------------------------------------------------------------------


def columns(tmp_path, content, block=1 << 20, **options):
    path = write(tmp_path, content)
    tables = read_columns(path, Format("BEDs", COLUMNS, **options), "stretches", block)
    return [row for table in tables for row in table.iter_rows()]


FIELDS = (
    st.sampled_from(["c", "tracker", "HLA*1:2", "a b"]),
    *[st.integers(0, 9)] * 2,
    st.sampled_from(["1", "-1.5e0", "nan", "inf"]),
)
LINE = st.one_of(
    st.builds("{}\t{}\t9{}\t{}".format, *FIELDS),
    st.builds("{}\t {}\t  9{}\t {}".format, *FIELDS),
    st.sampled_from(["", "  ", "#c 1 2 3", "#c\t1\t2\t3", "track", "track x", "browser\ty", "c  1 2\t3", "c 1 2 3 "]),
)  # fmt: skip


@given(st.lists(LINE, max_size=12), st.sampled_from(["\n", "\r\n"]), st.integers(1, 200), st.booleans())
def test_columns_are_the_same_whatever_the_blocks(tmp_path, texts, ending, block, last):
    expected = []
    for number, text in enumerate(texts, 1):
        fields = text.split("\t") if text.count("\t") == 3 else text.split()
        if fields and not text.startswith("#") and fields[0] not in ("track", "browser"):
            expected.append((number, fields[0], int(fields[1]), int(fields[2]), float(fields[3])))
    content = (ending.join(texts) + ending * last).encode()
    if expected:
        assert str(columns(tmp_path, content, block)) == str(expected)  # nan is not nan
    else:
        with pytest.raises(SourceError, match="a: the file holds no stretches"):
            columns(tmp_path, content, block)


def test_well_formed_lines_never_take_the_slow_way(tmp_path, monkeypatch):
    monkeypatch.delattr(lines, "_careful")
    assert len(columns(tmp_path, b"c\t1\t2\t3\n" * 1000, block=100)) == 1000
    assert len(columns(tmp_path, b"c 1 2 3 x\r\n" * 1000, block=100, more=True)) == 1000


def test_nothing_is_read_from_the_line_on_that_ends_the_file(tmp_path):
    content = b"c\t1\t2\t3\n" * 3 + b"##FASTA\n>c\n" + b"A" * 10_000
    assert [row[0] for row in columns(tmp_path, content, block=5, stop="^##FASTA")] == [1, 2, 3]


def test_further_columns_are_left_out_where_they_may_follow(tmp_path):
    found = columns(tmp_path, b"c\t1\t2\t3\tx\ty\nc 1 2  4 x\n", more=True)
    assert [row[1:] for row in found] == [("c", 1, 2, 3.0), ("c", 1, 2, 4.0)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "c\t1\t2",
            r"a:2: a line of BEDs has 4 columns \(contig, start, end, value\), parted by tabs or blanks: 'c\\t1\\t2'",
        ),
        ("c\t1\t2\t3\t4", "a:2: a line of BEDs has 4 columns"),
        ("c\t1.0\t2\t3", r"a:2: start \(column 2\) must be an integer: 'c"),
        ("c\t1\t\t3", r"a:2: end \(column 3\) must be an integer"),
        (f"c\t1\t{10**30}\t3", "a:2: end"),
        ("c\t1\t2\tNA", r"a:2: value \(column 4\) must be a number"),
        ("c\t-1\t2\t3", "a:2: start is at least 0 and below end, which is not included"),
        ("c\t5\t5\t3", "a:2: start is at least 0 and below end"),
    ],
)
def test_what_is_wrong_with_a_line_is_named_with_its_text(tmp_path, text, message):
    with pytest.raises(SourceError, match=message):
        columns(tmp_path, f"c\t1\t2\t3\n{text}\n".encode())


def test_blanks_part_nothing_where_columns_may_hold_them(tmp_path):
    with pytest.raises(SourceError, match="a:1: a line of BEDs has 4 columns .*, parted by tabs: "):
        columns(tmp_path, b"c 1 2 3\n", bed=False)


# ---- contigs --------------------------------------------------------------------------------


def located(tmp_path, text, **options):
    names = Names(CONTIGS, tmp_path / "a")
    blocks = [
        names.locate(table, **options)
        for table in read_columns(write(tmp_path, text.encode()), Format("BEDs", COLUMNS), "stretches", block=10)
    ]
    return names, pl.concat(blocks)


def test_names_become_rows_and_what_the_assembly_lacks_is_counted_by_name(tmp_path):
    text = "chr1\t0\t1\t0\nX\t5\t9\t0\nchr2\t0\t50\t0\nX\t0\t900\t0\nY\t0\t2\t0\n"
    names, found = located(tmp_path, text)
    assert found.select("contig", "line").rows() == [(0, 1), (1, 3)]
    assert names.skipped == {"X": 2, "Y": 1}
    assert names.known().tolist() == [True, True]
    assert located(tmp_path, text, count=pl.col("end") - pl.col("start"))[0].skipped == {"X": 904, "Y": 2}


def test_a_stretch_beyond_its_contig_is_of_another_assembly(tmp_path):
    with pytest.raises(SourceError, match='a:3: the feature ends at 1,051, contig "chr2" of the assembly has 50 bases'):
        located(tmp_path, "chr1\t0\t1\t0\nX\t0\t999\t0\nchr2\t49\t1051\t0\n")


@pytest.mark.parametrize(
    ("other", "message"), [("2", '"chr2" and "2" both mean contig "2"'), ("", "none of its contigs")]
)
def test_names_that_mean_nothing_or_the_same_are_refused_at_the_end(tmp_path, other, message):
    names, _ = located(tmp_path, f"chr2\t0\t1\t0\n{other}\t0\t1\t0\n" if other else "X\t0\t1\t0\n")
    with pytest.raises(SourceError, match=message):
        names.known()
