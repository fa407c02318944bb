"""Metrics of a whole part, and of its units."""

import pytest
import torch
from torch import nn

from distgen.evaluate.metrics import Units, measure, named_value
from distgen.genome import Interval
from distgen.train.run import Run


class Fixed(nn.Module):
    """Predicts something from the bases, without training."""

    def __init__(self, inputs, outputs):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv1d(inputs, outputs, 5, padding=2)

    def forward(self, x):
        return self.layer(x)


class Places:
    """A loader whose windows lie at given places."""

    def __init__(self, places):
        self._places, self.batch_size, self.plan = places, 1, self

    def batches(self, epoch):
        return len(self._places)

    def places(self, epoch, position):
        return [position], [self._places[position]]


@pytest.fixture
def parts(run_file):
    def made(overrides, part="train"):
        run = Run.read(run_file, overrides)
        store = run.open_store()
        objective = run.build_objective(store)
        return objective, run.loader(store, objective, part)

    return made


def values(objective, loader, units=None):
    return measure(
        Fixed(objective.in_channels, objective.out_channels), objective, loader, torch.float32, [units] if units else []
    )


def test_units_pooled_by_their_targets_are_the_whole(parts):
    objective, loader = parts([])
    units = Units(loader)
    whole, by_unit = values(objective, loader, units), None
    by_unit = units.compute()
    assert units.kind == "blocks"
    assert len(by_unit) >= 6
    targets = sum(unit["targets"] for unit in by_unit.values())
    for metric in ("loss", "bits_per_base", "accuracy"):
        assert sum(unit[metric] * unit["targets"] for unit in by_unit.values()) / targets == pytest.approx(
            whole[metric]
        )


def test_a_unit_has_the_metrics_of_its_predictions_alone(parts):
    classes = ["objective.kind=base_classes", "objective.track=genes", "data.jitter=0"]
    objective, loader = parts(classes)
    units = Units(loader)
    units.name = lambda place: place.contig
    values(objective, loader, units)
    found = units.compute()
    assert set(found) == {"chr1", "chr2"}
    alone = objective.metrics(torch.device("cpu"))
    model = Fixed(objective.in_channels, objective.out_channels)
    for batch in loader:
        chosen = torch.tensor([place.contig == "chr1" for place in batch.where()])
        x, target, valid = objective.encode(batch, torch.float32, evaluating=True)
        if chosen.any():
            alone.update(model(x).detach()[chosen], target[chosen], valid[chosen])
    assert found["chr1"] == {"targets": found["chr1"]["targets"], **alone.compute()}
    assert set(found["chr1"]["auroc"]) == {"cds+", "cds-", "neither"}
    # chr2 has no plus-strand gene: nothing can be ranked there.
    assert "cds+" not in found["chr2"]["auroc"]


def test_padding_counts_nowhere(parts):
    objective, loader = parts(["data.batch_size=7"], "valid")
    units = Units(loader)
    values(objective, loader, units)
    objective, other = parts(["data.batch_size=1"], "valid")
    alone = Units(other)
    values(objective, other, alone)
    assert {u: v["targets"] for u, v in units.compute().items()} == {
        u: v["targets"] for u, v in alone.compute().items()
    }


def test_contigs_are_units_where_there_are_enough():
    units = Units(Places([Interval(f"chr{number}", 0, 10) for number in range(6)]))
    assert units.kind == "contigs"
    assert units.name(Interval("chr3", 5, 10)) == "chr3"


@pytest.mark.parametrize("begin", [0, 10_000_000])
def test_few_contigs_are_cut_into_blocks_that_other_windows_share(begin):
    end = begin + 100_000

    def blocks(window):
        return Units(Places([Interval("chr1", start, start + window) for start in range(begin, end, window)]))

    one, other = blocks(1000), blocks(2000)
    assert one.kind == other.kind == "blocks"
    middle = (begin + end) // 2
    assert one.name(Interval("chr1", middle, middle + 1000)) == other.name(Interval("chr1", middle, middle + 2000))
    assert 16 <= len({one.name(Interval("chr1", start, start + 1)) for start in range(begin, end, 500)}) <= 64


def test_many_contigs_share_units():
    units = Units(Places([Interval(f"s{number}", 0, 10) for number in range(1000)]))
    assert units.kind == "groups of contigs"
    assert len({units.name(Interval(f"s{number}", 0, 10)) for number in range(1000)}) == 256


def test_a_metric_is_found_by_its_name():
    found = {"loss": 1.0, "auprc": {"cds+": 0.5, "cds-": 0.7}, "auroc": {}}
    assert named_value(found, "loss") == 1
    assert named_value(found, "auprc.cds+") == 0.5
    assert named_value(found, "auprc") == pytest.approx(0.6)
    assert named_value(found, "auroc") is named_value(found, "auroc.cds+") is named_value(found, "f1") is None
    assert named_value(found, "loss.cds+") is None
