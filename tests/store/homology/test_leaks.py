"""Leakage of any store's split."""

import json

import numpy as np
import pytest

from distgen.config import Recipe, read
from distgen.errors import ConfigError
from distgen.genome import Interval
from distgen.store.build import build
from distgen.store.homology.leaks import leaks, leaks_against
from distgen.store.reader import open_store

COMPLEMENT = str.maketrans("ACGT", "TGCA")


def letters(rng, n):
    return "".join(rng.choice(list("ACGT"), n))


def test_a_table_of_sequences_says_which_stand_in_another_part(tmp_path):
    rng = np.random.default_rng(0)
    train = [letters(rng, 150) for _ in range(40)]
    test = [letters(rng, 150) for _ in range(8)]
    test[2], test[5] = train[7], train[9][::-1].translate(COMPLEMENT)
    for part, rows in (("train", train), ("test", test)):
        (tmp_path / f"{part}.csv").write_text(
            "sequence,label\n" + "".join(f"{s},{i % 2}\n" for i, s in enumerate(rows))
        )
    (tmp_path / "a.toml").write_text(
        'format = 1\n[sequences]\nname = "a"\nkind = "binary"\ntrain = "train.csv"\ntest = "test.csv"\n'
    )
    build(read(tmp_path / "a.toml", Recipe), tmp_path / "a.zarr")
    found = leaks(open_store(tmp_path / "a.zarr"))
    (pair,) = [pair for pair in found["pairs"] if (pair["part"], pair["other"]) == ("test", "train")]
    assert len(pair["exact"]) == 2
    assert pair["share"] == 0.25
    assert json.loads(json.dumps(found)) == found


def test_an_assembly_says_how_many_bases_resemble_another_part(tmp_path):
    rng = np.random.default_rng(1)
    repeat = letters(rng, 3000)
    contigs = {"a": letters(rng, 30_000) + repeat + letters(rng, 9_000), "b": letters(rng, 9_000) + repeat}
    (tmp_path / "a.fa").write_text("".join(f">{name}\n{s}\n" for name, s in contigs.items()))
    (tmp_path / "a.toml").write_text(
        'format = 1\n[assembly]\nname = "a"\nfasta = "a.fa"\n[split]\ntest = ["b"]\n'
        '[splits.apart]\ntest = ["b"]\nhomology = { identity = 0.8 }\n'
    )
    build(read(tmp_path / "a.toml", Recipe), tmp_path / "a.zarr")
    store = open_store(tmp_path / "a.zarr")
    bases = {(pair["part"], pair["other"]): pair["bases"] for pair in leaks(store)["pairs"]}
    assert bases[("test", "train")] == pytest.approx(3000, abs=300)
    assert all(pair["bases"] == 0 for pair in leaks(store, "apart")["pairs"])
    with pytest.raises(ConfigError, match='no split "aprt".*Did you mean "apart"'):
        leaks(store, "aprt")


def store_of(folder, name, sequences, kind):
    """A store of an assembly or of a table, all of it in `train` but the last sequence, which tests."""
    if kind == "assembly":
        (folder / f"{name}.fa").write_text("".join(f">{name}{i}\n{s}\n" for i, s in enumerate(sequences)))
        source = f'[assembly]\nname = "{name}"\nfasta = "{name}.fa"\n[split]\ntest = ["{name}{len(sequences) - 1}"]\n'
    else:
        (folder / f"{name}.csv").write_text("sequence,label\n" + "".join(f"{s},1.5\n" for s in sequences))
        source = (
            f'[sequences]\nname = "{name}"\nkind = "regression"\ntable = "{name}.csv"\n'
            f'[split]\ntest = ["{len(sequences) - 1}"]\n'
        )
    (folder / f"{name}.toml").write_text(f"format = 1\n{source}")
    build(read(folder / f"{name}.toml", Recipe), folder / f"{name}.zarr")
    return open_store(folder / f"{name}.zarr")


@pytest.fixture
def kin(tmp_path):
    """A genome whose last contig holds, turned, 3,000 bases of another genome; and a table with three pieces of these,
    one of 30 bases, and others."""
    rng = np.random.default_rng(7)
    shared = letters(rng, 3000)
    one = [letters(rng, 40_000), letters(rng, 9_000) + shared[::-1].translate(COMPLEMENT) + letters(rng, 8_000)]
    other = [letters(rng, 20_000) + shared, letters(rng, 50_000)]
    pieces = [shared[100:300], letters(rng, 200), shared[500:700], shared[40:70], letters(rng, 200), shared[900:1100]]
    return (
        store_of(tmp_path, "one", one, "assembly"),
        store_of(tmp_path, "other", other, "assembly"),
        store_of(tmp_path, "pieces", pieces, "table"),
    )


def parts_of(found):
    assert json.loads(json.dumps(found)) == found
    return {entry["part"]: entry for entry in found["parts"]}


def test_an_assembly_against_another_tells_bases_of_both(kin):
    one, other, _ = kin
    found = leaks_against(one, other)
    assert (found["unit"], found["other_unit"]) == ("bases", "bases")
    parts = parts_of(found)
    assert parts["train"]["found"] == parts["train"]["other_found"] == 0
    assert parts["test"]["found"] == pytest.approx(3000, abs=100)
    assert parts["test"]["share"] == parts["test"]["found"] / 20_000
    assert parts["test"]["other_found"] == pytest.approx(3000, abs=100)
    assert parts["test"]["other_total"] == 73_000
    worst = parts["test"]["worst"][0]
    assert worst["part"].startswith("one1:")
    assert worst["other"].startswith("other0:")
    assert worst["reverse"]


def test_a_table_against_an_assembly_tells_sequences_and_bases(kin):
    one, _, pieces = kin
    found = leaks_against(pieces, one)
    assert (found["unit"], found["other_unit"], found["short"]) == ("sequences", "bases", 1)
    parts = parts_of(found)
    assert (parts["train"]["found"], parts["train"]["total"], parts["test"]["found"]) == (2, 5, 1)
    assert parts["train"]["other_found"] == pytest.approx(400, abs=8)
    turned = parts_of(leaks_against(one, pieces))
    assert (turned["train"]["other_found"], turned["test"]["other_found"]) == (0, 3)
    assert turned["test"]["found"] == pytest.approx(600, abs=12)


def test_a_table_against_a_table_counts_what_is_the_same_and_what_is_similar(kin, tmp_path):
    rng = np.random.default_rng(8)
    pieces = kin[2]
    rows = [pieces.sequence(Interval(str(row), 0, int(size))) for row, size in enumerate(pieces.contigs.lengths)]
    others = [rows[3], rows[0][::-1].translate(COMPLEMENT), letters(rng, 60) + rows[5][:140], letters(rng, 300)]
    found = leaks_against(pieces, store_of(tmp_path, "others", others, "table"))
    parts = parts_of(found)
    assert (parts["train"]["found"], parts["train"]["other_found"]) == (2, 2)
    assert (parts["test"]["found"], parts["test"]["other_found"], parts["test"]["share"]) == (1, 1, 1.0)
    assert found["short"] == 2


def test_a_split_that_is_not_there_is_named(kin):
    with pytest.raises(ConfigError, match='no split "defualt".*Did you mean "default"'):
        leaks_against(kin[0], kin[1], "defualt")
