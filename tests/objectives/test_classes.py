import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distgen import GenomeLoader
from distgen.config import Sample
from distgen.errors import ConfigError
from distgen.objectives.classes import Classes, ClassesConfig
from tests.conftest import motifs, served, table_store
from tests.objectives.test_base_classes import auroc

ROWS = [("ACGTACGTACGT", name) for name in ("a", "b", "b", "b", "c", "c", "")]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return table_store(tmp_path_factory.mktemp("classes"), "classes", {"train": ROWS, "valid": ROWS[1:3], "test": ROWS})


def objective(table, **config):
    return Classes(ClassesConfig(kind="classes", **config), table, Sample(), served(table))


def test_a_window_is_of_one_class_and_one_without_a_label_of_none(table):
    found = objective(table)
    assert (found.outputs, found.window) == (("a", "b", "c"), 12)
    batch = GenomeLoader(table, split="default/train", batch_size=8, last="pad", order="sequential").batch(0, 0)
    x, target, valid = found.encode(batch, torch.float32)
    assert x.shape == (8, 4, 12)
    assert target[valid].tolist() == [0, 1, 1, 1, 2, 2]
    assert valid.tolist() == [True] * 6 + [False] * 2


def test_the_loss_is_the_sum_over_known_windows(table):
    torch.manual_seed(0)
    logits, target, valid = torch.randn(9, 3, 1), torch.randint(0, 3, (9,)), torch.rand(9) < 0.7
    p = torch.softmax(logits[..., 0], 1)
    own = p[torch.arange(9), target]
    for config, losses, weights in (
        ({}, -own.log(), torch.ones(9)),
        ({"smoothing": 0.3}, -0.7 * own.log() - 0.1 * p.log().sum(1), torch.ones(9)),
        ({"focal": 1.5}, -own.log() * (1 - own) ** 1.5, torch.ones(9)),
        ({"class_weights": (1.0, 2.0, 4.0)}, -own.log(), torch.tensor([1.0, 2, 4])[target]),
        ({"class_weights": "balanced"}, -own.log(), torch.tensor([2, 2 / 3, 1])[target]),
    ):
        total, count = objective(table, **config).loss(logits, target, valid)
        assert float(total) == pytest.approx(float((losses * weights * valid).sum()), rel=1e-5)
        assert float(count) == pytest.approx(float((weights * valid).sum()), rel=1e-6)


def test_weights_of_other_classes_than_there_are_are_refused(table):
    with pytest.raises(ConfigError, match="are 2, and there are 3 classes: a, b, c"):
        objective(table, class_weights=(1.0, 2.0))
    with pytest.raises(ConfigError, match="is among the first 3 of 3: use less"):
        objective(table, top_k=3)


def test_classes_that_no_window_of_a_part_is_of_are_named(table):
    found = objective(table)
    assert found.lacks(served(table)(found, "train")) == ""
    assert found.lacks(served(table)(found, "valid")) == "no window is of class a, c"


def test_a_binary_label_is_one_of_two_classes(tmp_path):
    store = table_store(tmp_path, "binary", {"train": [*motifs(0, 9), ("ACGT", "")]})
    found = Classes(ClassesConfig(kind="classes", class_weights="balanced"), store, Sample(), served(store))
    assert found.outputs == ("0", "1")
    assert found._weights == pytest.approx((4.5 / 5, 4.5 / 4))
    batch = GenomeLoader(store, batch_size=10, order="sequential").batch(0, 0)
    _, target, valid = found.encode(batch, torch.float32)
    assert target[valid].tolist() == [0, 1] * 4 + [0]


def test_pools_are_classes_by_their_names_and_balanced_by_their_shares(annotated):
    bed = str(annotated.path.parent / "peaks.bed")
    pools = [
        {"name": "peak", "source": bed},
        {"name": "start", "source": bed, "at": "start"},
        {"name": "rest", "share": 2.0},
    ]
    data = Sample.model_validate({"pool": pools, "window": 32}, strict=False)
    config = ClassesConfig(kind="classes", target="pool", class_weights="balanced")
    found = Classes(config, annotated, data, served(annotated))
    assert found.outputs == ("peak", "start", "rest")
    assert found._weights == pytest.approx((4 / 3, 4 / 3, 2 / 3))
    batch = GenomeLoader(annotated, window=32, batch_size=8, windows={"pool": pools}, split="default/train").batch(0, 0)
    _, target, valid = found.encode(batch, torch.float32)
    assert torch.equal(target, batch.targets["pool"])
    assert torch.bincount(target, minlength=3).tolist() == [2, 2, 4]
    assert valid.all()


def test_an_ensemble_averages_probabilities(table):
    torch.manual_seed(0)
    logits = torch.randn(4, 5, 3, 1)
    averaged = torch.softmax(objective(table).average(logits), 1)
    assert torch.allclose(averaged, torch.softmax(logits, 2).mean(0), atol=1e-6)


@given(st.integers(0, 2**32 - 1))
def test_metrics_are_those_of_all_batches_together(table, seed):
    random = np.random.default_rng(seed)
    scores, truth = random.normal(size=(3, 12, 3)).astype(np.float32), random.integers(0, 3, (3, 12))
    valid = random.random((3, 12)) < 0.8
    metrics = objective(table, top_k=2).metrics(torch.device("cpu"))
    for part in range(3):
        metrics.update(torch.tensor(scores[part])[..., None], torch.tensor(truth[part]), torch.tensor(valid[part]))
    found = metrics.compute()
    scores, truth = scores[valid], truth[valid]
    p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    said = scores.argmax(1)
    assert found["loss"] == pytest.approx(-np.log(p[np.arange(len(p)), truth]).mean(), rel=1e-5)
    assert found["accuracy"] == pytest.approx((said == truth).mean())
    assert found["top2_accuracy"] == pytest.approx((scores.argmin(1) != truth).mean())
    for column, name in enumerate("abc"):
        mine = truth == column
        if mine.any() and not mine.all():
            assert found["auroc"][name] == pytest.approx(auroc(p[:, column], mine), abs=1e-5)
            assert found["error"][name] == pytest.approx(100 * (said[mine] != column).mean())
    # Matthews' correlation as Gorodkin has it: that of the indicators of all classes.
    a, b = np.eye(3)[truth], np.eye(3)[said]
    covariance = [((x - x.mean(0)) * (y - y.mean(0))).sum() for x, y in ((a, b), (a, a), (b, b))]
    scale = math.sqrt(covariance[1] * covariance[2])
    assert found["mcc"] == pytest.approx(covariance[0] / scale if scale else 0.0, abs=1e-6)


def test_confidence_is_how_probable_the_most_probable_class_is(table):
    metrics = objective(table).metrics(torch.device("cpu"))
    logits = torch.tensor([[0.0, 2.0, 0.0], [0.0, 2.0, 0.0]])[..., None]
    metrics.update(logits, torch.tensor([1, 2]), torch.tensor([True, True]))
    (bins,) = metrics.reliability().values()
    assert bins["confidence"] == [pytest.approx(math.exp(2) / (math.exp(2) + 2), rel=1e-6)]
    assert (bins["share"], bins["count"]) == ([0.5], [2])
