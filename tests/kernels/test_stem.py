"""conv_stem: every implementation against a convolution of letters, and its gradients against differences."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from distgen import kernels
from distgen.errors import WindowError
from distgen.kernels import reference
from tests.kernels.oracle import Windows, hot, pack, windows

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}


def convolve(text: str, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """(D, L): for each letter under the kernel, its weight."""
    kernel = weight.shape[2]
    out = torch.zeros(len(weight), len(text), dtype=torch.float64)
    for i in range(len(text)):
        for k in range(kernel):
            j = i + k - (kernel - 1) // 2
            if 0 <= j < len(text) and text[j] != "N":
                out[:, i] += weight[:, "ACGT".index(text[j]), k].double()
    return out if bias is None else out + bias.double()[:, None]


@st.composite
def stems(draw: st.DrawFn):
    case = draw(windows(longest=300))
    features, kernel = draw(st.sampled_from([1, 3, 16, 40])), draw(st.sampled_from([1, 2, 3, 7, 15, 20, 33]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    weight = torch.randn(features, 4, kernel, generator=generator)
    bias = torch.randn(features, generator=generator) if draw(st.booleans()) else None
    options = {
        "activation": draw(st.sampled_from(["none", "relu", "gelu"])),
        "pool": draw(st.sampled_from([1, 2, 3, 8])),
    }
    return case, weight, bias, options


def assert_near(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    assert found.shape == expected.shape
    if expected.numel():
        assert (found.double() - expected.double()).abs().max() <= tolerance * max(float(expected.abs().max()), 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@given(stem=stems())
def test_the_stem_is_the_convolution_of_the_letters(implementation, dtype, stem):
    case, weight, bias, options = stem
    weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
    found = implementation.conv_stem(**case.arguments, weight=weight, bias=bias, **options)
    assert found.dtype == dtype
    assert found.shape == (len(case.starts), len(weight), case.length // options["pool"])
    for row, text in zip(found, case.texts, strict=True):
        expected = reference.ACTIVATIONS[options["activation"]](convolve(text, weight, bias))
        expected = expected[:, : case.length // options["pool"] * options["pool"]]
        assert_near(row, expected.unflatten(1, (-1, options["pool"])).amax(2), TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(stem=stems())
def test_gradients_are_those_of_the_convolution(implementation, dtype, stem):
    case, weight, bias, options = stem
    weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
    shape = (len(case.starts), len(weight), case.length // options["pool"])
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    arguments = case.arguments | {"weight": weight, "bias": bias} | options
    wide = {name: None if t is None else t.double() for name, t in (("weight", weight), ("bias", bias))}
    expected = reference.conv_stem_backward(gradient.double(), **(arguments | wide))
    for one, other in zip(implementation.conv_stem_backward(gradient, **arguments), expected, strict=True):
        assert one.dtype == dtype
        assert_near(one, other, 4 * TOLERANCE[dtype])


def test_gradients_flow_to_weight_and_bias():
    case = Windows("GATTACANACGT" * 3, 20, [0, 5], [(0, 36), (7, 30)], [False, True])
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, generator=generator, dtype=torch.float64, requires_grad=True)
    for options in ({}, {"activation": "gelu"}, {"activation": "relu", "pool": 4}):

        def stem(weight: torch.Tensor, bias: torch.Tensor, options: dict = options) -> torch.Tensor:
            return kernels.conv_stem(**case.arguments, weight=weight, bias=bias, **options)

        assert torch.autograd.gradcheck(stem, (weight, bias))


def test_the_stem_equals_conv1d_of_one_hot_on_the_other_strand_too():
    case = Windows("GATTACANACGTTTGCA" * 9, 100, [0, 11], [(0, 150), (0, 150)], [True, False])
    weight = torch.randn(8, 4, 15)
    x = torch.tensor([hot(text) for text in case.texts])
    assert_near(kernels.conv_stem(**case.arguments, weight=weight), F.conv1d(x, weight, padding="same"), 1e-5)


def test_a_window_beyond_the_plane_is_refused_and_named(implementation):
    plane, _ = pack("ACGT" * 4)
    with pytest.raises(WindowError, match="window 1 "):
        implementation.conv_stem(plane, torch.tensor([0, 9]), 8, torch.ones(2, 4, 3))


def test_the_stem_reads_planes_beyond_two_to_the_31_bases(implementation):
    plane = torch.zeros(2**29 + 64, dtype=torch.uint8)
    plane[2**29 :] = 0b11100100
    weight = torch.arange(4.0)[None, :, None]
    for reverse, expected in ((False, [0, 0, 0, 1, 2, 3]), (True, [0, 1, 2, 3, 3, 3])):
        found = implementation.conv_stem(
            plane, torch.tensor([2**31 - 2]), 6, weight, reverse=torch.tensor([reverse]), activation="relu"
        )
        assert found[0, 0].tolist() == expected


def test_results_do_not_depend_on_the_number_of_threads():
    plane = torch.randint(0, 256, (9000,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    starts, found = torch.arange(6) * 5001, []
    weight = torch.randn(70, 4, 15, generator=torch.Generator().manual_seed(1), requires_grad=True)
    threads = torch.get_num_threads()
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            out = kernels.conv_stem(plane, starts, 5000, weight, activation="gelu", pool=3)
            found.append((out.detach(), *torch.autograd.grad(out.square().sum(), weight)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize(
    ("change", "error", "problem"),
    [
        ({"weight": torch.zeros(3, 5, 7)}, TypeError, r"weight must be \(D, 4, K\)"),
        ({"weight": torch.zeros(3, 4, 7, dtype=torch.int32)}, TypeError, "weight torch.int32 is none of"),
        ({"bias": torch.zeros(2)}, TypeError, "bias must be"),
        ({"activation": "tanh"}, ValueError, 'activation "tanh"'),
        ({"pool": 0}, ValueError, "pool 0"),
    ],
)
def test_wrong_arguments_are_refused_and_named(change, error, problem):
    good = {"plane": torch.zeros(4, dtype=torch.uint8), "starts": torch.tensor([0]), "length": 4}
    with pytest.raises(error, match=problem):
        kernels.conv_stem(**(good | {"weight": torch.zeros(3, 4, 7)} | change))
