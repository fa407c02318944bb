"""Damage of every kind is found, named and mended."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.config import Recipe, read
from distgen.errors import ConfigError, StoreError
from distgen.store.build import build
from distgen.store.reader import open_store
from distgen.store.repair import repair
from distgen.store.verify import prune, verify
from distgen.store.work import Work


def files(store):
    return sorted(path for path in store.path.rglob("*") if path.is_file())


def test_a_whole_store_is_read_to_the_last_chunk(small):
    found = verify(small)
    assert not found.damage
    assert found.arrays == len(small.manifest["arrays"])
    assert found.chunks == sum(int((~small.array(key).absent).sum()) for key in small.manifest["arrays"])


@given(st.data())
def test_a_flipped_bit_in_any_file_is_found(small, data):
    path = data.draw(st.sampled_from(files(small)))
    whole = path.read_bytes()
    at, bit = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 7))
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
    try:
        damage = verify(open_store(small.path)).damage
    except StoreError as error:
        damage = [("manifest", None, str(error))]
    path.write_bytes(whole)
    key = str(path.relative_to(small.path))
    assert len(damage) == 1
    assert str(path) in damage[0][2] or key == "manifest"
    assert not verify(open_store(small.path)).damage


def test_every_bad_shard_is_named_with_its_bases(ecoli, tmp_path):
    import shutil

    shutil.copytree(ecoli.path, tmp_path / "e.zarr")
    for shard, where in (
        ("sequence/c/0", f"in {ecoli.contigs.names[0]}:0-262144; run"),
        ("contigs/name/c/0/0", "rows 0 to 1;"),
    ):
        path = tmp_path / "e.zarr" / shard
        content = bytearray(path.read_bytes())
        content[10] ^= 1
        path.write_bytes(content)
        assert where in " ".join(sentence for _, _, sentence in verify(open_store(tmp_path / "e.zarr")).damage)
    damage = verify(open_store(tmp_path / "e.zarr")).damage
    assert [(key, shard) for key, shard, _ in damage] == [("contigs/name", 0), ("sequence", 0)]
    assert "bases 0 to 262,144 of all contigs; run distgen repair RECIPE" in damage[1][2]


def test_a_missing_shard_is_named_with_the_contigs_it_holds(small):
    (small.path / "sequence/c/0").unlink()
    (track,) = small.path.glob("tracks/*/values/c/0/0")
    track.unlink()
    plane, track = (sentence for _, _, sentence in verify(open_store(small.path)).damage)
    for sentence in (plane, track):
        assert "in chr1:0-857, chr2:0-900, chr3:0-7; run distgen repair RECIPE" in sentence


def test_metadata_that_is_damaged_says_what_to_run(small):
    (small.path / "zarr.json").write_text("{}")
    (small.path / "contigs/zarr.json").unlink()
    for _, _, sentence in verify(open_store(small.path)).damage:
        assert sentence.endswith("; run distgen repair RECIPE")


def test_a_shard_that_should_not_be_there_is_found_and_taken_away(small_recipe, small):
    (small_recipe.parent / "small.fa").write_text("".join(f">chr{i}\n{'ACGT' * 225}\n" for i in (1, 2, 3, "M")))
    recipe = read(small_recipe, Recipe)
    build(recipe, small.path)
    stray = small.path / "softmask/c/0"
    stray.parent.mkdir(parents=True)
    stray.write_bytes((small.path / "sequence/c/0").read_bytes())
    ((key, shard, sentence),) = verify(open_store(small.path)).damage
    assert (key, shard) == ("softmask", 0)
    assert "there should be no such shard" in sentence
    repair(recipe, small.path)
    assert not stray.exists()


def test_prune_waits_for_no_builder_and_removes_nothing_of_it(small):
    with Work(small.path).locked():
        (small.path / "tracks/new.12345678/values").mkdir(parents=True)
        (small.path / "tracks/new.12345678/values/zarr.json").touch()
        with pytest.raises(ConfigError, match="another build of this store is running"):
            prune(small.path)
        assert (small.path / "tracks/new.12345678").exists()
    assert prune(small.path) == ["tracks/new.12345678"]


@pytest.mark.parametrize("name", ["sequence/c/0", "zarr.json", "sequence/zarr.json", "contigs/zarr.json"])
def test_a_missing_file_is_named(small, name):
    (small.path / name).unlink()
    damage = verify(open_store(small.path)).damage
    assert any(name in sentence or name.removesuffix("/zarr.json") in sentence for _, _, sentence in damage)


def test_what_is_read_is_checked_at_first_touch(small):
    shard = small.path / "sequence/c/0"
    content = bytearray(shard.read_bytes())
    content[3] ^= 8
    shard.write_bytes(content)
    with pytest.raises(StoreError, match="sequence/c/0 is damaged .* run distgen repair"):
        open_store(small.path).planes["sequence"].read()
    assert np.array_equal(open_store(small.path).planes["softmask"].read(), small.planes["softmask"].read())
