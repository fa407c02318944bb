"""tokens, one_hot, kmers and bits: every implementation against the oracle."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distgen import kernels
from distgen.errors import WindowError
from tests.kernels.oracle import Windows, hot, pack, windows

CODE = {letter: code for code, letter in enumerate("ACGTN")}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
@given(case=windows())
def test_tokens_equal_the_oracle(implementation, dtype, case):
    found = implementation.tokens(**case.arguments, dtype=dtype)
    assert found.dtype == dtype
    assert ["".join("ACGTN"[c] for c in row) for row in found.tolist()] == case.texts


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float16, torch.float32])
@given(case=windows())
def test_one_hot_equals_the_oracle(implementation, dtype, channels_last, case):
    found = implementation.one_hot(**case.arguments, dtype=dtype, channels_last=channels_last)
    assert found.dtype == dtype
    assert found.is_contiguous()
    if channels_last:
        found = found.transpose(1, 2)
    assert found.shape == (len(case.starts), 4, case.length)
    assert found.float().tolist() == [hot(text) for text in case.texts]


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@given(case=windows(), k=st.integers(1, 12), stride=st.integers(1, 14))
def test_kmers_equal_the_oracle(implementation, dtype, case, k, stride):
    found = implementation.kmers(**case.arguments, k=k, stride=stride, dtype=dtype)
    assert found.dtype == dtype
    assert found.shape == (len(case.starts), max((case.length - k) // stride + 1, 0))
    for row, text in zip(found.tolist(), case.texts, strict=True):
        for number, kmer in enumerate(row):
            letters = text[number * stride : number * stride + k]
            digits = [CODE[letter] for letter in letters]
            assert kmer == (4**k if "N" in letters else sum(d * 4 ** (k - 1 - j) for j, d in enumerate(digits)))


@given(case=windows())
def test_bits_equal_the_oracle(implementation, case):
    arguments = case.arguments
    plane = arguments.pop("ambiguous")
    found = implementation.bits(**(arguments | {"plane": plane}))
    assert found.dtype == torch.bool
    for row, start, reverse, (low, high) in zip(found.tolist(), case.starts, case.reverse, case.limits, strict=True):
        expected = [low <= i < high and case.letters[i] == "N" for i in range(start, start + case.length)]
        assert row == (expected[::-1] if reverse else expected)


def test_any_phase_without_optional_arguments(implementation):
    letters = "ACGTTGCAAC" * 10 + "ACGT"
    plane, _ = pack(letters)
    starts = list(range(9))
    for length in (*range(20), 61, 64):
        found = implementation.tokens(plane, torch.tensor(starts), length)
        assert ["".join("ACGT"[c] for c in row) for row in found.tolist()] == [letters[s : s + length] for s in starts]


def test_arguments_need_not_be_contiguous(implementation):
    plane, ambiguous = pack("ACGTN" * 51 + "A")
    case = Windows("ACGTN" * 51 + "A", 50, [3, 5], [(0, 256), (10, 50)], [True, False]).arguments
    expected = implementation.tokens(**case)
    for name, tensor in (
        ("plane", plane),
        ("ambiguous", ambiguous),
        *((n, case[n]) for n in ("starts", "reverse", "limits")),
    ):
        spread = torch.stack([tensor, torch.zeros_like(tensor)], dim=-1)[..., 0]
        assert not spread.is_contiguous()
        assert torch.equal(implementation.tokens(**(case | {name: spread})), expected)


def test_a_plane_may_begin_anywhere_in_memory(implementation):
    plane, ambiguous = pack("GATTACAN" * 40)
    expected = implementation.one_hot(plane, torch.tensor([1]), 300, ambiguous=ambiguous)
    for shift in (1, 2, 3):
        one, other = (torch.cat([p.new_full((shift,), 255), p])[shift:] for p in (plane, ambiguous))
        assert torch.equal(implementation.one_hot(one, torch.tensor([1]), 300, ambiguous=other), expected)


@pytest.mark.parametrize("op", ["tokens", "one_hot", "bits"])
@pytest.mark.parametrize(("start", "length"), [(-1, 4), (29, 4), (2**40, 1), (-(2**62), 8)])
def test_a_window_beyond_the_plane_is_refused_and_named(implementation, op, start, length):
    plane, _ = pack("ACGT" * 4)
    with pytest.raises(WindowError, match="window 1 "):
        getattr(implementation, op)(plane, torch.tensor([0, start]), length)


def test_limits_allow_any_start(implementation):
    plane, _ = pack("ACGT" * 4)
    starts = torch.tensor([-(2**62), 2**62, -3])
    found = implementation.tokens(plane, starts, 4, limits=torch.tensor([[0, 16]] * 3))
    assert found.tolist() == [[4] * 4, [4] * 4, [4, 4, 4, 0]]


def test_a_window_is_as_long_as_the_shorter_plane(implementation):
    plane, ambiguous = pack("ACGT" * 16)
    with pytest.raises(WindowError):
        implementation.tokens(plane, torch.tensor([0]), 33, ambiguous=ambiguous[:4])


def test_planes_beyond_two_to_the_31_bases(implementation):
    plane = torch.zeros(2**29 + 64, dtype=torch.uint8)
    plane[2**29 :] = 0b11100100
    starts = torch.tensor([2**31 + 1, 2**31 - 2])
    assert implementation.tokens(plane, starts, 6).tolist() == [[1, 2, 3, 0, 1, 2], [0, 0, 0, 1, 2, 3]]
    assert implementation.kmers(plane, starts, 6, 3).tolist() == [[27, 44, 49, 6], [0, 1, 6, 27]]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("plane", torch.zeros(4)),
        ("starts", torch.tensor([0], dtype=torch.int32)),
        ("starts", torch.tensor([[0]])),
        ("reverse", torch.tensor([1])),
        ("limits", torch.tensor([0, 1])),
        ("ambiguous", torch.zeros(4, dtype=torch.bool)),
    ],
)
def test_a_wrong_dtype_or_shape_is_refused_and_named(name, value):
    good = {"plane": torch.zeros(4, dtype=torch.uint8), "starts": torch.tensor([0]), "length": 4}
    with pytest.raises(TypeError, match=f"{name} must be"):
        kernels.one_hot(**(good | {name: value}))


def test_options_out_of_range_are_refused():
    plane, starts = torch.zeros(4, dtype=torch.uint8), torch.tensor([0])
    with pytest.raises(TypeError, match="length -1 is negative"):
        kernels.tokens(plane, starts, -1)
    with pytest.raises(TypeError, match=r"dtype torch.int16 is none of torch.uint8, torch.int32, torch.int64"):
        kernels.tokens(plane, starts, 4, dtype=torch.int16)
    with pytest.raises(ValueError, match="k is 13 and stride 1"):
        kernels.kmers(plane, starts, 14, 13)
