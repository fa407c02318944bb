import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distgen import kernels
from distgen.errors import ConfigError
from distgen.genome import COMPLEMENT
from distgen.loader.gather import Chunks
from distgen.loader.packed import Filled, pack_rows, plan
from tests.conftest import flat_codes

some_lengths = st.lists(st.integers(1, 60), min_size=1, max_size=80)


@given(some_lengths, st.integers(60, 100), st.integers(0, 2**40), st.integers(0, 50))
def test_every_window_is_in_one_row_and_no_row_is_too_long(lengths, window, seed, epoch):
    found = plan(np.array(lengths), window, seed, epoch)
    assert sorted(found.samples.tolist()) == list(range(len(lengths)))
    for first, last in zip(found.bounds[:-1], found.bounds[1:], strict=True):
        row = [lengths[sample] for sample in found.samples[first:last]]
        assert 0 < sum(row) <= window
        assert found.ends[first:last].tolist() == np.cumsum(row).tolist()
    assert len(found) <= 2 * sum(lengths) // window + 1


@given(some_lengths, st.integers(60, 100), st.data())
def test_segments_are_those_of_the_rows_one_asks_for(lengths, window, data):
    found = plan(np.array(lengths), window, 1, 2)
    rows = data.draw(st.lists(st.integers(0, len(found) - 1), max_size=5))
    segments = found.segments(np.array(rows, np.int64))
    samples, own, firsts, lasts = [], [], [], []
    for number, row in enumerate(rows):
        at = 0
        for sample in found.samples[found.bounds[row] : found.bounds[row + 1]].tolist():
            samples.append(sample)
            own.append(number)
            firsts.append(at)
            lasts.append(at := at + lengths[sample])
    assert [column.tolist() for column in segments] == [samples, own, firsts, lasts]
    bounds, inside = segments.bounds(len(rows), window)
    tokens = np.full(len(rows) * window, -1)
    for sample, row, first, last in zip(samples, own, firsts, lasts, strict=True):
        tokens[row * window + first : row * window + last] = sample
    assert np.repeat(inside, np.diff(bounds)).tolist() == tokens.tolist()
    assert (np.diff(bounds) > 0).all()
    assert set(np.arange(len(rows) + 1) * window) <= set(bounds.tolist())


def test_rows_are_nearly_full():
    lengths = np.random.default_rng(3).integers(20, 1024, 20_000)
    found = plan(lengths, 1024, 0, 0)
    assert lengths.sum() / (len(found) * 1024) > 0.95


def test_each_epoch_deals_anew():
    lengths = np.random.default_rng(3).integers(20, 100, 500)
    one, same, other = plan(lengths, 200, 4, 0), plan(lengths, 200, 4, 0), plan(lengths, 200, 4, 1)
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not np.array_equal(one.samples, other.samples)


@settings(max_examples=60)
@given(st.data())
def test_rows_read_as_their_windows_one_after_another(store, data):
    codes, mask = store.truth
    window = data.draw(st.integers(1, 3000))
    count = data.draw(st.integers(1, 4))
    rows, firsts, lasts, starts = [], [], [], []
    for row in range(count):
        at = 0
        while at < window and data.draw(st.booleans()):
            begin, end = data.draw(st.sampled_from(store.contigs))
            length = data.draw(st.integers(1, min(window - at, end - begin)))
            rows.append(row)
            firsts.append(at)
            lasts.append(at := at + length)
            starts.append(data.draw(st.integers(begin, end - length)))
    reverse = np.array(data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows))), np.bool_)
    columns = [np.array(column, np.int64) for column in (range(len(rows)), rows, firsts, lasts, starts)]
    found = pack_rows(store.chunks, columns[4], reverse, Filled(*columns[:4]), count, window)
    expected = np.full((count, window), 4, np.uint8)
    soft = np.zeros((count, window), np.bool_)
    for row, first, last, start, back in zip(rows, firsts, lasts, starts, reverse, strict=True):
        part, lower = codes[start : start + last - first], mask[start : start + last - first]
        expected[row, first:last] = COMPLEMENT[part[::-1]] if back else part
        soft[row, first:last] = lower[::-1] if back else lower
    windows = {"starts": found.starts, "length": window, "limits": found.limits}
    tokens = kernels.tokens(found.plane, ambiguous=found.ambiguous, **windows)
    assert torch.equal(tokens, torch.from_numpy(expected))
    flags = np.unpackbits(found.softmask.numpy(), bitorder="little").reshape(count, -1)
    assert np.array_equal(flags[:, :window] == 1, soft)
    assert not flags[:, window:].any()


class Truth:
    def __init__(self, store):
        self.truth = flat_codes(store), np.unpackbits(store.planes["softmask"].read(), bitorder="little") == 1
        self.contigs = store.contigs.whole().tolist()
        self.chunks = {name: Chunks(array) for name, array in store.planes.items()}


@pytest.fixture
def store(small):
    return Truth(small)


def test_a_sequence_longer_than_a_row_is_refused():
    with pytest.raises(ConfigError, match="sequence 1 has 90 bases, a row 64. Use rows of 90 bases"):
        plan(np.array([3, 90, 2]), 64, 0, 0)
    with pytest.raises(ConfigError, match="sequence 2 has 0 bases"):
        plan(np.array([3, 9, 0]), 64, 0, 0)


def test_no_sequences_make_no_rows():
    assert len(plan(np.empty(0, np.int64), 64, 0, 0)) == 0
