import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distgen import kernels
from distgen.errors import ConfigError
from distgen.loader.order import draws, grouped, permute
from tests.loader import feistel

SEEDS = st.integers(0, 2**64 - 1)


@st.composite
def shapes(draw, most=400):
    """n and the shape of "grouped/1", of awkward sizes: pieces, groups, lanes and batches that do not fit each other."""
    lanes = draw(st.integers(1, 7))
    shape = {"batch_size": lanes * draw(st.integers(1, 6)), "lanes": lanes}
    return draw(st.integers(1, most)), shape | {"piece": draw(st.integers(1, 60)), "group": draw(st.integers(1, 8))}


def most(t, shape):
    """Pieces that t samples of a lane, one after another, come from at most."""
    return shape["group"] * ((t + shape["piece"]) // (shape["group"] * shape["piece"]) + 2)


@given(st.integers(1, 3000), SEEDS, st.integers(0, 100))
def test_flat_is_a_permutation(n, seed, epoch):
    found = permute(np.arange(n), n, seed, epoch)
    assert np.array_equal(np.sort(found), np.arange(n))


@given(st.one_of(st.integers(1, 100), st.integers(1, 2**62)), SEEDS, st.integers(0, 100), st.data())
def test_flat_is_the_network_that_is_specified(n, seed, epoch, data):
    index = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=50)), np.int64)
    assert permute(index, n, seed, epoch).tolist() == feistel.flat(index, n, seed, epoch).tolist()


def test_many_samples_at_once_are_each_as_alone():
    index = np.arange(10_000).reshape(100, 100)[:, ::-1]  # more than a block, not in a row
    assert np.array_equal(permute(index, 10_000, 1, 2), feistel.flat(index, 10_000, 1, 2))
    shape = {"batch_size": 12, "lanes": 3, "piece": 777, "group": 2}
    expected = np.array(feistel.grouped(10_000, 1, 2, **shape))[index]
    assert np.array_equal(grouped(index, 10_000, 1, 2, **shape), expected)
    assert permute(index[:0], 10_000, 1, 2).shape == grouped(index[:0], 10_000, 1, 2, **shape).shape == (0, 100)


@given(shapes(), SEEDS, st.integers(0, 100))
def test_grouped_is_a_permutation_and_as_specified(drawn, seed, epoch):
    n, shape = drawn
    found = grouped(np.arange(n), n, seed, epoch, **shape)
    assert np.array_equal(np.sort(found), np.arange(n))
    assert found.tolist() == feistel.grouped(n, seed, epoch, **shape)


@given(shapes(), SEEDS, st.integers(1, 300))
def test_a_stretch_of_a_lane_meets_no_more_pieces_than_documented(drawn, seed, t):
    n, shape = drawn
    width = shape["batch_size"] // shape["lanes"]
    whole = n // shape["batch_size"] * shape["batch_size"]
    pieces = grouped(np.arange(n), n, seed, 0, **shape) // shape["piece"]
    lanes = pieces[:whole].reshape(-1, shape["lanes"], width).swapaxes(0, 1).reshape(shape["lanes"], -1)
    for stretch in [*lanes, pieces[whole:]]:
        for first in range(max(len(stretch) - t, 0) + 1):
            met = len(set(stretch[first : first + t].tolist()))
            assert met <= most(t, shape)
        # A group is done with before the next begins: in between, no more than its own pieces are open.
        last, first = ({int(p): i for i, p in way} for way in (enumerate(stretch), [*enumerate(stretch)][::-1]))
        assert all(sum(first[p] <= i <= last[p] for p in first) <= shape["group"] for i in range(len(stretch)))


@given(st.integers(2**40, 2**62), SEEDS, st.sampled_from([1, 1000, 2**31, 2**61, 2**62]), st.data())
def test_any_sample_of_any_epoch_is_found_without_the_others(n, seed, piece, data):
    # Anything that grew with n would end here: 2^62 bytes are more than there is address space.
    index = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=20, unique=True)), np.int64)
    shape = {"batch_size": 96, "lanes": 8, "piece": piece, "group": data.draw(st.sampled_from([1, 4, 2**40]))}
    for order in (permute, lambda *given: grouped(*given, **shape)):
        found = order(index, n, seed, 5)
        assert ((found >= 0) & (found < n)).all()
        assert len(set(found.tolist())) == len(index)
        assert [int(order(index[i : i + 1], n, seed, 5)[0]) for i in range(len(index))] == found.tolist()


@given(
    st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=50),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 2**33),
    st.integers(0, 2**32 - 1),
)
def test_draws_are_those_of_philox(samples, seed, epoch, tag):
    counter = torch.tensor(samples)
    expected = kernels.philox(counter, torch.full_like(counter, seed), tag=tag, epoch=epoch)
    assert draws(counter.numpy(), seed, epoch, tag).tolist() == [word.tolist() for word in expected]


def test_the_order_never_changes():
    # A checkpoint holds "flat/1" and "grouped/1": these numbers may change only together with that name.
    assert permute(np.arange(8), 8, 7, 0).tolist() == [4, 6, 1, 0, 2, 5, 3, 7]
    assert permute(np.array([0, 10**15]), 2**62, 7, 3).tolist() == [1618147364945281426, 131161876499971169]
    shape = {"batch_size": 4, "lanes": 2, "piece": 3, "group": 2}
    assert grouped(np.arange(11), 11, 7, 0, **shape).tolist() == GROUPED_11
    shape = {"batch_size": 96, "lanes": 8, "piece": 10**9, "group": 4}
    assert grouped(np.array([0, 10**15]), 2**62, 7, 3, **shape).tolist() == GROUPED_BIG


@pytest.mark.parametrize(("index", "n"), [([3], 3), ([-1], 3), ([0], 0), ([0], 2**62 + 1)])
def test_what_is_out_of_range_is_refused(index, n):
    with pytest.raises(ValueError, match="indices must lie in range"):
        permute(np.array(index), n, 0, 0)
    with pytest.raises(ValueError, match="indices must lie in range"):
        grouped(np.array(index), n, 0, 0, batch_size=1, lanes=1, piece=1, group=1)


@pytest.mark.parametrize(("lanes", "use"), [(5, "4 or 6"), (24, "6 or 12"), (11, "6 or 12")])
def test_lanes_that_do_not_divide_the_batch_are_refused_with_those_that_do(lanes, use):
    with pytest.raises(ConfigError, match=f"{lanes} does not divide a batch of 12. Use {use}.") as error:
        grouped(np.arange(3), 3, 0, 0, batch_size=12, lanes=lanes, piece=1, group=1)
    assert error.value.key == "lanes"


@pytest.mark.parametrize("wrong", ["batch_size", "lanes", "piece", "group"])
def test_nothing_of_a_shape_is_empty(wrong):
    shape = {"batch_size": 1, "lanes": 1, "piece": 1, "group": 1} | {wrong: 0}
    with pytest.raises(ValueError, match="are at least 1"):
        grouped(np.arange(3), 3, 0, 0, **shape)


GROUPED_11 = [10, 6, 9, 5, 8, 7, 3, 4, 1, 0, 2]
GROUPED_BIG = [4141038505376016848, 2287618112765576303]
