from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.train.checkpoint.format import read_state, state_json

STATE = {"format": 1, "step": 12, "loss": 0.1, "loader": {"epoch": 0, "data": "abc"}, "best": None}


def test_plain_data_comes_back():
    assert read_state(state_json(STATE)) == STATE


@given(st.data())
def test_no_changed_byte_changes_what_is_read(data):
    text = bytearray(state_json(STATE))
    text[data.draw(st.integers(0, len(text) - 1))] ^= data.draw(st.integers(1, 255))
    with suppress(ValueError):
        assert read_state(bytes(text)) == STATE  # white space, say


def test_a_later_format_is_refused():
    with pytest.raises(ValueError, match="of format 2, this distgen reads 1"):
        read_state(state_json(STATE | {"format": 2}))
