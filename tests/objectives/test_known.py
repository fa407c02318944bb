import numpy as np
import pytest
import torch

from distgen.config import Sample
from distgen.errors import ConfigError
from distgen.loader.loader import GenomeLoader
from distgen.objectives.known import counts, moments, weights_of
from distgen.objectives.source import answers
from tests.conftest import table_store

EXPR = {"regions": {"source": "matrix:expr"}}


def test_each_window_of_a_part_counts_once(annotated):
    data = Sample(window=16, target_length=4)
    found = answers("track:genes", annotated, Sample(window=1, target_length=1), ("multilabel",))
    loader = GenomeLoader(annotated, window=1, batch_size=97, tracks=("genes",), split="default/valid", last="pad")
    yes, known = counts(found.of, loader, 2)
    values = annotated.track("genes")[1500:1900]
    assert yes.tolist() == values.sum(0).tolist()
    assert known.tolist() == [400, 400]
    signal = answers("track:signal", annotated, data, ("regression",))
    loader = GenomeLoader(
        annotated, window=16, target_length=4, batch_size=9, tracks=("signal",), split="default/train", last="pad"
    )
    stored = annotated.track("signal")[:]
    regions = annotated.regions("train")
    offsets, bins = annotated.contigs.offsets, annotated.track("signal").bin_offsets
    rows = annotated.contigs.locate(regions[:, 0])
    inside = [
        stored[bins[row] + (start - offsets[row]) // 4 : bins[row] + (end - offsets[row]) // 4]
        for row, (start, end) in zip(rows.tolist(), regions.tolist(), strict=True)
    ]
    values = np.concatenate(inside).astype(np.float64)
    values = values[~np.isnan(values)]
    of = moments(signal, loader)
    assert int(of.known) == len(values) > 100
    assert float(of.mean) == pytest.approx(values.mean())
    assert float(of.deviation) == pytest.approx(values.std())
    assert (float(of.least), float(of.most)) == (values.min(), values.max())


def test_large_numbers_that_hardly_differ_keep_their_deviation(tmp_path):
    values = 1e6 + np.random.default_rng(0).normal(size=60)
    table = table_store(tmp_path, "regression", {"train": [("ACGT", value) for value in values]})
    found = answers("labels", table, Sample(), ("regression",))
    stored = table.labels.values.astype(np.float64)
    of = moments(found, GenomeLoader(table, batch_size=7, last="pad"))
    assert float(of.deviation) == pytest.approx(stored.std(), rel=1e-9)


def test_counting_stops_when_nothing_can_be_missing_any_more(tmp_path):
    table = table_store(tmp_path, "classes", {"train": [("ACGT", name) for name in "ab" * 50]})
    found = answers("labels", table, Sample(), ("classes",))
    loader = GenomeLoader(table, batch_size=10, order="sequential")
    assert counts(found.of, loader, 2, classes=True)[0].tolist() == [50, 50]
    loader.epoch = loader.position = 0
    assert counts(found.of, loader, 2, classes=True, until_mixed=True)[0].tolist() == [5, 5]


def test_an_output_that_is_not_there_has_no_weight():
    assert weights_of({"b": 0.5}, ("a", "b")) == (1.0, 0.5)
    with pytest.raises(ConfigError, match='there is no output "c": there are a, b'):
        weights_of({"c": 1.0}, ("a", "b"))


def test_what_is_known_of_no_window_has_no_mean(annotated):
    found = answers(
        "matrix:expr", annotated, Sample.model_validate({"window": 32, **EXPR}, strict=False), ("regression",)
    )
    loader = GenomeLoader(annotated, window=32, windows=EXPR, split=None, batch_size=3, last="pad")
    of = moments(found, loader)
    assert of.known.tolist() == [3, 3]
    assert of.mean.tolist() == pytest.approx([5 / 3, 6.5 / 3])
    assert moments(found, []).mean.isnan().all()
    assert torch.isinf(moments(found, []).least).all()
