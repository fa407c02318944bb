import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distgen import GenomeLoader
from distgen.config import Sample
from distgen.errors import ConfigError
from distgen.objectives.regression import Regression, RegressionConfig
from tests.conftest import served, table_store

VALUES = [3.0, 8.5, 1.0, 0.0, 7.0, 2.25]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    rows = [("ACGTACGT", value) for value in [*VALUES, ""]]
    folder = tmp_path_factory.mktemp("regression")
    return table_store(folder, "regression", {"train": rows, "valid": [("ACG", 4.0)] * 2, "test": [("ACG", 100.0)]})


def objective(table, data=None, **config):
    return Regression(RegressionConfig(kind="regression", **config), table, data or Sample(), served(table))


def test_targets_have_the_mean_and_deviation_of_the_training_part(table):
    found = objective(table)
    assert (found.shift, found.scale) == (pytest.approx((np.mean(VALUES),)), pytest.approx((np.std(VALUES),)))
    batch = GenomeLoader(table, split="default/train", batch_size=8, last="pad", order="sequential").batch(0, 0)
    x, target, valid = found.encode(batch, torch.float32)
    assert x.shape == (8, 4, 8)
    assert valid[:, 0].tolist() == [True] * 6 + [False] * 2  # the last is not measured, and one only pads
    assert float(target[valid].mean()) == pytest.approx(0, abs=1e-6)
    assert float(target[valid].std(correction=0)) == pytest.approx(1, rel=1e-6)
    assert torch.allclose(found.values(target[..., None])[valid], torch.tensor(VALUES))


def test_the_loss_is_the_sum_over_known_values(annotated):
    data = Sample.model_validate({"window": 32, "regions": {"source": "matrix:expr"}}, strict=False)
    windows = {"windows": {"regions": {"source": "matrix:expr"}}, "window": 32}
    torch.manual_seed(0)
    said, target, valid = 2 * torch.randn(5, 2, 1), torch.rand(5, 2), torch.rand(5, 2) < 0.7
    apart = (said[..., 0] - target).abs()
    weights = torch.tensor([1.0, 3.0])
    for loss, losses in (("mse", apart**2), ("huber", torch.where(apart < 1, apart**2 / 2, apart - 0.5))):
        config = RegressionConfig(kind="regression", target="matrix:expr", loss=loss, weights={"liver": 3.0})
        found = Regression(config, annotated, data, served(annotated, **windows))
        assert found.outputs == ("heart", "liver")
        total, count = found.loss(said, target, valid)
        assert float(total) == pytest.approx(float((losses * weights * valid).sum()), rel=1e-5)
        assert float(count) == float((weights * valid).sum())
        assert torch.allclose(found.average(torch.stack([said, said + 2])), said + 1)


def test_poisson_learns_the_log_of_rates_in_units_of_their_mean(table):
    found = objective(table, loss="poisson")
    assert (found.shift, found.scale) == ((0.0,), pytest.approx((np.mean(VALUES),)))
    log_rate = torch.tensor([[[0.5]], [[-1.0]]], requires_grad=True)
    target = torch.tensor([[2.0], [0.25]])
    total, count = found.loss(log_rate, target, torch.tensor([[True], [False]]))
    total.backward()
    assert float(count) == 1
    assert log_rate.grad.flatten().tolist() == [pytest.approx(np.exp(0.5) - 2, rel=1e-6), 0]
    assert torch.allclose(found.values(log_rate), log_rate[..., 0].exp() * np.mean(VALUES))
    rates = torch.log(torch.tensor([[[[1.0]]], [[[3.0]]]]))
    assert float(found.average(rates).exp()) == pytest.approx(2)


def test_what_is_no_count_is_no_target_of_poisson(tmp_path):
    store = table_store(tmp_path, "regression", {"train": [("ACGT", value) for value in (1, -0.5)]})
    with pytest.raises(ConfigError, match='"poisson" is of counts, and label has values below 0'):
        objective(store, loss="poisson")


def test_a_part_whose_values_are_all_the_same_is_named(table, tmp_path):
    found = objective(table)
    assert found.lacks(served(table)(found, "train")) == ""
    assert found.lacks(served(table)(found, "valid")) == "windows do not differ in label"
    store = table_store(tmp_path, "regression", {"train": [("ACGT", 5)] * 3})
    with pytest.raises(ConfigError, match='part "train": windows do not differ in label'):
        objective(store)


@given(st.integers(0, 2**32 - 1), st.sampled_from(["mse", "poisson"]))
def test_metrics_are_those_of_all_batches_together_in_the_unit_of_the_store(table, seed, loss):
    random = np.random.default_rng(seed)
    said, values = random.normal(size=(3, 9)).astype(np.float32), np.round(random.random((3, 9)) * 9)
    valid = random.random((3, 9)) < 0.8
    found = objective(table, loss=loss)
    (shift,), (scale,) = found.shift, found.scale
    metrics = found.metrics(torch.device("cpu"))
    for part in range(3):
        target = torch.tensor((values[part] - shift) / scale, dtype=torch.float32)
        metrics.update(torch.tensor(said[part])[:, None, None], target[:, None], torch.tensor(valid[part])[:, None])
    of = metrics.compute()
    said, values = (np.exp(said[valid]) if loss == "poisson" else said[valid]) * scale + shift, values[valid]
    assert of["pearson"] == pytest.approx(np.corrcoef(said, values)[0, 1], abs=1e-4)
    assert of["spearman"] == pytest.approx(np.corrcoef(ranks(said), ranks(values))[0, 1], abs=1e-4)
    assert of["r2"] == pytest.approx(1 - ((said - values) ** 2).sum() / ((values - values.mean()) ** 2).sum(), rel=1e-3)
    assert of["rmse"] == pytest.approx(np.sqrt(((said - values) ** 2).mean()), rel=1e-4)
    if loss == "mse":
        assert of["loss"] == pytest.approx((of["rmse"] / scale) ** 2, rel=1e-4)


def ranks(values):
    """From 1 on; the same values share the mean of theirs."""
    return np.array([(values < v).sum() + ((values == v).sum() + 1) / 2 for v in values])


def test_a_column_that_was_hardly_measured_has_no_correlation(annotated):
    data = Sample.model_validate({"window": 32, "regions": {"source": "matrix:expr"}}, strict=False)
    config = RegressionConfig(kind="regression", target="matrix:expr")
    windows = {"windows": {"regions": {"source": "matrix:expr"}}, "window": 32}
    metrics = Regression(config, annotated, data, served(annotated, **windows)).metrics(torch.device("cpu"))
    known = torch.tensor([[True, True], [True, False], [True, False]])
    metrics.update(torch.randn(3, 2, 1), torch.randn(3, 2), known)
    found = metrics.compute()
    assert {kind: set(found[kind]) for kind in ("pearson", "r2")} == {"pearson": {"heart"}, "r2": {"heart"}}
