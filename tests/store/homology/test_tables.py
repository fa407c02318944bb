import csv
import gzip
import json

import numpy as np
import pytest

from distgen.errors import ConfigError
from distgen.store.homology.search import Likeness
from distgen.store.homology.tables import table_leakage
from tests.store.homology.test_tiles import diverged, letters, turned


def entry(report, part, other):
    return next(e for e in report["pairs"] if (e["part"], e["other"]) == (part, other))


@pytest.fixture
def table():
    """100 random sequences to train on; test: an exact copy, a turned one, a copy at 90 %, half a copy, a third of
    one, and a random one."""
    rng = np.random.default_rng(2)
    train = [letters(rng, 150) for _ in range(100)]
    test = [
        train[3],
        turned(train[5]),
        diverged(train[7], 0.9, rng),
        turned(train[9][:90]) + letters(rng, 60),
        train[11][:50] + letters(rng, 100),
        letters(rng, 150),
    ]
    return train + test, ["train"] * 100 + ["test"] * 6


def test_copies_are_told_from_likenesses(table):
    report = table_leakage(*table)
    assert json.loads(json.dumps(report)) == report
    found = entry(report, "test", "train")
    assert found["exact"] == [100, 101]
    assert found["similar"] == [102, 103]
    assert found["share"] == 4 / 6
    assert [(e["row"], e["other_row"], e["reverse"]) for e in found["worst"]] == [(103, 9, True), (102, 7, False)]
    assert report["parts"]["train"] == {"sequences": 100, "unique": 100, "short": 0}


def test_the_other_direction_answers_for_the_other_part(table):
    found = entry(table_leakage(*table), "train", "test")
    assert (found["exact"], found["similar"]) == ([3, 5], [7, 9])


def test_coverage_and_identity_decide(table):
    assert entry(table_leakage(*table, Likeness(coverage=0.8)), "test", "train")["similar"] == [102]
    assert entry(table_leakage(*table, Likeness(identity=0.97)), "test", "train")["similar"] == [103]
    assert entry(table_leakage(*table, Likeness(coverage=0.3)), "test", "train")["similar"] == [102, 103, 104]


def test_case_does_not_matter_and_other_letters_are_ambiguous():
    report = table_leakage(["ACGTRAAC", "acgtnaac", "ACGTAAAC"], ["train", "test", "test"])
    assert entry(report, "test", "train")["exact"] == [1]
    assert report["parts"]["test"] == {"sequences": 2, "unique": 2, "short": 2}


def test_sequences_of_one_part_are_not_compared(table):
    sequences, _ = table
    report = table_leakage([*sequences, letters(np.random.default_rng(8), 150)], ["train"] * 106 + ["test"])
    assert entry(report, "test", "train")["exact"] == entry(report, "test", "train")["similar"] == []
    assert report["parts"]["train"]["unique"] == 104


def test_a_family_larger_than_the_limit_of_places_is_found_all_the_same():
    rng = np.random.default_rng(6)
    one = letters(rng, 110)
    sequences = [diverged(one, 0.97, rng) for _ in range(300)]
    found = entry(table_leakage(sequences, ["train"] * 250 + ["test"] * 50), "test", "train")
    assert len(found["exact"]) + len(found["similar"]) == 50


@pytest.mark.parametrize(
    ("sequences", "parts", "message"),
    [
        (["ACGT", "ACGT"], ["train"], "2 sequences but parts for 1"),
        (["ACGT", "ACGT"], ["train", "train"], "needs two parts or more, not train"),
        ([], [], "not none"),
        (["A" * 70_000, "ACGT"], ["train", "test"], "sequence 0 has 70,000 bases"),
    ],
)
def test_tables_that_make_no_sense_are_refused(sequences, parts, message):
    with pytest.raises(ConfigError, match=message):
        table_leakage(sequences, parts)


@pytest.mark.data
def test_core_promoters_of_the_benchmark_stand_in_train_too(data):
    sequences, parts = [], []
    for part in ("train", "test"):
        with gzip.open(data / f"sequences/gue_prom_core_tata/{part}.csv.gz", "rt") as file:
            rows = [row["sequence"] for row in csv.DictReader(file)]
        sequences, parts = sequences + rows, parts + [part] * len(rows)
    found = entry(table_leakage(sequences, parts), "test", "train")
    assert len(found["exact"]) == 16
    assert 36 <= len(found["exact"]) + len(found["similar"]) < 80


@pytest.mark.data
def test_independent_enhancers_stand_in_train_too(data):
    sequences, parts = [], []
    for path in sorted((data / "sequences/ienhancer/layer1").glob("*.fa")):
        records = ["".join(record.split("\n")[1:]) for record in path.read_text().split(">")[1:]]
        sequences, parts = sequences + records, parts + [path.name.split("_")[0]] * len(records)
    found = entry(table_leakage(sequences, parts), "test", "train")
    assert len(found["exact"]) == 100
    assert 110 <= len(found["exact"]) + len(found["similar"]) <= 140
