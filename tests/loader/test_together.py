"""What is said of a mixture's windows against the batches that it serves, counted one by one."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distgen import kernels
from distgen.config import Lengths, Recipe, Windows, read
from distgen.errors import ConfigError
from distgen.loader.mixture import MixtureLoader
from distgen.loader.summary import summarize
from distgen.loader.together import summarize_mixture
from distgen.store import collection as collections
from distgen.store.build import build
from distgen.store.collection import open_collection
from tests.store.conftest import index_of, tiny_store

SIZES = (90, 150, 400)


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    """Three genomes with N, of which all but g1 test on something."""
    folder = tmp_path_factory.mktemp("together")
    (folder / "stores").mkdir()
    random = np.random.default_rng(3)
    for number, size in enumerate(SIZES):
        name = f"g{number}"
        letters = "".join("ACGTN"[code] for code in np.repeat(random.integers(0, 5, size // 5), 5))
        tiny_store(folder, name, letters)
        recipe = folder / f"{name}.toml"
        test = "" if number == 1 else f'test = ["{name}-1:20-70"]'
        recipe.write_text(recipe.read_text() + f'[split]\nvalid = ["{name}-2"]\n{test}\n')
        build(read(recipe, Recipe), folder / "stores" / f"{name}.zarr")
    return open_collection(index_of(folder, 'stores = "stores/*.zarr"\ntemperature = 0.5'))


def walked(loader, epoch=0):
    """Batches of an epoch by store; and of all its windows by store and start: N and bases outside, and their targets."""
    batches, windows = Counter(), {}
    margin = (loader.make(epoch, [0]).batches[0].length - loader.make(epoch, [0]).batches[0].target_length) // 2
    for number in range(loader.plan.batches(epoch)):
        batch = loader.batch(epoch, number * loader.batch_size)
        name = loader.source(epoch, number * loader.batch_size)
        batches[name] += 1
        codes = kernels.tokens(**batch.packed)
        limits = batch.limits + (batch.positions - batch.starts)[:, None]
        for row in np.flatnonzero(batch.weight).tolist():
            start, (low, high) = int(batch.positions[row]), limits[row].tolist()
            first = start + margin
            target = range(max(first, low), min(first + batch.target_length, high))
            outside = batch.length - len(range(max(start, low), min(start + batch.length, high)))
            windows[name, start] = int((codes[row] == 4).sum()), outside, target
    return batches, windows


@settings(max_examples=20)
@given(st.integers(1, 60), st.integers(0, 10), st.integers(1, 50), st.sampled_from(["train", "test"]))
def test_of_stores_served_whole_all_is_said_as_one_counts(collection, target, extra, stride, split):
    window = target + 2 * extra
    options = {"window": window, "target_length": target, "stride": stride, "batch_size": 3, "split": split}
    loader = MixtureLoader(collection, order="sequential", last="pad", **options)
    found = summarize_mixture({split: loader})
    batches, windows = walked(loader)
    (stage,), part = found["parts"][split]["stages"], found["parts"][split]
    assert part["stores"] == len(batches) == (2 if split == "test" else 3)
    assert part["epoch_batches"] == stage["batches"] == sum(batches.values())
    assert stage["windows"] == stage["samples"] == len(windows)
    assert stage["covered"] == len({(name, base) for (name, _), (*_, bases) in windows.items() for base in bases})
    for key, column in (("ambiguous", 0), ("outside", 1)):
        expected = sum(found[column] for found in windows.values()) / len(windows) / window
        assert (stage[key], stage["pools"][""][key]) == (pytest.approx(expected), pytest.approx(expected))
    assert {name: store["parts"][split]["served"] for name, store in found["stores"].items()} == batches


@given(st.integers(1, 40), st.integers(0, 9), st.sampled_from(["forward", "both"]))
def test_a_store_is_said_to_have_what_it_has_alone_and_its_turns_are_counted(collection, epoch, seed, strand):
    options = {"window": 16, "batch_size": 4, "seed": seed, "strand": strand}
    loader = MixtureLoader(collection, epoch_batches=epoch, **options)
    found = summarize_mixture({"train": loader})
    turns = Counter(loader.source(0, number * 4) for number in range(epoch))
    for row, (name, store) in enumerate(found["stores"].items()):
        entry = store["parts"]["train"]
        assert entry.pop("served") == turns[name]
        assert entry.pop("share") == pytest.approx(collection.weights[row])
        alone = summarize({"train": loader.loader(row).plan})
        assert store == alone | {"path": str(collection.store(row).path), "homology": None}
    (stage,) = found["parts"]["train"]["stages"]
    assert found["parts"]["train"]["epoch_batches"] == epoch
    own = [store["parts"]["train"]["stages"][0] for store in found["stores"].values()]
    assert stage["ambiguous"] == pytest.approx(collection.weights @ [entry["ambiguous"] for entry in own])
    for key in ("windows", "samples", "batches", "covered"):
        assert stage[key] == sum(entry[key] for entry in own)
    assert json.loads(json.dumps(found)) == found


def test_pools_are_told_apart_across_stores_and_so_are_stages(collection, tmp_path):
    peaks = [f"g{number}-1\t{at}\t{at + 4}\n" for number in range(3) for at in (3, 75, 82)]
    (tmp_path / "peaks.bed").write_text("".join(peaks))
    windows = Windows(
        pool=({"name": "peaks", "source": str(tmp_path / "peaks.bed")}, {"name": "rest", "share": 2.0, "distance": 10})
    )
    curriculum = (Lengths(epochs=1, window=4),)
    loader = MixtureLoader(collection, window=8, batch_size=2, windows=windows, curriculum=curriculum)
    found = summarize_mixture({"train": loader})
    stages = found["parts"]["train"]["stages"]
    assert [(stage["first_epoch"], stage["window"]) for stage in stages] == [(0, 4), (1, 8)]
    for number, stage in enumerate(stages):
        own = [store["parts"]["train"]["stages"][number]["pools"] for store in found["stores"].values()]
        for name, pool in stage["pools"].items():
            left_out = sum((Counter(pools[name]["left_out"]) for pools in own), Counter())
            assert pool["left_out"] == left_out
            assert pool["windows"] == sum(pools[name]["windows"] for pools in own)
        assert stage["pools"]["peaks"]["left_out"]["elsewhere"] == 18  # each store's peaks are not on the others
        assert stage["pools"]["rest"]["samples"] == 2 * stage["pools"]["peaks"]["samples"]


def test_bases_that_parts_share_in_any_store_are_added_up(collection):
    options = {"window": 8, "stride": 8, "batch_size": 1}
    parts = {"train": MixtureLoader(collection, **options)}
    parts["valid"] = MixtureLoader(collection, split=None, order="sequential", **options)
    found = summarize_mixture(parts)
    shared = {(overlap["part"], overlap["other"]): overlap["bases"] for overlap in found["overlaps"]}
    trained = sum(size // 5 * 5 for size in SIZES) - 2 * 50
    assert shared == {("train", "valid"): trained, ("valid", "train"): trained}


def tables(folder, *kinds):
    """A collection of tables of sequences, each with labels of its own kind."""
    (folder / "stores").mkdir()
    for number, (kind, rows) in enumerate(kinds):
        text = "".join(f"{sequence},{label}\n" for sequence, label in rows)
        (folder / f"t{number}.csv").write_text(f"sequence,label\n{text}")
        recipe = f'format = 1\n[sequences]\nname = "t{number}"\nkind = "{kind}"\ntrain = "t{number}.csv"\n'
        (folder / f"t{number}.toml").write_text(recipe)
        build(read(folder / f"t{number}.toml", Recipe), folder / "stores" / f"t{number}.zarr")
    return open_collection(index_of(folder))


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        (
            [("binary", [("ACGT", 1), ("AC", 0)]), ("binary", [("ACGTACGT", 1), ("AC", ""), ("A", 1)])],
            {"kind": "binary", "classes": {"0": 1, "1": 3}, "missing": 1},
        ),
        (
            [("regression", [("ACGT", 1), ("AC", "")]), ("regression", [("ACGTACGT", 1), ("AC", 2)])],
            {"kind": "regression", "columns": 1, "known": 0.75},
        ),
        ([("regression", [("ACGT", 1), ("AC", 2)]), ("binary", [("ACGTACGT", 1), ("AC", 0)])], None),
    ],
)
def test_labels_of_one_kind_are_counted_together_and_lengths_that_differ_are_left_out(tmp_path, kinds, expected):
    loader = MixtureLoader(tables(tmp_path, *kinds), batch_size=1)
    (stage,) = summarize_mixture({"train": loader})["parts"]["train"]["stages"]
    assert stage["pools"][""]["labels"] == expected
    assert (stage["window"], stage["target_length"], stage["stride"]) == (None, None, None)


def test_of_many_stores_some_are_counted_and_of_a_part_without_windows_why_is_said(collection, monkeypatch):
    monkeypatch.setattr(collections, "OPENED", 2)
    loader = MixtureLoader(collection, window=16, batch_size=4, epoch_batches=12)
    found = summarize_mixture({"train": loader, "valid": ConfigError("no window is left", key="window")})
    assert (found["members"], list(found["stores"])) == (3, ["g0", "g1"])
    assert found["parts"]["valid"] == {"problem": "no window is left"}
    assert found["overlaps"] == []
    served = [store["parts"]["train"]["served"] for store in found["stores"].values()]
    assert sum(served) < found["parts"]["train"]["epoch_batches"] == 12
