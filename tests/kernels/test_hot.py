"""Sixty-four bases at a time: against the specification, wherever a window lies in its planes and whatever of them is known."""

import ctypes
import mmap
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distgen import kernels
from distgen.kernels import reference

BASES = 4096
PLANE = torch.randint(0, 256, (BASES // 4,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.uint8])
@given(data=st.data(), length=st.one_of(st.integers(1, 700), st.sampled_from([64, 128, 640])))
def test_windows_anywhere_in_a_plane_are_the_reference_s(dtype, channels_last, length, data):
    rows = data.draw(st.integers(1, 4))

    def each(values):
        return torch.tensor(data.draw(st.lists(values, min_size=rows, max_size=rows)))

    shorter = PLANE[: data.draw(st.integers(0, 24)) or None]  # little is there to be read beyond a window
    far = st.sampled_from([-(2**63), -(2**63) + 70, 2**63 - 1, 2**63 - 70, -(2**62), 2**62])
    starts = each(
        st.one_of(st.integers(0, BASES - length), st.integers(-100, 100), st.integers(BASES - 800, BASES), far)
    )
    low, high = each(st.integers(0, BASES)), each(st.integers(0, BASES))
    bases = data.draw(st.sampled_from([4 * len(shorter), BASES]))
    limits = torch.stack([low.clamp(max=bases), high.clamp(max=bases)], dim=1)
    unknown = torch.zeros(-(-bases // 8), dtype=torch.uint8)
    if len(unknown):
        unknown[data.draw(st.lists(st.integers(0, len(unknown) - 1), max_size=3))] = data.draw(st.integers(1, 255))
    given = {
        "plane": PLANE if bases == BASES else shorter,
        "starts": starts,
        "length": length,
        "reverse": each(st.booleans()),
        "ambiguous": data.draw(st.sampled_from([None, unknown])),
        "limits": limits,
        "dtype": dtype,
        "channels_last": channels_last,
    }
    assert torch.equal(kernels.one_hot(**given), reference.one_hot(**given))


@contextmanager
def guarded(size: int, *, before: bool) -> Iterator[torch.Tensor]:
    """So many random bytes, before or after which lies a page that may not be read."""
    pages = mmap.mmap(-1, 3 * mmap.PAGESIZE)
    whole = np.frombuffer(pages, np.uint8)
    first = mmap.PAGESIZE if before else 2 * mmap.PAGESIZE - size
    whole[first : first + size] = np.random.default_rng(size).integers(0, 256, size)
    libc = ctypes.CDLL(None, use_errno=True)
    for page in (0, 2):
        assert not libc.mprotect(ctypes.c_void_p(whole.ctypes.data + page * mmap.PAGESIZE), mmap.PAGESIZE, 0)
    yield torch.from_numpy(whole[first : first + size])


@pytest.mark.skipif(sys.platform != "linux", reason="pages are closed by Linux's mprotect")
@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("spare", [0, 2, 6, 8, 14, 16, 24, 30])
def test_nothing_beside_a_plane_is_read(spare, before):
    size = 16 + spare
    with guarded(size, before=before) as plane, guarded(size // 2, before=before) as ambiguous:
        starts = torch.arange(-64, 4 * size)
        bases = torch.tensor([0, 4 * size]).expand(len(starts), 2)
        for backward, bits, length in product((0, 1), (None, ambiguous), (64, 100)):
            reverse = torch.full(starts.shape, backward, dtype=torch.bool)
            given = {"reverse": reverse, "ambiguous": bits, "limits": bases, "dtype": torch.uint8}
            found = kernels.one_hot(plane, starts, length, **given)
            assert torch.equal(found, reference.one_hot(plane, starts, length, **given))
