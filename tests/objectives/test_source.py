import pytest
import torch

from distgen import GenomeLoader
from distgen.config import Sample
from distgen.errors import ConfigError
from distgen.objectives.source import answers
from tests.conftest import motifs, table_store

EXPR = {"regions": {"source": "matrix:expr"}}


def sample(**data):
    return Sample.model_validate(data, strict=False)


def test_one_bin_of_a_track_is_the_answer_of_a_window(annotated):
    data = sample(window=16, target_length=4)
    found = answers("track:signal", annotated, data, ("regression",))
    assert (found.columns, found.tracks, found.window) == (("a",), ("signal",), 16)
    loader = GenomeLoader(annotated, window=16, target_length=4, batch_size=50, tracks=found.tracks, last="pad")
    batch = loader.batch(0, len(loader.plan.sampling(0)) // 50 * 50)
    values, known = found.of(batch)
    assert torch.equal(values, batch.targets["signal"][:, 0])
    assert torch.equal(known, batch.mask["signal"][:, 0] & (batch.weight[:, None] > 0))
    assert not known[batch.weight == 0].any()
    assert known.any()


def test_classes_of_a_track_that_belong_to_strands_change_places(annotated):
    found = answers("track:genes", annotated, sample(window=5, target_length=1), ("multilabel",))
    assert dict(found.swap) == {"cds+": "cds-", "cds-": "cds+"}
    signal = answers("track:signal", annotated, sample(window=16, target_length=4), ("regression",))
    assert dict(signal.swap) == {"a": "a"}


def test_a_row_of_a_matrix_is_the_answer_at_its_region(annotated):
    found = answers("matrix:expr", annotated, sample(window=32, **EXPR), ("regression",))
    loader = GenomeLoader(annotated, window=32, batch_size=4, windows=EXPR, split=None)
    values, known = found.of(loader.batch(0, 0))
    assert values.shape == known.shape == (4, len(found.columns))


@pytest.mark.parametrize(
    ("target", "data", "key", "problem"),
    [
        ("labels", {}, "objective.target", "is no table of labelled sequences. Use"),
        ("label", {}, "objective.target", 'there is no target "label". Did you mean "labels"?'),
        ("pool", {}, "objective.target", r"there are no \[\[data.pool\]\] to tell apart"),
        ("track:signals", {}, "objective.target", 'no track "signals"'),
        ("track:signal", {"window": 16}, "data.target_length", 'is one bin of track "signal". Use 4'),
        (
            "track:genes",
            {"window": 5, "target_length": 1},
            "objective.target",
            'are of kind "multilabel", and this asks',
        ),
        ("matrix:expr", {"window": 16}, "objective.target", r'add \[data.regions\] with source = "matrix:expr"'),
        ("track:signal", {"target_length": 4, "packed": True}, "data.packed", "have no answer each"),
        (
            "track:signal",
            {"target_length": 4, "curriculum": [{"epochs": 1, "window": 8}]},
            "data.curriculum",
            "all of one length",
        ),
    ],
)
def test_what_is_not_there_is_refused_with_the_key_that_asks_for_it(annotated, target, data, key, problem):
    with pytest.raises(ConfigError, match=problem) as error:
        answers(target, annotated, sample(**data), ("regression",))
    assert error.value.key == key


def test_labels_of_another_kind_are_refused(tmp_path):
    table = table_store(tmp_path, "binary", {"train": motifs(0, 4)})
    with pytest.raises(ConfigError, match='"labels" are of kind "binary", and this asks for classes or regression'):
        answers("labels", table, sample(), ("classes", "regression"))
