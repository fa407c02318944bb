import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distgen.config import Recipe, read
from distgen.errors import ConfigError
from distgen.store.build import build
from distgen.store.homology import search
from distgen.store.homology.search import Likeness
from distgen.store.homology.tiles import find_pairs, leakage, separate
from distgen.store.reader import open_store

LETTERS = np.frombuffer(b"ACGT", np.uint8)


def store_of(folder, contigs):
    """A store of contigs given as letters."""
    (folder / "g.fa").write_text("".join(f">{name}\n{letters}\n" for name, letters in contigs.items()))
    (folder / "g.toml").write_text('format = 1\n[assembly]\nname = "g"\nfasta = "g.fa"\n')
    build(read(folder / "g.toml", Recipe), folder / "g.zarr")
    return open_store(folder / "g.zarr")


def letters(rng, length):
    return LETTERS[rng.integers(0, 4, length)].tobytes().decode()


def diverged(text, identity, rng):
    codes = np.searchsorted(LETTERS, np.frombuffer(text.encode(), np.uint8))
    changed = rng.random(len(codes)) > identity
    return LETTERS[np.where(changed, (codes + rng.integers(1, 4, len(codes))) % 4, codes)].tobytes().decode()


def turned(text):
    return text[::-1].translate(str.maketrans("ACGT", "TGCA"))


def parts_of(store):
    return {name: store.contigs.regions([name]) for name in store.contigs.names}


def covered(intervals, length):
    flags = np.zeros(length, np.int64)
    for start, end in intervals.tolist():
        flags[start:end] += 1
    return flags


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """train 60 kb; test 30 kb with copies of train[10,000:12,000] at 85 % and, turned, of train[40,000:41,000] at 95 %;
    valid 20 kb with an exact copy of test[1,000:2,000]."""
    rng = np.random.default_rng(5)
    train = letters(rng, 60_000)
    one, other = diverged(train[10_000:12_000], 0.85, rng), turned(diverged(train[40_000:41_000], 0.95, rng))
    test = letters(rng, 5_000) + one + letters(rng, 7_000) + other + letters(rng, 15_000)
    valid = letters(rng, 9_000) + test[1_000:2_000] + letters(rng, 10_000)
    return store_of(tmp_path_factory.mktemp("planted"), {"train": train, "valid": valid, "test": test})


def test_planted_copies_are_found_where_they_are(planted):
    rows, train, test = find_pairs(planted, parts_of(planted)).between("train", "test")
    assert len(rows) > 0
    train, test = (side - planted.contigs.offsets[i] for side, i in ((train, 0), (test, 2)))
    flags = covered(train, 60_000) > 0
    assert flags[10_060:11_940].all()
    assert flags[40_030:40_970].all()
    flags[9_950:12_050] = flags[39_950:41_050] = False
    assert not flags.any()
    flags = covered(test, 30_000) > 0
    assert flags[5_060:6_940].all()
    assert flags[14_030:14_970].all()


def test_strand_identity_and_coverage_are_told(planted):
    pairs = find_pairs(planted, parts_of(planted))
    rows, train, _ = pairs.between("train", "test")
    second = train[:, 0] > 30_000
    assert (pairs.reverse[rows] == second).all()
    assert np.abs(pairs.identity[rows[second]] - 0.95).max() < 0.04
    assert np.abs(pairs.identity[rows[~second]] - 0.85).max() < 0.05
    assert pairs.coverage.min() >= 0.5
    assert pairs.coverage.max() == 1


def test_either_order_of_the_parts_finds_the_same(planted):
    parts = parts_of(planted)
    one, other = find_pairs(planted, parts), find_pairs(planted, dict(reversed(parts.items())))
    assert len(one) == len(other)
    for a, b in (("train", "test"), ("valid", "test"), ("test", "valid")):
        assert sorted(one.between(a, b)[1].tolist()) == sorted(other.between(a, b)[1].tolist())


def test_blocks_of_the_index_find_what_one_block_does(planted, monkeypatch):
    whole = find_pairs(planted, parts_of(planted))
    monkeypatch.setattr(search, "BLOCK", 6000)
    monkeypatch.setattr(search, "OVERLAP", 1024)
    cut = find_pairs(planted, parts_of(planted))
    for a, b in (("train", "test"), ("valid", "test")):
        length = planted.length
        one, other = (covered(pairs.between(a, b)[2], length) > 0 for pairs in (whole, cut))
        assert (one != other).sum() < 20


def test_a_higher_identity_finds_less(planted):
    pairs = find_pairs(planted, parts_of(planted), Likeness(identity=0.99))
    assert len(pairs.between("train", "test")[0]) == 0
    assert len(pairs.between("valid", "test")[0]) > 0


def test_random_sequence_holds_no_pair(tmp_path):
    rng = np.random.default_rng(9)
    store = store_of(tmp_path, {"train": letters(rng, 2_000_000), "test": letters(rng, 500_000)})
    assert len(find_pairs(store, parts_of(store), Likeness(identity=0.7))) == 0


def test_soft_masked_copies_do_not_count(tmp_path):
    rng = np.random.default_rng(3)
    copy = letters(rng, 2_000)
    contigs = {
        name: letters(rng, 5_000) + copy.lower() + letters(rng, 4_000) + copy[:600] for name in ("train", "test")
    }
    store = store_of(tmp_path, contigs)
    pairs = find_pairs(store, parts_of(store))
    assert len(pairs) > 0
    assert pairs.left[:, 0].min() >= 10_900
    assert pairs.right[:, 0].min() - store.contigs.offsets[1] >= 10_900


def test_copies_beyond_the_limit_are_repeats(tmp_path):
    rng = np.random.default_rng(4)
    repeat, pair = letters(rng, 600), letters(rng, 1_000)
    contigs = {
        name: "".join(repeat + letters(rng, 900) for _ in range(20)) + pair + letters(rng, 500)
        for name in ("train", "test")
    }
    store = store_of(tmp_path, contigs)
    parts = parts_of(store)
    everything, unique = (find_pairs(store, parts, Likeness(copies=copies)) for copies in (100, 30))
    assert everything.left[:, 0].min() < 1_000
    assert len(unique) > 0
    assert unique.left[:, 0].min() >= 30_000
    assert leakage(store, parts, Likeness(copies=30))["parts"]["test"]["masked"] == pytest.approx(12_000, rel=0.05)


def test_the_report_counts_each_base_once_in_its_best_band(planted):
    report = leakage(planted, parts_of(planted))
    assert json.loads(json.dumps(report)) == report
    entry = {(e["part"], e["other"]): e for e in report["pairs"]}
    assert entry["test", "train"]["bases"] == pytest.approx(3_000, abs=150)
    assert entry["test", "train"]["share"] == entry["test", "train"]["bases"] / 30_000
    assert entry["test", "train"]["bands"]["90-99 %"] == pytest.approx(1_000, abs=60)
    assert entry["test", "train"]["bands"]["80-90 %"] == pytest.approx(2_000, abs=120)
    assert entry["valid", "test"]["bands"]["99-100 %"] == pytest.approx(1_000, abs=60)
    assert entry["valid", "train"]["bases"] == 0
    assert entry["valid", "train"]["worst"] == []
    worst = entry["test", "train"]["worst"]
    assert {example["reverse"] for example in worst} == {True, False}
    assert all(example["part"].startswith("test:") and example["other"].startswith("train:") for example in worst)
    assert report["parts"]["train"] == {"bases": 60_000, "masked": 0}


@pytest.mark.parametrize("action", ["drop", "move"])
def test_separate_leaves_no_pair_and_takes_from_the_later_part(planted, action):
    parts = parts_of(planted)
    after, report = separate(planted, parts, action=action)
    assert len(find_pairs(planted, after)) == 0
    before, now = (sum(covered(part, planted.length) for part in p.values()) for p in (parts, after))
    assert now.max() == 1
    assert (now <= before).all()
    lost = {name: (covered(parts[name], planted.length) > covered(after[name], planted.length)).sum() for name in parts}
    assert lost == {name: report["dropped"][name] + report["moved"][name] for name in parts}
    assert lost["test"] == 0
    assert lost["train"] > 3_000
    assert lost["valid"] > 1_000
    assert (report["moved"]["train"] > 3_000) == (action == "move")
    assert report["rounds"] >= 2
    assert report["pairs"] > 0


def test_neighbours_widen_what_is_dropped_by_whole_tiles(planted):
    lost = []
    for neighbours in (0, 1, 3):
        after, _ = separate(planted, parts_of(planted), neighbours=neighbours)
        lost.append(60_000 - covered(after["train"], planted.length).sum())
        assert (after["train"][:, 0] % 512 == 0).all()
    assert lost[1] - lost[0] == 2 * 2 * 512
    assert lost[2] - lost[0] == 2 * 6 * 512


def test_keep_says_who_loses(planted):
    after, report = separate(planted, parts_of(planted), keep=("train", "valid", "test"))
    assert report["dropped"]["train"] == 0
    assert report["dropped"]["test"] > 4_000
    assert len(find_pairs(planted, after)) == 0


@settings(max_examples=8)
@given(st.integers(0, 2**32 - 1))
def test_any_split_of_a_repetitive_genome_can_be_separated(tmp_path_factory, seed):
    rng = np.random.default_rng(seed)
    families = [letters(rng, int(rng.integers(300, 900))) for _ in range(3)]
    text = ""
    for _ in range(30):
        copy = diverged(families[rng.integers(3)], rng.uniform(0.75, 1), rng)
        text += letters(rng, int(rng.integers(500, 4_000))) + (turned(copy) if rng.random() < 0.5 else copy)
    store = store_of(tmp_path_factory.mktemp("families"), {"c": text})
    edges = [0, len(text) // 2, len(text) * 3 // 4, len(text)]
    parts = {name: np.array([edges[i : i + 2]], np.int64) for i, name in enumerate(("train", "valid", "test"))}
    for action in ("drop", "move"):
        after, _ = separate(store, parts, action=action)
        assert len(find_pairs(store, after)) == 0
        assert sum(covered(part, store.length) for part in after.values()).max() == 1


def test_touching_intervals_are_searched_across_their_seam(planted):
    parts = parts_of(planted)
    start, end = parts["train"][0].tolist()
    cuts = np.arange(start, end, 200)
    parts["train"] = np.stack([cuts, np.minimum(cuts + 200, end)], axis=1)
    assert len(find_pairs(planted, parts)) == len(find_pairs(planted, parts_of(planted)))


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"identity": 0.5}, "identity is 0.5: use 0.7 to 1"),
        ({"identity": float("nan")}, "identity is nan"),
        ({"coverage": 0.0}, "coverage is 0.0"),
        ({"coverage": 1.1}, "coverage is 1.1"),
        ({"tile": 500}, "tile is 500: use a multiple of 64"),
        ({"tile": 64}, "tile is 64"),
        ({"tile": 128, "coverage": 0.4}, "less than 64 bases"),
        ({"copies": 0}, "copies is 0"),
    ],
)
def test_a_likeness_out_of_range_is_refused(numbers, message):
    with pytest.raises(ConfigError, match=message):
        Likeness(**numbers)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"train": [[0, 100]]}, "needs two parts or more, not train"),
        ({"train": [[0, 100]], "test": [[50, 200]]}, "train and test share train:50-100"),
        (
            {"train": [[0, 100], [90, 200]], "test": [[300, 400]]},
            "interval train:90-200 begins before train:0-100 ends",
        ),
        ({"train": [[500, 600], [0, 100]], "test": [[300, 400]]}, "begins before"),
        ({"train": [[59_000, 60_100]], "test": [[0, 100]]}, "59000-60100 does not lie inside one contig"),
        ({"train": [[-5, 10]], "test": [[20, 100]]}, "does not lie inside"),
        ({"train": [[10, 10]], "test": [[20, 100]]}, "does not lie inside"),
    ],
)
def test_parts_that_make_no_sense_are_refused(planted, parts, message):
    with pytest.raises(ConfigError, match=message):
        find_pairs(planted, {name: np.array(part, np.int64) for name, part in parts.items()})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": ("test", "valid")}, "keep must name each part once"),
        ({"keep": ("test", "test", "train", "valid")}, "keep must name each part once"),
        ({"action": "mvoe"}, 'action "mvoe" is unknown. Did you mean "move"'),
        ({"neighbours": -1}, "neighbours is -1"),
        ({"neighbours": 200}, 'nothing is left of "valid"'),
    ],
)
def test_options_that_make_no_sense_are_refused(planted, options, message):
    with pytest.raises(ConfigError, match=message):
        separate(planted, parts_of(planted), **options)


def test_an_empty_part_resembles_nothing(planted):
    parts = parts_of(planted) | {"valid": np.empty((0, 2), np.int64)}
    report = leakage(planted, parts)
    assert {e["bases"] for e in report["pairs"] if "valid" in (e["part"], e["other"])} == {0}


def test_the_last_tenth_of_e_coli_holds_copies_of_the_rest(ecoli):
    parts = {part: ecoli.regions(part) for part in ("train", "test")}
    entry = next(e for e in leakage(ecoli, parts)["pairs"] if e["part"] == "test")
    assert 0.07 < entry["share"] < 0.12
    after, _ = separate(ecoli, parts)
    assert len(find_pairs(ecoli, after)) == 0
