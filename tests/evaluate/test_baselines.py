import math
from collections import Counter

import numpy as np
import pytest

from distgen.config import Recipe, read
from distgen.evaluate.baselines import _PRIOR, Scored, baselines, mixed
from distgen.store.build import build
from distgen.store.reader import open_store


@pytest.fixture
def store(tmp_path):
    """A genome in which every base but each fourth is drawn, and that one repeats the base before it."""
    rng = np.random.default_rng(3)
    letters = rng.choice(list("ACGT"), 60_000)
    letters[3::4] = letters[2::4]
    (tmp_path / "a.fa").write_text(">a\n" + "".join(letters[:40_000]) + "\n>b\n" + "".join(letters[40_000:]) + "NNNN\n")
    (tmp_path / "a.toml").write_text('format = 1\n[assembly]\nname = "a"\nfasta = "a.fa"\n[split]\ntest = ["b"]\n')
    build(read(tmp_path / "a.toml", Recipe), tmp_path / "a.zarr")
    return open_store(tmp_path / "a.zarr")


def means(store):
    found = baselines(store, store.regions("train"), store.regions("test"))
    return {name: scored.mean() for name, scored in found.items()}


def obvious_markov(train, test, order):
    """Bits per base of one order on top of the next shorter one, with dictionaries."""
    complement = str.maketrans("ACGT", "TGCA")
    texts = [train, train.translate(complement)[::-1]]
    counts = [Counter(t[i - k : i + 1] for t in texts for i in range(k, len(t))) for k in range(order + 1)]
    contexts = [Counter(word[:-1] for word in c.elements()) for c in counts]

    def probability(context, base):
        p = 0.25
        for k in range(len(context) + 1):
            tail = context[len(context) - k :]
            p = (counts[k][tail + base] + _PRIOR * p) / (contexts[k][tail] + _PRIOR)
        return p

    known = [i for i, c in enumerate(test) if c != "N"]
    return -sum(math.log2(probability(test[max(0, i - order) : i], test[i])) for i in known) / len(known)


def test_markov_models_equal_counting_with_dictionaries(store):
    from distgen.genome import Interval

    train = store.sequence(Interval("a", 0, 40_000))
    test = store.sequence(Interval("b", 0, 20_004))
    found = means(store)
    for order in (0, 3):
        assert found[f"markov order {order}"] == pytest.approx(obvious_markov(train, test, order), abs=1e-4)


def test_two_sides_see_what_one_side_cannot(store):
    found = means(store)
    assert found["markov order 0"] == pytest.approx(2, abs=0.01)
    assert found["counts, 4 bases either side"] < found["markov order 3"] - 0.05


def test_all_orders_together_are_better_than_each(store):
    alone = means(store)
    (together,) = mixed(store, store.regions("train"), None, store.regions("test")).values()
    assert together.mean() < min(alone[f"markov order {order}"] for order in (0, 3, 8, 11)) + 0.005
    assert together.mean() < 1.9


def test_bits_of_stretches_are_sums_of_those_of_bases(store):
    scored = baselines(store, store.regions("train"), store.regions("test"))["markov order 3"]
    ((first, end),) = scored.intervals.tolist()
    starts = np.array([first, first + 100, end - 8])
    bits, bases = scored.within(starts, starts + np.array([100, 50, 100]))
    (own,) = scored.bits
    assert bases.tolist() == [100, 50, 4]  # the last four are N
    assert bits == pytest.approx([own[:100].sum(), own[100:150].sum(), np.nansum(own[-8:])])


def test_stretches_are_summed_once_wherever_they_begin_and_end(monkeypatch):
    intervals = np.array([[10, 14], [20, 26], [26, 27]])
    bits = [np.arange(4.0), np.array([1, np.nan, 1, 1, 1, 1]), np.array([9.0])]
    by_base = {
        at: b
        for (first, end), own in zip(intervals, bits, strict=True)
        for at, b in zip(range(first, end), own, strict=True)
    }
    scored = Scored(intervals, bits)
    starts, ends = (part.ravel() for part in np.meshgrid(np.arange(30), np.arange(30)))
    starts, ends = starts[starts <= ends], ends[starts <= ends]
    for _ in range(2):
        total, count = scored.within(starts, ends)
        for start, end, t, n in zip(starts, ends, total, count, strict=True):
            own = [by_base[at] for at in range(start, end) if by_base.get(at, np.nan) >= 0]
            assert (t, n) == (sum(own), len(own))
        monkeypatch.setattr(
            np, "cumsum", lambda bits: pytest.fail("summed again") if bits.dtype != int else bits.cumsum()
        )
