"""What torch.library is told: every op passes its own checks, and compiles without a graph break."""

import pytest
import torch

from distgen import kernels
from tests.kernels.oracle import Windows, pack

CASE = Windows("GATTACANAC" * 20, 64, [3, 70], [(0, 200), (75, 200)], [True, False]).arguments
KEYS = torch.tensor([1, 2])
ONE_CHANGE = kernels.Replacements.of([[(5, 1, [0])], []])


def work(plane, starts, length, reverse, ambiguous, limits, weight):
    packed = {"reverse": reverse, "ambiguous": ambiguous, "limits": limits}
    inputs, _ = kernels.mask_tokens(kernels.tokens(plane, starts, length, **packed), starts, 0.15)
    values, known = kernels.gather_bins(torch.arange(400.0).view(200, 2), starts, 16, reverse=reverse)
    changed = kernels.substitute(plane, starts, length, ONE_CHANGE, ambiguous=ambiguous, limits=limits)
    return (
        kernels.one_hot(plane, starts, length, **packed, dtype=torch.float32, channels_last=True).sum()
        + kernels.kmers(plane, starts, length, 5, 3, **packed).sum()
        + kernels.bits(ambiguous, starts, length, limits=limits).sum()
        + inputs.sum()
        + values.sum()
        + known.sum()
        + kernels.tokens(**changed._asdict()).sum()
        + kernels.conv_stem(plane, starts, length, weight, **packed, activation="gelu", pool=4).sum()
    )


def test_ops_compile_without_a_graph_break():
    weight = torch.randn(8, 4, 15, requires_grad=True)
    compiled = torch.compile(work, fullgraph=True, backend="aot_eager")
    for length in (64, 30, 31):  # the second and third by a dynamic shape
        arguments = CASE | {"length": length}
        gradients = []
        for function in (compiled, work):
            out = function(**arguments, weight=weight)
            gradients.append((out.detach(), *torch.autograd.grad(out, weight)))
        assert all(torch.allclose(one, other) for one, other in zip(*gradients, strict=True))


PLANE, AMBIGUOUS = pack("GATTACANAC" * 20)
READ = (CASE["reverse"], AMBIGUOUS, CASE["limits"])


@pytest.mark.parametrize(
    ("op", "arguments"),
    [
        ("tokens", (PLANE, CASE["starts"], 64, *READ, torch.int32)),
        ("one_hot", (PLANE, CASE["starts"], 64, *READ, torch.bfloat16, True)),
        ("kmers", (PLANE, CASE["starts"], 64, 6, 2, *READ, torch.int64)),
        ("kmers", (PLANE, CASE["starts"], 3, 6, 2, *READ, torch.int64)),
        ("bits", (AMBIGUOUS, CASE["starts"], 64, CASE["reverse"], CASE["limits"])),
        ("mask_tokens", (torch.zeros(2, 9, dtype=torch.uint8), KEYS, 0.5, 0.8, 0.1, None, 0.0, 1, 1)),
        ("substitute", (PLANE, CASE["starts"], 65, *ONE_CHANGE, AMBIGUOUS, CASE["limits"])),
        ("gather_bins", (torch.rand(50, 3), KEYS, 7, CASE["reverse"], torch.tensor([2, 1, 0]), None, None)),
        ("conv_stem", (PLANE, CASE["starts"], 64, torch.rand(5, 4, 7, requires_grad=True), None, *READ, "relu", 4)),
    ],
)  # fmt: skip
def test_schema_shapes_and_gradients_are_registered_right(op, arguments):
    torch.library.opcheck(getattr(torch.ops.distgen, op).default, arguments)
