"""Bytes by range requests are those of the file."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.ingest.objects import locate
from distgen.store import ranges
from distgen.store.ranges import Ranges, open_bytes
from tests.ingest.test_remote import moto_server, quick, s3  # noqa: F401 - fixtures

CONTENT = np.random.default_rng(0).integers(0, 256, 5 * ranges.BLOCK + 123, np.uint8)


class Counting:
    """An object in memory that remembers what was asked of it."""

    def __init__(self):
        self.asked = []

    def read_range(self, begin, end):
        self.asked.append((begin, end))
        return memoryview(CONTENT[begin:end].tobytes())


@given(start=st.integers(-len(CONTENT) - 5, len(CONTENT) + 5), length=st.integers(0, len(CONTENT)))
def test_any_slice_is_the_slice_of_the_bytes(start, length):
    found = Ranges(Counting(), len(CONTENT))[start : start + length]
    assert np.array_equal(found, CONTENT[start : start + length])


def test_what_is_near_is_read_once_and_what_is_large_is_not_kept():
    item = Counting()
    content = Ranges(item, len(CONTENT))
    for start in range(0, 5000, 100):
        content[start : start + 100]
    assert item.asked == [(0, ranges.BLOCK)]
    content[:]
    content[:]
    assert item.asked[1:] == [(0, len(CONTENT))] * 2


def test_a_large_slice_is_read_by_bounded_requests(monkeypatch):
    monkeypatch.setattr(ranges, "RANGE", 100_000)
    item = Counting()
    assert np.array_equal(Ranges(item, len(CONTENT))[7:], CONTENT[7:])
    assert max(end - begin for begin, end in item.asked) == 100_000


def test_a_file_and_an_object_give_the_same_bytes(s3, tmp_path):  # noqa: F811
    (tmp_path / "x").write_bytes(CONTENT.tobytes())
    s3.put_object(Bucket="genomes", Key="x", Body=CONTENT.tobytes())
    here, there = open_bytes(tmp_path / "x"), open_bytes(locate("s3://genomes/x"))
    assert here.size == there.size
    assert np.array_equal(here[10:70_000], there[10:70_000])


@pytest.mark.parametrize("there", [True, False])
def test_what_is_missing_or_empty_is_refused_as_a_file_is(there, s3, tmp_path):  # noqa: F811
    if there:
        (tmp_path / "x").write_bytes(b"")
        s3.put_object(Bucket="genomes", Key="x", Body=b"")
    for place in (tmp_path / "x", locate("s3://genomes/x")):
        with pytest.raises(ValueError if there else FileNotFoundError):
            open_bytes(place)
