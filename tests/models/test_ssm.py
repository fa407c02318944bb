import sys
import types

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distgen import models
from distgen.config import checked
from distgen.errors import ConfigError
from distgen.models import ssm
from distgen.models.ssm import CHUNK, SsmConfig, accumulated, by_kernel, scan
from tests.schemas import schema


def config(**sizes):
    return SsmConfig(**{"family": "ssm", "channels": 8, "depth": 2, "heads": 2, "states": 3} | sizes)


def step_by_step(x_BTHP, step_BTH, rate_H, write_BTN, read_BTN):
    """The recurrence as it is written, one position after the other."""
    state_BHPN, y = 0, []
    for t in range(x_BTHP.shape[1]):
        kept_BH11 = (step_BTH[:, t] * rate_H).exp()[..., None, None]
        written_BHPN = (step_BTH[:, t, :, None] * x_BTHP[:, t])[..., None] * write_BTN[:, t, None, None]
        state_BHPN = kept_BH11 * state_BHPN + written_BHPN
        y.append((state_BHPN * read_BTN[:, t, None, None]).sum(-1))
    return torch.stack(y, dim=1)


def drawn(T, most, B=2, H=3, P=4, N=5):
    """Inputs of a scan, of which a position may forget about all but exp(-`most`)."""
    torch.manual_seed(T)
    step_BTH = torch.rand(B, T, H) ** 3 + 1e-3
    rate_H = -most * torch.rand(H) - 1e-4
    return torch.randn(B, T, H, P), step_BTH, rate_H, torch.randn(B, T, N), torch.randn(B, T, N)


def with_gradients(way, inputs, dtype):
    given = [part.to(dtype).requires_grad_() for part in inputs]
    y_BTHP = way(*given)
    weight_BTHP = torch.randn(y_BTHP.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    return [y_BTHP, *torch.autograd.grad((y_BTHP * weight_BTHP).sum(), given)]


@pytest.mark.parametrize("most", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("T", [1, 5, CHUNK, CHUNK + 1, 3 * CHUNK + 7, 1000])
def test_the_scan_and_all_its_gradients_equal_the_recurrence(T, most):
    inputs = drawn(T, most)
    wanted = with_gradients(step_by_step, inputs, torch.float64)
    for one, other in zip(with_gradients(scan, inputs, torch.float32), wanted, strict=True):
        assert one.isfinite().all()
        # A float32 sum of T numbers, some of them as large as the largest.
        assert (one - other).abs().max() < 3e-6 * other.abs().max().clamp(min=1e-3)
    for one, other in zip(with_gradients(scan, inputs, torch.float64), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_what_is_kept_after_much_was_forgotten_is_not_lost_in_large_sums():
    x_BTHP, step_BTH, rate_H, write_BTN, read_BTN = drawn(CHUNK, 1.0, H=1)
    step_BTH[:, :32], step_BTH[:, 32:] = 1e3, 1e-4
    inputs = x_BTHP, step_BTH, -torch.ones_like(rate_H), write_BTN, read_BTN
    wanted = step_by_step(*(part.double() for part in inputs))
    assert (scan(*inputs) - wanted).abs().max() < 1e-6 * wanted.abs().max()  # float32 sums are off by 1e-3 in exponents


@given(K=st.integers(1, 40), by_head=st.booleans())
def test_a_tree_accumulates_as_steps_do(K, by_head):
    torch.manual_seed(K)
    decay_BK, x_BK = torch.rand(2, K, *([1, 1] if by_head else [3, 2])), torch.randn(2, K, 3, 2)
    state, wanted = torch.zeros(2, 3, 2), []
    for k in range(K):
        state = decay_BK[:, k] * state + x_BK[:, k]
        wanted.append(state)
    torch.testing.assert_close(accumulated(decay_BK, x_BK), torch.stack(wanted, dim=1))


def test_the_scan_of_a_long_window_keeps_little():
    kept = 0

    def count(tensor):
        nonlocal kept
        kept += tensor.untyped_storage().nbytes()
        return tensor

    T = 32 * CHUNK
    inputs = [part.requires_grad_() for part in drawn(T, 1.0, B=1, H=8, P=16, N=16)]
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        scan(*inputs)
    assert kept / T < 20_000


# ---- the kernel of mamba-ssm ------------------------------------------------------------------


def fake(x, dt, A, B, C, chunk_size, **others):
    """What mamba_chunk_scan_combined(x, dt, A, B, C, chunk_size) says it gives: (batch, seqlen, nheads, headdim)."""
    assert not others
    assert all(part.is_contiguous() for part in (x, dt, B, C))
    batch, length, heads, _ = x.shape
    assert (dt.shape, A.shape) == ((batch, length, heads), (heads,))
    assert B.shape == C.shape == (batch, length, 1, B.shape[-1])  # one group
    assert chunk_size & (chunk_size - 1) == 0
    return step_by_step(x, dt, A, B[:, :, 0], C[:, :, 0])


def installed(monkeypatch, gpu):
    module = types.ModuleType("mamba_ssm.ops.triton.ssd_combined")
    module.mamba_chunk_scan_combined = fake
    for name in ("mamba_ssm", "mamba_ssm.ops", "mamba_ssm.ops.triton"):
        parent = types.ModuleType(name)
        parent.__path__, parent.__spec__ = [], types.SimpleNamespace(name=name)
        monkeypatch.setitem(sys.modules, name, parent)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)


def test_the_kernel_is_taken_where_it_is_installed_and_there_is_a_gpu(monkeypatch):
    assert ssm._kernel() is None
    with monkeypatch.context() as patch:
        installed(patch, gpu=False)
        assert ssm._kernel() is None
        installed(patch, gpu=True)
        assert ssm._kernel() is fake
        model = models.build(config(), schema(4, 1))
    x = torch.rand(2, 4, 70)
    taken = model.blocks[0].forward_scan
    assert taken._kernel is fake
    model(x)  # not on a GPU
    monkeypatch.setattr(ssm, "scan", None)
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda _: True))
    by_fake = model(x)
    monkeypatch.undo()
    torch.testing.assert_close(by_fake, model(x), atol=1e-5, rtol=1e-5)


def test_the_kernel_is_not_taken_where_the_same_bits_are_asked_for(monkeypatch):
    with monkeypatch.context() as patch:
        installed(patch, gpu=True)
        model = models.build(config(), schema(4, 1))
    monkeypatch.setattr(ssm, "by_kernel", None)
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda _: True))
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert model(torch.rand(2, 4, 30)).shape == (2, 1, 30)


def test_the_kernel_gives_what_the_scan_gives():
    inputs = drawn(70, 1.0)
    other = with_gradients(scan, inputs, torch.float64)
    for one, another in zip(
        with_gradients(lambda *given: by_kernel(fake, *given), inputs, torch.float64), other, strict=True
    ):
        torch.testing.assert_close(one, another)


# ---- the model --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sizes", [{}, {"causal": True}, {"tied": False}, {"pool": 4, "dropout": 0.5}, {"heads": 1}, {"heads": 16}]
)
def test_every_multiple_of_the_pool_keeps_its_length_and_gradients_reach_every_parameter(sizes):
    torch.manual_seed(0)
    model, pool = models.build(config(**sizes), schema(4, 3)), config(**sizes).multiple
    for number in (1, 2, 17, 70):
        y = model(torch.rand(2, 4, number * pool))
        assert y.shape == (2, 3, number * pool)
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert models.build(config(**sizes), schema(4, 2, window=37))(torch.rand(3, 4, 37)).shape == (3, 2, 1)
    if pool > 1:
        with pytest.raises(ValueError, match="10 bases are no multiple of 4"):
            model(torch.rand(1, 4, 10))


@pytest.mark.parametrize("sizes", [{}, {"tied": False}, {"pool": 2}, {"causal": True}])
def test_an_output_sees_every_base_or_those_before_it(sizes):
    torch.manual_seed(0)
    model, x = models.build(config(**sizes), schema(4, 1)), torch.rand(1, 4, 200, requires_grad=True)
    model(x)[0, 0, 140].backward()
    seen = x.grad.abs().sum((0, 1)).nonzero().flatten().tolist()
    assert seen == list(range(141 if sizes.get("causal") else 200))


def test_shared_weights_scan_from_both_ends_alike():
    torch.manual_seed(0)
    shared, own = models.build(config(), schema(4, 1)), models.build(config(tied=False), schema(4, 1))
    assert models.parameter_count(own) > 1.7 * models.parameter_count(shared)
    x_BTD = torch.randn(2, 30, 8)
    layer = shared.blocks[0]
    torch.testing.assert_close(layer(x_BTD.flip(1)).flip(1), layer(x_BTD))
    layer = own.blocks[0]
    assert not torch.allclose(layer(x_BTD.flip(1)).flip(1), layer(x_BTD))
    layer.backward_scan.load_state_dict(layer.forward_scan.state_dict())
    torch.testing.assert_close(layer(x_BTD.flip(1)).flip(1), layer(x_BTD))


def test_bases_that_are_pooled_are_told_apart():
    torch.manual_seed(0)
    y = models.build(config(pool=4), schema(4, 1))(torch.rand(1, 4, 64))
    assert y[0, 0].unique().numel() == 64


def test_heads_start_by_forgetting_in_one_position_to_reach():
    scanning = models.build(config(heads=4, reach=1000), schema(4, 1)).blocks[0].forward_scan
    forgets = 1 / (torch.nn.functional.softplus(scanning.step) * scanning.log_rate.exp())
    torch.testing.assert_close(forgets.detach(), torch.tensor([1.0, 10.0, 100.0, 1000.0]), rtol=1e-3, atol=1e-3)


@settings(max_examples=10)
@given(heads=st.integers(1, 40))
def test_heads_that_do_not_fit_are_refused_with_a_number_that_does(heads):
    table = {"family": "ssm", "channels": 10, "heads": heads}
    if 20 % heads == 0:
        assert checked(SsmConfig, table).inner == 20
        return
    with pytest.raises(ConfigError, match=r"Use (\d+)") as refused:
        checked(SsmConfig, table)
    good = int(str(refused.value).rsplit("Use ", 1)[1].split()[0].rstrip("."))
    assert checked(SsmConfig, table | {"heads": good}).heads == good


def test_what_cannot_be_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"pool.*those that come later"):
        checked(SsmConfig, {"family": "ssm", "causal": True, "pool": 2})
    with pytest.raises(ValueError, match="workers cannot share them"):
        models.build(config(), schema(4, 1), object())
