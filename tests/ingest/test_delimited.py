"""Text tables as people write them, against the csv module line by line."""

import csv
import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.errors import ConfigError, SourceError
from distgen.ingest.delimited import numbers, read_named, read_table

FIELDS = st.text("acgtN0-;,\t\"' é.", max_size=6).map(str.strip)


def table(path, header=True, block=1 << 22):
    """Columns, lines and rows of a whole file."""
    columns, lines, fields = [], [], []
    for names, rows in read_table(path, header, block):
        columns = names
        lines += rows.lines.tolist()
        fields += [[field.strip() for field in row] for row in rows.columns[0].to_list()]
    return columns, lines, fields


def write(tmp_path, content, name="a.csv"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@st.composite
def files(draw):
    width = draw(st.integers(2, 4))
    delimiter = draw(st.sampled_from(",\t;"))
    rows = draw(st.lists(st.lists(FIELDS, min_size=width, max_size=width), min_size=1, max_size=12))
    newline = draw(st.sampled_from(["\n", "\r\n"]))
    texts = []
    for row in [[f"c{i}" for i in range(width)], *rows]:
        always = draw(st.booleans()) or "".join(row) == ""
        quoted = [
            '"' + field.replace('"', '""') + '"' if always or set(field) & {'"', delimiter} else field for field in row
        ]
        texts.append(delimiter.join(quoted) + draw(st.sampled_from(["", newline, newline + " " + newline])))
    return newline.join(texts), delimiter, rows


@given(files(), st.integers(1, 60), st.booleans())
def test_every_way_of_writing_a_table_reads_as_the_csv_module_reads_it(tmp_path, file, block, compress):
    text, delimiter, rows = file
    content = gzip.compress(text.encode()) if compress else text.encode()
    columns, lines, found = table(write(tmp_path, content, "a.tsv" if delimiter == "\t" else "a.data"), block=block)
    assert columns == [f"c{i}" for i in range(len(rows[0]))]
    assert found == rows
    every = text.split("\n")
    for line, row in zip(lines, rows, strict=True):
        (expected,) = csv.reader([every[line - 1].strip("\r")], delimiter=delimiter)
        assert [field.strip() for field in expected] == row


def test_the_delimiter_is_told_by_suffix_or_first_line(tmp_path):
    for name, text in (
        ("a.tsv", "a,b\tc\n1,2\t3\n"),
        ("a.csv", "a\tb,c\n1\t2,3\n"),
        ("a.txt", "x;y\n1;2\n"),
        ("a.csv.gz", "x\ty\n1\t2\n"),
    ):
        columns, _, rows = table(write(tmp_path, text, name))
        assert len(columns) == len(rows[0]) == 2


def test_without_a_header_columns_go_by_number(tmp_path):
    path = write(tmp_path, "EI,   A-1,    ACGT\n\nN,B,   AC\n")
    (rows,) = read_named(path, [2, 0])
    assert rows.lines.tolist() == [1, 3]
    assert [column.to_list() for column in rows.columns] == [["ACGT", "AC"], ["EI", "N"]]


def test_rs_header_without_a_name_for_the_first_column_is_understood(tmp_path):
    assert table(write(tmp_path, "x\ty\nr1\t1\t2\nr2\t3\t4\n", "a.tsv"))[0] == ["", "x", "y"]


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path):
    assert table(write(tmp_path, b"\xef\xbb\xbfa,b\n1,2\n"))[0] == ["a", "b"]


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_fasta_headers_are_columns(tmp_path, block):
    path = write(tmp_path, "\n>s1|1|train\nAC\nGT\n\n>s2 |0| test | more\r\nNN acgt\r\n>s3||\nA", "a.fa")
    columns, lines, rows = table(path, block=block)
    assert columns == ["id", "label", "split", "sequence"]
    assert lines == [2, 6, 8]
    assert rows == [["s1", "1", "train", "ACGT"], ["s2", "0", "test", "NNacgt"], ["s3", "", "", "A"]]
    assert table(write(tmp_path, ">s1 x\nA\n>s2 y z\nC\n"), block=block)[2] == [["s1", "x", "A"], ["s2", "y", "C"]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "a.csv: the file holds no rows"),
        ("\n \r\n", "a.csv: the file holds no rows"),
        ("a,b\n", "a.csv: the file holds no rows below its header"),
        ("a,b\n1,2\n\n1,2,3\n", "a.csv:4: 3 fields where the table has 2 columns"),
        ("a,b,c\n1,2,3\n1,2\n", "a.csv:3: 2 fields where the table has 3 columns"),
        ("a,b\n1,2,3,4\n", "a.csv:2: 4 fields where the table has 2 columns"),
        ('a,b\n1,2\n"x\ny",3\n', "a.csv:3: unexpected end of data .a quoted field ends in its line"),
        ('a,b\n1,2\n"x,3\n', "a.csv:3: unexpected end"),
        ('a,b\n1,2\n"x"y,3\n', "a.csv:3: ',' expected after"),
        ("a,b\n1,2\n".encode("utf-16"), "a.csv:1: this is no text .it holds zero bytes"),
        ("a,b\r1,2\r", "a.csv:1: a carriage return inside a line"),
        (b"a,b\n1,\xff\n", "a.csv:2: this is no UTF-8 text .byte 0xff"),
        (">s1|1\nA\n\n>s2\nA\n", "a.csv:4: 1 fields in the header, 2 in the first record's"),
        (">\nA\n", "a.csv:1: a header without a name"),
        (gzip.compress(b"a,b\n1,2\n", mtime=0)[:-9], "cut short"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, content, message):
    with pytest.raises(SourceError, match=message):
        table(write(tmp_path, content))


def test_a_record_of_fasta_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("distgen.ingest.delimited.LONGEST", 100)
    with pytest.raises(SourceError, match="a.fa:3: a record of more than 64 MiB"):
        table(write(tmp_path, ">a\nA\n>b\n" + "ACGT\n" * 50, "a.fa"), block=50)


def test_rows_with_plain_quotes_need_no_parser(tmp_path, monkeypatch):
    path = write(tmp_path, '"a","b"\n"x y", "2"\n,"" \n1,2\n'.replace('"" ', '""'))
    monkeypatch.delattr("csv.reader")
    assert table(path)[2] == [["x y", "2"], ["", ""], ["1", "2"]]


@pytest.mark.parametrize(
    ("header", "wanted", "message"),
    [
        ("sequence,label", "lable", 'no column is called "lable". Did you mean "label"'),
        ("x,x", "x", '2 columns are called "x"'),
        ("x,y", 2, 'no column is called "2". Valid: 0, 1'),
    ],
)
def test_a_column_that_is_not_there_is_named_with_the_nearest(tmp_path, header, wanted, message):
    with pytest.raises(ConfigError, match=message):
        list(read_named(write(tmp_path, header + "\nA,1\n"), [wanted]))


def test_numbers_know_missing_from_malformed(tmp_path):
    (rows,) = read_named(write(tmp_path, "x,\n1.5,\n-2e3,\n,\nNA,\nnan,\nn/a,\nNull,\n"), ["x"])
    assert str(numbers(rows, rows.columns[0]).tolist()) == "[1.5, -2000.0, nan, nan, nan, nan, nan]"


@pytest.mark.parametrize("value", ["one", "1,5", "inf", "-Infinity", "1e39", "0x10", "1_000", "--1", "None"])
def test_what_float32_cannot_hold_is_no_number(tmp_path, value):
    (rows,) = read_named(write(tmp_path, f"x\t\n1\t\n{value}\t\n", "a.tsv"), ["x"])
    with pytest.raises(SourceError, match=f'a.tsv:3: "{value}" is no number that float32 holds'):
        numbers(rows, rows.columns[0])
