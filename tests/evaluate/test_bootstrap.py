"""A paired bootstrap over units of the genome, against plain Python."""

import random

import numpy as np
import pytest

from distgen.evaluate.bootstrap import RESAMPLES, holm, interval, paired, resampled_means


def compared(one, other, targets, **drawn):
    return paired(*(resampled_means(values, targets, **drawn) for values in (one, other)))


def plainly(one, other, targets, resamples, seed):
    """The same by hand, with other draws."""
    draws, found = random.Random(seed), []
    for _ in range(resamples):
        units = [draws.randrange(len(one)) for _ in one]
        weight = sum(targets[u] for u in units)
        found.append(sum(targets[u] * (one[u] - other[u]) for u in units) / weight)
    found.sort()
    below, above = sum(d <= 0 for d in found), sum(d >= 0 for d in found)
    return found[int(0.025 * resamples)], found[int(0.975 * resamples)], min(1, 2 * min(below, above) / resamples)


@pytest.mark.parametrize("shift", [0.0, 0.01, 0.1])
def test_it_agrees_with_plain_python(shift):
    draws = np.random.default_rng(1)
    targets = draws.integers(100, 1000, 12).astype(float)
    one, other = draws.random(12), draws.random(12) * 0.1
    one = other + shift + 0.05 * draws.standard_normal(12)
    found = compared(one, other, targets, resamples=10_000)
    low, high, p = plainly(one.tolist(), other.tolist(), targets.tolist(), 10_000, seed=2)
    assert found.value == pytest.approx(np.average(one - other, weights=targets))
    assert found.low == pytest.approx(low, abs=0.003)
    assert found.high == pytest.approx(high, abs=0.003)
    assert found.p == pytest.approx(p, abs=0.03)


def test_the_same_model_differs_by_nothing():
    one, targets = np.linspace(0, 1, 8), np.ones(8)
    assert compared(one, one, targets) == (0, 0, 0, 1)


def test_the_same_seed_gives_the_same_numbers():
    one, other, targets = np.random.default_rng(0).random((3, 9))
    assert compared(one, other, targets, seed=4) == compared(one, other, targets, seed=4)
    assert compared(one, other, targets, seed=4) != compared(one, other, targets, seed=5)


def test_no_p_is_zero():
    assert compared(np.ones(8), np.zeros(8), np.ones(8)).p == pytest.approx(2 / (RESAMPLES + 1))


def test_a_large_unit_weighs_as_its_targets_do():
    one, targets = np.array([1.0, 0, 0, 0, 0, 0]), np.array([95.0, 1, 1, 1, 1, 1])
    assert compared(one, np.zeros(6), targets).value == pytest.approx(0.95)


def test_an_interval_is_of_the_resamples_alone():
    assert interval(np.array([9.0, 1, 2, 3])) == pytest.approx([1.05, 2.95])
    assert interval(np.array([9.0, np.nan, 2])) == [2, 2]
    assert interval(np.array([9.0, np.nan])) is None


def test_few_units_are_refused():
    with pytest.raises(ValueError, match="5 units"):
        resampled_means(np.ones(5), np.ones(5))


def test_holm_multiplies_by_how_many_are_left_and_never_falls():
    # Holm 1979, section 2: the least by all, the next by one fewer; what is not significant stops those behind it.
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([]) == []
