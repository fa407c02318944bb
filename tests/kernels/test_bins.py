"""gather_bins: every implementation against lists that are sliced and turned."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distgen import kernels
from distgen.errors import WindowError


@st.composite
def cases(draw: st.DrawFn):
    rng = draw(st.randoms(use_true_random=False))
    size, tracks, rows = rng.randrange(1, 200), rng.randrange(1, 7), rng.randrange(5)
    values = [[rng.choice([0.0, 1.0, 7.0, float(rng.randrange(200))]) for _ in range(tracks)] for _ in range(size)]
    starts = [rng.randrange(-20, size + 10) for _ in range(rows)]
    limits = [sorted((rng.randrange(size + 1), rng.randrange(size + 1))) for _ in range(rows)]
    reverse = [rng.random() < 0.5 for _ in range(rows)]
    swap = rng.sample(range(tracks), tracks)
    missing = draw(st.sampled_from([None, 7.0]))
    return values, starts, rng.choice([0, 1, 5, 150]), limits, reverse, swap, missing


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32])
@given(case=cases())
def test_bins_equal_the_oracle(implementation, dtype, case):
    values, starts, bins, limits, reverse, swap, missing = case
    held = torch.tensor(values, dtype=dtype)
    if dtype.is_floating_point:
        held[held == 1] = math.nan
    found, known = implementation.gather_bins(
        held,
        torch.tensor(starts, dtype=torch.int64),
        bins,
        torch.tensor(reverse, dtype=torch.bool),
        torch.tensor(swap),
        torch.tensor(limits, dtype=torch.int64).reshape(-1, 2),
        missing,
    )
    assert (found.dtype, known.dtype) == (dtype, torch.bool)
    assert found.shape == known.shape == (len(starts), bins, len(swap))
    for row, start in enumerate(starts):
        (low, high), expected = limits[row], []
        for i in range(start, start + bins):
            bin_ = held[i].float().tolist() if low <= i < high else [math.nan] * len(swap)
            expected.append([bin_[swap[t]] if reverse[row] else bin_[t] for t in range(len(swap))])
        if reverse[row]:
            expected.reverse()
        good = [[not math.isnan(v) and v != missing for v in bin_] for bin_ in expected]
        assert known[row].tolist() == good
        kept = [[v if g else 0.0 for v, g in zip(*pair, strict=True)] for pair in zip(expected, good, strict=True)]
        assert found[row].float().tolist() == kept


def test_a_window_beyond_the_track_is_refused_and_named(implementation):
    values = torch.zeros(10, 2)
    with pytest.raises(WindowError, match="window 1 "):
        implementation.gather_bins(values, torch.tensor([0, 7]), 4)


def test_values_need_not_be_contiguous(implementation):
    values = torch.arange(60.0).view(20, 3)
    spread = torch.stack([values, values * 0], dim=2)[:, :, 0]
    starts, swap = torch.tensor([4, 0]), torch.tensor([0, 2, 1])
    for one, other in zip(
        implementation.gather_bins(spread, starts, 9, torch.tensor([True, False]), swap),
        implementation.gather_bins(values, starts, 9, torch.tensor([True, False]), swap),
        strict=True,
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("values", torch.zeros(4)),
        ("values", torch.zeros(4, 2, dtype=torch.int32)),
        ("swap", torch.tensor([0])),
        ("starts", torch.tensor([0.0])),
    ],
)
def test_a_wrong_dtype_or_shape_is_refused_and_named(name, value):
    good = {"values": torch.zeros(4, 2), "starts": torch.tensor([0]), "bins": 2, "swap": torch.tensor([1, 0])}
    with pytest.raises(TypeError, match=name):
        kernels.gather_bins(**(good | {name: value}))
