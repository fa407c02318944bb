"""Signals along a window, against plain sums over bins."""

import math

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from distgen import GenomeLoader
from distgen.config import read
from distgen.errors import ConfigError
from distgen.models.context import Context
from distgen.objectives.track import TrackConfig, TrackSignal, ranks
from distgen.train.run import Run
from tests.conftest import RUN, fit

EVERY = [
    {"loss": "poisson"},
    {"loss": "multinomial"},
    {"loss": "multinomial", "total": "log", "total_weight": 2.0, "reduce": "sum"},
    {"loss": "mse", "reduce": "sum"},
]


def asked(store, context=None, **options):
    return TrackSignal(TrackConfig(kind="track", track="signal", **options), store, context)


def correlation(x, y):
    return np.corrcoef(x, y)[0, 1]


def ranked(values):
    return pl.Series(values).rank("average").to_numpy()


def poisson(y, rate):
    return (y * math.log(y / rate) if y else 0.0) - y + rate


def expected(config, logits_OL, target_TC, valid_TC, bin_bp=4):
    """The loss of one window as its definition reads."""
    (bins, columns), total = target_TC.shape, 0.0
    crop = (logits_OL.shape[1] - bins * bin_bp) // 2
    for c in range(columns):
        known = [t for t in range(bins) if valid_TC[t, c]]
        y = {t: float(target_TC[t, c]) / config.scale for t in known}
        rate = {}
        for t in known:
            bases = logits_OL[c, crop + bin_bp * t : crop + bin_bp * (t + 1)]
            values = bases if config.loss == "mse" else torch.log1p(bases.exp())
            rate[t] = float(values.mean() if config.reduce == "mean" else values.sum())
        if config.loss == "mse":
            total += sum((rate[t] - y[t]) ** 2 for t in known)
        elif config.loss == "poisson":
            total += sum(poisson(y[t], rate[t]) for t in known)
        elif known:
            count, found, n = sum(y.values()), sum(rate.values()), len(known)
            total -= sum(y[t] * math.log(rate[t] / found) for t in known)
            total += sum(y[t] * math.log(y[t] / count) for t in known if y[t])
            total += config.total_weight * (
                poisson(count, found)
                if config.total == "poisson"
                else n * (math.log1p(count / n) - math.log1p(found / n)) ** 2
            )
    return total


@pytest.mark.parametrize("options", EVERY)
def test_a_loss_is_its_definition_summed_over_known_bins(annotated, options):
    objective = asked(annotated, scale=2.0, **options)
    rng = torch.Generator().manual_seed(1)
    logits = torch.randn(3, objective.out_channels, 32, generator=rng)
    target = torch.poisson(torch.full((3, 6, objective.out_channels), 1.5), generator=rng)
    valid = torch.rand(target.shape, generator=rng) < 0.7
    valid[2] = False  # a window of which nothing is known
    target *= valid
    total, count = objective.loss(logits, target, valid)
    config = TrackConfig(kind="track", track="signal", scale=2.0, **options)
    rows = zip(logits, target, valid, strict=True)
    assert float(total) == pytest.approx(sum(expected(config, *row) for row in rows), rel=1e-4)
    assert int(count) == int(valid.sum())


@pytest.mark.parametrize("options", EVERY)
def test_the_best_outputs_lose_nothing_and_what_is_unknown_has_no_gradient(annotated, options):
    objective = asked(annotated, **options)
    columns = objective.out_channels
    target = torch.arange(1.0, 5).view(1, 4, 1).expand(2, 4, columns).clone()
    bases = target / (4 if options.get("reduce") == "sum" else 1)
    logits = bases if options["loss"] == "mse" else torch.log(torch.expm1(bases))
    logits = logits.repeat_interleave(4, dim=1).transpose(1, 2).clone().requires_grad_()
    valid = torch.ones(target.shape, dtype=torch.bool)
    total, _ = objective.loss(logits, target, valid)
    assert float(total.detach()) == pytest.approx(0, abs=1e-4)
    valid[:, 0], target[:, 0] = False, 0
    objective.loss(logits * 1.1, target, valid)[0].backward()
    assert not logits.grad[..., :4].any()
    assert logits.grad[..., 4:].abs().sum() > 0


def test_the_loss_of_a_window_without_signal_and_of_extreme_outputs_is_finite(annotated):
    for options in EVERY:
        logits = torch.full((1, asked(annotated).out_channels, 16), -200.0, requires_grad=True)
        zeros = torch.zeros(1, 4, logits.shape[1])
        for target in (zeros, zeros + 3):
            total, _ = asked(annotated, **options).loss(logits, target, zeros == 0)
            total.backward()
            assert torch.isfinite(total)
            assert torch.isfinite(logits.grad).all()


def test_a_rate_next_to_nothing_still_learns(annotated):
    for options in EVERY[:3]:
        logits = torch.full((1, asked(annotated).out_channels, 16), -16.0)
        logits[..., 8:] = 2  # of the multinomial, where in the window it is
        logits.requires_grad_()
        target = torch.full((1, 4, logits.shape[1]), 3.0)
        asked(annotated, **options).loss(logits, target, target > 0)[0].backward()
        assert (logits.grad[..., :8] < -1e-3).all()


@given(seed=st.integers(0, 2**32 - 1))
def test_metrics_are_those_of_all_known_bins_together(annotated, seed):
    objective = asked(annotated, scale=3.0)
    rng = np.random.default_rng(seed)
    columns, metrics = objective.out_channels, objective.metrics(torch.device("cpu"))
    logits = rng.normal(0, 2, (3, 2, columns, 40)).astype(np.float32)
    target = rng.integers(0, 4, (3, 2, 8, columns)).astype(np.float32)
    valid = rng.random(target.shape) < 0.8
    target[0, 0, :2, 0], valid[0, :, :2, 0] = (1, 2), True
    target *= valid
    for batch in zip(logits, target, valid, strict=True):
        metrics.update(*map(torch.tensor, batch))
    found = metrics.compute()
    rate = np.log1p(np.exp(logits[..., 4:36])).reshape(3, 2, columns, 8, 4).mean(-1).swapaxes(2, 3) * 3
    x, y = rate[..., 0][valid[..., 0]].astype(float), target[..., 0][valid[..., 0]].astype(float)
    name = objective.outputs[0]
    assert found["pearson"][name] == pytest.approx(correlation(x, y), abs=1e-4)
    assert found["spearman"][name] == pytest.approx(correlation(ranked(x), ranked(y)), abs=1e-4)
    assert found["r2"][name] == pytest.approx(1 - ((x - y) ** 2).sum() / ((y - y.mean()) ** 2).sum(), abs=1e-4)
    lost, most = (sum(map(poisson, y, rates)) for rates in (x, np.full_like(y, y.mean())))
    assert found["deviance"][name] == pytest.approx(1 - lost / most, abs=1e-4)
    counts = valid[..., 0].sum(-1)
    means = [((z * valid)[..., 0].sum(-1) / counts.clip(1))[counts > 0] for z in (rate, target)]
    if means[1].std() > 1e-6:
        assert found["pearson_window"][name] == pytest.approx(correlation(*means), abs=1e-3)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60))
def test_ranks_of_what_is_alike_are_their_mean(values):
    found = ranks(torch.tensor(values, dtype=torch.float64)) + 1
    assert found.tolist() == ranked(values).tolist()


def test_a_column_that_is_all_alike_has_no_correlation(annotated):
    objective = asked(annotated)
    metrics = objective.metrics(torch.device("cpu"))
    shape = (1, 4, objective.out_channels)
    metrics.update(torch.randn(1, objective.out_channels, 16), torch.ones(shape), torch.ones(shape, dtype=torch.bool))
    assert metrics.compute().keys() == {"loss"}


@pytest.mark.parametrize("loss", ["poisson", "mse"])
def test_members_are_averaged_by_what_they_predict(annotated, loss):
    objective = asked(annotated, loss=loss)
    logits = torch.randn(3, 2, objective.out_channels, 16) * 4
    together = objective.predicted(objective.average(logits), 4)
    apart = torch.stack([objective.predicted(member, 4) for member in logits]).mean(0)
    assert torch.allclose(together, apart, atol=1e-5)


@pytest.mark.parametrize("size", [2, 4])
def test_slices_of_windows_lose_together_what_windows_lose(annotated, size):
    loader = GenomeLoader(annotated, window=64, target_length=32, split=None, batch_size=6, tracks=("signal",))
    batch = next(iter(loader))
    x, target, valid = asked(annotated).encode(batch, torch.float32)
    logits = torch.randn(6, asked(annotated).out_channels, 64)
    total, count = asked(annotated).loss(logits, target, valid)
    assert count > 0
    sums = torch.zeros(2)
    for rank in range(size):
        objective = asked(annotated, Context(None, rank, size))
        part, *rest = objective.encode(batch, torch.float32)
        stretch = slice(rank * 64 // size, (rank + 1) * 64 // size)
        assert torch.equal(part, x[:, :, stretch])
        sums += torch.stack(objective.loss(logits[:, :, stretch], *rest))
    assert sums.tolist() == pytest.approx([float(total), float(count)], rel=1e-5)


@pytest.mark.parametrize("options", EVERY)
def test_no_shape_of_a_loss_follows_from_numbers(annotated, options):
    objective = asked(annotated, **options)
    with FakeTensorMode():
        logits = torch.zeros(2, objective.out_channels, 64, requires_grad=True)
        shape = (2, 16, objective.out_channels)
        total, count = objective.loss(logits, torch.zeros(shape), torch.zeros(shape, dtype=torch.bool))
        total.backward()
    assert total.shape == count.shape == ()


def test_what_is_no_signal_or_not_of_the_loss_is_refused_by_name(annotated):
    with pytest.raises(ConfigError, match=r'objective.track: track "genes" holds classes.* "base_classes"'):
        TrackSignal(TrackConfig(kind="track", track="genes"), annotated)
    with pytest.raises(ConfigError, match=r"objective.track: .*signal"):
        TrackSignal(TrackConfig(kind="track", track="signals"), annotated)
    with pytest.raises(ConfigError, match=r"objective.loss: .*multinomial.* needs all of a window"):
        asked(annotated, Context(None, 0, 2), loss="multinomial")
    with pytest.raises(ValueError, match='is of loss = "multinomial", not of "poisson"'):
        TrackConfig(kind="track", track="signal", total_weight=0.5)


def test_a_run_learns_a_signal_and_tells_how_well(annotated, tmp_path):
    text = RUN.format(store=annotated.path).replace("jitter = 5", "jitter = 4")
    text = text.replace('kind = "masked_lm"', 'kind = "track"\ntrack = "signal"\nloss = "mse"')
    (tmp_path / "run.toml").write_text(text.replace("window = 64", "window = 192"))
    records = fit(read(tmp_path / "run.toml", Run), tmp_path / "out")
    measured = [record["train"] for record in records if "train" in record]
    assert measured[-1].keys() == {"loss", "pearson", "spearman", "r2", "pearson_window"}
    assert measured[-1]["loss"] < measured[0]["loss"]
