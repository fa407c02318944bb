from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.loader.order import permute


@given(st.integers(1, 3000), st.integers(0, 2**63), st.integers(0, 100))
def test_it_is_a_permutation(n, seed, epoch):
    found = permute(np.arange(n), n, seed, epoch)
    assert np.array_equal(np.sort(found), np.arange(n))


@given(st.integers(1, 2**62), st.integers(0, 1000), st.data())
def test_any_sample_is_found_without_the_others(n, seed, data):
    index = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=20)), np.int64)
    found = permute(index, n, seed, 0)
    assert ((found >= 0) & (found < n)).all()
    assert [int(permute(index[i : i + 1], n, seed, 0)[0]) for i in range(len(index))] == found.tolist()
    assert len(set(found.tolist())) == len(set(index.tolist()))


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_small_permutations_are_all_equally_likely(n):
    draws = 50 * len(list(permutations(range(n))))
    counts: dict[tuple[int, ...], int] = {}
    for seed in range(draws):
        key = tuple(permute(np.arange(n), n, seed, 0).tolist())
        counts[key] = counts.get(key, 0) + 1
    expected = draws / len(list(permutations(range(n))))
    chi2 = sum((counts.get(p, 0) - expected) ** 2 / expected for p in permutations(range(n)))
    degrees = len(list(permutations(range(n)))) - 1
    assert chi2 < degrees + 5 * (2 * degrees) ** 0.5


def test_neighbouring_seeds_and_epochs_are_independent():
    n = 4096
    base = permute(np.arange(n), n, 7, 0)
    for seed, epoch in ((8, 0), (7, 1), (6, 1)):
        other = permute(np.arange(n), n, seed, epoch)
        assert abs(np.corrcoef(base, other)[0, 1]) < 5 / n**0.5
        assert (base == other).sum() < 10


def test_neighbouring_samples_are_far_apart():
    n = 100_000
    found = permute(np.arange(n), n, 1, 1)
    assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 5 / n**0.5
    assert abs(np.abs(np.diff(found)).mean() - n / 3) < n / 100


def test_the_order_never_changes():
    # A checkpoint holds "flat/1": these numbers may change only together with that name.
    assert permute(np.arange(8), 8, 7, 0).tolist() == ORDER_8
    assert permute(np.array([0, 10**15]), 2**62, 7, 3).tolist() == ORDER_BIG


@pytest.mark.parametrize(("index", "n"), [([3], 3), ([-1], 3), ([0], 0), ([0], 2**62 + 1)])
def test_what_is_out_of_range_is_refused(index, n):
    with pytest.raises(ValueError, match="indices must lie in range"):
        permute(np.array(index), n, 0, 0)


ORDER_8 = [4, 6, 1, 0, 2, 5, 3, 7]
ORDER_BIG = [1618147364945281426, 131161876499971169]
