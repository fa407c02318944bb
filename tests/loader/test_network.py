"""Is it chance? Chi-squared tests with seeds that stay: one in a million would fail by itself, and none does."""

from collections import Counter
from functools import partial
from itertools import permutations
from math import exp, factorial

import numpy as np
import pytest
import torch

from distgen.loader.order import grouped, permute
from tests.loader import feistel

ENOUGH = 1e-6
ONE_LANE = {"batch_size": 1, "lanes": 1}


def pieces(index, n, seed, epoch):
    """The turn of the pieces alone."""
    return grouped(index, n, seed, epoch, **ONE_LANE, piece=1, group=1)


def one_group(index, n, seed, epoch):
    """The inside of a single group of several pieces."""
    return grouped(index, n, seed, epoch, **ONE_LANE, piece=n // 3 + 1, group=3)


def neighbours(index, n, number, epoch):
    """The inside of one of very many groups of a piece each: their numbers are what seeds are elsewhere."""
    return grouped(index + n * number, n << 20, 7, epoch, **ONE_LANE, piece=n, group=1) % n


uniform = pytest.mark.parametrize("order", [permute, pieces, one_group, neighbours])
by_either = pytest.mark.parametrize("by", ["seed", "epoch"])


def keys(by, count):
    return [(i, 3) if by == "seed" else (3, i) for i in range(count)]


def chance(observed, expected, degrees=None):
    """How likely counts are at least as far from what is expected, by Pearson's chi-squared."""
    x = ((observed - expected) ** 2 / expected).sum() / 2
    degrees = observed.size - 1 if degrees is None else degrees
    return float(
        torch.special.gammaincc(torch.tensor(degrees / 2, dtype=torch.float64), torch.tensor(float(x)).double())
    )


def of_ones(counts):
    """How likely it is that counts are of Poisson's distribution of mean 1."""
    expected = np.array([exp(-1) / factorial(k) for k in range(6)])
    expected = np.r_[expected, 1 - expected.sum()]
    return chance(np.bincount(np.minimum(counts, 6), minlength=7), len(counts) * expected)


def share(values, n, bins):
    """Which of equal shares of range(n) each value lies in."""
    return np.minimum(values / n * bins, bins - 1).astype(np.int64)


def differences(order, n, distance):
    """How likely the differences modulo n are of what samples at a distance of each other are sent to."""
    index = np.arange(min(n - distance, 2**17))
    found = (order(index + distance, n, 7, 0) - order(index, n, 7, 0)) % n
    return chance(np.bincount(share(found, n, 256), minlength=256), len(index) / 256)


def bits(order, n, bit):
    """How likely the low bits are that differ between what samples are sent to that differ by one bit."""
    index = np.arange(min(n, 2**17))
    index = index[(index & (1 << bit) == 0) & (index + (1 << bit) < n)]
    found = (order(index, n, 7, 0) ^ order(index + (1 << bit), n, 7, 0)) & 255
    return chance(np.bincount(found, minlength=256), len(index) / 256)


def together(order, n, seed, epoch):
    """How likely it is that one key and another send samples to places that have nothing to do with each other."""
    index = np.arange(min(n, 2**17))
    cells = 16 * share(order(index, n, 7, 10), n, 16) + share(order(index, n, seed, epoch), n, 16)
    return chance(np.bincount(cells, minlength=256), len(index) / 256)


@uniform
@by_either
@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_small_permutations_are_all_equally_likely(order, by, n):
    kinds = list(permutations(range(n)))
    found = Counter(tuple(order(np.arange(n), n, *key).tolist()) for key in keys(by, 100 * len(kinds)))
    assert chance(np.array([found[kind] for kind in kinds]), 100) > ENOUGH


@by_either
@pytest.mark.parametrize(("n", "piece", "group"), [(4, 2, 1), (5, 2, 1), (5, 2, 2), (5, 3, 1), (6, 2, 2), (6, 4, 1)])
def test_small_grouped_orders_are_as_likely_as_turns_and_groups_make_them(by, n, piece, group):
    likely = Counter()
    whole = [list(range(first, min(first + piece, n))) for first in range(0, n, piece)]
    for turn in permutations(whole):
        groups = [[w for each in turn[i : i + group] for w in each] for i in range(0, len(turn), group)]
        orders = [[]]
        for windows in groups:
            orders = [order + list(inside) for order in orders for inside in permutations(windows)]
        for order in orders:
            likely[tuple(order)] += 1 / factorial(len(whole)) / len(orders)
    count = int(30 / min(likely.values()))
    shape = ONE_LANE | {"piece": piece, "group": group}
    found = Counter(tuple(grouped(np.arange(n), n, *key, **shape).tolist()) for key in keys(by, count))
    assert set(found) <= set(likely)
    assert chance(np.array([found[order] for order in likely]), count * np.array(list(likely.values()))) > ENOUGH


@uniform
@by_either
@pytest.mark.parametrize("n", [7, 20, 61])
def test_each_sample_comes_to_each_place_equally_often(order, by, n):
    found, rows = np.zeros((n, n)), np.arange(n)
    for key in keys(by, 50 * n):
        found[rows, order(rows, n, *key)] += 1
    # All rows and columns have the same sum, which leaves (n - 1)^2 degrees and makes every deviation larger.
    shrink = ((n - 1) / n) ** 0.5
    assert chance(found * shrink, 50 * shrink, (n - 1) ** 2) > ENOUGH


@uniform
@by_either
@pytest.mark.parametrize("n", [10**6, 10**12])
def test_single_samples_come_everywhere_in_long_epochs(order, by, n):
    index = np.array([0, 1, n // 2, n - 1])
    found = share(np.stack([order(index, n, *key) for key in keys(by, 3200)]), n, 64)
    for place in found.T:
        assert chance(np.bincount(place, minlength=64), 50) > ENOUGH


@uniform
@by_either
def test_an_order_agrees_with_the_next_one_and_with_none_by_chance_alone(order, by):
    index = np.arange(100)
    found = np.stack([order(index, 100, *key) for key in keys(by, 2001)])
    assert of_ones((found[1:] == found[:-1]).sum(1)) > ENOUGH
    assert of_ones((found == index).sum(1)) > ENOUGH


@uniform
@pytest.mark.parametrize("n", [4093, 50_000, 10**6, 10**9])
def test_samples_at_a_distance_have_nothing_to_do_with_each_other(order, n):
    for distance in (1, 2, 3, 64, 1024, 2**12, 2**16):
        if distance < n // 2:
            assert differences(order, n, distance) > ENOUGH
    for bit in range(0, 17, 4):
        if 2 << bit < n:
            assert bits(order, n, bit) > ENOUGH


@uniform
@pytest.mark.parametrize("n", [4093, 50_000, 10**6, 10**9])
@pytest.mark.parametrize(("seed", "epoch"), [(8, 10), (6, 10), (7, 11), (7, 9), (8, 9), (6, 11), (10, 7)])
def test_neighbouring_seeds_and_epochs_are_independent(order, n, seed, epoch):
    assert together(order, n, seed, epoch) > ENOUGH


# ---- these tests see what is wrong -----------------------------------------------------------


@pytest.mark.parametrize("n", [4093, 50_000, 10**6])
def test_three_rounds_would_not_pass(n):
    with pytest.raises(AssertionError):
        test_samples_at_a_distance_have_nothing_to_do_with_each_other(partial(feistel.flat, rounds=3), n)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_two_rounds_would_not_pass_where_there_are_few_samples(n):
    with pytest.raises(AssertionError):
        test_small_permutations_are_all_equally_likely(partial(feistel.flat, rounds=2), "seed", n)


def test_a_key_that_is_the_sum_of_seed_and_epoch_would_not_pass():
    with pytest.raises(AssertionError):
        test_neighbouring_seeds_and_epochs_are_independent(lambda k, n, *key: permute(k, n, sum(key), 0), 10**6, 8, 9)
