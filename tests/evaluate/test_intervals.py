"""Metrics of resamples, against torchmetrics on rows that are written out."""

import numpy as np
import pytest
import torch
from torchmetrics.functional import pearson_corrcoef, r2_score, spearman_corrcoef
from torchmetrics.functional.classification import (
    binary_accuracy,
    binary_auroc,
    binary_average_precision,
    binary_matthews_corrcoef,
    multiclass_accuracy,
    multiclass_matthews_corrcoef,
)

from distgen.evaluate import intervals
from distgen.evaluate.bootstrap import interval, paired
from distgen.evaluate.intervals import resampled
from distgen.evaluate.kept import Predictions
from distgen.objectives.multilabel import MultilabelMetrics

ROWS = 60


def made(kind, outputs=1, seed=0, skill=1.0, units=None):
    """Predictions that know something, with ties and unknown answers."""
    rng = np.random.default_rng(seed)
    if kind == "classes":
        right = rng.integers(0, outputs, ROWS)
        truth = np.eye(outputs)[right]
    else:
        truth = rng.random((ROWS, outputs)).round(1)
        truth = (truth > 0.5).astype(float) if kind == "binary" else truth
    scores = (skill * (truth - 0.5) + rng.standard_normal(truth.shape)).round(1)
    known = np.ones(truth.shape, bool)
    if kind != "classes":
        known[:5, 0] = False
    units = np.arange(ROWS) if units is None else units
    return Predictions(kind, tuple(f"o{n}" for n in range(outputs)), scores, truth, known, units)


def written_out(model, times):
    """Scores and truth of a resample, each row as often as it is there."""
    rows = np.repeat(np.arange(ROWS), times[model.units])
    return [torch.from_numpy(array[rows]) for array in (model.scores, model.truth, model.known)]


def draws(units, resamples=20):
    return np.concatenate(list(intervals._draws(units, resamples, 0)))


@pytest.mark.parametrize("units", [None, np.arange(ROWS) // 7])
def test_yes_or_no_is_measured_exactly_on_each_resample(units):
    model = made("binary", 2, units=units)
    (found,) = resampled([model], 20)
    for draw, times in enumerate(draws(model.units.max() + 1)):
        scores, truth, known = written_out(model, times)
        for column in range(2):
            s, y = scores[known[:, column], column], truth[known[:, column], column].long()
            p = s / 100 + 0.5  # a sigmoid of equal scores may differ in the last bit
            for name, metric in {
                "auroc": binary_auroc,
                "auprc": binary_average_precision,
                "mcc": binary_matthews_corrcoef,
                "accuracy": binary_accuracy,
            }.items():
                assert found[f"{name}.o{column}"][draw] == pytest.approx(float(metric(p, y)), abs=1e-6), name
        both = (found["auroc.o0"][draw] + found["auroc.o1"][draw]) / 2
        assert found["auroc"][draw] == pytest.approx(both)


def test_numbers_are_measured_exactly_on_each_resample():
    model = made("regression", units=np.arange(ROWS) // 3)
    (found,) = resampled([model], 20)
    for draw, times in enumerate(draws(20)):
        scores, truth, known = written_out(model, times)
        s, y = scores[known[:, 0], 0], truth[known[:, 0], 0]
        for name, metric in {"pearson": pearson_corrcoef, "spearman": spearman_corrcoef, "r2": r2_score}.items():
            assert found[name][draw] == pytest.approx(float(metric(s, y)), abs=1e-6), name


def test_classes_are_measured_exactly_on_each_resample():
    model = made("classes", 3)
    (found,) = resampled([model], 20)
    for draw, times in enumerate(draws(ROWS)):
        scores, truth, _ = written_out(model, times)
        called, right = scores.argmax(1), truth.argmax(1)
        accuracy = multiclass_accuracy(called, right, 3, average="micro")
        assert found["accuracy"][draw] == pytest.approx(float(accuracy))
        assert found["mcc"][draw] == pytest.approx(float(multiclass_matthews_corrcoef(called, right, 3)), abs=1e-6)
        wrong = float((called[right == 2] != 2).double().mean())
        assert found["error.o2"][draw] == pytest.approx(100 * wrong)
        auroc = binary_auroc(scores[:, 1] / 100 + 0.5, truth[:, 1].long())
        assert found["auroc.o1"][draw] == pytest.approx(float(auroc), abs=1e-6)


def test_a_resample_without_a_yes_has_no_auroc():
    model = made("binary")
    few = Predictions("binary", ("o0",), model.scores, np.eye(ROWS)[:, :1] * 0, model.known, model.units)
    few.truth[-1] = 1
    (found,) = resampled([few], 50)
    assert np.isnan(found["auroc"]).any()
    low, high = interval(found["auroc"])
    assert low <= found["auroc"][0] <= high
    assert interval(np.full(5, np.nan)) is None
    assert paired(np.full(5, np.nan), np.zeros(5)) is None


def test_one_answer_to_all_has_no_correlation_and_counts_in_the_mean_as_in_the_metrics():
    model = made("binary", 3)
    scores = np.where(np.arange(3) == 1, -1.0, model.scores)  # never a yes
    truth = np.where(np.arange(3) == 2, 0.0, model.truth)  # never true
    (found,) = resampled([Predictions("binary", model.outputs, scores, truth, model.known, model.units)], 20)
    assert found["mcc.o1"].tolist() == [0.0] * 21
    assert found["mcc"] == pytest.approx(found["mcc.o0"] / 2)
    metrics = MultilabelMetrics(model.outputs, False, torch.device("cpu"))
    metrics.update(torch.from_numpy(scores)[..., None], torch.from_numpy(truth), torch.from_numpy(model.known))
    for name in ("mcc", "accuracy", "auroc", "auprc"):
        values = metrics.compute()[name]
        assert found[name][0] == pytest.approx(sum(values.values()) / len(values), abs=1e-6), name
    one_class = Predictions(
        "classes",
        model.outputs,
        np.eye(3)[[0] * ROWS],
        made("classes", 3).truth,
        made("classes", 3).known,
        np.arange(ROWS),
    )
    assert resampled([one_class], 5)[0]["mcc"].tolist() == [0.0] * 6


def test_pairs_share_their_resamples():
    good, same, bad = (made("binary", seed=1, skill=skill) for skill in (3.0, 3.0, 0.0))
    one, two, three = resampled([good, same, bad], 300)
    assert paired(one["auroc"], two["auroc"]) == (0, 0, 0, 1)
    difference = paired(one["auroc"], three["auroc"])
    assert difference.low < difference.value < difference.high
    assert difference.low > 0.1
    assert difference.p == pytest.approx(2 / 301)


def test_the_interval_covers_as_often_as_it_says():
    """Means of accuracy on 100 drawn tables whose true accuracy is known: about 95 of them have it inside."""
    rng, inside = np.random.default_rng(0), 0
    for trial in range(100):
        truth = rng.integers(0, 2, (200, 1)).astype(float)
        right = rng.random((200, 1)) < 0.8
        scores = np.where(right, truth, 1 - truth) - 0.5
        model = Predictions("binary", ("o",), scores, truth, truth >= 0, np.arange(200))
        low, high = interval(resampled([model], 200, trial)[0]["accuracy"])
        inside += low <= 0.8 <= high
    assert 88 <= inside <= 99


def test_few_units_are_not_enough():
    assert intervals.enough(made("binary"))
    assert not intervals.enough(made("binary", units=np.arange(ROWS) // 12))
