from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.errors import ConfigError
from distgen.loader.schedule import InTurn, Schedule

some_shares = st.lists(st.one_of(st.integers(0, 50), st.floats(1e-3, 1)), min_size=1, max_size=12).filter(any)


@given(some_shares, st.integers(30, 300))
def test_every_prefix_serves_each_class_its_share_rounded_up_or_down(shares, period):
    schedule = Schedule(shares, period if sum(shares) < 30 * min(s for s in shares if s) else None)
    slots = np.arange(min(2 * schedule.period, 5000))
    which, _ = schedule.at(slots)
    served = np.cumsum(which[:, None] == np.arange(len(shares)), axis=0)
    exact = (slots[:, None] + 1) * schedule.counts
    assert (served * schedule.period > exact - schedule.period).all()
    assert (served * schedule.period < exact + schedule.period).all()


@given(some_shares, st.integers(0, 2**61))
def test_the_ordinal_counts_the_slots_of_a_class_since_the_first(shares, first):
    schedule = Schedule(shares)
    which, ordinal = schedule.at(first + np.arange(300))
    had = schedule.before(first)
    for row, number in zip(which.tolist(), ordinal.tolist(), strict=True):
        assert number == had[row]
        had[row] += 1
    assert np.array_equal(had, schedule.before(first + 300))
    assert sum(had.tolist()) == first + 300


@pytest.mark.parametrize(
    ("shares", "counts"),
    [([1, 2], [1, 2]), ([0.3, 0.7], [3, 7]), ([0.1] * 10, [1] * 10), ([1, 0, 3], [1, 0, 3]), ([1 / 3, 2 / 3], [1, 2])],
)
def test_ratios_of_small_numbers_are_exact(shares, counts):
    assert Schedule(shares).counts.tolist() == counts


def test_other_shares_are_right_to_half_a_slot_in_a_period():
    shares = np.random.default_rng(1).lognormal(0, 1, 50)
    schedule = Schedule(shares)
    wanted = shares / shares.sum() * schedule.period
    assert (abs(schedule.counts - wanted) < 1).all()
    assert (abs(schedule.counts / wanted - 1) < 1 / 64).all()


def test_classes_too_rare_for_a_period_are_served_all_the_same():
    # One genome of 3 Gbases among 300 viruses of 5 to 50 kb, and one that is rarer still among the rare.
    shares = np.r_[3e9, np.linspace(100, 900, 300), 0, 30.0]
    schedule = Schedule(shares, period=50_000)
    slots = 2**40 * 7
    had = schedule.before(slots)
    assert sum(had.tolist()) == slots
    wanted = [float(Fraction(slots) * Fraction(s) / Fraction(sum(shares))) for s in shares.tolist()]
    assert had[301] == 0
    # The period's whole slots decide what the rare have together; among themselves their shares hold.
    together = sum(had[1:].tolist())
    assert abs(together / slots - sum(wanted[1:]) / slots) < 1 / 50_000
    assert np.allclose(had[1:] / together, np.array(wanted[1:]) / sum(wanted[1:]), rtol=0.02)
    which, ordinal = schedule.at(np.arange(10**6))
    for row in np.unique(which):
        assert np.array_equal(ordinal[which == row], np.arange((which == row).sum()))


def test_a_hundred_thousand_classes_are_dealt_with():
    shares = np.random.default_rng(2).lognormal(0, 2, 100_000)
    schedule = Schedule(shares)
    had = schedule.before(2**50)
    assert sum(had.tolist()) == 2**50
    assert np.corrcoef(had, shares)[0, 1] > 0.999
    which, ordinal = schedule.at(np.array([2**50, 2**62]))
    assert ordinal[0] == had[which[0]]


@pytest.mark.parametrize("shares", [[0, 0], [1, -1], [1, float("nan")], [], [float("inf"), 1]])
def test_shares_that_say_nothing_are_refused(shares):
    with pytest.raises(ConfigError, match="shares are numbers from 0 on"):
        Schedule(shares)


def test_a_share_too_small_to_be_served_is_refused_by_name():
    with pytest.raises(ConfigError, match='"virus" would have less than one of 1,000 slots'):
        Schedule([1, 1e-9], period=1000, names=("host", "virus"))


def test_the_deal_never_changes():
    # A checkpoint holds "schedule/1": these may change only together with that name.
    assert Schedule([5, 3, 2]).at(np.arange(10))[0].tolist() == DEAL


DEAL = [0, 1, 0, 2, 0, 1, 0, 1, 0, 2]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8).filter(any), st.integers(0, 2**40))
def test_in_turn_each_class_has_its_slots_in_a_row_again_and_again(counts, first):
    turns = InTurn(np.array(counts))
    total = sum(counts)
    expected = [row for row, count in enumerate(counts) for _ in range(count)]
    which, ordinal = turns.at(first + np.arange(30))
    assert which.tolist() == [expected[(first + k) % total] for k in range(30)]
    had = turns.before(first)
    for row, number in zip(which.tolist(), ordinal.tolist(), strict=True):
        assert number == had[row]
        had[row] += 1
    assert had.tolist() == turns.before(first + 30).tolist()


def test_shares_are_those_of_all_slots():
    assert Schedule([1, 3]).shares.tolist() == [0.25, 0.75]
    weights = [1.0, *[1e-7] * 50]  # too rare for slots of their own in every period
    assert Schedule(weights).shares == pytest.approx(np.array(weights) / sum(weights))
    assert InTurn(np.array([2, 0, 6])).shares.tolist() == [0.25, 0, 0.75]
