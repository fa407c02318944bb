import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.errors import SourceError
from distgen.ingest import records
from distgen.ingest.records import read_rows

SCHEMA = {"contig": pl.String, "start": pl.Int64, "end": pl.Int64, "value": pl.Float32}


def read(path, text, **options):
    path.write_bytes(text)
    return [row for table in read_rows(path, SCHEMA, "test", **options) for row in table.iter_rows()]


LINE = st.one_of(
    st.builds(lambda c, s, e, v: f"{c}\t{s}\t{e}\t{v}", st.sampled_from(["c", "tracker", "HLA*1:2"]), st.integers(0, 99),
              st.integers(0, 99), st.integers(-9, 9)),
    st.sampled_from(["", "  ", "#c 1 2 3", "track", "track x", "browser y", "c  1 2\t3", "c 1 2 3 "]),
)  # fmt: skip


@given(lines=st.lists(LINE, max_size=12), ending=st.sampled_from(["\n", "\r\n"]), block=st.integers(1, 200))
def test_blocks_of_any_size_give_the_records_and_their_line_numbers(tmp_path, lines, ending, block):
    expected = []
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if fields and fields[0] not in ("track", "browser") and not line.startswith("#"):
            expected.append((fields[0], int(fields[1]), int(fields[2]), float(fields[3]), number))
    for text in (ending.join(lines), ending.join(lines) + ending):
        if expected:
            assert read(tmp_path / "a", text.encode(), block=block) == expected
        else:
            with pytest.raises(SourceError, match="the file holds no test records"):
                read(tmp_path / "a", text.encode(), block=block)


def test_further_columns_are_left_out_where_they_may_follow(tmp_path):
    assert read(tmp_path / "a", b"c\t1\t2\t3\tx\ty\nc\t1\t2\t4\n", more=True) == [("c", 1, 2, 3, 1), ("c", 1, 2, 4, 2)]
    with pytest.raises(SourceError, match="a:1: this is no test line"):
        read(tmp_path / "a", b"c\t1\t2\t3\tx\n")


def test_well_formed_text_never_takes_the_slow_way(tmp_path, monkeypatch):
    monkeypatch.delattr(records, "_careful")
    assert len(read(tmp_path / "a", b"track\n" + b"c\t1\t2\t3\n" * 1000, block=100)) == 1000


def test_a_line_without_an_end_is_refused_before_it_fills_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "BLOCK", 100)
    with pytest.raises(SourceError, match="a:2: the line does not end"):
        read(tmp_path / "a", b"c\t1\t2\t3\n" + b"x" * 1000, block=100)
