"""Decoding in programs without distgen against the reference."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from distgen.kernels import portable, reference


@given(st.integers(1, 30), st.integers(1, 15), st.integers(0, 40), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_what_lies_in_a_plane_is_decoded_as_the_reference_has_it(sequence, unknown, length, rows, seed):
    draw = torch.Generator().manual_seed(seed)
    plane = torch.randint(0, 256, (sequence,), dtype=torch.uint8, generator=draw)
    ambiguous = torch.randint(0, 256, (unknown,), dtype=torch.uint8, generator=draw)
    starts = torch.randint(-20, 4 * sequence + 20, (rows,), generator=draw)
    bases = reference.bases_of(plane, ambiguous)
    limits = torch.randint(0, bases + 1, (rows, 2), generator=draw).sort(1).values
    reverse = torch.rand(rows, generator=draw) < 0.5
    expected = reference.tokens(plane, starts, length, reverse, ambiguous, limits, torch.int64)
    assert torch.equal(portable.tokens(plane, starts, length, reverse, ambiguous, limits), expected)


def test_what_lies_outside_a_plane_is_unknown():
    plane, ambiguous, forward = (
        torch.full((2,), 255, dtype=torch.uint8),
        torch.zeros(2, dtype=torch.uint8),
        torch.zeros(1),
    )
    codes = portable.tokens(plane, torch.tensor([-2]), 12, forward.bool(), ambiguous, torch.tensor([[-(2**62), 2**62]]))
    assert codes.tolist() == [[4, 4, 3, 3, 3, 3, 3, 3, 3, 3, 4, 4]]
