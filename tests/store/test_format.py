import base64
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from distgen.errors import StoreError
from distgen.store import format
from distgen.store.array import Array
from distgen.store.format import Layout, ShardWriter


def write(folder, values, chunk=4, shard=12, codec="raw", sparse=False, piece=5, fill=0):
    """Write an array with small chunks, at most `piece` rows at a time."""
    layout = Layout(values.shape, values.dtype, chunk, shard, codec, fill)
    entries = []
    for number in range(layout.shards):
        writer = ShardWriter(folder / layout.key(number), layout, sparse=sparse)
        for first in range(number * shard, min((number + 1) * shard, len(values)), piece):
            writer.write(values[first : min(first + piece, (number + 1) * shard)])
        entries.append(writer.close())
    return format.finish_array(folder, layout, entries)


def check(array):
    """Verify all shards."""
    for number in range(array.layout.shards):
        for _ in array.verify_shard(number):
            pass
    return array.has_content_id()


@st.composite
def arrays(draw):
    rows = draw(st.integers(1, 60))
    shape = (rows, draw(st.integers(1, 3))) if draw(st.booleans()) else (rows,)
    dtype = draw(st.sampled_from([np.uint8, np.int64, np.float32]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = rng.integers(0, 250, shape).astype(dtype)
    values[rng.random(rows) < draw(st.sampled_from([0.0, 0.9]))] = 0
    return values


@given(
    arrays(), st.sampled_from(["raw", "zstd"]), st.booleans(), st.integers(1, 9), st.integers(0, 60), st.integers(0, 60)
)
def test_what_is_written_is_read_by_us_and_by_zarr(tmp_path_factory, values, codec, sparse, piece, start, stop):
    folder = tmp_path_factory.mktemp("array")
    entry = write(folder, values, codec=codec, sparse=sparse, piece=piece)
    array = Array(folder, entry)
    assert check(array)
    assert np.array_equal(array.read(), values)
    assert np.array_equal(array[start:stop], values[start:stop])
    assert np.array_equal(zarr.open_array(str(folder), mode="r")[:], values)
    assert array.empty == (sparse and not values.any())


def test_chunks_of_zeros_are_not_stored(tmp_path):
    values = np.zeros(100, np.uint8)
    values[50] = 1
    entry = write(tmp_path, values, sparse=True)
    assert entry["absent"] == [[0, 12], [13, 12]]
    assert [p.name for p in sorted((tmp_path / "c").iterdir())] == ["4"]
    assert (tmp_path / "c" / "4").stat().st_size == 4 + 3 * 16 + 4


def test_a_raw_shard_without_gaps_is_mapped_not_copied(tmp_path):
    values = np.arange(48, dtype=np.uint8)
    array = Array(tmp_path, write(tmp_path, values, shard=48))
    assert array.read().base is not None
    assert np.shares_memory(array.read(), array.read())


def test_what_is_missing_is_not_zero(tmp_path):
    values = np.full((40, 2), np.nan, np.float32)
    values[17] = 0
    entry = write(tmp_path, values, codec="zstd", sparse=True, fill=float("nan"))
    assert entry["absent"] == [[0, 4], [5, 5]]
    array = Array(tmp_path, entry)
    assert check(array)
    assert np.array_equal(array.read(), values, equal_nan=True)
    assert np.array_equal(zarr.open_array(str(tmp_path), mode="r")[:], values, equal_nan=True)


def test_equal_content_is_equal_bytes_and_equal_id(tmp_path):
    values = np.arange(100, dtype=np.int64)
    one, other = write(tmp_path / "a", values, piece=3), write(tmp_path / "b", values, piece=100)
    assert one == other
    files = [p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file()]
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)
    values[99] = 0
    assert write(tmp_path / "c", values)["id"] != one["id"]


@pytest.mark.parametrize("codec", ["raw", "zstd"])
@given(position=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_every_flipped_bit_is_found_and_named(tmp_path_factory, codec, position, bit):
    folder = tmp_path_factory.mktemp("array")
    values = np.random.default_rng(1).integers(0, 255, 100).astype(np.uint8)
    entry = write(folder, values, codec=codec)
    shard = folder / "c" / "3"
    content = bytearray(shard.read_bytes())
    content[position % len(content)] ^= 1 << bit
    shard.write_bytes(content)
    array = Array(folder, entry)
    with pytest.raises(StoreError, match=r"c/3 is damaged .* in rows (36|40|44) to (40|44|48)"):
        check(array)
    assert np.array_equal(array[:36], values[:36])
    with pytest.raises(StoreError, match="is damaged"):
        array.read()


@pytest.mark.parametrize(
    "spoil", [lambda p: p.unlink(), lambda p: p.write_bytes(b""), lambda p: p.write_bytes(p.read_bytes()[:-9])]
)
def test_a_missing_or_short_shard_is_named(tmp_path, spoil):
    array = Array(tmp_path, write(tmp_path, np.arange(100, dtype=np.uint8)))
    spoil(tmp_path / "c" / "2")
    with pytest.raises(StoreError, match="c/2 is damaged"):
        array.read()


def test_another_layout_is_refused(tmp_path):
    zarr.create_array(str(tmp_path), shape=(100,), chunks=(10,), dtype="u1")
    with pytest.raises(StoreError, match="no array of a distgen store"):
        Array(tmp_path, {"id": "", "metadata": format.read_json(tmp_path / "zarr.json"), "crc32c": "", "absent": []})


def test_checksums_are_crc32c(tmp_path):
    entry = write(tmp_path, np.frombuffer(b"123456789", np.uint8), chunk=9, shard=9)
    assert np.frombuffer(base64.b64decode(entry["crc32c"]), "<u4").tolist() == [0xE3069283]
    assert format.crc32c(b"123456789") == 0xE3069283


def test_metadata_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    format.write_json(tmp_path / "a", {"old": 1})

    def killed(path, data):
        path.touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", killed)
    with pytest.raises(KeyboardInterrupt):
        format.write_json(tmp_path / "a", {"new": 2})
    assert format.read_json(tmp_path / "a") == {"old": 1}
