"""Damage of every kind is found, named and mended."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.errors import StoreError
from distgen.store.reader import open_store
from distgen.store.verify import verify


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
    for shard in ("sequence/c/0", "contigs/name/c/0/0"):
        path = tmp_path / "e.zarr" / shard
        content = bytearray(path.read_bytes())
        content[10] ^= 1
        path.write_bytes(content)
    damage = verify(open_store(tmp_path / "e.zarr")).damage
    assert [(key, shard) for key, shard, _ in damage] == [("contigs/name", 0), ("sequence", 0)]
    assert "bases 0 to 4,938,944 of the flat coordinate" in damage[1][2]


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
