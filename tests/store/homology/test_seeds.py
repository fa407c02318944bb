from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.store.homology import seeds

SHAPE = "1101011"


def reference_words(codes, shape):
    """Letters under the pattern on both strands; None where one is ambiguous."""
    found = []
    for i in range(len(codes) - len(shape) + 1):
        window = [int(code) for code in codes[i : i + len(shape)]]
        if max(window) > 3:
            found.append(None)
            continue
        forward, backward = (
            tuple(code for code, bit in zip(strand, shape, strict=True) if bit == "1")
            for strand in (window, [3 - code for code in window[::-1]])
        )
        found.append((min(forward, backward), backward < forward))
    return found


def reference_candidates(words, windows, needs, span, bits, copies):
    """Runs of hits by the rule in the docstring, one hit after the other."""
    places = defaultdict(list)
    for t, word in enumerate(words.tolist()):
        if word >= 0:
            places[word >> (33 - bits), (word >> 1) & 7].append((t, word & 1))
    known = {word >> (30 - bits) for word in words.tolist() if word >= 0}

    def near(word):
        return places[word >> (33 - bits), (word >> 1) & 7] if word >> (30 - bits) in known else []

    rows = []
    for w, (start, end) in enumerate(windows.tolist()):
        hits = []
        for q, word in enumerate(words[start : max(start, end - span + 1)].tolist()):
            for t, strand in near(word)[:copies]:
                turned = strand ^ (word & 1)
                hits.append((turned, t + q if turned else t - q, q))
        runs = []
        for hit in sorted(hits):
            slack = min(max((end - start) // 16, 8), 48)
            if (
                runs
                and runs[-1][-1][0] == hit[0]
                and hit[1] - runs[-1][-1][1] <= slack
                and hit[1] - runs[-1][0][1] <= end - start
            ):
                runs[-1].append(hit)
            else:
                runs.append([hit])
        for run in runs:
            positions = [q for _, _, q in run]
            enough = len(run) >= (3 if needs[w] >= 100 else 2)
            if enough and max(positions) - min(positions) >= needs[w] // 4:
                rows.append(([w, run[0][0], run[0][1], run[-1][1]], len(run)))
    return rows


@pytest.mark.parametrize("shape", seeds.PATTERNS.values())
def test_patterns_read_the_same_from_both_ends_and_fit_a_word(shape):
    assert shape == shape[::-1]
    assert shape[0] == "1"
    assert len(shape) < 32


@given(st.lists(st.integers(0, 4), max_size=60))
def test_equal_words_are_equal_letters_on_either_strand(codes):
    words = seeds.words(np.array(codes, np.uint8), SHAPE)
    expected = reference_words(codes, SHAPE)
    assert len(words) == len(expected)
    assert [word >= 0 for word in words.tolist()] == [one is not None for one in expected]
    kept = [(word, one) for word, one in zip(words.tolist(), expected, strict=True) if one]
    for word, (letters, turned) in kept:
        assert word & 1 == turned
        for other, (other_letters, _) in kept:
            assert (word >> 1 == other >> 1) == (letters == other_letters)


@given(st.integers(0, 2**32 - 1), st.integers(20, 300), st.integers(0, 160), st.integers(1, 20))
def test_candidates_are_those_of_the_reference(seed, length, need, copies):
    rng = np.random.default_rng(seed)
    one = rng.integers(0, 4, 150, dtype=np.uint8)
    codes = np.concatenate([one, rng.integers(0, 5, 100, dtype=np.uint8), 3 - one[::-1], one[20:90]])
    words = seeds.words(codes, SHAPE)
    index = seeds.index(len(codes), lambda: iter([(0, words[:200]), (200, words[200:])]))
    starts = np.arange(0, len(codes), 60)
    windows = np.stack([starts, np.minimum(starts + length, len(codes))], axis=1)
    needs = np.full(len(windows), need)
    found = seeds.candidates(words, windows, needs, len(SHAPE), index, copies, 10**6)
    everything = reference_candidates(words, windows, needs, len(SHAPE), index.bits, copies)
    assert sorted(found.tolist()) == sorted(row for row, _ in everything)
    few = seeds.candidates(words, windows, needs, len(SHAPE), index, copies, 2)
    numbers = {tuple(row): number for row, number in everything}
    for w in range(len(windows)):
        kept = [numbers[tuple(row)] for row in few.tolist() if row[0] == w]
        assert kept == sorted((number for row, number in everything if row[0] == w), reverse=True)[:2]


def test_bases_under_frequent_seeds_are_marked():
    rng = np.random.default_rng(0)
    repeat = rng.integers(0, 4, 30, dtype=np.uint8)
    pieces = [np.r_[rng.integers(0, 4, 300, dtype=np.uint8), repeat] for _ in range(20)]
    words = seeds.words(np.concatenate(pieces), seeds.pattern(1))
    counts = np.zeros((2, 1 << 14), np.uint16)
    seeds.count(words, 14, counts)
    marked = np.zeros(20 * 330, bool)
    seeds.mark(words, 14, counts, 15, len(seeds.pattern(1)), marked)
    assert marked.reshape(20, 330)[:, 300:].all()
    assert marked.reshape(20, 330)[:, :300].mean() < 0.01


def test_counts_stop_at_their_largest_value():
    counts = np.full((2, 1 << 8), 65534, np.uint16)
    seeds.count(np.array([0, 0, 0, -1], np.int64), 8, counts)
    assert counts[:, 0].tolist() == [65535, 65535]
    assert (counts[:, 1:] == 65534).all()
