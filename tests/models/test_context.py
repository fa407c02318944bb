"""Slices of windows on several workers against whole windows on one: outputs, losses and every gradient."""

import socket
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from distgen import models
from distgen.models import DilatedConfig, LongConvConfig, TransformerConfig
from distgen.models.context import Context
from distgen.models.hopfield import HopfieldConfig
from distgen.models.mlp import MlpConfig
from tests.schemas import schema

WORKERS = 4


@pytest.fixture(scope="module")
def workers():
    """Four gloo ranks that wait for questions: a function, and its arguments, that all of them call at once."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    spawn = mp.get_context("spawn")
    pipes = [spawn.Pipe() for _ in range(WORKERS)]
    started = [
        spawn.Process(target=_answer, args=(rank, port, end), daemon=True) for rank, (_, end) in enumerate(pipes)
    ]
    for process in started:
        process.start()

    lost = []

    def ask(function, *args):
        assert not lost, "the workers went out of step before"
        for here, _ in pipes:
            here.send((function, args))
        if not all(here.poll(200) for here, _ in pipes):
            lost.append(True)
            pytest.fail(f"a worker does not answer {args}")
        answers = [here.recv() for here, _ in pipes]
        lost.extend(a for a in answers if isinstance(a, Exception))
        assert not [a for a in answers if isinstance(a, Exception)], answers
        return answers

    yield ask
    for here, _ in pipes:
        here.send(None)
    for process in started:
        process.join(30)
        process.kill()


def _answer(rank: int, port: int, pipe) -> None:
    torch.set_num_threads(1)
    limit = timedelta(seconds=150)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=WORKERS, timeout=limit)
    contexts = {}
    for size in (2, 4):
        group, _ = dist.new_subgroups(size, timeout=limit)
        contexts[size] = Context(group, rank % size, size)
    while (question := pipe.recv()) is not None:
        function, (size, *args) = question
        try:
            pipe.send(function(contexts[size], *args))
        except Exception as error:
            pipe.send(error)
    dist.destroy_process_group()


def slice_of(x, context, dim):
    first, end = context.part(x.shape[dim])
    return x.narrow(dim, first, end - first)


def _halos(context: Context, B: int, own: int, left: int, right: int) -> float:
    """How far a widened slice and its gradient are from those of the window."""
    torch.manual_seed(0)
    x_BLD = torch.randn(B, own * context.size, 3, requires_grad=True)
    weight_BLD = torch.randn(B, left + own * context.size + right, 3)
    first, end = context.part(own * context.size)
    weight = weight_BLD[:, first : end + left + right]
    wide = F.pad(x_BLD, (0, 0, left, right))[:, first : end + left + right]
    mine = slice_of(x_BLD.detach(), context, 1).clone().requires_grad_()
    widened = context.widen(mine, left, right)
    (widened * weight).sum().backward()
    # Of the window, every slice's widened product counts.
    total = torch.zeros(())
    for rank in range(context.size):
        begin = rank * own
        part = F.pad(x_BLD, (0, 0, left, right))[:, begin : begin + own + left + right]
        total = total + (part * weight_BLD[:, begin : begin + own + left + right]).sum()
    total.backward()
    far = (mine.grad - slice_of(x_BLD.grad, context, 1)).abs().max()
    assert torch.equal(widened, wide)
    return float(far)


@given(st.sampled_from([2, 4]), st.integers(1, 3), st.integers(1, 9), st.integers(0, 40), st.integers(0, 40))
@settings(max_examples=25)
def test_a_widened_slice_has_its_neighbours_positions_however_far_it_reaches(workers, size, B, own, left, right):
    assert max(workers(_halos, size, B, own, left, right)) < 1e-5


def _differences(context: Context, config, B: int, length: int) -> dict[str, float]:
    """How far outputs, loss and gradients on slices are from those on windows, relative to the largest of each."""

    def far(one, other):
        return float((one - other).abs().max() / other.abs().max().clamp(min=1e-3))

    torch.manual_seed(1)
    # In float64, where rounding hides nothing; trainings in float32 are in tests/train/test_context.py.
    alone = models.build(config, schema(4, 3, swap=())).double()
    shared = models.build(config, schema(4, 3, swap=()), context).double()
    shared.load_state_dict(alone.state_dict())
    x_BCL, target_BOL = torch.randn(B, 4, length).double(), torch.randn(B, 3, length).double()
    y_BOL = alone(x_BCL)
    total = (y_BOL - target_BOL).square().sum()
    total.backward()
    mine_BOL = shared(slice_of(x_BCL, context, 2))
    loss = (mine_BOL - slice_of(target_BOL, context, 2)).square().sum()
    loss.backward()
    found = {"output": far(mine_BOL, slice_of(y_BOL, context, 2))}
    dist.all_reduce(loss := loss.detach(), group=context.group)
    found["loss"] = far(loss, total)
    for (name, parameter), reference in zip(shared.named_parameters(), alone.parameters(), strict=True):
        dist.all_reduce(parameter.grad, group=context.group)
        found[name] = far(parameter.grad, reference.grad)
    return found


@given(
    size=st.sampled_from([2, 4]),
    own=st.integers(1, 20),
    B=st.integers(1, 3),
    stem=st.integers(1, 12),
    width=st.integers(1, 6),
    dilations=st.lists(st.integers(1, 40), min_size=1, max_size=3),
)
@settings(max_examples=25)
def test_dilated_convolutions_on_slices_equal_one_device(workers, size, own, B, stem, width, dilations):
    config = DilatedConfig(
        family="dilated", channels=6, stem_width=stem, width=width, dilations=dilations
    )  # halos reach over several slices, and beyond the window
    for found in workers(_differences, size, config, B, own * size):
        assert max(found.values()) < 1e-9, found


@given(
    size=st.sampled_from([2, 4]),
    positions=st.integers(1, 6),
    B=st.integers(1, 3),
    pool=st.sampled_from([1, 2, 8]),
    width=st.integers(1, 6),
    mlp=st.sampled_from(["swiglu", "gelu"]),
)
@settings(max_examples=20)
def test_transformers_on_slices_equal_one_device(workers, size, positions, B, pool, width, mlp):
    config = TransformerConfig(
        family="transformer", channels=8, stem_width=7, width=width, pool=pool, dim=16, depth=2, heads=2, mlp=mlp
    )
    for found in workers(_differences, size, config, B, positions * pool * size):
        assert max(found.values()) < 1e-9, found


@given(
    size=st.sampled_from([2, 4]),
    own=st.integers(1, 20),
    B=st.integers(1, 3),
    width=st.integers(1, 6),
    causal=st.booleans(),
)
@settings(max_examples=10)
def test_long_convolutions_on_slices_equal_one_device(workers, size, own, B, width, causal):
    config = LongConvConfig(
        family="longconv", channels=6, stem_width=5, width=width, depth=2, reach=16, bands=2, causal=causal
    )
    for found in workers(_differences, size, config, B, own * size):
        # Filters are drawn in float64 and kept in float32, and so are their gradients.
        assert max(found.values()) < 1e-5, found


@pytest.mark.parametrize("family", [DilatedConfig, TransformerConfig])
def test_models_that_both_strands_share_equal_one_device(workers, family):
    (name,) = family.model_fields["family"].annotation.__args__
    for found in workers(_differences, 2, family(family=name, channels=8, rc="share"), 1, 64):
        assert max(found.values()) < 1e-9, found


@pytest.mark.parametrize(
    "config",
    [
        MlpConfig(family="mlp", hidden=(6, 5), width=11, dropout=0.0),
        MlpConfig(family="mlp", hidden=(6,), width=8, k=(1, 3), both_strands=True, dropout=0.0),
        HopfieldConfig(family="hopfield", channels=6, stem_width=5, width=3, dim=4, heads=2, hidden=5, dropout=0.0),
    ],
)
def test_what_sees_so_many_bases_of_a_slice_equals_one_device(workers, config):
    for found in workers(_differences, 2, config, 2, 16):
        assert max(found.values()) < (1e-5 if config.family == "mlp" else 1e-9), found  # k-mers are float32


def _computed_otherwise(context: Context, config, how: str) -> dict[str, float]:
    """Likewise, for blocks that are compiled or recomputed."""
    from torch.utils.checkpoint import checkpoint

    def far(one, other):
        return float((one - other).abs().max() / other.abs().max().clamp(min=1e-3))

    torch.manual_seed(1)
    alone = models.build(config, schema(4, 3))
    shared = models.build(config, schema(4, 3), context)
    shared.load_state_dict(alone.state_dict())
    for block in shared.blocks:
        if how == "compiled":
            block.compile(dynamic=False)
        else:
            plain = block.forward
            block.forward = lambda *x, plain=plain: checkpoint(plain, *x, use_reentrant=False)
    x_BCL = torch.randn(2, 4, 64)
    alone(x_BCL).square().sum().backward()
    shared(slice_of(x_BCL, context, 2)).square().sum().backward()
    found = {}
    for (name, parameter), reference in zip(shared.named_parameters(), alone.parameters(), strict=True):
        dist.all_reduce(parameter.grad, group=context.group)
        found[name] = far(parameter.grad, reference.grad)
    return found


@pytest.mark.parametrize("how", ["recomputed", pytest.param("compiled", marks=pytest.mark.slow)])
def test_blocks_that_are_recomputed_or_compiled_exchange_alike(workers, how):
    config = TransformerConfig(family="transformer", channels=8, pool=2, dim=16, depth=1, heads=2)
    for found in workers(_computed_otherwise, 2, config, how):
        assert max(found.values()) < 1e-5, found
