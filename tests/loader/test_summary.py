"""What is said of windows against the windows that are served, counted one by one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen import GenomeLoader, kernels
from distgen.config import Lengths, Pool, Recipe, Regions, Windows, read
from distgen.errors import ConfigError
from distgen.loader.summary import summarize
from distgen.store.build import build
from distgen.store.reader import Store, open_store


def stage_of(loader, number=0):
    return summarize({"part": loader.plan})["parts"]["part"]["stages"][number]


def served(loader, epochs):
    """All different windows of some epochs by class: their bases that are N and outside, and the bases of their targets."""
    found = {}
    margin = (loader.plan.sampling(0).geometry.window - loader.plan.sampling(0).geometry.target_length) // 2
    for epoch in epochs:
        for number in range(loader.plan.batches(epoch)):
            batch = loader.batch(epoch, number * loader.batch_size)
            codes = kernels.tokens(**batch.packed)
            limits = batch.limits + (batch.positions - batch.starts)[:, None]
            classes = batch.targets["pool"] if "pool" in batch.targets else np.zeros(len(batch))
            for row in np.flatnonzero(batch.weight).tolist():
                first = int(batch.positions[row]) + margin
                low, high = limits[row].tolist()
                target = range(max(first, low), min(first + batch.target_length, high))
                outside = batch.length - len(range(max(first - margin, low), min(first - margin + batch.length, high)))
                found.setdefault(int(classes[row]), {})[first] = int((codes[row] == 4).sum()), outside, target
    return found


@given(
    window=st.integers(1, 200),
    target=st.integers(1, 200),
    stride=st.integers(1, 200),
    strand=st.sampled_from(["forward", "both"]),
    split=st.sampled_from(["train", "valid", "test"]),
    most=st.sampled_from([0.3, 1.0]),
    last=st.sampled_from(["drop", "pad"]),
)
def test_windows_n_and_coverage_are_those_one_counts(small, window, target, stride, strand, split, most, last):
    target = min(window, target)
    target -= (window - target) % 2
    if not target:
        return
    lengths = {"window": window, "target_length": target, "stride": stride}
    options = {"strand": strand, "split": split, "batch_size": 3, "placement": "host"}
    try:
        loader = GenomeLoader(small, **lengths, **options, last=last, windows=Windows(max_ambiguous=most))
    except ConfigError:
        return
    all_windows = GenomeLoader(small, **lengths, **options, last="pad", windows=Windows(max_ambiguous=most))
    windows = served(all_windows, [0])[0]
    stage = stage_of(loader)
    copies = 2 if strand == "both" else 1
    assert {key: stage[key] for key in ("window", "target_length")} == {"window": window, "target_length": target}
    assert stage["stride"] in (stride, None)
    assert (stage["windows"], stage["samples"]) == (len(windows), len(windows) * copies)
    assert stage["batches"] == sum(1 for _ in loader)
    assert stage["ambiguous"] == pytest.approx(sum(n for n, _, _ in windows.values()) / (len(windows) * window))
    assert stage["outside"] == pytest.approx(sum(n for _, n, _ in windows.values()) / (len(windows) * window))
    assert stage["covered"] == len({base for *_, target in windows.values() for base in target})
    without = stage_of(GenomeLoader(small, **lengths, **options, last="pad"))
    left_out = stage["pools"][""]["left_out"].get("ambiguous", 0)
    assert len(windows) + left_out == without["windows"]


def test_pools_are_told_apart_and_what_is_left_out_of_each_by_reason(small: Store, tmp_path):
    (tmp_path / "peaks.bed").write_text(
        "".join(f"chr1\t{at}\t{at + 20}\n" for at in (100, 107, 300)) + "chr3\t0\t7\nchr9\t1\t2\n"
    )
    (tmp_path / "holes.bed").write_text("chr1\t290\t330\n")
    pools = (
        Pool(name="peaks", source=str(tmp_path / "peaks.bed")),
        Pool(name="matched", matches="peaks", distance=10),
        Pool(name="rest", share=2, distance=10),
    )
    windows = Windows(pool=pools, exclude=(str(tmp_path / "holes.bed"),))
    loader = GenomeLoader(small, window=24, target_length=20, batch_size=4, windows=windows, last="pad")
    stage = stage_of(loader)
    assert list(stage["pools"]) == ["peaks", "matched", "rest"]
    assert stage["pools"]["peaks"]["left_out"] == {"elsewhere": 1, "outside": 1, "excluded": 1}
    assert [pool["samples"] for pool in stage["pools"].values()] == [2, 2, 4]
    assert (stage["samples"], stage["batches"], stage["stride"]) == (8, 2, 20)
    first, every = served(loader, [0]), served(loader, range(40))
    bases = set()
    for number, pool in enumerate(stage["pools"].values()):
        found = (first if number == 1 else every)[number]
        own = {base for *_, target in found.values() for base in target}
        bases |= own
        assert pool["windows"] == len(found)
        assert pool["covered"] == len(own)
        assert pool["ambiguous"] == pytest.approx(sum(n for n, *_ in found.values()) / (24 * len(found)))
    assert stage["covered"] == len(bases)
    weighted = sum(pool["ambiguous"] * pool["samples"] for pool in stage["pools"].values()) / 8
    assert stage["ambiguous"] == pytest.approx(weighted)


def test_windows_that_lie_at_regions_have_no_stride(small: Store, tmp_path):
    (tmp_path / "peaks.bed").write_text("chr1\t100\t200\nchr1\t300\t310\n")
    windows = Windows(regions=Regions(source=str(tmp_path / "peaks.bed")))
    assert stage_of(GenomeLoader(small, window=8, stride=4, batch_size=1, windows=windows))["stride"] is None


def test_each_stage_of_a_curriculum_has_its_own_windows(small: Store):
    curriculum = [Lengths(epochs=2, window=16), Lengths(epochs=1, window=32, stride=64)]
    loader = GenomeLoader(small, window=64, batch_size=4, curriculum=curriculum)
    stages = summarize({"train": loader.plan})["parts"]["train"]["stages"]
    assert [stage["first_epoch"] for stage in stages] == [0, 2, 3]
    for stage in stages:
        assert stage["windows"] == len(loader.plan.sampling(stage["first_epoch"]))
        assert stage["batches"] == loader.plan.batches(stage["first_epoch"])


def table(folder, kind, rows) -> Store:
    (folder / "t.csv").write_text("sequence,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    recipe = f'format = 1\n[sequences]\nname = "t"\nkind = "{kind}"\ntable = "t.csv"\n[split]\ntest = ["1"]\n'
    (folder / "t.toml").write_text(recipe)
    build(read(folder / "t.toml", Recipe), folder / "t.zarr")
    return open_store(folder / "t.zarr")


@pytest.mark.parametrize(
    ("kind", "labels", "expected"),
    [
        ("binary", [1, 0, 0, "", 1], {"classes": {"0": 1, "1": 2}, "missing": 1}),
        ("classes", ["ear", "eye", "eye", "", "ear"], {"classes": {"ear": 2, "eye": 0}, "missing": 1}),
        ("regression", [0.5, 2, 2, "", 3], {"columns": 1, "known": 0.75}),
    ],
)
def test_labels_of_sequences_are_counted_by_class(tmp_path, kind, labels, expected):
    store = table(tmp_path, kind, zip(["ACGTACGT", "AAAA", "CCC", "GATTACA", "ACG"], labels, strict=True))
    counts = expected.get("classes", {})
    plan = GenomeLoader(store, batch_size=2).plan
    found = summarize({"train": plan})["parts"]["train"]["stages"][0]["pools"][""]
    assert found["windows"] == 4
    if kind == "classes":  # the second sequence tests
        counts["eye"] = 1
    assert found["labels"] == {"kind": kind, **expected}


def test_values_of_a_matrix_are_known_or_not(small_recipe, tmp_path):
    (tmp_path / "expr.csv").write_text("id,heart,lung\np2,2.5,\np1,1,3\n")
    (tmp_path / "peaks.bed").write_text("chr1\t205\t240\tp2\t0\t+\nchr1\t0\t10\tp1\t0\t-\n")
    matrix = '[[matrix]]\nname = "expr"\nmatrix = "expr.csv"\nregions = "peaks.bed"\n'
    small_recipe.write_text(small_recipe.read_text() + matrix)
    build(read(small_recipe, Recipe), tmp_path / "small.zarr")
    windows = Windows(regions=Regions(source="matrix:expr", at="tile"))
    loader = GenomeLoader(tmp_path / "small.zarr", window=10, batch_size=1, windows=windows)
    (pool,), stride = stage_of(loader)["pools"].values(), stage_of(loader)["stride"]
    assert (pool["windows"], stride) == (5, 10)
    assert pool["labels"] == {"kind": "regression", "columns": 2, "known": 6 / 10}


@given(st.integers(8, 80), st.integers(0, 60), st.sampled_from([8, 4, 30]), st.booleans())
def test_parts_share_no_base_whatever_the_jitter(small, window, jitter, stride, pools):
    windows = None
    if pools:
        (small.path.parent / "p.bed").write_text("chr1\t100\t120\nchr1\t400\t420\nchr2\t90\t110\nchr2\t780\t790\n")
        peaks = Pool(name="peaks", source=str(small.path.parent / "p.bed"))
        windows = Windows(pool=(peaks, Pool(name="rest"), Pool(name="matched", matches="peaks")))
    options = {"window": window, "stride": stride, "jitter": jitter, "batch_size": 1, "windows": windows}
    plans = {part: GenomeLoader(small, split=part, **options).plan for part in ("train", "valid", "test")}
    overlaps = summarize(plans)["overlaps"]
    assert len(overlaps) == 6
    assert not any(overlap["bases"] for overlap in overlaps)


def test_bases_that_two_parts_share_are_counted(small: Store):
    plans = {part: GenomeLoader(small, split=part, window=32, batch_size=1).plan for part in ("train", "test")}
    plans["valid"] = GenomeLoader(small, split=None, window=8, stride=16, jitter=2, batch_size=1).plan
    shared = {(o["part"], o["other"]): o["bases"] for o in summarize(plans)["overlaps"]}
    assert shared["train", "test"] == shared["test", "train"] == 0
    assert (shared["train", "valid"], shared["test", "valid"]) == (1332, 232)
    # Of each 16 bases jitter reaches 12, but before the first of a contig there are none, and chr3 has 7.
    reached = [p % 16 < 10 or p % 16 >= 14 for p in range(900)]
    assert shared["valid", "test"] == sum(reached[675:]) + 7


def test_a_part_without_windows_says_why(small: Store):
    found = summarize({"valid": ConfigError("no window is left", key="window")})
    assert found == {"parts": {"valid": {"problem": "no window is left"}}, "overlaps": []}
