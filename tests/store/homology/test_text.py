import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.genome import AMBIGUOUS
from distgen.store.homology import seeds, text
from distgen.store.homology.text import Text, cut, with_mask
from distgen.store.work import in_this_process
from tests.conftest import flat_codes
from tests.store.homology.test_tiles import letters, store_of, turned


def masked_by_hand(store, shape, copies):
    """Soft-masked bases, and those under a seed of the flat coordinate that stands more than `copies` times."""
    words = seeds.words(Text.of(store).codes(0, store.length), shape)
    values, counts = np.unique(words[words >= 0] >> 1, return_counts=True)
    often = set(values[counts > copies].tolist())
    flags = Text.of(store).flags("softmask", 0, store.length).copy()
    for i, word in enumerate(words.tolist()):
        if word >= 0 and word >> 1 in often:
            flags[i : i + len(shape)] = True
    return flags


@pytest.fixture(scope="module")
def repetitive(tmp_path_factory):
    rng = np.random.default_rng(1)
    repeat = letters(rng, 200)
    contigs = {
        name: "".join(letters(rng, 700) + (turned(repeat) if i % 2 else repeat) for i in range(20))
        + "acgtt" * 10
        + tail
        for name, tail in (("a", "A"), ("b", "CC"))
    }
    return store_of(tmp_path_factory.mktemp("repetitive"), contigs)


@given(st.data())
def test_codes_are_the_letters_and_padding_is_ambiguous(small, data):
    start = data.draw(st.integers(0, small.length - 1))
    end = data.draw(st.integers(start, small.length))
    assert np.array_equal(Text.of(small).codes(start, end), flat_codes(small)[start:end])


@pytest.mark.parametrize("parallel", [1, 3])
def test_the_mask_is_that_of_counting_by_hand_however_it_is_cut(repetitive, tmp_path, monkeypatch, parallel):
    shape = seeds.pattern(repetitive.length)
    monkeypatch.setattr(text, "PIECE", 4096)

    def backwards(tasks, progress):
        return [task(progress) for task in tasks[::-1]][::-1]

    masked = with_mask(Text.of(repetitive), shape, 25, tmp_path, backwards, parallel)
    codes, flags = masked.read(0, repetitive.length)
    expected = masked_by_hand(repetitive, shape, 25)
    assert 0.15 < expected.mean() < 0.3
    assert np.array_equal(flags, expected)
    assert np.array_equal(codes, Text.of(repetitive).codes(0, repetitive.length))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mask"]
    part = repetitive.contigs.regions(["b"])
    ((start, end),) = part.tolist()
    assert masked.masked(part) == (flags | (codes == AMBIGUOUS))[start:end].sum()


def test_a_pickled_text_takes_no_bases_along(repetitive, tmp_path):
    found = with_mask(Text.of(repetitive), seeds.pattern(repetitive.length), 25, tmp_path, in_this_process, 1)
    before = found.read(100, 900)
    again = pickle.loads(pickle.dumps(found))
    assert not {"_planes", "_mask"} & set(vars(again))
    assert all(np.array_equal(one, other) for one, other in zip(before, again.read(100, 900), strict=True))


def test_threads_may_share_a_text(repetitive):
    found = Text.of(repetitive)
    with ThreadPoolExecutor(4) as pool:
        pieces = list(pool.map(lambda at: found.codes(at, at + 64), range(0, 4096, 64)))
    assert np.array_equal(np.concatenate(pieces), found.codes(0, 4096))


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 30)), max_size=5), st.integers(0, 5))
def test_pieces_cover_intervals_once_but_for_the_overlap(sizes, overlap):
    intervals = np.array([(start, start + size) for start, size in sizes], np.int64).reshape(-1, 2)
    original, text.PIECE = text.PIECE, 7
    try:
        pieces = list(cut(intervals, overlap))
    finally:
        text.PIECE = original
    expected = [(at, min(at + 7 + overlap, end)) for start, end in intervals.tolist() for at in range(start, end, 7)]
    assert pieces == expected
