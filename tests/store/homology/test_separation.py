"""Splits of recipes that ask for homology: what a build makes of them."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from distgen.config import Recipe, read
from distgen.errors import ConfigError
from distgen.store.build import build
from distgen.store.homology.leaks import leaks
from distgen.store.homology.separation import cost
from distgen.store.reader import open_store
from distgen.store.verify import describe, verify
from tests.conftest import ROOT
from tests.store.homology.test_tiles import diverged, letters, turned

TABLE = 'format = 1\n[sequences]\nname = "t"\nkind = "binary"\n'


def write(folder, sequences, parts=None):
    head = "sequence,label,part\n" if parts else "sequence,label\n"
    rows = [f"{s},{i % 2}" + (f",{parts[i]}" if parts else "") for i, s in enumerate(sequences)]
    (folder / "t.csv").write_text(head + "\n".join(rows) + "\n")


def built(folder, text, **options):
    (folder / "t.toml").write_text(text)
    build(read(folder / "t.toml", Recipe), folder / "t.zarr", **options)
    return open_store(folder / "t.zarr")


def shares(store, split="default"):
    return {(pair["part"], pair["other"]): pair["share"] for pair in leaks(store, split)["pairs"]}


def families_of(rng, count, size):
    ancestors = [letters(rng, 150) for _ in range(count)]
    made = [diverged(one, 0.93, rng) for one in ancestors for _ in range(size)]
    return [turned(one) if i % 3 == 0 else one for i, one in enumerate(made)]


@pytest.fixture
def named(tmp_path):
    """10 sequences to test, 10 to validate, 40 to train: rows 12 and 13 resemble test, 21 is a valid one, 22 and 23 test."""
    rng = np.random.default_rng(3)
    sequences = [letters(rng, 120) for _ in range(60)]
    sequences[12], sequences[13] = sequences[1], diverged(sequences[2], 0.92, rng)
    sequences[21], sequences[22] = turned(sequences[14]), turned(diverged(sequences[5], 0.9, rng))
    sequences[23] = sequences[6]
    write(tmp_path, sequences, ["test"] * 10 + ["valid"] * 10 + ["train"] * 40)
    return tmp_path


OWN = TABLE + 'table = "t.csv"\nsplit = "part"\n'


def test_sequences_of_a_later_part_are_dropped(named):
    assert max(shares(built(named, OWN)).values()) > 0
    store = built(named, OWN + "[split]\nhomology = { identity = 0.8 }\n")
    assert set(shares(store).values()) == {0}
    assert store.manifest["homology"]["default"]["report"]["dropped"] == {"test": 0, "valid": 2, "train": 3}
    rows = {part: store.contigs.locate(store.regions(part)[:, 0]).tolist() for part in ("train", "valid", "test")}
    assert rows["test"] == list(range(10))
    assert rows["valid"] == [10, 11, *range(14, 20)]
    assert rows["train"] == [20, *range(24, 60)]
    assert not verify(store).damage
    assert not describe(store)["unused"]


def test_or_moved_to_the_part_that_they_resemble(named):
    store = built(named, OWN + '[split.homology]\naction = "move"\n')
    assert set(shares(store).values()) == {0}
    rows = {part: store.contigs.locate(store.regions(part)[:, 0]).tolist() for part in ("valid", "test")}
    assert rows == {"test": [*range(10), 12, 13, 22, 23], "valid": [10, 11, *range(14, 20), 21]}


def test_the_split_without_homology_stays_beside_the_one_with_it(named):
    both = OWN + '[splits.apart]\ntest = ["0", "1", "2", "5", "6"]\nhomology = {}\n'
    store = built(named, both)
    assert max(shares(store).values()) > 0
    assert set(shares(store, "apart").values()) == {0}


@pytest.mark.parametrize("how", ["fraction = { valid = 0.1, test = 0.2 }", "folds = 5"])
def test_families_of_a_drawn_split_stay_together(tmp_path, how):
    write(tmp_path, families_of(np.random.default_rng(4), 30, 6))
    text = TABLE + f'table = "t.csv"\n[split]\n{how}\n'
    plain = built(tmp_path, text)
    assert max(shares(plain, next(iter(plain.manifest["splits"]))).values()) > 0.5
    store = built(tmp_path, text + "homology = { identity = 0.8 }\n")
    tests = []
    for name in store.manifest["splits"]:
        parts = {part: store.contigs.locate(store.regions(part, name)[:, 0]) for part in ("train", "valid", "test")}
        assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(180))
        assert all(len({row // 6 for row in rows.tolist()}) * 6 == len(rows) for rows in parts.values())
        assert set(shares(store, name).values()) == {0}
        tests.append(len(parts["test"]))
    assert tests == ([36] if "fraction" in how else [36] * 5)
    assert store.manifest["homology"][name]["report"]["families"] == 30


def test_a_family_larger_than_the_part_is_named(tmp_path):
    write(tmp_path, families_of(np.random.default_rng(4), 3, 10))
    text = TABLE + 'table = "t.csv"\n[split]\nfraction = { test = 0.1 }\nhomology = {}\n'
    message = r"t\.toml:7: split\.fraction: every family .* is larger than 0\.1 of the table, test's share"
    with pytest.raises(ConfigError, match=message):
        built(tmp_path, text)
    with pytest.raises(ConfigError, match=r"3 families of sequences that resemble each other make no 4 folds"):
        built(tmp_path, text.replace("fraction = { test = 0.1 }", "folds = 4"))


def test_a_part_of_which_nothing_is_left_is_named(tmp_path):
    rng = np.random.default_rng(5)
    one = letters(rng, 100)
    write(tmp_path, [one, one, letters(rng, 100)], ["train", "test", "test"])
    with pytest.raises(ConfigError, match=r'split\.homology: nothing is left of "train": all of it resembles "test"'):
        built(tmp_path, OWN + "[split]\nhomology = {}\n")


@pytest.mark.data
def test_promoters_that_differ_by_few_mutations_are_199_families(data, tmp_path):
    file = data / "sequences/yeast_promoter_mpra/Native_complex.csv.gz"
    text = (
        f'format = 1\n[sequences]\nname = "t"\nkind = "regression"\ntable = "{file}"\nlabel = "Measured Expression"\n'
    )
    store = built(tmp_path, text + "[split]\nfraction = { test = 0.3 }\nhomology = {}\n")
    assert store.manifest["homology"]["default"]["report"]["families"] == 199
    assert set(shares(store).values()) == {0}
    assert 1_050 < len(store.regions("test")) < 1_150


@pytest.mark.data
def test_splice_sites_that_stand_in_several_genes_are_tested_once(data, tmp_path):
    text = (ROOT / "shards/recipes/uci-splice.toml").read_text()
    text = text.replace("identity = 1.0\ncoverage = 1.0", "identity = 0.8\ncoverage = 0.5")
    store = built(tmp_path, text)
    assert 2_500 < store.manifest["homology"]["default-0"]["report"]["families"] < 2_800
    assert all(set(shares(store, f"default-{fold}").values()) == {0} for fold in (0, 3))


def assembly(folder):
    rng = np.random.default_rng(6)
    copy = letters(rng, 4_000)
    contigs = {"a": letters(rng, 90_000) + copy + letters(rng, 30_000), "b": letters(rng, 20_000) + turned(copy)}
    (folder / "g.fa").write_text("".join(f">{name}\n{text}\n" for name, text in contigs.items()))
    return 'format = 1\n[assembly]\nname = "g"\nfasta = "g.fa"\n[split]\ntest = ["b"]\nhomology = { identity = 0.8 }\n'


@pytest.mark.parametrize("what", ["assembly", "table"])
def test_tasks_on_several_threads_make_the_same_store(tmp_path, what):
    """Tasks in any order, each of them twice: what a pool may do."""
    if what == "table":
        write(tmp_path, families_of(np.random.default_rng(4), 12, 3))
    text = assembly(tmp_path) if what == "assembly" else TABLE + 'table = "t.csv"\n[split]\nfolds = 3\nhomology = {}\n'

    def execute(tasks, progress):
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda task: task(progress), tasks[::-1]))
            return list(pool.map(lambda task: task(progress), tasks))

    alone = (built(tmp_path, text).path / "manifest").read_bytes()
    assert (built(tmp_path, text, force=True, execute=execute, parallel=3).path / "manifest").read_bytes() == alone


def test_a_search_that_is_published_is_not_made_again(tmp_path, monkeypatch):
    first = built(tmp_path, assembly(tmp_path))
    assert first.manifest["homology"]["default"]["report"]["dropped"]["train"] > 4_000
    monkeypatch.setattr("distgen.store.homology.separation._search", None)
    (tmp_path / "x.bed").write_text("a\t1\t9\n")
    again = built(tmp_path, assembly(tmp_path) + '[[track]]\nname = "x"\nsource = "x.bed"\n')
    assert again.manifest["splits"] == first.manifest["splits"]
    assert again.manifest["homology"] == first.manifest["homology"]


def test_the_cost_grows_with_the_genome_and_not_its_memory(tmp_path):
    (tmp_path / "t.toml").write_text(assembly(tmp_path))
    recipe = read(tmp_path / "t.toml", Recipe)
    small, large = cost(recipe, 10**8), cost(recipe, 3 * 10**9)
    assert large[0] > 20 * small[0]
    assert small[1] <= large[1] < 2**30
    assert cost(recipe, 3 * 10**9, 2)[0] == large[0] / 2
    (tmp_path / "t.toml").write_text(assembly(tmp_path).replace("homology = { identity = 0.8 }", ""))
    assert cost(read(tmp_path / "t.toml", Recipe), 10**9) == (0, 0)
