import math

import pytest
import torch
import torch.nn.functional as F

from distgen import GenomeLoader, kernels, models
from distgen.config import checked
from distgen.errors import ConfigError
from distgen.genome import Interval
from distgen.models.context import Context
from distgen.models.dilated import DilatedConfig
from distgen.models.schema import Schema
from distgen.models.transformer import TransformerConfig
from distgen.objectives.causal_lm import CausalLM, CausalLMConfig
from distgen.train.evaluation import evaluate
from distgen.train.run import Run
from tests.conftest import fit

CONFIG = CausalLMConfig(kind="causal_lm")
OBJECTIVE = CausalLM(CONFIG)
FAMILIES = [
    DilatedConfig(family="dilated", channels=16, stem_width=5, dilations=(1, 2, 4), causal=True),
    TransformerConfig(family="transformer", channels=16, dim=16, pool=1, depth=1, heads=2, causal=True),
]


@pytest.fixture
def batch(small):
    return GenomeLoader(small, window=200, batch_size=6, strand="random", split=None, last="pad").batch(0, 0)


def test_what_comes_out_at_a_base_is_to_say_the_next_one(batch):
    x, target, valid = OBJECTIVE.encode(batch, torch.float32)
    codes = kernels.tokens(**batch.packed)
    assert x.shape == (6, 4, 200)
    assert torch.equal(x.sum(1) > 0, codes < 4)
    for row in range(6):
        for i in range(199):
            scored = codes[row, i + 1] < 4
            assert bool(valid[row, i]) == bool(scored)
            assert target[row, i] == (codes[row, i + 1] if scored else kernels.IGNORE_INDEX)
    assert not valid[:, 199].any()
    assert (~valid[:, :199]).any()  # there are ambiguous bases


@pytest.mark.parametrize("strand", ["forward", "both"])
def test_each_base_of_overlapping_windows_is_scored_once_with_as_much_before_it(small, strand):
    loader = GenomeLoader(small, window=200, target_length=80, batch_size=4, split=None, last="pad", strand=strand)
    loader.epoch, loader.position = 0, 0
    scored = torch.zeros(2, small.length, dtype=torch.int64)
    for batch in loader:
        _, _, valid = OBJECTIVE.encode(batch, torch.float32, evaluating=True)
        for row, i in valid.nonzero().tolist():
            assert 60 <= i + 1 < 140
            reverse = int(batch.reverse[row])
            at = int(batch.positions[row]) + (batch.length - 1 - (i + 1) if reverse else i + 1)
            scored[reverse, at] += 1
    known = torch.zeros(small.length, dtype=torch.bool)
    for row, offset in enumerate(small.contigs.offsets.tolist()):
        codes = small.codes(Interval(small.contigs.names[row], 0, int(small.contigs.lengths[row])))
        known[offset : offset + len(codes)] = torch.from_numpy(codes < 4)
    assert torch.equal(scored[0], known.long())
    assert torch.equal(scored[1], known.long() * (strand == "both"))


def test_rows_that_only_pad_count_nothing(small):
    loader = GenomeLoader(small, window=400, batch_size=64, split=None, last="pad")
    _, _, valid = OBJECTIVE.encode(loader.batch(0, 0), torch.float32)
    rows = len(loader.plan.sampling(0))
    assert valid[:rows].any(1).all()
    assert not valid[rows:].any()


def test_the_loss_is_a_sum_over_the_bases_that_follow(batch):
    _, target, valid = OBJECTIVE.encode(batch, torch.float32)
    logits = torch.randn(len(batch), 4, batch.length)
    total, count = OBJECTIVE.loss(logits, target, valid)
    expected = sum(float(-F.log_softmax(logits[b, :, i], 0)[target[b, i]]) for b, i in valid.nonzero().tolist())
    assert int(count) == int(valid.sum())
    assert math.isclose(float(total), expected, rel_tol=1e-5)


@pytest.mark.parametrize("evaluating", [False, True])
def test_slices_of_windows_are_encoded_as_the_windows_are(small, evaluating):
    loader = GenomeLoader(small, window=64, target_length=40, batch_size=8, strand="random", last="wrap")
    batch = next(iter(loader))
    whole = OBJECTIVE.encode(batch, torch.float32, evaluating=evaluating)
    contexts = [Context(None, rank, 4) for rank in range(4)]
    parts = [CausalLM(CONFIG, one).encode(batch, torch.float32, evaluating=evaluating) for one in contexts]
    for number, axis in enumerate((2, 1, 1)):
        assert torch.equal(torch.cat([part[number] for part in parts], axis), whole[number])


def learned(objective, config, inputs, steps=40):
    """Bits per base of a model after some steps on fresh random bases, of which nothing can be known."""
    torch.manual_seed(0)
    model = models.build(config, Schema(inputs, ("A", "C", "G", "T")))
    adam, metrics = torch.optim.Adam(model.parameters(), 1e-2), objective.metrics(torch.device("cpu"))
    for step in range(steps):
        codes = torch.randint(4, (8, 65))
        x, target = F.one_hot(codes[:, :-1], 4).transpose(1, 2).float(), codes[:, 1:]
        logits, valid = model(x), torch.ones_like(target, dtype=torch.bool)
        total, count = objective.loss(logits, target, valid)
        if step >= steps - 10:
            metrics.update(logits.detach(), target, valid)
        adam.zero_grad()
        (total / count).backward()
        adam.step()
    return metrics.compute()["bits_per_base"]


@pytest.mark.parametrize("config", FAMILIES, ids=lambda config: config.family)
def test_random_bases_cost_two_bits_and_a_model_that_sees_both_sides_gives_itself_away(config):
    assert learned(OBJECTIVE, config, OBJECTIVE.inputs) > 1.99
    two_sided = config.model_copy(update={"causal": False})
    assert learned(OBJECTIVE, two_sided, OBJECTIVE.inputs) < 1.5


def test_training_tells_bits_and_evaluation_stands_beside_counting(run_file, tmp_path):
    run = Run.read(run_file, ["objective.kind=causal_lm", "model.causal=true", "data.target_length=32"])
    run.check()
    shown = fit(run, tmp_path / "out")
    run.write(tmp_path / "out/run.toml")
    assert shown[0]["bits_per_base"] == pytest.approx(shown[0]["loss"] / math.log(2))
    _, found = evaluate(tmp_path / "out", "valid")
    assert 1.5 < found["metrics"]["bits_per_base"] < 3
    assert found["baselines"].keys() >= {"markov order 0", "markov order 11"}


def test_it_has_no_options():
    with pytest.raises(ConfigError, match="rate"):
        checked(CausalLMConfig, {"kind": "causal_lm", "rate": 0.1})
