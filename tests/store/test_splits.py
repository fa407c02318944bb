"""Splits of every kind: disjoint, reproducible, and as far apart as asked."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.config import Drawn, Split
from distgen.errors import ConfigError
from distgen.genome import Contigs, intersect
from distgen.store.splits import PARTS, intervals, resolve, table

LENGTHS = np.array([1_000_000, 640_000, 5_000, 77, 333_333])
OFFSETS = np.cumsum(-(-LENGTHS // 64) * 64) - -(-LENGTHS // 64) * 64
CONTIGS = Contigs(("chr1", "chr2", "chr3", "chr4", "chr5"), LENGTHS, OFFSETS, ("",) * 5)


def size(intervals):
    return int((intervals[:, 1] - intervals[:, 0]).sum())


def split(**keys):
    return resolve("s", Split(**keys), CONTIGS, Path)


def assert_disjoint(parts):
    assert set(parts) == set(PARTS)
    for one, other in (("train", "valid"), ("train", "test"), ("valid", "test")):
        assert not len(intersect(parts[one], parts[other]))


def distance(one, other):
    """Bases between the nearest intervals of two tables on one contig."""
    gaps = [
        max(b[0] - a[1], a[0] - b[1])
        for a in one.tolist()
        for b in other.tolist()
        if CONTIGS.locate(a[0]) == CONTIGS.locate(b[0])
    ]
    return min(gaps, default=1 << 60)


@given(st.floats(0, 0.4), st.floats(0, 0.4), st.integers(1_000, 200_000), st.sampled_from([0, 100]), st.integers(0, 5))
def test_drawn_parts_are_disjoint_apart_and_about_as_large_as_asked(valid, test, block, buffer, seed):
    parts = split(fraction=Drawn(valid=valid, test=test), block_bp=block, buffer_bp=buffer, seed=seed)["s"]
    assert_disjoint(parts)
    whole = int(LENGTHS.sum())
    assert test * whole <= size(parts["test"]) <= test * whole + block
    if not buffer:
        assert sum(size(part) for part in parts.values()) == whole
        assert valid * whole - block <= size(parts["valid"]) <= valid * whole + block
    elif block > 300:
        assert distance(parts["train"], parts["test"]) >= buffer
        assert distance(parts["train"], parts["valid"]) >= buffer
        assert distance(parts["valid"], parts["test"]) >= buffer


@pytest.mark.parametrize(
    ("keys", "train"),
    [
        ({}, [[0, int(OFFSETS[4] + LENGTHS[4])]]),
        ({"test": ("chr3",)}, [[0, int(OFFSETS[1] + LENGTHS[1])], [int(OFFSETS[3]), int(OFFSETS[4] + LENGTHS[4])]]),
        ({"test": ("chr1:0-9",)}, [[9, int(OFFSETS[4] + LENGTHS[4])]]),
        ({"train": ("chr1:0-9", "chr2")}, [[0, 9], [int(OFFSETS[1]), int(OFFSETS[1] + LENGTHS[1])]]),
        ({"fraction": Drawn(valid=0.2, test=0.2), "block_bp": 5_000}, None),
    ],
)
def test_the_manifest_says_contigs_in_a_row_as_one_stretch_and_gives_their_intervals_back(keys, train):
    parts = split(**keys)["s"]
    said = table(parts, CONTIGS)
    assert train is None or said["train"] == train
    for part in PARTS:
        assert np.array_equal(intervals(said[part], CONTIGS), parts[part])
        assert np.array_equal(intervals(parts[part].tolist(), CONTIGS), parts[part]), "as stores before said it"


def test_a_draw_depends_on_the_seed_and_on_nothing_else():
    drawn = Drawn(valid=0.2, test=0.2)
    one, other = (split(fraction=drawn, block_bp=10_000, seed=seed)["s"] for seed in (1, 2))
    assert table(one, CONTIGS)["id"] != table(other, CONTIGS)["id"]
    assert table(one, CONTIGS) == table(split(fraction=drawn, block_bp=10_000, seed=1)["s"], CONTIGS)


@pytest.mark.parametrize(
    "keys",
    [{"fraction": Drawn(valid=0.1, test=0.1)}, {"folds": 3}, {"test": ("held.bed",)}],
    ids=["drawn", "folds", "named"],
)
def test_blocks_of_one_part_that_touch_are_one_so_that_windows_lie_across_the_seam(tmp_path, keys):
    (tmp_path / "held.bed").write_text("chr1\t100\t200\nchr1\t200\t300\n")
    drawn = {} if "test" in keys else {"block_bp": 10_000}
    for parts in resolve("s", Split(**keys, **drawn), CONTIGS, lambda name: tmp_path / name).values():
        for part in parts.values():
            touching = part[1:, 0] == part[:-1, 1]
            assert not (touching & (CONTIGS.locate(part[1:, 0]) == CONTIGS.locate(part[:-1, 0]))).any()


@pytest.mark.parametrize("block", [None, 20_000])
def test_folds_hold_every_base_once_and_take_turns(block):
    found = split(folds=5, block_bp=block)
    assert list(found) == [f"s-{number}" for number in range(5)]
    for number, parts in enumerate(found.values()):
        assert_disjoint(parts)
        assert sum(size(part) for part in parts.values()) == LENGTHS.sum()
        assert np.array_equal(parts["valid"], found[f"s-{(number + 1) % 5}"]["test"])
    tested = np.concatenate([parts["test"] for parts in found.values()])
    assert size(tested) == LENGTHS.sum()
    if block:
        assert max(map(size, (p["test"] for p in found.values()))) - LENGTHS.sum() / 5 < block


def test_a_bed_file_names_a_part(tmp_path):
    (tmp_path / "held.bed").write_text("chr1\t100\t200\nchr1\t150\t300\n2\t0\t64\n")
    parts = split(valid=(str(tmp_path / "held.bed"),), test=("chr5",))["s"]
    assert parts["valid"].tolist() == [[100, 300], [int(OFFSETS[1]), int(OFFSETS[1]) + 64]]
    assert_disjoint(parts)
    assert sum(map(size, parts.values())) == LENGTHS.sum()


def test_a_buffer_belongs_to_no_part_and_stays_in_its_contig():
    parts = split(test=("chr1:500000-600000", "chr2"), valid=("chr1:0-1000",), buffer_bp=50_000)["s"]
    assert parts["train"].tolist()[:2] == [[51_000, 450_000], [650_000, 1_000_000]]
    assert [int(OFFSETS[2]), int(OFFSETS[2]) + 5_000] in parts["train"].tolist()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"folds": 6}, "folds: 5 contigs make no 6 folds; set block_bp"),
        ({"fraction": Drawn(valid=0.45, test=0.5), "block_bp": 1_000_000}, "fraction: .*lower block_bp"),
        ({"valid": ("chr1",), "test": ("chr1:5-9",)}, "test: shares chr1:5-9 with valid"),
        ({"test": ("chr*",)}, "train: valid, test and what lies within buffer_bp of them leave nothing to train on"),
        ({"valid": ("chr1",), "test": ("chr2", "chr3", "chr4", "chr5")}, "train: .* leave nothing"),
        ({"folds": 3, "block_bp": 1_000, "buffer_bp": 10_000}, "train: .* leave nothing"),
    ],
)
def test_what_cannot_be_is_refused(keys, message):
    with pytest.raises(ConfigError, match=message):
        split(**keys)
