"""Shared words, against sets of strings."""

import numpy as np
import pytest

from distgen.evaluate.leaks import leaked

LETTERS = "ACGTN"
OTHER = str.maketrans("ACGT", "TGCA")


def obvious(part, train, k):
    """Sets of strings of both strands."""

    def words(row):
        text = "".join(LETTERS[code] for code in row)
        return {text[i : i + k] for i in range(len(text) - k + 1) if "N" not in text[i : i + k]}

    seen = {w for row in train for word in words(row) for w in (word, word.translate(OTHER)[::-1])}
    return [bool(words(row) & seen) for row in part]


def drawn(seed, count, length):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 4, (count, length)).astype(np.uint8)
    codes[rng.random(codes.shape) < 0.01] = 4
    return codes


@pytest.mark.parametrize("k", [11, 16, 31])
def test_it_agrees_with_sets_of_strings(k):
    part, train = drawn(1, 200, 60), drawn(2, 300, 70)
    for row in range(0, 60, 3):  # planted, on either strand, some of them cut one base short
        stretch = part[row, 5 : 5 + k - (row % 2)]
        train[row, 20 : 20 + len(stretch)] = 3 - stretch[::-1] if row % 4 else stretch
    train[train > 4] = 4
    expected = obvious(part, train, k)
    assert 0 < sum(expected) < 200
    found = leaked([part[:70], part[70:]], [train[:11], train[11:]], k)
    assert found.tolist() == expected


def test_a_window_without_words_shares_none():
    part = np.full((2, 40), 4, np.uint8)
    assert leaked([part], [drawn(1, 5, 40)], 31).tolist() == [False, False]
    assert leaked([drawn(1, 3, 20)], [drawn(1, 3, 20)], 31).tolist() == [False] * 3
    assert leaked([], [], 31).tolist() == []
