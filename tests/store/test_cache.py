"""What a cache gives is what lies elsewhere, whatever was evicted, damaged or shared meanwhile."""

import errno
import fcntl
import logging
import os
import pickle
import tempfile
import threading
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distgen import config
from distgen.config import Recipe, read
from distgen.errors import ConfigError, RemoteError, StoreError
from distgen.genome import Interval
from distgen.ingest.objects import Object, locate
from distgen.store import cache, ranges
from distgen.store.array import Array
from distgen.store.build import build
from distgen.store.cache import ShardCache
from distgen.store.format import Layout, ShardWriter, array_entry
from distgen.store.reader import open_store
from distgen.store.verify import verify
from tests.ingest.test_remote import moto_server, quick, s3  # noqa: F401 - fixtures
from tests.servers import Files

CHUNK, PER = 1000, 8
SIZE = CHUNK * PER + PER * 16 + 4  # of a raw shard


def publish(folder, values, codec="raw", sparse=False):
    """An array of bytes in small shards, and its manifest entry."""
    layout = Layout(values.shape, values.dtype, CHUNK, CHUNK * PER, codec)
    entries = []
    for number in range(layout.shards):
        writer = ShardWriter(folder / layout.key(number), layout, sparse=sparse)
        writer.write(values[number * layout.shard : (number + 1) * layout.shard])
        entries.append(writer.close())
    return array_entry(layout, entries)


VALUES = np.random.default_rng(0).integers(0, 4, 5 * CHUNK * PER + 2345, np.uint8)  # six shards
VALUES[2 * CHUNK * PER + 500 : 4 * CHUNK * PER] = 0  # the fourth has nothing


@pytest.fixture
def server(tmp_path):
    with Files(tmp_path / "remote") as files:
        yield files


@pytest.fixture(params=["raw", "zstd"])
def codec(request):
    return request.param


@pytest.fixture
def entry(tmp_path, codec):
    return publish(tmp_path / "remote", VALUES, codec, sparse=True)


def there(server, entry, kept):
    return Array(Object(server.url, RemoteError), entry, cache=kept)


def files(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != "lock")


def disk(folder):
    """The bytes of the files in a folder at one time: none came or went while they were counted."""
    while True:
        with suppress(FileNotFoundError):
            found = {path: path.stat().st_size for path in folder.iterdir()}
            if found.keys() == set(folder.iterdir()):
                return sum(found.values())


@settings(max_examples=15)
@given(st.lists(st.tuples(st.integers(0, len(VALUES)), st.integers(0, 3 * CHUNK * PER)), max_size=8), st.data())
def test_any_slices_are_those_of_the_array_and_never_more_is_kept_than_allowed(server, entry, tmp_path, spans, data):
    bound = data.draw(st.integers(SIZE, 4 * SIZE))
    kept = ShardCache(tempfile.mkdtemp(dir=tmp_path), bound)
    array = there(server, entry, kept)
    for start, length in spans:
        if data.draw(st.booleans()):
            kept.prefetch(array, data.draw(st.lists(st.integers(0, 5), max_size=3)))
        assert np.array_equal(array[start : start + length], VALUES[start : start + length])
        # A shard that is being fetched has all its room.
        assert disk(kept.folder) <= bound
    assert np.array_equal(array.read(), VALUES)


def test_a_shard_that_gets_its_last_name_while_room_is_made_is_counted(server, entry, tmp_path, monkeypatch):
    sizes = [(server.folder / f"c/{number}").stat().st_size for number in range(2)]
    kept = ShardCache(tmp_path / "cache", max(sizes))
    array = there(server, entry, kept)
    array.shard(0)
    whole = kept.folder / array.cache_name(0)
    part = whole.rename(f"{whole}{cache._PART}")
    listed, names = ShardCache._names, []

    def slowly(self):
        names.append(listed(self))
        if part.exists():
            part.rename(whole)
        return names[-1]

    with open(part) as held:
        fcntl.flock(held, fcntl.LOCK_SH)  # as who is about to give it its name holds it
        monkeypatch.setattr(ShardCache, "_names", slowly)
        array.shard(1)
    assert part.name in names[0]
    assert files(kept.folder) == [array.cache_name(1)]


def test_pieces_may_end_anywhere(server, entry, tmp_path, monkeypatch):
    monkeypatch.setattr(ranges, "RANGE", 2500)
    monkeypatch.setattr(ranges, "_PIECE", 1)
    kept = ShardCache(tmp_path / "cache", 10 * SIZE)
    assert np.array_equal(there(server, entry, kept).read(), VALUES)
    assert server.gets("c/0") > 2
    for number in (0, 1, 2, 4, 5):
        name = there(server, entry, kept).cache_name(number)
        assert (kept.folder / name).read_bytes() == (server.folder / f"c/{number}").read_bytes()


def test_what_is_there_is_not_fetched_again_not_even_by_another_process_or_store(server, entry, tmp_path):
    kept = ShardCache(tmp_path / "cache", 10 * SIZE)
    there(server, entry, kept).read()
    before = len(server.asked)
    there(server, entry, kept).read()
    other = pickle.loads(pickle.dumps(kept))
    assert (other.folder, other.max_bytes) == (kept.folder, kept.max_bytes)
    assert np.array_equal(there(server, entry, other).read(), VALUES)
    assert len(server.asked) == before
    assert len(files(kept.folder)) == 5


def test_an_array_with_the_same_values_in_other_bytes_is_another_one(server, entry, tmp_path):
    kept = ShardCache(tmp_path / "cache", 10 * SIZE)
    array = there(server, entry, kept)
    names = {array.cache_name(number) for number in range(6)}
    array.crcs = array.crcs + np.uint32(1)
    assert not names & {array.cache_name(number) for number in range(6)}


def test_the_shard_that_was_used_longest_ago_makes_way(server, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "_FRESH", 0.0)
    kept = ShardCache(tmp_path / "cache", 3 * SIZE)
    array = there(server, publish(server.folder, np.maximum(VALUES, 1)), kept)
    for number in (0, 1, 2, 0, 4):  # 1 goes
        kept.get(array, number)
    assert files(kept.folder) == sorted(array.cache_name(number) for number in (0, 2, 4))
    kept.get(array, 5)  # and 2; 5 is short
    assert files(kept.folder) == sorted(array.cache_name(number) for number in (0, 4, 5))


def test_what_is_evicted_stays_as_it_is_for_those_who_have_mapped_it(server, entry, tmp_path):
    kept = ShardCache(tmp_path / "cache", SIZE)
    array = there(server, entry, kept)
    first = dict(array.chunks(0, PER))
    shard = kept.get(array, 0)
    array.read()
    assert array.cache_name(0) not in files(kept.folder)
    again = kept.get(array, 0)
    assert again is not shard
    assert np.array_equal(again.data, shard.data)
    for number, chunk in first.items():
        assert np.array_equal(chunk, VALUES[number * CHUNK :][:CHUNK])


def test_a_file_that_nobody_has_mapped_is_written_over(server, tmp_path):
    kept = ShardCache(tmp_path / "cache", SIZE)
    array = there(server, publish(server.folder, np.maximum(VALUES, 1)), kept)
    kept.get(array, 0)
    (found,) = files(kept.folder)
    inode = (kept.folder / found).stat().st_ino
    assert np.array_equal(array[CHUNK * PER : 2 * CHUNK * PER], np.maximum(VALUES, 1)[CHUNK * PER : 2 * CHUNK * PER])
    (found,) = files(kept.folder)
    assert (kept.folder / found).stat().st_ino == inode


def test_a_process_notices_that_another_has_evicted_what_it_uses(server, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "_FRESH", 0.0)
    entry = publish(server.folder, VALUES)
    one, other = (ShardCache(tmp_path / "cache", size) for size in (10 * SIZE, SIZE))
    array = there(server, entry, one)
    shard = one.get(array, 0)
    other.get(there(server, entry, other), 1)
    assert one.get(array, 0) is not shard
    one.get(array, 2)
    assert set(one._held) == {array.cache_name(0), array.cache_name(2)}  # it holds nothing that is no longer there


def test_what_others_keep_in_the_folder_is_left_alone(server, entry, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "thesis.tex").write_bytes(bytes(10 * SIZE))
    there(server, entry, ShardCache(tmp_path / "cache", SIZE)).read()
    assert (tmp_path / "cache" / "thesis.tex").stat().st_size == 10 * SIZE


@pytest.mark.parametrize("where", [0, CHUNK // 2, -10])
def test_what_the_disk_has_damaged_is_fetched_again(server, tmp_path, caplog, where):
    array = there(server, publish(server.folder, VALUES), ShardCache(tmp_path / "cache", 10 * SIZE))
    array.read()
    path = array.cache.folder / array.cache_name(1)
    content = bytearray(path.read_bytes())
    content[where] ^= 1
    path.unlink()
    path.write_bytes(content)
    before = server.gets("c/1")
    kept = ShardCache(tmp_path / "cache", 10 * SIZE)
    with caplog.at_level(logging.WARNING, "distgen"):
        assert np.array_equal(there(server, array_entry_of(array), kept).read(), VALUES)
    assert f"{path} was damaged on the disk; it is fetched again" in caplog.text
    assert server.gets("c/1") > before
    assert path.read_bytes() == (server.folder / "c/1").read_bytes()


def array_entry_of(array):
    return publish(array.cache.folder.parent / "again", VALUES)


def test_a_shard_that_is_cut_short_on_the_disk_is_fetched_again(server, entry, tmp_path):
    array = there(server, entry, ShardCache(tmp_path / "cache", 10 * SIZE))
    array.read()
    path = array.cache.folder / array.cache_name(1)
    os.truncate(path, 0)
    for size in (0, 10, 500):
        path.unlink()
        path.write_bytes((server.folder / "c/1").read_bytes()[:size])
        kept = ShardCache(tmp_path / "cache", 10 * SIZE)
        assert np.array_equal(there(server, entry, kept).read(), VALUES)


def test_what_is_damaged_where_the_store_lies_is_told_and_not_kept(server, entry, tmp_path):
    path = server.folder / "c/1"
    content = bytearray(path.read_bytes())
    content[10] ^= 1
    path.write_bytes(content)
    kept = ShardCache(tmp_path / "cache", 10 * SIZE)
    array = there(server, entry, kept)
    kept.prefetch(array, [1, 0])
    problem = rf"{server.url}/c/1 is damaged \(crc32c .*\) in rows 8,000 to 9,000; run distgen repair RECIPE"
    for _ in range(2):
        with pytest.raises(StoreError, match=problem):
            kept.get(array, 1)
    assert np.array_equal(array[:8000], VALUES[:8000])
    assert files(kept.folder) == [array.cache_name(0)]


def test_a_shard_that_is_missing_where_the_store_lies_is_told(server, entry, tmp_path):
    (server.folder / "c/1").unlink()
    kept = ShardCache(tmp_path / "cache", 10 * SIZE)
    with pytest.raises(StoreError, match=r"c/1 is damaged \(the shard is missing or empty\)"):
        there(server, entry, kept).read()
    assert not [name for name in files(kept.folder) if name.endswith(".part")]


def test_a_bound_below_one_shard_is_refused(server, tmp_path):
    entry = publish(server.folder, VALUES)
    with pytest.raises(
        ConfigError, match=f"max_bytes: a cache of {SIZE - 1:,} bytes is too small for a shard of {SIZE:,}"
    ):
        there(server, entry, ShardCache(tmp_path / "cache", SIZE - 1)).read()
    with pytest.raises(ConfigError, match="a cache of 0 bytes holds nothing"):
        ShardCache(tmp_path / "cache", 0)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"folder: .*file/cache cannot be made \(Not a directory\)"):
        ShardCache(tmp_path / "file/cache", SIZE)


def test_a_full_disk_is_told_and_leaves_nothing_behind(server, entry, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    kept = ShardCache(tmp_path / "cache", 10 * SIZE)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(
        StoreError,
        match=r"cannot be kept in the cache .*/cache \(No space left on device\); [\d,]+ bytes are free: free",
    ):
        there(server, entry, kept).read()
    assert not files(kept.folder)


def test_a_folder_that_is_deleted_meanwhile_is_made_again(server, entry, tmp_path):
    kept = ShardCache(tmp_path / "cache", 10 * SIZE)
    array = there(server, entry, kept)
    array[: CHUNK * PER]
    for path in kept.folder.iterdir():
        path.unlink()
    kept.folder.rmdir()
    assert np.array_equal(array.read(), VALUES)


def test_threads_that_want_the_same_shards_fetch_each_once(server, entry, tmp_path):
    kept = ShardCache(tmp_path / "cache", 10 * SIZE)
    array, found = there(server, entry, kept), []
    threads = [threading.Thread(target=lambda: found.append(array.read())) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(values, VALUES) for values in found)
    assert len(found) == 6
    assert server.gets("c/2") == 2  # its index and its chunks


def test_a_shard_that_is_asked_for_does_not_wait_for_others_that_come_later(server, entry, tmp_path):
    kept = ShardCache(tmp_path / "cache", 10 * SIZE)
    array = there(server, entry, kept)
    for number in (0, 1):
        server.spoil(f"c/{number}", "stall")
    kept.prefetch(array, [0, 1, 2, 3, 4])
    assert server.stalled.wait(30)
    assert np.array_equal(array[4 * CHUNK * PER : 5 * CHUNK * PER], VALUES[4 * CHUNK * PER : 5 * CHUNK * PER])
    server.go_on.set()
    assert np.array_equal(array.read(), VALUES)


def test_what_is_not_needed_after_all_is_not_fetched(server, entry, tmp_path):
    kept = ShardCache(tmp_path / "cache", 10 * SIZE)
    array = there(server, entry, kept)
    for number in (0, 1):
        server.spoil(f"c/{number}", "stall")
    kept.prefetch(array, [0, 1, 2])
    assert server.stalled.wait(30)
    for number in (2, 5):
        kept.cancel(array, number)
    server.go_on.set()
    assert np.array_equal(array[: 2 * CHUNK * PER], VALUES[: 2 * CHUNK * PER])
    assert files(kept.folder) == sorted(array.cache_name(number) for number in (0, 1))
    kept.prefetch(array, [2])  # and may be asked for again
    assert kept.get(array, 2).checked.any()


def test_a_process_that_is_stopped_in_the_middle_is_not_waited_for_for_ever(server, entry, tmp_path, monkeypatch):
    monkeypatch.setitem(config.TIMEOUTS, "cached_shard", 0.2)
    kept = ShardCache(tmp_path / "cache", 10 * SIZE)
    array = there(server, entry, kept)
    lock = cache._locked(kept.folder / (array.cache_name(0) + ".part"), 2, os.O_CREAT)
    with pytest.raises(StoreError, match="has been locked by another process for 0 s; is one of them stopped"):
        kept.get(array, 0)
    os.close(lock)
    kept.get(array, 0)


def test_a_store_in_a_bucket_is_read_through_the_cache(small_recipe, s3, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    uri = "s3://genomes/a.zarr"
    build(read(small_recipe, Recipe), locate(uri))
    build(read(small_recipe, Recipe), tmp_path / "a.zarr")
    here, there = open_store(tmp_path / "a.zarr"), open_store(uri, ShardCache(tmp_path / "cache", 1 << 20))
    for name in here.contigs.names:
        where = Interval(name, 0, int(here.contigs.lengths[here.contigs.index(name)]), "-")
        assert there.sequence(where) == here.sequence(where)
    assert np.array_equal(there.track("genes")[:], here.track("genes")[:])
    assert len(files(tmp_path / "cache")) == 3  # sequence, ambiguous, genes: contigs are read once
    # What is verified is the store, not what is kept of it.
    s3.put_object(Bucket="genomes", Key="a.zarr/sequence/c/0", Body=b"damaged")
    assert np.array_equal(there.codes(where), here.codes(where))
    assert [key for key, _, _ in verify(there).damage] == ["sequence"]


def test_a_store_on_this_machine_needs_no_cache(small, tmp_path):
    kept = ShardCache(tmp_path / "cache", 1)
    assert open_store(small.path, kept).sequence(Interval("chr3", 0, 7)) == "GATTACA"
    assert not files(kept.folder)
