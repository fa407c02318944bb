"""Sixteen known bases at a time: against the specification, and that they are taken where they may be, and only there."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distgen import kernels
from distgen.kernels import reference
from distgen.kernels.numba_cpu import windows

BASES = 4096
PLANE = torch.randint(0, 256, (BASES // 4,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@given(data=st.data(), length=st.integers(1, 700))
def test_windows_anywhere_in_a_plane_are_the_reference_s(dtype, length, data):
    rows = data.draw(st.integers(1, 4))
    starts = torch.tensor(data.draw(st.lists(st.integers(0, BASES - length), min_size=rows, max_size=rows)))
    reverse = torch.tensor(data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows)))
    unknown = torch.zeros(BASES // 8, dtype=torch.uint8)
    unknown[data.draw(st.lists(st.integers(0, BASES // 8 - 1), max_size=2))] = 16
    given = {"reverse": reverse, "ambiguous": unknown}
    found = kernels.one_hot(PLANE, starts, length, dtype=dtype, **given)
    assert torch.equal(found, reference.one_hot(PLANE, starts, length, dtype=dtype, **given))


@pytest.mark.parametrize(
    ("start", "bit", "limits", "written"),
    [
        (5, None, (0, BASES), 96),
        (BASES - 100, None, (0, BASES), 0),  # eight bytes are read at a time
        (5, 60, (0, BASES), 0),
        (5, 200, (0, BASES), 96),
        (5, None, (6, BASES), 0),
        (5, None, (0, 104), 0),
    ],
)
@pytest.mark.parametrize("backward", [False, True])
def test_only_blocks_of_known_bases_are_taken(start, bit, limits, written, backward):
    ambiguous = torch.zeros(BASES // 8, dtype=torch.uint8)
    if bit is not None:
        ambiguous[bit // 8] = 1 << bit % 8
    out, one = torch.zeros(400), windows._ONE[torch.float32]
    bits = out.view(torch.uint32).numpy()
    given = (PLANE.numpy(), ambiguous.numpy(), start, 100, *limits, 0, 100, backward, one, bits)
    assert windows.known(*given) == written
    assert int(out.sum()) == written
