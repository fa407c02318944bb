"""Collections used: the index that is opened, and the stores behind it."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from distgen.config import Mixture
from distgen.errors import ConfigError, StoreError
from distgen.genome import Interval
from distgen.store.collection import Member, describe, is_index, open_collection
from distgen.store.index import write_index
from distgen.store.reader import open_store
from tests.store.conftest import index_of, tiny_store


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """The index of forty tiny stores, every other one of which has a track."""
    folder = tmp_path_factory.mktemp("many")
    (folder / "stores").mkdir()
    for number in range(40):
        tiny_store(folder, f"g{number:02}", "ACGT"[number % 4] * (number + 3), track=number % 2 == 0)
    return index_of(folder)


def member(number: int, length: int, name: str = "") -> Member:
    mark = number.to_bytes(16, "big")
    return Member(f"stores/{number}.zarr", name or f"g{number}", length, length, 1, mark, mark[::-1])


def test_a_collection_says_what_its_stores_are(stores):
    found = open_collection(index_of(stores))
    assert (found.name, len(found), found.names) == ("all", 3, ("g1", "g2", "g3"))
    assert found.bases.tolist() == [104, 204, 304]
    assert found.contigs.tolist() == [2, 2, 2]
    assert found.offsets.tolist() == [0, 192, 512, 896]
    assert found.weights.tolist() == [104 / 612, 204 / 612, 304 / 612]
    for row, name in enumerate(found.names):
        assert found.index(name) == row
        assert found.store(row).name == name
        assert found.store(row).length == np.diff(found.offsets)[row]
        assert found.store(row).sequence(Interval(f"{name}-2", 0, 4)) == "ACGT"


def test_opening_a_collection_touches_no_store(stores):
    index = index_of(stores)
    shutil.rmtree(stores / "stores")
    found = open_collection(index)
    assert found.names == ("g1", "g2", "g3")
    with pytest.raises(StoreError, match=r"collection .*all\.collection: store .*g2\.zarr does not exist"):
        found.store(1)


def test_the_index_is_read_by_zarr_alone(stores):
    group = zarr.open_group(index_of(stores), mode="r")
    assert group.attrs["distgen"] == {"format": 1, "collection": "all"}
    ends = group["name_offset"][:].tolist()
    assert [group["name"][a:b].tobytes().decode() for a, b in itertools.pairwise(ends)] == ["g1", "g2", "g3"]
    assert np.diff(group["base_offset"][:]).tolist() == [104, 204, 304]
    assert group["weight"][:].sum() == 1


@settings(max_examples=25)
@given(st.lists(st.integers(1, 500), min_size=1, max_size=30), st.data())
def test_locate_equals_walking_along_the_stores(tmp_path_factory, lengths, draw):
    folder = tmp_path_factory.mktemp("index") / "a.collection"
    write_index(folder, Mixture(name="a"), [member(i, n) for i, n in enumerate(lengths)], [1.0] * len(lengths))
    found = open_collection(folder)
    expected = [(row, position) for row, length in enumerate(lengths) for position in range(length)]
    flat = draw.draw(st.lists(st.integers(0, sum(lengths) - 1), max_size=20))
    rows, positions = found.locate(np.array(flat, np.int64))
    assert list(zip(rows.tolist(), positions.tolist(), strict=True)) == [expected[f] for f in flat]
    assert tuple(map(int, found.locate(sum(lengths) - 1))) == expected[-1]
    for outside in (-1, sum(lengths)):
        with pytest.raises(ConfigError, match=f"no base {outside:,}$"):
            found.locate([0, outside])


@settings(max_examples=25)
@given(st.lists(st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"])), min_size=1, unique=True))
def test_names_and_paths_of_any_letters_come_back(tmp_path_factory, names):
    folder = tmp_path_factory.mktemp("index") / "a.collection"
    members = [member(i, 5, f"g{name}") for i, name in enumerate(names)]
    write_index(folder, Mixture(name="a"), members, [1.0] * len(names))
    found = open_collection(folder)
    assert list(found.members(0, len(names))) == members
    assert [found.member(row) for row in range(len(names))] == members


def test_what_a_collection_lacks_is_said(stores):
    found = open_collection(index_of(stores))
    with pytest.raises(ConfigError, match='has no store "g4"'):
        found.index("g4")
    for row in (-1, 3):
        with pytest.raises(ConfigError, match=f"has 3 stores, no store {row}"):
            found.store(row)
    with pytest.raises(
        ConfigError, match=r"collection .*al\.collection does not exist.*Did you mean \".*all\.collection"
    ):
        open_collection(stores / "al.collection")


def test_a_store_and_a_collection_are_not_taken_for_each_other(stores):
    index, store = index_of(stores), stores / "stores" / "g1.zarr"
    assert (is_index(index), is_index(store), is_index(stores / "nowhere")) == (True, False, False)
    with pytest.raises(ConfigError, match="is the store of one assembly, no collection: open it with open_store"):
        open_collection(store)
    with pytest.raises(ConfigError, match="is a collection of stores, not one: open it with open_collection"):
        open_store(index)


# ---- how many stay open -----------------------------------------------------------------------


def mapped(folder: Path) -> set[str]:
    """The files below a folder that this process has mapped."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.split(maxsplit=5)[5] for line in lines if str(folder.resolve()) in line}


def touch(store) -> None:
    """Map everything that a loader would."""
    assert len(store.contigs) == 2
    for array in (*store.planes.values(), *(block for track in store.tracks.values() for block in track.blocks)):
        array.read()


@settings(max_examples=10)
@given(st.lists(st.integers(0, 39), min_size=1, max_size=40), st.integers(1, 60))
def test_no_more_files_are_mapped_than_allowed(many, rows, max_files):
    found = open_collection(many, max_files)
    folder, most = many.parent / "stores", 0
    for row in rows:
        touch(found.store(row))
        assert found.store(row).name == f"g{row:02}"
        most = max(most, len(mapped(folder)))
    shards = 9  # of a tiny store, some of which have no file
    assert 0 < most <= max(max_files, shards)


def test_stores_are_counted_by_their_files(many):
    found = open_collection(many, 72)
    large, small = range(0, 40, 2), range(1, 40, 2)  # of 9 shards and of 8
    for rows, remain in ((large, 8), (small, 9), (large, 8)):
        stores = [found.store(row) for row in rows]
        assert [found.store(row) for row in rows[-remain:]] == stores[-remain:]
        assert found.store(rows[-remain - 1]) is not stores[-remain - 1]


def test_the_stores_used_last_stay_open(many):
    found = open_collection(many, 27)
    first, second = found.store(0), found.store(1)
    found.store(2)
    assert found.store(0) is first
    found.store(3)
    assert found.store(0) is first
    assert found.store(1) is not second


def test_one_store_stays_open_however_large(many):
    found = open_collection(many, 1)
    assert found.store(5) is found.store(5)


# ---- faults -----------------------------------------------------------------------------------


def test_a_store_that_was_built_anew_is_refused_until_the_index_is(stores):
    index = index_of(stores)
    found = open_collection(index)
    tiny_store(stores, "g2", "CCCC")
    for collection in (found, open_collection(index)):
        with pytest.raises(StoreError, match=r"g2\.zarr is not what was indexed.*Run: distgen build COLLECTION\.toml"):
            collection.store(1)
    assert found.store(0).name == "g1"
    index_of(stores)
    assert open_collection(index).store(1).sequence(Interval("g2-1", 0, 4)) == "CCCC"


def test_only_ambiguous_bases_that_changed_are_noticed(stores):
    index = index_of(stores)
    tiny_store(stores, "g1", "GNTT" * 25)
    with pytest.raises(StoreError, match=r"g1\.zarr is not what was indexed"):
        open_collection(index).store(0)


def test_a_track_more_makes_no_other_store(stores):
    index = index_of(stores)
    tiny_store(stores, "g2", "GATT" * 50, track=True)
    assert list(open_collection(index).store(1).tracks) == ["peaks"]


def test_a_damaged_store_is_named(stores):
    found = open_collection(index_of(stores))
    manifest = stores / "stores/g3.zarr/manifest"
    manifest.write_bytes(manifest.read_bytes().replace(b'"g3"', b'"g4"'))
    with pytest.raises(StoreError, match=r"collection .*: store .*g3\.zarr: the manifest is damaged"):
        found.store(2)
    manifest.unlink()
    with pytest.raises(StoreError, match=r"collection .*: store .*g3\.zarr has no manifest"):
        found.store(2)


def test_every_flipped_byte_of_an_index_is_found_at_opening(many, tmp_path):
    index = tmp_path / "all.collection"
    shutil.copytree(many, index)
    rng = np.random.default_rng(0)
    for path in [p for p in index.rglob("*") if p.is_file() and p.name != "zarr.json"]:
        whole = path.read_bytes()
        for _ in range(10):
            flipped = bytearray(whole)
            flipped[int(rng.integers(len(whole)))] ^= 1 << int(rng.integers(8))
            path.write_bytes(flipped)
            with pytest.raises(StoreError, match="damaged|cannot be read|has format"):
                open_collection(index)
        path.unlink()
        with pytest.raises((StoreError, ConfigError), match="damaged|has (no|lost its) manifest"):
            open_collection(index)
        path.write_bytes(whole)
    assert open_collection(index).names == open_collection(many).names


def test_an_index_that_is_replaced_leaves_who_has_opened_it_alone(stores):
    found = open_collection(index_of(stores))
    shutil.rmtree(stores / "stores" / "g1.zarr")
    index_of(stores)
    assert found.names == ("g1", "g2", "g3")
    assert found.store(found.index("g3")).name == "g3"


def test_info_describes_every_store(stores):
    found = describe(open_collection(index_of(stores, 'stores = "stores/*.zarr"\nweights = "equal"')))
    assert (found["bases"], found["contigs"]) == (612, 6)
    assert found["stores"]["g2"] == {"path": "stores/g2.zarr", "bases": 204, "contigs": 2, "weight": 1 / 3}
