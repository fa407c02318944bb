"""Counts of k-mers, against dictionaries."""

from collections import Counter

import numpy as np
import pytest

from distgen.evaluate.kmers import Sparse, Words

OTHER = str.maketrans("ACGT", "TGCA")


def dense(rows):
    found = np.zeros((len(rows), rows.width))
    for row in range(len(rows)):
        some = slice(rows.starts[row], rows.starts[row + 1])
        found[row, rows.columns[some]] = rows.values[some]
    return found


def obvious(text, k, both_strands):
    """Sorted counts of one length of word, scaled to unit length."""
    words = [text[i : i + k] for i in range(len(text) - k + 1) if "N" not in text[i : i + k]]
    if both_strands:
        words = [min(word, word.translate(OTHER)[::-1]) for word in words]
    counts = np.array(sorted(Counter(words).values()), float)
    return counts / np.sqrt((counts**2).sum())


@pytest.mark.parametrize("both_strands", [False, True])
def test_counts_equal_those_of_dictionaries(both_strands):
    codes = np.random.default_rng(0).choice(5, (20, 50), p=[0.3, 0.3, 0.2, 0.18, 0.02]).astype(np.uint8)
    words = Words.of(4, both_strands=both_strands)
    assert np.diff(words.blocks).tolist() == ([2, 10, 32, 136] if both_strands else [4, 16, 64, 256])
    found = dense(words.count(codes))
    for row, window in zip(found, codes, strict=True):
        text = "".join("ACGTN"[code] for code in window)
        for k in (1, 2, 3, 4):
            block = row[words.blocks[k - 1] : words.blocks[k]]
            assert np.sort(block[block > 0]) == pytest.approx(obvious(text, k, both_strands))


def test_both_strands_count_alike():
    codes = np.random.default_rng(1).integers(0, 4, (5, 40)).astype(np.uint8)
    words = Words.of(6, both_strands=True)
    assert np.array_equal(dense(words.count(codes)), dense(words.count(3 - codes[:, ::-1])))


def test_a_window_of_unknown_bases_has_no_words():
    found = Words.of(3, both_strands=False).count(np.full((2, 30), 4, np.uint8))
    assert len(found) == 2
    assert found.values.size == 0


def test_products_are_those_of_the_dense_rows():
    rng = np.random.default_rng(2)
    words = Words.of(3, both_strands=False)
    parts = [words.count(rng.integers(0, 5, (n, 20)).astype(np.uint8)) for n in (3, 4)]
    rows = Sparse.joined(parts)
    full = np.concatenate([dense(part) for part in parts])
    weights, others = rng.standard_normal((rows.width, 2)), rng.standard_normal((7, 2))
    assert rows.times(weights) == pytest.approx(full @ weights)
    assert rows.transposed_times(others) == pytest.approx(full.T @ others)
    same = Sparse.of(full)
    assert same.times(weights) == pytest.approx(full @ weights, rel=1e-4, abs=1e-6)  # float32
