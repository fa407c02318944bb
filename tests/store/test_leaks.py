"""Leakage of any store's split."""

import json

import numpy as np
import pytest

from distgen.config import Recipe, read
from distgen.errors import ConfigError
from distgen.store.build import build
from distgen.store.leaks import leaks
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
