"""Mixed Markov models, against dictionaries and against what is known of a sequence."""

import math
from collections import Counter

import numpy as np
import pytest

from distgen.evaluate import mixture as module
from distgen.evaluate.mixture import _mix, _seen, mixture
from distgen.genome import COMPLEMENT


def drawn(seed, length):
    return np.random.default_rng(seed).choice(5, length, p=[0.3, 0.2, 0.2, 0.29, 0.01]).astype(np.uint8)


def text(codes):
    return "".join("ACGTN"[code] for code in codes)


@pytest.mark.parametrize("whole", [1, 11])
def test_contexts_are_counted_as_dictionaries_do(whole, monkeypatch):
    monkeypatch.setattr(module, "_WHOLE", whole)  # orders above it go by the contexts that are asked for
    fit, asked = [drawn(1, 300), drawn(2, 200)], drawn(3, 150)
    strands = [text(strand) for codes in fit for strand in (codes, COMPLEMENT[codes[::-1]])]
    for order, (times, total, different) in enumerate(_seen(fit, asked, 4)):
        words = Counter(
            strand[i : i + order + 1]
            for strand in strands
            for i in range(len(strand) - order)
            if "N" not in strand[i : i + order + 1]
        )
        for i in range(len(asked)):
            word = text(asked[max(i - order, 0) : i + 1])
            if len(word) <= order or "N" in word:
                assert total[i] == 0
                continue
            followed = [words[word[:-1] + base] for base in "ACGT"]
            assert times[i] == words[word]
            assert total[i] == sum(followed)
            assert different[i] == sum(count > 0 for count in followed)


def test_it_knows_its_way_through_a_repeat_and_its_other_strand():
    """Half of what is scored stands in the training part, forward or backward; the rest is drawn anew."""
    rng = np.random.default_rng(0)
    fit = rng.integers(0, 4, 40_000).astype(np.uint8)
    new = rng.integers(0, 4, 4000).astype(np.uint8)
    score = [fit[1000:3000], COMPLEMENT[fit[9000:11_000][::-1]], new]
    held = [np.concatenate([fit[5000:7000], rng.integers(0, 4, 2000).astype(np.uint8)])]
    known, turned, drawn_anew = (float(np.mean(bits)) for bits in mixture([fit], held, score))
    assert known < 0.2
    assert turned < 0.2
    assert 2 < drawn_anew < 2.6  # what was seen once by chance counts little
    assert known + turned + 2 * drawn_anew < 4 * 1.4


def test_it_is_a_distribution():
    """The probabilities of the four bases after one context are 1 together, whatever orders say."""
    fit, held = [drawn(1, 3000)], drawn(2, 2000)
    _, weights = _mix(fit, held, np.ones(len(held), bool), 6)
    for context in ([], [0, 1, 2], [3, 3, 3, 1, 0, 2, 2]):
        asked = [np.array([*context, base], np.uint8) for base in range(4)]
        found = [_mix(fit, codes, np.zeros(len(codes), bool), 6, weights)[0][-1] for codes in asked]
        assert sum(found) == pytest.approx(1)


def test_nothing_is_learned_from_what_is_measured():
    fit = [drawn(1, 30_000)]
    one, other = drawn(5, 500), drawn(6, 500)
    alone = mixture(fit, [], [one])[0]
    assert np.array_equal(alone, mixture(fit, [], [one, other])[0], equal_nan=True)
    assert np.array_equal(np.isnan(alone), one == 4)
    assert np.nanmean(alone) == pytest.approx(-sum(p * math.log2(p) for p in (0.3, 0.2, 0.2, 0.3)), abs=0.05)


def test_blocks_that_are_held_out_are_not_counted_and_nothing_is_lost():
    fit = [drawn(1, 1005), drawn(2, 4)]
    counted, held = module._held_out(fit)
    assert sum(map(len, held)) == 100
    assert sum(map(len, counted + held)) == 1009
    assert any(np.array_equal(block, fit[0][500:600]) for block in held)
