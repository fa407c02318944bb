"""The index of a collection built: from which stores, with which weights, and again."""

import math
import os
import shutil
import subprocess
import sys
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.config import Collection as CollectionFile
from distgen.config import read
from distgen.errors import ConfigError, DistgenError, SourceError, StoreError
from distgen.store import index as module
from distgen.store.collection import Member, open_collection
from distgen.store.index import build_index
from distgen.store.work import Work
from tests.store.conftest import index_of, tiny_store


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def opened_while(monkeypatch, work) -> list[str]:
    """The names of the stores that are opened while an index is built."""
    names, original = [], module.open_member
    monkeypatch.setattr(module, "open_member", lambda path: names.append(path.name) or original(path))
    work()
    monkeypatch.undo()
    return names


# ---- which stores -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        'stores = "stores/*.zarr"',
        'stores = "**/g?.zarr"',
        'stores = "list.txt"',
        '[[store]]\npath = "stores/g1.zarr"\n[[store]]\npath = "stores/g2.zarr"\n[[store]]\npath = "stores/g3.zarr"',
    ],
)
def test_stores_are_named_by_a_glob_a_list_or_one_by_one(stores, text):
    (stores / "list.txt").write_text("# three\nstores/g1.zarr\n\n  stores/../stores/g2.zarr  \n./stores/g3.zarr\n")
    found = open_collection(index_of(stores, text))
    assert [m.path for m in found.members(0, 3)] == [f"stores/g{n}.zarr" for n in (1, 2, 3)]
    assert found.names == ("g1", "g2", "g3")


def test_the_order_of_a_list_is_kept(stores):
    (stores / "list.txt").write_text("stores/g3.zarr\nstores/g1.zarr\n")
    assert open_collection(index_of(stores, 'stores = "list.txt"')).names == ("g3", "g1")


def test_environment_variables_make_absolute_paths(stores, monkeypatch):
    monkeypatch.setenv("GENOMES", str(stores / "stores"))
    for text in ('stores = "$GENOMES/*1.zarr"', '[[store]]\npath = "${GENOMES}/g1.zarr"'):
        found = open_collection(index_of(stores, text))
        assert [m.path for m in found.members(0, 1)] == [str(stores / "stores" / "g1.zarr")]
        assert found.store(0).name == "g1"


def test_relative_paths_survive_moving_the_whole_tree(stores, monkeypatch):
    (stores / "deep" / "lists").mkdir(parents=True)
    index = index_of(stores / "deep" / "lists", 'stores = "../../stores/*.zarr"')
    assert index.parent == stores / "deep" / "lists"
    moved = stores.with_name(stores.name + "-moved")
    stores.rename(moved)
    monkeypatch.chdir(moved / "deep")
    found = open_collection("lists/all.collection")
    monkeypatch.chdir("/")
    assert [found.store(row).name for row in range(3)] == ["g1", "g2", "g3"]
    assert found.member(0).path == "../../stores/g1.zarr"


def test_an_index_elsewhere_finds_its_stores(stores):
    config = stores / "all.toml"
    config.write_text('format = 1\n[collection]\nname = "all"\nstores = "stores/*.zarr"\n')
    (stores / "other").mkdir()
    out = build_index(read(config, CollectionFile), stores / "other" / "x.collection")
    assert open_collection(out).member(0).path == "../stores/g1.zarr"
    assert open_collection(out).store(2).name == "g3"


# ---- weights ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("", [104, 204, 304]),
        ('weights = "bases"', [104, 204, 304]),
        ('weights = "equal"', [1, 1, 1]),
        ("temperature = 0.5", [math.sqrt(104), math.sqrt(204), math.sqrt(304)]),
        ("temperature = 0", [1, 1, 1]),
        ("temperature = 1", [104, 204, 304]),
    ],
)
def test_a_rule_gives_the_weights(stores, rule, expected):
    found = open_collection(index_of(stores, f'stores = "stores/*.zarr"\n{rule}')).weights
    assert found.tolist() == pytest.approx([w / sum(expected) for w in expected], rel=1e-15)


def test_weights_may_be_given_one_by_one(stores):
    text = "".join(f'[[store]]\npath = "stores/g{n}.zarr"\nweight = {w}\n' for n, w in ((1, 2), (2, 0.5), (3, 7.5)))
    assert open_collection(index_of(stores, text)).weights.tolist() == [0.2, 0.05, 0.75]


@given(st.lists(st.integers(1, 10**13), min_size=1, max_size=20), st.integers(0, 20))
def test_temperature_is_the_power_of_the_bases_to_the_last_bit(bases, twentieths):
    config = CollectionFile.model_validate(
        {"format": 1, "collection": {"name": "a", "stores": "*", "temperature": twentieths / 20}}
    )
    found = module._weights(config, [Member("p", "n", b, b, 1, b"", b"") for b in bases])
    for b, weight in zip(bases, found, strict=True):
        # The exact root lies between the neighbours of the float: no rounding on the way was visible.
        below, above = Fraction(math.nextafter(weight, 0)), Fraction(math.nextafter(weight, math.inf))
        assert below**20 < b**twentieths < above**20


# ---- again ------------------------------------------------------------------------------------


def test_the_same_stores_give_the_same_bytes(stores):
    index = index_of(stores)
    before = tree(index)
    other = stores.with_name(stores.name + "-other")
    shutil.copytree(stores, other)
    shutil.rmtree(other / "all.collection")
    for path in other.rglob("manifest"):
        os.utime(path, (1, 1))
    assert tree(index_of(other)) == before
    assert [p.name for p in other.iterdir() if p.name.startswith(".")] == []


def test_only_stores_that_changed_are_opened_again(stores, monkeypatch):
    every = ["g1.zarr", "g2.zarr", "g3.zarr"]
    assert opened_while(monkeypatch, lambda: index_of(stores)) == every
    inode = (stores / "all.collection").stat().st_ino
    assert opened_while(monkeypatch, lambda: index_of(stores)) == []
    assert (stores / "all.collection").stat().st_ino == inode
    tiny_store(stores, "g2", "CCCC")
    tiny_store(stores, "g4", "GGGG")
    assert opened_while(monkeypatch, lambda: index_of(stores)) == ["g2.zarr", "g4.zarr"]
    again = tree(stores / "all.collection")
    config = read(stores / "all.toml", CollectionFile)
    assert opened_while(monkeypatch, lambda: build_index(config, force=True)) == [*every, "g4.zarr"]
    assert tree(stores / "all.collection") == again
    assert open_collection(stores / "all.collection").bases.tolist() == [104, 8, 304, 8]


def test_a_damaged_index_is_built_anew(stores):
    index = index_of(stores)
    before = tree(index)
    for name in ("manifest", "weight/c/0", "id/c/0/0"):
        (index / name).write_bytes(b"x" + (index / name).read_bytes()[1:])
        index_of(stores)
        assert tree(index) == before


def test_progress_counts_stores(stores):
    index_of(stores)
    done = []
    build_index(read(stores / "all.toml", CollectionFile), progress=done.append)
    assert sum(done) == 3


# ---- refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"all\.toml: name the stores either by collection\.stores or by \[\[store\]\] tables"),
        ('stores = "*"\n[[store]]\npath = "a"', "name the stores either by"),
        ('stores = "*"\nweights = "base"', r'all\.toml:5: collection\.weights: "base" is none.*Did you mean "bases"'),
        ('stores = "*"\nweights = "bases"\ntemperature = 0.5', r"weights and temperature say the same"),
        ('stores = "*"\ntemperature = 2', r"all\.toml:5: collection\.temperature: .*less than or equal to 1, not 2"),
        ('stores = "*"\ntemprature = 1', r'there is no key "temprature" here\. Did you mean "temperature"'),
        ('[[store]]\npath = "a"\nwieght = 1', r'all\.toml:6: store\[0\].*no key "wieght".*Did you mean "weight"'),
        ('[[store]]\npath = "a"\nweight = 0', r"all\.toml:6: store\[0\]\.weight: "),
        ('[[store]]\npath = "a"\nweight = inf', r"store\[0\]\.weight: "),
        ('[[store]]\npath = "a"\nweight = nan', r"store\[0\]\.weight: "),
        ('[[store]]\npath = "a"\nweight = 1\n[[store]]\npath = "b"', r"store\[1\] has no weight"),
        ('weights = "equal"\n[[store]]\npath = "a"\nweight = 1', r"every \[\[store\]\] has a weight"),
        ('stores = "nothing/*"', r'all\.toml:4: collection\.stores: "nothing/\*" gives no store'),
        ('stores = "empty.txt"', r'collection\.stores: "empty\.txt" gives no store'),
        ('stores = "$NO_SUCH_PLACE/*"', r"collection\.stores: .* needs \$NO_SUCH_PLACE, which is not set"),
        (
            '[[store]]\npath = "stores/g1.zarr"\n[[store]]\npath = "stores/../stores/g1.zarr"',
            r"all\.toml:7: store\[1\]\.path: store stores/\.\./stores/g1\.zarr is named twice",
        ),
        ('[[store]]\npath = "stores/g1.zarr"\n[[store]]\npath = "copy.zarr"', 'stores .* are both called "g1"'),
    ],
)
def test_a_collection_that_makes_no_sense_is_refused(stores, text, message):
    (stores / "empty.txt").write_text("# nothing\n\n")
    shutil.copytree(stores / "stores" / "g1.zarr", stores / "copy.zarr")
    with pytest.raises(ConfigError, match=message):
        index_of(stores, text)
    assert not [p for p in stores.iterdir() if "collection" in p.name]


def test_a_list_that_is_none_is_refused(stores):
    with pytest.raises(SourceError, match=r"nowhere\.txt cannot be read \(No such file"):
        index_of(stores, 'stores = "nowhere.txt"')
    (stores / "binary").write_bytes(b"\xff\xfe\0")
    with pytest.raises(SourceError, match="binary is no text"):
        index_of(stores, 'stores = "binary"')


def test_stores_that_cannot_be_used_are_counted_and_named(stores):
    index = index_of(stores)
    before = tree(index)
    (stores / "stores/g1.zarr/manifest").write_text("{")
    (stores / "stores/g2.zarr/manifest").unlink()
    shard = stores / "stores/g3.zarr/contigs/length/c/0"
    (stores / "stores/g3.zarr/manifest").write_bytes((stores / "stores/g3.zarr/manifest").read_bytes() + b"\n")
    shard.write_bytes(b"\1" + shard.read_bytes()[1:])
    text = 'stores = "list.txt"'
    (stores / "list.txt").write_text("".join(f"stores/g{n}.zarr\n" for n in (1, 2, 3, 4)))
    with pytest.raises(
        StoreError, match=r"4 of 4 stores are not usable: .*g1.*; .*g2.*; .*g3.*length.*; \.\.\.$"
    ) as shown:
        index_of(stores, text)
    assert "\n" not in str(shown.value)
    (stores / "list.txt").write_text("stores/g4.zarr\n")
    with pytest.raises(StoreError, match=r"1 of 1 stores .*g4\.zarr does not exist$"):
        index_of(stores, text)
    assert tree(index) == before


def test_a_collection_in_a_collection_is_refused(stores):
    index_of(stores)
    (stores / "two.toml").write_text('format = 1\n[collection]\nname = "two"\nstores = "*.collection"\n')
    with pytest.raises(StoreError, match=r"all\.collection is a collection of stores, not one"):
        build_index(read(stores / "two.toml", CollectionFile))


def test_what_is_no_index_is_not_overwritten(stores):
    before = tree(stores / "stores" / "g1.zarr")
    index_of(stores)
    config = read(stores / "all.toml", CollectionFile)
    with pytest.raises(ConfigError, match="exists and is no collection's index"):
        build_index(config, stores / "stores" / "g1.zarr")
    with pytest.raises(ConfigError, match="exists and is no collection's index"):
        build_index(config, stores / "stores")
    assert tree(stores / "stores" / "g1.zarr") == before


def test_a_builder_that_died_between_the_renames_leaves_an_index(stores):
    index = index_of(stores)
    before = tree(index)
    index.rename(stores / ".all.collection.old")
    index_of(stores)
    assert tree(index) == before
    assert not (stores / ".all.collection.old").exists()


def test_two_builders_do_not_meet(stores):
    index_of(stores)
    tiny_store(stores, "g4", "GGGG")
    with Work(stores / "all.collection").locked(), pytest.raises(DistgenError, match="another build"):
        index_of(stores)
    assert len(open_collection(stores / "all.collection")) == 3


# ---- the command line -------------------------------------------------------------------------


def distgen(*arguments, cwd, expect=0):
    done = subprocess.run(
        [sys.executable, "-m", "distgen.cli", *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == expect, done.stderr
    return done.stderr if expect else done.stdout


def test_build_and_info_from_the_command_line(stores):
    assert "temperature" in distgen("schema", "collection", cwd=stores)
    (stores / "all.toml").write_text('format = 1\n[collection]\nname = "all"\nstores = "stores/*.zarr"\n')
    shutil.rmtree(stores / "stores" / "g1.zarr")
    assert "all: an index" in distgen("build", "all.toml", "--dry-run", cwd=stores)
    assert not (stores / "all.collection").exists()
    assert "all.collection: 2 stores, 508 bases" in distgen("build", "all.toml", cwd=stores)
    shown = distgen("info", "all.collection", cwd=stores)
    assert "59.843% of the samples; 304 bases; stores/g3.zarr" in shown
    (stores / "stores/g2.zarr/manifest").unlink()
    message = distgen("build", "all.toml", cwd=stores, expect=1)
    assert message.startswith("error: collection all.toml: 1 of 2 stores are not usable: store stores/g2.zarr")
    assert message.count("\n") == 1
