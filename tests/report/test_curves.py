import re

import pytest

from distgen.report import curves


def record(step, **split):
    parts = dict.fromkeys(curves.PARTS, 0.0) | split
    return {
        "step": step,
        "loss": 2 / step,
        "norm": 1.0,
        "lr": 1e-3,
        "bases_per_second": 1e6,
        "wait_share": 0.1,
        "step_ms": parts,
        "memory_bytes": {"host": 10**9, "allocated": 2 * 10**9},
    }


@pytest.mark.parametrize(
    ("split", "word"),
    [
        ({"wait": 5, "transfer": 4, "forward": 8}, "data"),
        ({"encode": 9, "forward": 8}, "encode"),
        ({"forward": 3, "backward": 4, "optimize": 3, "wait": 9}, "compute"),
        ({"communicate": 7, "backward": 6}, "communication"),
        ({"rest": 7, "backward": 6}, "other"),
    ],
)
def test_what_most_of_a_step_is_spent_on_binds(split, word):
    slow = {part: 1000.0 for part in split if part == "wait"}  # a single hiccup does not bind
    found = curves.bound([record(1, **(split | slow)), *(record(step, **split) for step in range(2, 9))])
    assert found is not None
    assert found[0] == word
    assert sum(found[1].values()) == pytest.approx(1)


def test_every_figure_is_drawn_of_full_records_and_none_of_what_nobody_told():
    records = [record(step, forward=5.0, wait=1.0) for step in range(1, 3000)]
    records += [{"step": 10, "valid": {"loss": 1.0, "auroc": {"a": 0.5, "b": 0.7}}, "train": {"loss": 0.9}}]
    steps = records[:-1]
    for figure in (curves.rate_figure, curves.speed_figure, curves.split_figure, curves.memory_figure):
        assert figure(steps).startswith("<svg")
    learning = curves.learning_figure(records)
    assert len(re.findall(r"<path", learning)) > 3
    assert len(learning) < 400_000  # of many steps a figure holds means
    assert curves.metrics_figure(records).startswith("<svg")
    for figure in (curves.rate_figure, curves.split_figure, curves.memory_figure, curves.metrics_figure, curves.bound):
        assert not figure([])


def test_long_curves_are_means_of_neighbours():
    values = [float(number) for number in range(2500)]
    found = curves._means(values)
    assert len(found) == 1000
    assert found[0] == 1.0
    assert found == sorted(found)
    assert curves._means([3.0, 1.0]) == [3.0, 1.0]
