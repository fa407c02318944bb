"""Whatever the arguments, a Triton kernel reads and writes inside its tensors: every address is looked at."""

import contextlib
import importlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distgen import kernels
from distgen.errors import WindowError
from tests.kernels.conftest import CUDA

pytestmark = pytest.mark.skipif(CUDA, reason="addresses are seen in the interpreter alone")
ANY = st.one_of(st.integers(-70, 200), st.integers(-(2**63), 2**63 - 1))


@pytest.fixture(scope="module")
def ops():
    """The ops of Triton by name, with a spy at each access to memory."""
    from triton.runtime.interpreter import InterpreterBuilder

    from distgen.kernels.triton_gpu import decode

    modules = [
        importlib.import_module(f"distgen.kernels.triton_gpu.{name}")
        for name in ("windows", "substitution", "bins", "masking")
    ]
    known: list[torch.Tensor] = []

    def launch(what, rows, blocks, on, *arguments, **constants):
        known[:] = [a for a in arguments if isinstance(a, torch.Tensor)]
        decode.launch(what, rows, blocks, on, *arguments, **constants)

    def inside(ptrs, mask):
        at = ptrs.data[mask.data.astype(bool)]
        if at.size:
            first, end = int(at.min()), int(at.max()) + ptrs.get_element_ty().primitive_bitwidth // 8
            assert any(t.data_ptr() <= first and end <= t.data_ptr() + t.nbytes for t in known), (
                f"bytes {first} to {end} are in no tensor"
            )

    load, store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store
    with pytest.MonkeyPatch.context() as patch:
        for module in modules:
            patch.setattr(module, "launch", launch)
        patch.setattr(
            InterpreterBuilder,
            "create_masked_load",
            lambda self, ptrs, mask, *rest: (inside(ptrs, mask), load(self, ptrs, mask, *rest))[1],
        )
        patch.setattr(
            InterpreterBuilder,
            "create_masked_store",
            lambda self, ptrs, value, mask, *rest: (inside(ptrs, mask), store(self, ptrs, value, mask, *rest))[1],
        )
        yield {name: getattr(m, name) for m in modules for name in dir(m) if hasattr(torch.ops.distgen, name)}


def forget() -> None:
    """The kernels were meant to be given windows outside their plane."""
    with contextlib.suppress(WindowError):
        kernels.check("cpu")


@st.composite
def windows(draw: st.DrawFn):
    rows = draw(st.integers(1, 3))
    longs = st.lists(ANY, min_size=rows, max_size=rows)
    starts, low, high = (torch.tensor(draw(longs)) for _ in range(3))
    plane, ambiguous = (torch.zeros(draw(st.integers(0, 20)), dtype=torch.uint8) for _ in range(2))
    shift = draw(st.integers(0, min(3, len(plane))))
    return {
        "plane": plane[shift:],
        "starts": starts,
        "length": draw(st.sampled_from([0, 1, 15, 16, 64, 1100])),
        "ambiguous": draw(st.sampled_from([None, ambiguous])),
        "limits": draw(st.sampled_from([None, torch.stack([low, high], dim=1)])),
        "reverse": torch.tensor(draw(st.lists(st.booleans(), min_size=rows, max_size=rows))),
    }


@settings(max_examples=60)
@given(window=windows(), k=st.integers(1, 12), stride=st.sampled_from([1, 3, 12, 2**40]))
def test_windows_anywhere_read_inside_their_planes(ops, window, k, stride):
    ops["tokens"](**window)
    ops["tokens"](**window, dtype=torch.int64)
    ops["one_hot"](**window)
    ops["one_hot"](**window, channels_last=True)
    ops["kmers"](**window, k=k, stride=stride)
    ops["bits"](**{name: window[name] for name in ("plane", "starts", "length", "reverse", "limits")})
    forget()


@settings(max_examples=40)
@given(window=windows(), swap=st.lists(ANY, min_size=3, max_size=3))
def test_bins_anywhere_are_read_inside_their_track(ops, window, swap):
    values = torch.zeros(9, 3)
    options = {name: window[name] for name in ("starts", "reverse", "limits")}
    ops["gather_bins"](values, bins=window["length"], swap=torch.tensor(swap), **options)
    forget()


@settings(max_examples=60)
@given(window=windows(), numbers=st.lists(ANY, min_size=40, max_size=40), many=st.integers(0, 4))
def test_replacements_of_any_numbers_read_inside_their_arrays(ops, window, numbers, many):
    del window["reverse"]
    rows, numbers = len(window["starts"]), torch.tensor(numbers)
    names = ("offsets", "position", "deleted", "inserted_offsets")
    sizes = (rows + 1, many, many, many + 1)
    changes = dict(zip(names, numbers[: sum(sizes)].split(sizes), strict=True))
    ops["substitute"](**window, **changes, inserted=torch.zeros(many, dtype=torch.uint8))
    forget()


def test_a_spy_sees_what_is_read_outside(ops):
    with pytest.raises(Exception, match="are in no tensor"):
        ops["mask_tokens"](torch.zeros(2, 9, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64), 0.5)
