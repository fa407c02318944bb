import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from distgen import GenomeLoader, kernels
from distgen.config import Sample
from distgen.errors import ConfigError
from distgen.objectives.known import weights_of
from distgen.objectives.multilabel import Multilabel, MultilabelConfig
from tests.conftest import motifs, served, table_store
from tests.objectives.test_base_classes import auroc

BINARY = MultilabelConfig(kind="binary")


@pytest.fixture
def table(tmp_path):
    return table_store(tmp_path, "binary", {"train": [*motifs(0, 20), ("ACGT", "")], "test": motifs(1, 8)})


def test_a_batch_has_its_windows_and_their_labels(table):
    objective = Multilabel(BINARY, table, Sample(), served(table))
    assert (objective.window, objective.outputs, objective.out_channels) == (40, ("1",), 1)
    batch = GenomeLoader(table, batch_size=32, last="pad", order="sequential").batch(0, 0)
    x, target, valid = objective.encode(batch, torch.float32)
    assert torch.equal(x, kernels.one_hot(**batch.packed, dtype=torch.float32))
    assert target[:20, 0].tolist() == [0, 1] * 10
    assert valid[:, 0].tolist() == [True] * 20 + [False] * 12  # the last is not labelled, and others only pad


def test_the_loss_is_the_sum_over_known_answers():
    torch.manual_seed(0)
    logits, target = torch.randn(5, 2, 1), torch.randint(0, 2, (5, 2), dtype=torch.uint8)
    valid = torch.rand(5, 2) < 0.7
    p = torch.sigmoid(logits[..., 0])
    plain = -(target * p.log() + (1 - target) * (1 - p).log())
    for config, losses, weights in (
        ({}, plain, torch.ones(5, 2)),
        ({"positive_weight": 3.0}, plain, 1.0 + 2 * target),
        ({"weights": {"b": 0.25}}, plain, torch.tensor([1.0, 0.25]).expand(5, 2)),
        ({"focal": 2.0}, plain * torch.where(target > 0, 1 - p, p) ** 2, torch.ones(5, 2)),
        ({"smoothing": 0.2}, 0.9 * plain - 0.1 * (target * (1 - p).log() + (1 - target) * p.log()), torch.ones(5, 2)),
    ):
        total, count = _objective(outputs=("a", "b"), **config).loss(logits, target, valid)
        assert float(total) == pytest.approx(float((losses * weights * valid).sum()), rel=1e-5)
        assert float(count) == pytest.approx(float((weights * valid).sum()))


def test_an_ensemble_averages_probabilities():
    torch.manual_seed(0)
    logits = torch.randn(3, 4, 2, 1)
    assert torch.allclose(torch.sigmoid(_objective().average(logits)), torch.sigmoid(logits).mean(0), atol=1e-6)


@given(st.integers(0, 2**32 - 1))
def test_metrics_are_those_of_all_batches_together(seed):
    random = np.random.default_rng(seed)
    scores, truth = random.normal(size=(3, 20, 2)).astype(np.float32), random.integers(0, 2, (3, 20, 2))
    valid = random.random((3, 20, 2)) < 0.8
    metrics = _objective(kind="multilabel", outputs=("a", "b")).metrics(torch.device("cpu"))
    for part in range(3):
        metrics.update(torch.tensor(scores[part])[..., None], torch.tensor(truth[part]), torch.tensor(valid[part]))
    found = metrics.compute()
    known = torch.tensor(valid)
    expected = F.binary_cross_entropy_with_logits(torch.tensor(scores)[known], torch.tensor(truth)[known].float())
    assert found["loss"] == pytest.approx(float(expected), rel=1e-5)
    for column, name in enumerate("ab"):
        one = valid[..., column]
        mine, yes = scores[..., column][one], truth[..., column][one] > 0
        assert found["auroc"][name] == pytest.approx(auroc(mine, yes), abs=1e-5)
        assert found["accuracy"][name] == pytest.approx(((mine > 0) == yes).mean(), abs=1e-6)


def test_a_question_that_was_answered_one_way_only_has_no_rank():
    metrics = _objective(kind="multilabel", outputs=("a", "b")).metrics(torch.device("cpu"))
    truth = torch.tensor([[0, 1], [1, 1]])
    metrics.update(torch.zeros(2, 2, 1), truth, torch.ones(2, 2, dtype=torch.bool))
    assert set(metrics.compute()["auroc"]) == {"a"}


def test_one_answer_to_all_has_no_correlation():
    metrics = _objective().metrics(torch.device("cpu"))
    metrics.update(torch.full((9, 1, 1), -1.0), torch.eye(9)[:, :1].long(), torch.ones(9, 1, dtype=torch.bool))
    assert metrics.compute()["mcc"] == 0


def test_a_yes_weighs_as_much_as_all_noes_of_the_training_part(tmp_path):
    rows = [("ACGTACGT", label) for label in ("a;b", "a", "a", "-", "", "b")]
    table = table_store(tmp_path, "multilabel", {"train": rows, "test": [("ACGTA", "a;b;c")] * 9})
    asked = MultilabelConfig(kind="multilabel", positive_weight="balanced")
    objective = Multilabel(asked, table, Sample(), served(table))
    assert objective.outputs == ("a", "b", "c")
    assert objective._positive == pytest.approx((2 / 3, 3 / 2, 5))


def test_questions_that_a_part_answers_one_way_only_are_named(tmp_path):
    rows = [("ACGTACGT", label) for label in ("a;b", "a", "a;c")]
    table = table_store(tmp_path, "multilabel", {"train": rows, "valid": rows[1:2]})
    objective = Multilabel(MultilabelConfig(kind="multilabel"), table, Sample(), served(table))
    assert objective.lacks(served(table)(objective, "train")) == "every one is to a"
    assert objective.lacks(served(table)(objective, "valid")) == "no window is a yes to b, c; every one is to a"


POOLS = {"pool": [{"name": "peak", "source": "peaks.bed", "share": 1.0}, {"name": "rest", "share": 4.0}], "window": 32}


def test_windows_of_the_first_of_two_pools_are_a_yes(annotated):
    pools = [POOLS["pool"][0] | {"source": str(annotated.path.parent / "peaks.bed")}, POOLS["pool"][1]]
    data = Sample.model_validate(POOLS | {"pool": pools}, strict=False)
    config = MultilabelConfig(kind="binary", target="pool", positive_weight="balanced")
    objective = Multilabel(config, annotated, data, served(annotated))
    assert (objective.outputs, objective._positive) == (("peak",), (4.0,))
    loader = GenomeLoader(annotated, window=32, batch_size=25, windows={"pool": pools}, split="default/train")
    batch = loader.batch(0, 0)
    _, target, valid = objective.encode(batch, torch.float32)
    assert torch.equal(target[:, 0] == 1, batch.targets["pool"] == 0)
    assert int(target.sum()) == 5
    assert valid.all()


def test_three_pools_are_no_yes_or_no(annotated):
    pools = [
        {"name": name, "source": str(annotated.path.parent / "peaks.bed"), "at": at}
        for name, at in zip("abc", ("middle", "start", "end"), strict=True)
    ]
    data = Sample.model_validate({"pool": pools, "window": 32}, strict=False)
    with pytest.raises(ConfigError, match='between two, and there are 3: a, b, c. Use kind = "classes"'):
        Multilabel(MultilabelConfig(kind="binary", target="pool"), annotated, data, served(annotated))


def test_calibration_of_each_question_can_be_drawn():
    metrics = _objective(kind="multilabel", outputs=("a", "b")).metrics(torch.device("cpu"))
    scores = torch.tensor([[-1.0, 9], [-1.0, 9], [-1.0, 9]])[..., None]
    metrics.update(scores, torch.tensor([[1, 0], [0, 0], [0, 0]]), torch.tensor([[True, False]] * 3))
    assert metrics.reliability() == {
        "a": {"confidence": [pytest.approx(0.2689, abs=1e-4)], "share": [pytest.approx(1 / 3)], "count": [3]}
    }


def _objective(kind="binary", outputs=("1",), **config):
    objective = object.__new__(Multilabel)
    objective._config, objective.outputs = MultilabelConfig(kind=kind, **config), outputs
    objective._positive = (objective._config.positive_weight,) * len(outputs)
    objective._weights = weights_of(objective._config.weights, outputs)
    return objective


def test_answers_of_strands_change_places_on_the_other(annotated):
    config = MultilabelConfig(kind="multilabel", target="track:genes")
    objective = Multilabel(config, annotated, Sample(window=5, target_length=1), served(annotated))
    assert dict(objective.swap) == {"cds+": "cds-", "cds-": "cds+"}
