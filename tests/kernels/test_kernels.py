"""Every implementation against an oracle in plain Python: strings in, lists out."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distgen import kernels
from distgen.errors import WindowError
from distgen.kernels import numba_cpu, reference

IMPLEMENTATIONS = [reference, numba_cpu]
COMPLEMENT = {"A": "T", "C": "G", "G": "C", "T": "A", "N": "N"}
implementations = pytest.mark.parametrize("implementation", IMPLEMENTATIONS, ids=["reference", "numba"])


def pack(letters: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The planes `sequence` and `ambiguous` of some letters, base by base."""
    plane = torch.zeros(-(-len(letters) // 8) * 2, dtype=torch.uint8)
    ambiguous = torch.zeros(-(-len(letters) // 8), dtype=torch.uint8)
    for i, letter in enumerate(letters):
        if letter == "N":
            ambiguous[i // 8] |= 1 << (i % 8)
        else:
            plane[i // 4] |= "ACGT".index(letter) << (2 * (i % 4))
    return plane, ambiguous


def oracle(letters: str, start: int, length: int, reverse: bool, limits: tuple[int, int]) -> str:
    window = "".join(letters[i] if limits[0] <= i < limits[1] else "N" for i in range(start, start + length))
    return "".join(COMPLEMENT[c] for c in reversed(window)) if reverse else window


@st.composite
def windows(draw):
    size = draw(st.one_of(st.integers(1, 80), st.integers(80, 3000)))
    rng = draw(st.randoms(use_true_random=False))
    letters = "".join(rng.choices("ACGTN", weights=[9, 9, 9, 9, draw(st.integers(0, 9))], k=size))
    length = draw(st.one_of(st.integers(0, 40), st.integers(1, size + 40), st.just(9000)))
    rows = draw(st.integers(0, 5))
    starts = [draw(st.integers(-50, size + 20)) for _ in range(rows)]
    limits = [tuple(sorted((draw(st.integers(0, size)), draw(st.integers(0, size))))) for _ in range(rows)]
    reverse = [draw(st.booleans()) for _ in range(rows)]
    return letters, length, starts, limits, reverse


def arguments(case):
    letters, length, starts, limits, reverse = case
    plane, ambiguous = pack(letters)
    return {
        "plane": plane,
        "starts": torch.tensor(starts, dtype=torch.int64),
        "length": length,
        "reverse": torch.tensor(reverse, dtype=torch.bool),
        "ambiguous": ambiguous,
        "limits": torch.tensor(limits, dtype=torch.int64).reshape(-1, 2),
    }


@implementations
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
@given(case=windows())
def test_tokens_equal_the_oracle(implementation, dtype, case):
    letters, length, starts, limits, reverse = case
    found = implementation.tokens(**arguments(case), dtype=dtype)
    assert found.dtype == dtype
    expected = [oracle(letters, s, length, r, m) for s, r, m in zip(starts, reverse, limits, strict=True)]
    assert ["".join("ACGTN"[c] for c in row) for row in found.tolist()] == expected


@implementations
@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float16, torch.float32])
@given(case=windows())
def test_one_hot_equals_the_oracle(implementation, dtype, case):
    letters, length, starts, limits, reverse = case
    found = implementation.one_hot(**arguments(case), dtype=dtype)
    assert found.dtype == dtype
    assert found.shape == (len(starts), 4, length)
    for row, s, r, m in zip(found.float().tolist(), starts, reverse, limits, strict=True):
        text = oracle(letters, s, length, r, m)
        assert row == [[float(c == base) for c in text] for base in "ACGT"]


@implementations
def test_any_phase_without_optional_arguments(implementation):
    letters = "ACGTTGCAAC" * 10 + "ACGT"
    plane, _ = pack(letters)
    for start in range(9):
        for length in range(20):
            found = implementation.tokens(plane, torch.tensor([start]), length)
            assert "".join("ACGT"[c] for c in found[0].tolist()) == letters[start : start + length]


@implementations
def test_arguments_need_not_be_contiguous(implementation):
    plane, _ = pack("ACGT" * 64)
    spread = torch.stack([plane, torch.zeros_like(plane)], dim=1)[:, 0]
    starts = torch.tensor([[3, 0], [5, 0]])[:, 0]
    assert torch.equal(implementation.tokens(spread, starts, 50), implementation.tokens(plane, starts.clone(), 50))


@implementations
@pytest.mark.parametrize(("start", "length"), [(-1, 4), (13, 4), (2**40, 1)])
def test_a_window_beyond_the_plane_is_refused_and_named(implementation, start, length):
    plane, _ = pack("ACGT" * 4)
    with pytest.raises(WindowError, match=rf"window 1 reads bases {start:,} to"):
        implementation.tokens(plane, torch.tensor([0, start]), length)


def test_a_window_is_as_long_as_the_shorter_plane():
    plane, ambiguous = pack("ACGT" * 16)
    with pytest.raises(WindowError, match="the plane has 32"):
        kernels.tokens(plane, torch.tensor([0]), 33, ambiguous=ambiguous[:4])


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


def test_planes_beyond_two_to_the_31_bases():
    plane = torch.zeros(2**29 + 64, dtype=torch.uint8)
    plane[2**29 :] = 0b11100100
    found = kernels.tokens(plane, torch.tensor([2**31 + 1, 2**31 - 2]), 6)
    assert found.tolist() == [[1, 2, 3, 0, 1, 2], [0, 0, 0, 1, 2, 3]]


def test_ops_compile_without_a_graph_break():
    plane, _ = pack("ACGT" * 64)
    starts = torch.tensor([3, 8])

    def work(plane: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        inputs, _ = kernels.mask_tokens(kernels.tokens(plane, starts, 64), starts, 0.15)
        return kernels.one_hot(plane, starts, 64, dtype=torch.float32).sum() + inputs.sum()

    assert torch.equal(torch.compile(work, fullgraph=True, backend="aot_eager")(plane, starts), work(plane, starts))


# ---- masking --------------------------------------------------------------------------------


@given(case=windows(), rate=st.floats(0, 1), mask=st.floats(0, 1), seed=st.integers(-(2**63), 2**63 - 1))
def test_masking_is_the_same_in_every_implementation(case, rate, mask, seed):
    tokens = reference.tokens(**arguments(case))
    keys = torch.arange(len(tokens)) * 0x9E3779B97F4A7C15 % 2**62 + (seed >> 2)
    random = (1 - mask) / 2
    for found, expected in zip(
        numba_cpu.mask_tokens(tokens, keys, rate, mask, random),
        reference.mask_tokens(tokens, keys, rate, mask, random),
        strict=True,
    ):
        assert torch.equal(found, expected)


def test_masking_hides_the_asked_share_in_the_asked_way():
    tokens = torch.randint(0, 4, (64, 4096), dtype=torch.uint8)
    tokens[:, :100] = 4
    inputs, targets = kernels.mask_tokens(tokens, torch.arange(64), 0.15)
    chosen = targets >= 0
    assert not chosen[:, :100].any()
    assert torch.equal(targets[chosen], tokens[chosen].long())
    assert torch.equal(inputs[~chosen], tokens[~chosen])
    share = chosen[:, 100:].double().mean().item()
    assert abs(share - 0.15) < 5 * (0.15 * 0.85 / chosen[:, 100:].numel()) ** 0.5
    masked, kept = inputs[chosen] == 5, inputs[chosen] == tokens[chosen]
    assert abs(masked.double().mean().item() - 0.8) < 0.01
    assert abs(kept.double().mean().item() - 0.125) < 0.01


def test_a_row_is_masked_alike_in_any_batch():
    tokens = torch.randint(0, 4, (4, 100), dtype=torch.uint8)
    whole = kernels.mask_tokens(tokens, torch.arange(4), 0.3)[0]
    assert torch.equal(kernels.mask_tokens(tokens[2:3], torch.tensor([2]), 0.3)[0], whole[2:3])


def test_philox_gives_the_published_vectors():
    # Known-answer vectors of Random123, philox4x32 with 10 rounds.
    ones = torch.tensor([-1])
    assert [int(w) for w in kernels.philox(ones * 0, ones * 0, tag=0)] == [
        0x6627E8D5,
        0xE169C58D,
        0xBC57AC4C,
        0x9B00DBD8,
    ]
    found = kernels.philox(ones, ones, tag=0xFFFFFFFF, epoch=0xFFFFFFFF)
    assert [int(w) for w in found] == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
