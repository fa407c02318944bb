import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.errors import SourceError
from distgen.genome import Contigs
from distgen.ingest import spool
from distgen.ingest.spool import Keys, Spool, write_groups

DTYPE = np.dtype([("key", "<i8"), ("order", "<u4")])


def records(keys, first=0):
    out = np.empty(len(keys), DTYPE)
    out["key"], out["order"] = keys, np.arange(first, first + len(keys))
    return out


@given(
    parts=st.lists(st.lists(st.integers(0, 50) | st.integers(0, 2**40), max_size=30), max_size=12),
    memory=st.integers(1, 60),
    least=st.integers(1, 5),
)
def test_records_come_back_sorted_and_whole(tmp_path, parts, memory, least):
    before, spool._LEAST = spool._LEAST, least
    try:
        sorter, n = Spool(tmp_path, DTYPE, memory), 0
        for part in parts:
            sorter.add(records(part, n))
            n += len(part)
        blocks = list(sorter.blocks())
    finally:
        spool._LEAST = before
    assert all(len(block) for block in blocks)
    found = np.concatenate([np.empty(0, DTYPE), *blocks])
    keys = [key for part in parts for key in part]
    assert found["key"].tolist() == sorted(keys)
    assert [keys[i] for i in found["order"]] == found["key"].tolist()
    assert sorted(found["order"].tolist()) == list(range(n))


def test_input_in_order_stays_one_run(tmp_path):
    sorter = Spool(tmp_path, DTYPE, memory=10)
    for first in range(0, 100, 10):
        sorter.add(records(range(first, first + 10)))
    assert [len(block) for block in sorter.blocks()] == [100]


def test_memory_is_bounded_when_runs_are_merged(tmp_path):
    sorter = Spool(tmp_path, DTYPE, memory=5000)
    for _ in range(4):
        sorter.add(records(np.arange(0, 50_000)))
    assert max(len(block) for block in sorter.blocks()) <= 5000 + 4


def test_keys_sort_by_column_contig_and_position_and_tell_a_contigs_end_from_the_next_start():
    contigs = Contigs(("a", "b"), np.array([5, 3]), np.array([0, 64]), ("", ""))
    keys = Keys(contigs, columns=2)
    every = [(c, r, p) for c in (0, 1) for r, n in ((0, 5), (1, 3)) for p in range(n + 1)]
    column, row, position = np.array(every).T
    found = keys.of(column, row, position)
    assert (np.diff(found) > 0).all()
    group, back = keys.split(found)
    assert group.tolist() == (column * 2 + row).tolist()
    assert back.tolist() == position.tolist()


def test_a_contig_that_32_bits_cannot_count_is_refused():
    with pytest.raises(SourceError, match='contig "a" has 4,294,967,296 bases'):
        Keys(Contigs(("a",), np.array([1 << 32]), np.array([0]), ("",)), columns=1)


def test_groups_lie_one_after_another_on_disk(tmp_path):
    pieces = [(np.array([0, 0, 2]), records([5, 6, 7])), (np.array([2, 3]), records([8, 9]))]
    mapped, bounds = write_groups(tmp_path, DTYPE, 5, iter(pieces))
    assert bounds.tolist() == [0, 2, 2, 4, 5, 5]
    assert mapped["key"].tolist() == [5, 6, 7, 8, 9]


def test_no_records_make_empty_groups(tmp_path):
    mapped, bounds = write_groups(tmp_path, DTYPE, 2, iter([]))
    assert len(mapped) == 0
    assert bounds.tolist() == [0, 0, 0]
