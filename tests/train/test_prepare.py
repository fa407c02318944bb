import pytest
import torch
from torch import nn

from distgen import models
from distgen.errors import ConfigError
from distgen.models.dilated import Dilated, DilatedConfig
from distgen.models.longconv import LongConvConfig
from distgen.models.ssm import SsmConfig
from distgen.train import prepare as module
from distgen.train.loop import train
from distgen.train.optimizer import Updater
from distgen.train.prepare import prepare, to_float8
from distgen.train.run import Run
from distgen.train.worker import Worker
from tests.conftest import fit, weights
from tests.schemas import schema
from tests.train.ranks import on_ranks


def dilated(**sizes):
    torch.manual_seed(0)
    return Dilated(DilatedConfig(family="dilated", channels=8, dilations=(1, 2), **sizes), schema(5, 4))


def gradients(model, x):
    model.zero_grad()
    y = model(x)
    y.square().sum().backward()
    return y, [p.grad for p in model.parameters()]


def test_blocks_computed_again_give_the_same_and_keep_less(run_file):
    plain, again = dilated(), dilated()
    prepare(again, Run.read(run_file, ["train.activation_checkpointing=true"]))
    assert list(again.state_dict()) == list(plain.state_dict())
    x = torch.randn(2, 5, 64)
    calls, kept = [], {}
    again.blocks[0].conv.register_forward_hook(lambda *_: calls.append(1))
    for name, model in (("plain", plain), ("again", again)):
        kept[name] = 0

        def count(tensor, name=name):
            kept[name] += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            model(x)
    assert kept["again"] < kept["plain"] / 2
    (one, expected), (other, found) = gradients(plain, x), gradients(again, x)
    assert torch.equal(one, other)
    assert all(map(torch.equal, expected, found))
    assert len(calls) == 3  # forward twice, backward once


def test_a_run_that_computes_twice_ends_in_the_same_weights(run_file, tmp_path):
    for name, changes in (("plain", []), ("again", ["train.activation_checkpointing=true"])):
        fit(Run.read(run_file, [*changes, "train.steps=4"]), tmp_path / name)
    plain, again = weights(tmp_path / "plain"), weights(tmp_path / "again")
    assert plain.keys() == again.keys()
    assert all(torch.equal(plain[name], again[name]) for name in plain)


@pytest.mark.slow
def test_a_compiled_run_ends_about_where_one_that_is_not_does(run_file, tmp_path):
    found = {}
    for name, changes in (("eager", []), ("compiled", ["train.compile=true", "train.activation_checkpointing=true"])):
        changes = [*changes, "train.micro_batch=3", "train.valid_every=4", "train.steps=8"]
        shown = fit(Run.read(run_file, changes), tmp_path / name)
        found[name] = [r["loss"] if "loss" in r else r["valid"]["loss"] for r in shown], weights(tmp_path / name)
    (losses, expected), (compiled, weights_compiled) = found["eager"], found["compiled"]
    assert compiled == pytest.approx(losses, rel=1e-5)
    assert expected.keys() == weights_compiled.keys()
    for name, value in expected.items():
        torch.testing.assert_close(weights_compiled[name], value, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("config", [LongConvConfig(family="longconv", depth=1), SsmConfig(family="ssm", depth=1)])
def test_blocks_with_filters_and_states_are_compiled_and_computed_again(run_file, config):
    torch.manual_seed(0)
    plain, compiled = models.build(config, schema(4, 2)), models.build(config, schema(4, 2))
    compiled.load_state_dict(plain.state_dict())
    prepare(compiled, Run.read(run_file, ["train.compile=true", "train.activation_checkpointing=true"]))
    x = torch.rand(2, 4, 200)
    (one, expected), (other, found) = gradients(plain, x), gradients(compiled, x)
    torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-4)
    for here, there in zip(found, expected, strict=True):
        assert (here - there).abs().max() < 1e-4 * there.abs().max().clamp(min=1e-2)


def trained(worker, file, out, changes):
    """The losses of a run on this worker."""
    out.mkdir(exist_ok=True)
    shown = []
    train(Run.read(file, changes), Worker(worker.rank, worker.world_size, worker.device, out, show=shown.append))
    return [r["loss"] for r in shown if "loss" in r]


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["fsdp", "ddp"])
def test_blocks_are_computed_again_compiled_and_then_sharded(run_file, tmp_path, parallel):
    same = ["train.steps=4", "train.valid_every=4", "log.gap_batches=0"]
    changes = [*same, "train.compile=true", "train.activation_checkpointing=true", f"cluster.parallel={parallel}"]
    one = trained(Worker(0, 1, torch.device("cpu"), tmp_path), run_file, tmp_path / "one", same)
    two, _ = on_ranks(2, tmp_path, trained, run_file, tmp_path / "two", changes)
    assert two == pytest.approx(one, rel=1e-5)


def test_blocks_are_compiled_one_by_one_as_often_as_needed(run_file, monkeypatch):
    import torch._dynamo

    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: compiled.append((self, options)))
    model = dilated()
    prepare(model, Run.read(run_file, ["train.compile=true"]))
    assert compiled == [(block, {"dynamic": False}) for block in model.blocks]
    assert torch._dynamo.config.recompile_limit >= 16
    assert torch._dynamo.config.fail_on_recompile_limit_hit


# ---- eight bits, as torchao emulates them on any device -----------------------------------------


class Mixer(nn.Module):
    """(rows, 32, L) to (rows, 4, L): linear layers of which all but the first, the last and one of odd size fit."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.stem, self.head = nn.Linear(32, 64), nn.Linear(64, 16)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64)) for _ in range(2))
        self.odd = nn.Linear(64, 20)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x) + self.odd(x).mean()


def test_linear_layers_between_the_first_and_the_last_are_computed_in_eight_bits():
    pytest.importorskip("torchao")
    plain, eight = Mixer(), Mixer()
    to_float8(eight, emulate=True)
    changed = {name for name, layer in eight.named_modules() if type(layer).__name__ == "Float8Linear"}
    assert changed == {f"blocks.{n}.{m}" for n in (0, 1) for m in (0, 2)}
    assert list(eight.state_dict()) == list(plain.state_dict())
    x = torch.randn(3, 7, 32)  # 21 positions: no multiple of 16
    with torch.autocast("cpu", torch.bfloat16):
        (one, expected), (other, found) = gradients(plain, x), gradients(eight, x)
    assert not torch.equal(one, other)
    assert (one - other).norm() < 0.05 * one.norm()
    for theirs, mine in zip(expected, found, strict=True):
        assert mine.dtype == torch.float32
        assert (theirs - mine).norm() < 0.2 * theirs.norm()


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_weights_of_eight_bit_layers_learn(kind):
    pytest.importorskip("torchao")
    from distgen.config import Optimizer

    losses = {}
    for name in ("plain", "eight"):
        model = Mixer()
        if name == "eight":
            to_float8(model, emulate=True)
        updater = Updater(Optimizer(kind=kind, schedule="constant", warmup_steps=0, ema=0.9), model, 30)
        generator = torch.Generator().manual_seed(0)
        for step in range(30):
            x = torch.randn(16, 32, generator=generator)
            loss = (model(x) - x[:, :16]).square().mean()
            updater.zero_grad()
            loss.backward()
            updater.update(step)
            updater.average(step)
        losses[name] = loss.item()
    assert losses["eight"] == pytest.approx(losses["plain"], rel=0.1)


# ---- what cannot be done is refused before anything is written ----------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train.precision=fp8", r'train.precision: "fp8" would change nothing: family "dilated" .* Use "bf16"'),
        ("train.patience=2", "patience counts validations: give valid_every"),
        ("optimizer.decay=0.2", 'leave it out of "cosine"'),
    ],
)
def test_what_would_do_nothing_is_refused_with_its_key(run_file, change, message):
    run_file.write_text(run_file.read_text().replace("valid_every = 6\n", ""))
    with pytest.raises(ConfigError, match=message):
        Run.read(run_file, [change]).check()


def test_eight_bits_without_torchao_say_what_brings_it(run_file, monkeypatch):
    monkeypatch.setattr(module, "_fits_float8", lambda layer, name: True)
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "distgen\[fp8\]"'):
        Run.read(run_file, ["train.precision=fp8"]).check()


def test_eight_bits_on_a_cpu_are_refused_with_the_key_and_what_would_do(run_file, monkeypatch):
    monkeypatch.setattr(module, "_fits_float8", lambda layer, name: True)
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: object())  # also without torchao
    run = Run.read(run_file, ["train.precision=fp8"])
    run.check()  # elsewhere, perhaps
    with pytest.raises(ConfigError, match='train.precision: the CPU cannot multiply "fp8".* Use fp32'):
        run.check(device=torch.device("cpu"))


def test_compiling_without_a_compiler_is_refused(run_file, monkeypatch):
    import torch._inductor.config

    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    with pytest.raises(ConfigError, match=r"train.compile: there is no C\+\+ compiler"):
        Run.read(run_file, ["train.compile=true"]).check(device=torch.device("cpu"))
