import math

import pytest
import torch
import torch.nn.functional as F

from distgen import GenomeLoader, kernels
from distgen.models.context import Context
from distgen.objectives.masked_lm import MaskedLM, MaskedLMConfig

OBJECTIVE = MaskedLM(MaskedLMConfig(kind="masked_lm"))


@pytest.fixture
def batch(small):
    return GenomeLoader(small, window=200, batch_size=6, strand="random", split=None, last="pad").batch(0, 0)


def test_training_corrupts_and_evaluation_hides_every_chosen_base(batch):
    for evaluating in (False, True):
        x, _target, weight = OBJECTIVE.encode(batch, torch.float32, evaluating=evaluating)
        codes, valid = x.argmax(1), weight == 1
        hidden = valid & (codes == 4)
        assert torch.equal(hidden, valid) == evaluating
        assert (x.sum(1)[valid] == 1).all()


def test_ambiguous_bases_are_all_zeros_and_never_scored(batch):
    x, _, valid = OBJECTIVE.encode(batch, torch.float32)
    codes = kernels.tokens(
        batch.plane, batch.starts, batch.length, reverse=batch.reverse, ambiguous=batch.ambiguous, limits=batch.limits
    )
    assert (x.sum(1)[codes == 4] == 0).all()
    assert not valid[codes == 4].any()


def test_soft_masked_bases_are_hidden_and_weighed_as_asked(batch):
    softmask = kernels.bits(batch.softmask, batch.starts, batch.length, reverse=batch.reverse, limits=batch.limits)
    assert softmask.any()
    config = {"kind": "masked_lm", "rate": 0.5, "softmask_rate": 0.0}
    for evaluating in (False, True):
        _, _, weight = MaskedLM(MaskedLMConfig(**config)).encode(batch, torch.float32, evaluating=evaluating)
        assert weight[~softmask].any()
        assert bool(weight[softmask].any()) == evaluating
    config |= {"softmask_rate": 0.5, "softmask_weight": 0.125}
    _, _, weight = MaskedLM(MaskedLMConfig(**config)).encode(batch, torch.float32)
    assert set(weight[softmask].unique().tolist()) == {0.0, 0.125}
    assert set(weight[~softmask].unique().tolist()) == {0.0, 1.0}


def test_spans_are_hidden_together(batch):
    objective = MaskedLM(MaskedLMConfig(kind="masked_lm", span=7))
    _, target, _ = objective.encode(batch, torch.float32, evaluating=True)
    chosen = (target >= 0).int()
    assert chosen.any()
    expected = kernels.mask_tokens(kernels.tokens(**batch.packed), batch.keys, 0.15, mask=1.0, random=0.0, span=7)[1]
    assert torch.equal(target, expected)


def test_the_loss_is_a_sum_over_hidden_bases(batch):
    _, target, weight = OBJECTIVE.encode(batch, torch.float32)
    weight[:, ::2] *= 0.25
    logits = torch.randn(len(batch), 4, batch.length)
    total, count = OBJECTIVE.loss(logits, target, weight)
    expected = sum(
        float(-F.log_softmax(logits[b, :, i], 0)[target[b, i]] * weight[b, i]) for b, i in weight.nonzero().tolist()
    )
    assert float(count) == float(weight.sum())
    assert math.isclose(float(total), expected, rel_tol=1e-5)


def test_rows_that_only_pad_count_nothing(small):
    loader = GenomeLoader(small, window=400, batch_size=64, split=None, last="pad")
    batch = loader.batch(0, 0)
    _, _, valid = OBJECTIVE.encode(batch, torch.float32)
    assert valid[: len(loader.plan.sampling(0))].any()
    assert not valid[len(loader.plan.sampling(0)) :].any()


def test_only_the_middle_of_a_window_is_scored(small):
    loader = GenomeLoader(small, window=200, target_length=80, batch_size=4)
    _, _, valid = OBJECTIVE.encode(loader.batch(0, 0), torch.float32)
    assert valid[:, 60:140].any()
    assert not valid[:, :60].any()
    assert not valid[:, 140:].any()


def test_metrics_of_a_perfect_and_of_a_blind_model():
    target = torch.tensor([[0, 1, 2, 3]])
    valid = torch.tensor([[True, True, True, False]])
    perfect, blind = (OBJECTIVE.metrics(torch.device("cpu")) for _ in range(2))
    perfect.update(50 * F.one_hot(target, 4).float().transpose(1, 2), target, valid)
    blind.update(torch.zeros(1, 4, 4), target, valid)
    assert perfect.compute()["bits_per_base"] == pytest.approx(0, abs=1e-6)
    assert perfect.compute()["accuracy"] == 1
    assert blind.compute()["bits_per_base"] == pytest.approx(2)
    assert blind.compute()["loss"] == pytest.approx(2 * math.log(2))


@pytest.mark.parametrize("evaluating", [False, True])
def test_slices_of_windows_are_encoded_as_the_windows_are(small, evaluating):
    config = MaskedLMConfig(kind="masked_lm", span=3, softmask_rate=0.4, softmask_weight=0.5)
    loader = GenomeLoader(small, window=64, target_length=40, batch_size=8, strand="random", last="wrap")
    batch = next(iter(loader))
    whole = MaskedLM(config).encode(batch, torch.float32, evaluating=evaluating)
    contexts = [Context(None, rank, 4) for rank in range(4)]
    parts = [MaskedLM(config, one).encode(batch, torch.float32, evaluating=evaluating) for one in contexts]
    for number, axis in enumerate((2, 1, 1)):
        assert torch.equal(torch.cat([part[number] for part in parts], axis), whole[number])
