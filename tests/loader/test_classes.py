from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.errors import ConfigError
from distgen.genome import Int64
from distgen.loader.classes import Balanced
from distgen.loader.windows import Located


@dataclass
class Line:
    """Window w begins at `first` + w."""

    first: int
    count: int
    stranded: bool = False
    window: int = 8
    target_length: int = 8

    def __len__(self):
        return self.count

    def locate(self, windows: Int64) -> Located:
        starts = self.first + windows
        limits = np.stack([starts, starts + 8], axis=1)
        return Located(starts, limits, windows % 2 == 1, windows) if self.stranded else Located(starts, limits)


def test_every_window_of_a_class_comes_once_in_each_of_its_cycles():
    pools = {"peaks": Line(0, 37), "open": Line(1000, 5), "rest": Line(5000, 211)}
    balanced = Balanced(pools, {"peaks": 1, "open": 1, "rest": 2}, seed=3)
    assert len(balanced) == 37 * 4
    starts, labels = [], []
    for epoch in range(6):
        located, label = balanced.draw(np.arange(len(balanced)), epoch)
        starts.append(located.target_starts)
        labels.append(label)
    start, label = np.concatenate(starts), np.concatenate(labels)
    assert np.bincount(label).tolist() == [37 * 6, 37 * 6, 37 * 12]
    for number, pool in enumerate(pools.values()):
        served = start[label == number] - pool.first
        for cycle in np.split(served, range(len(pool), len(served), len(pool))):
            assert len(set(cycle.tolist())) == len(cycle)
            assert cycle.min() >= 0
            assert cycle.max() < len(pool)
    first, second = (starts[e][labels[e] == 0] for e in (0, 1))
    assert not np.array_equal(first, second)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 5), st.integers(0, 2**40), st.integers(0, 1000))
def test_a_sample_is_found_without_the_others(many, few, share, epoch, seed):
    balanced = Balanced({"a": Line(0, many), "b": Line(100, few, True)}, {"a": share, "b": 1}, seed)
    samples = np.arange(len(balanced))
    whole, labels = balanced.draw(samples, epoch)
    for sample in samples[:: max(1, len(samples) // 5)]:
        one, label = balanced.draw(np.array([sample]), epoch)
        assert (one.target_starts[0], label[0]) == (whole.target_starts[sample], labels[sample])


def test_only_some_classes_may_have_a_strand_and_rows():
    balanced = Balanced({"tiles": Line(0, 9), "genes": Line(100, 9, True)}, {"tiles": 1, "genes": 1}, 0)
    located, labels = balanced.draw(np.arange(18), 0)
    number = located.target_starts % 100
    assert located.reverse.tolist() == ((number % 2 == 1) & (labels == 1)).tolist()
    assert located.rows.tolist() == np.where(labels == 1, number, -1).tolist()
    plain, _ = Balanced({"tiles": Line(0, 9)}, {"tiles": 1}, 0).draw(np.arange(9), 0)
    assert plain.reverse is None
    assert plain.rows is None


def test_an_epoch_is_as_long_as_the_user_says():
    balanced = Balanced({"a": Line(0, 100), "b": Line(0, 7)}, {"a": 3, "b": 1}, 0, epoch_samples=40)
    assert len(balanced) == 40
    assert balanced.cycles(10) == {"a": 3.0, "b": 100 / 7}
    seen = np.concatenate([_starts(balanced, epoch) for epoch in range(10)])
    assert np.bincount(seen, minlength=100)[7:].tolist() == [3] * 93


def _starts(balanced, epoch):
    located, labels = balanced.draw(np.arange(40), epoch)
    return located.target_starts[labels == 0]


@pytest.mark.parametrize(
    ("pools", "shares", "problem"),
    [
        ({"a": Line(0, 3)}, {"b": 1}, "a, b: a class has both windows and a share"),
        ({"a": Line(0, 3), "b": Line(0, 0)}, {"a": 1, "b": 1}, "b has no windows"),
        ({"a": Line(0, 3), "b": Line(0, 3, window=9)}, {"a": 1, "b": 1}, "windows of one length"),
        ({"a": Line(0, 3), "b": Line(0, 3)}, {"a": 0, "b": 1}, '"a" has no share'),
    ],
)
def test_classes_that_do_not_fit_each_other_are_refused(pools, shares, problem):
    with pytest.raises(ConfigError, match=problem):
        Balanced(pools, shares, 0)
