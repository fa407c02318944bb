"""Shares of classes by the bases around, against dictionaries."""

from collections import Counter

import numpy as np
import pytest

from distgen.evaluate.contexts import _PRIOR, Contexts


def drawn():
    rng = np.random.default_rng(0)
    codes = rng.choice(5, (6, 80), p=[0.3, 0.2, 0.2, 0.28, 0.02]).astype(np.uint8)
    known = rng.random(codes.shape) < 0.9
    classes = np.stack([codes == 2, rng.random(codes.shape) < 0.1], 2)
    classes[:, 1:, 0] &= codes[:, :-1] == 1  # the first class is a G after a C
    return codes, classes, known


def obvious(codes, classes, known, word, column):
    """The share that a word of codes ends up with, by the words inside it."""
    yes, total = Counter(), Counter()
    for row in range(len(codes)):
        for i in range(codes.shape[1]):
            for half in range(len(word) // 2 + 1):
                around = codes[row, max(i - half, 0) : i + half + 1].tolist()
                if known[row, i] and len(around) == 2 * half + 1 and 4 not in around:
                    total[tuple(around)] += 1
                    yes[tuple(around)] += int(classes[row, i, column])
    p = (classes[known][:, column].sum() + 0.5) / (known.sum() + 1)
    for half in range(len(word) // 2 + 1):
        middle = len(word) // 2
        inner = tuple(word[middle - half : middle + half + 1])
        p = (yes[inner] + _PRIOR * p) / (total[inner] + _PRIOR)
    return p


def test_shares_equal_those_of_dictionaries():
    codes, classes, known = drawn()
    found = Contexts([(codes[:2], classes[:2], known[:2]), (codes[2:], classes[2:], known[2:])], 3)
    p = found.logits(codes).sigmoid()
    for row, i in ((0, 5), (1, 40), (3, 61), (5, 78)):
        word = codes[row, i - 1 : i + 2].tolist()
        if 4 not in word:
            for column in (0, 1):
                assert float(p[row, column, i]) == pytest.approx(obvious(codes, classes, known, word, column), abs=1e-5)
    assert float(p[0, 0][codes[0] == 0].max()) < 0.15


def test_no_bases_are_the_prevalence():
    codes, classes, known = drawn()
    found = Contexts([(codes, classes, known)], 0).logits(codes).sigmoid()
    assert found.shape == (6, 2, 80)
    assert np.allclose(found[:, 0], (classes[known][:, 0].sum() + 0.5) / (known.sum() + 1))
