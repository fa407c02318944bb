"""Reading ahead gives what the stream holds, then what it raises."""

import io
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.ingest import ahead
from distgen.ingest.ahead import Ahead


@given(st.binary(max_size=500), st.integers(1, 40), st.lists(st.integers(1, 60), min_size=1, max_size=5))
def test_whatever_the_sizes_the_content_is_the_stream_s(content, block, sizes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ahead, "BLOCK", block)
        found, turn = b"", 0
        with Ahead(io.BytesIO(content)) as stream:
            while piece := stream.read(sizes[turn % len(sizes)]):
                found, turn = found + piece, turn + 1
            assert stream.read(1) == b""
    assert found == content


class _Breaks(io.BytesIO):
    def readinto(self, block):
        size = super().readinto(block)
        if not size:
            raise EOFError("cut short")
        return size


def test_what_reading_raises_comes_after_what_was_read():
    with Ahead(_Breaks(b"abc")) as stream:
        assert stream.read(10) == b"abc"
        with pytest.raises(EOFError, match="cut short"):
            stream.read(10)


def test_closing_early_ends_the_thread_and_closes_the_stream():
    source = io.BytesIO(bytes(100 << 20))
    stream = Ahead(source)
    assert stream.read(3) == bytes(3)
    stream.close()
    assert source.closed
    assert not [thread for thread in threading.enumerate() if thread.name == "distgen-read"]
