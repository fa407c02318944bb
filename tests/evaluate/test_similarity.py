"""Chances against all columns that could have been drawn, and against draws."""

from itertools import product

import numpy as np
import pytest

from distgen.evaluate.meme import Matrix
from distgen.evaluate.similarity import _tails, compare


def motif(seed, width, name="m"):
    return Matrix(name, np.random.default_rng(seed).dirichlet([0.4] * 4, width))


def test_the_chance_of_a_sum_is_that_over_all_draws():
    steps = np.random.default_rng(0).integers(0, 101, (3, 6))
    tails = _tails(steps)
    for i, j in ((0, 1), (1, 3), (0, 3)):
        sums = np.array([sum(draw) for draw in product(*steps[i:j])])
        for total in (0, 50, 120, int(sums.max())):
            if total < len(tails[i, j]):
                assert tails[i, j][total] == pytest.approx((sums >= total).mean())


def test_a_match_is_where_the_motif_was_put():
    targets = [motif(n, 8 + n % 5, f"t{n}") for n in range(30)]
    target = targets[7]
    noise = np.random.default_rng(99).dirichlet([0.4] * 4, 3)
    query = Matrix("q", np.concatenate([noise, 0.9 * target.frequency + 0.025]))
    found = compare(query, targets)
    width = len(target.frequency)
    assert (found.target, found.offset, found.overlap, found.reverse) == ("t7", 3, width, False)
    assert found.p < 1e-8
    turned = compare(Matrix("q", query.frequency[::-1, ::-1]), targets)
    assert (turned.target, turned.offset, turned.reverse) == ("t7", 0, True)
    assert turned.p == pytest.approx(found.p, rel=0.5)
    assert found.e == pytest.approx(30 * found.p)


def test_motifs_of_no_kind_are_alike_as_often_as_it_says():
    targets = [motif(n, 10, f"t{n}") for n in range(30)]
    p = [compare(motif(1000 + n, 10), targets[:1] + targets[1:]).e for n in range(60)]
    # The least of 30 chances, 30 times over: about 1 on average, and seldom below 0.05.
    assert sum(e < 0.05 for e in p) <= 9
    assert np.median(p) > 0.2


def test_short_motifs_overlap_whole():
    found = compare(motif(3, 3), [motif(3, 3, "same"), motif(4, 12, "long")])
    assert (found.target, found.offset, found.overlap) == ("same", 0, 3)
