import threading
import time
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.config import TIMEOUTS
from distgen.errors import TrainError
from distgen.loader.ahead import ahead


@given(st.lists(st.floats(0, 0.002), max_size=20), st.integers(1, 4), st.integers(0, 5))
def test_results_come_in_the_order_of_the_calls(seconds, threads, depth):
    def call(number):
        time.sleep(seconds[number])
        return number

    assert list(ahead((partial(call, n) for n in range(len(seconds))), threads, depth)) == list(range(len(seconds)))


def test_no_more_is_made_ahead_than_was_said_and_nothing_after_the_end():
    begun = []
    results = ahead((partial(begun.append, n) for n in range(100)), 2, 3)
    for taken in range(1, 6):
        next(results)
        time.sleep(0.02)
        assert len(begun) <= taken + 3
    results.close()
    count = len(begun)
    time.sleep(0.05)
    assert len(begun) == count <= 8
    assert not [t for t in threading.enumerate() if t.name.startswith("distgen-loader")]


def test_what_a_call_raises_is_raised_in_its_place():
    def fail():
        raise OSError("the disk is gone")

    results = ahead([lambda: 1, lambda: 2, fail, lambda: 4], 2, 4)
    assert (next(results), next(results)) == (1, 2)
    with pytest.raises(OSError, match="the disk is gone"):
        next(results)


def test_a_wait_has_an_end(monkeypatch):
    monkeypatch.setitem(TIMEOUTS, "next_batch", 0.1)
    gate = threading.Event()
    results = ahead([gate.wait], 1, 1)
    threading.Timer(0.3, gate.set).start()
    with pytest.raises(TrainError, match="no batch came within"):
        next(results)


def test_one_of_its_own_threads_may_end_it():
    ended = []

    def end():
        time.sleep(0.05)  # until the first result was taken
        results.close()
        ended.append(True)

    results = ahead([lambda: 1, end, lambda: 3], 1, 1)
    assert next(results) == 1
    time.sleep(0.2)
    assert ended
