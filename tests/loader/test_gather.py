"""Rows out of chunks against slices of the whole array."""

import copy
import ctypes
import gc
import json
import mmap
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distgen.errors import RemoteError, StoreError
from distgen.ingest.objects import Object
from distgen.loader import copying
from distgen.loader import gather as module
from distgen.loader.gather import Chunks, Kept, gather
from distgen.store.array import Array
from distgen.store.cache import ShardCache
from distgen.store.format import Layout, ShardWriter, finish_array
from tests.servers import Files

BYTES = 5_000


@pytest.fixture(scope="module", params=["raw", "large", "zstd", "sent", "cached", "cached zstd"])
def array(request, tmp_path_factory):
    """Bytes in shards of 4 chunks of 100; some chunks and one shard hold nothing but zeros, and are absent.

    "sent" is raw, and read as what lies in an object store is; of "cached" four shards are kept at a time; "large" is as if
    memory had no room for it.
    """
    values = np.random.default_rng(0).integers(0, 256, BYTES).astype(np.uint8)
    values[300:600] = values[1200:1700] = values[4900:] = 0
    codec = "zstd" if "zstd" in request.param else "raw"
    folder = tmp_path_factory.mktemp("array")
    array = written(folder, values, Layout((BYTES,), np.dtype("u1"), 100, 400, codec))
    array._local = request.param != "sent"
    if not request.param.startswith("cached"):
        assert array.lasting == (request.param in ("raw", "large"))
        with pytest.MonkeyPatch.context() as patch:
            if request.param == "large":
                patch.setattr(module, "memory", lambda: 0)
            yield array
        return
    with Files(folder) as server:
        yield elsewhere(array, server, ShardCache(tmp_path_factory.mktemp("cache"), 4 * (400 + array.index_bytes)))


def elsewhere(array, server, cache):
    """The same array behind a server."""
    other = copy.copy(array)
    other.folder, other.cache, other._local, other._shards = Object(server.url, RemoteError), cache, False, {}
    return other


def written(folder, values, layout):
    """The array as a store has it, absent chunks left out."""
    shards = []
    for number in range(layout.shards):
        writer = ShardWriter(folder / layout.key(number), layout, sparse=True)
        writer.write(values[number * layout.shard : (number + 1) * layout.shard])
        shards.append(writer.close())
    return Array(folder, json.loads(json.dumps(finish_array(folder, layout, shards))))


def rows_of(array, first, last, at, width):
    """The reference: one slice for each row."""
    whole, out = array.read(), np.zeros((len(first), width), np.uint8)
    for row, (low, high, to) in enumerate(zip(first, last, at, strict=True)):
        if low < high:
            out[row, to : to + high - low] = whole[low:high]
    return out


SPANS = st.lists(st.tuples(st.integers(0, BYTES), st.integers(-3, 900), st.integers(0, 20)), max_size=30)


@settings(max_examples=25)
@given(SPANS, st.sampled_from([3, 128]))
def test_every_row_is_the_slice_that_was_asked_for(array, spans, together):
    first = np.array([s[0] for s in spans], np.int64)
    last = np.minimum(first + np.array([s[1] for s in spans], np.int64), BYTES)
    at = np.array([s[2] for s in spans], np.int64)
    out = np.full((len(spans), 930), 7, np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_TOGETHER", together)
        gather(Chunks(array), first, last, out, at)
    assert np.array_equal(out, rows_of(array, first, last, at, 930))


def test_threads_that_share_little_room_read_the_same(array, monkeypatch):
    monkeypatch.setattr(module, "_TOGETHER", 5)
    monkeypatch.setattr(module, "_kept", Kept(700))
    chunks, rng = Chunks(array), np.random.default_rng(1)

    def check(_):
        first = rng.integers(0, BYTES - 300, 40)
        out, at = np.empty((40, 300), np.uint8), np.zeros(40, np.int64)
        gather(chunks, first, first + 300, out, at)
        return np.array_equal(out, rows_of(array, first, first + 300, at, 300))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(check, range(8 if array.cache else 200)))
    assert module._kept._size <= 700


def test_a_chunk_is_read_once_however_many_rows_need_it(array, monkeypatch):
    monkeypatch.setattr(module, "_kept", Kept(200))
    if array.cache is not None and array.layout.codec == "raw":
        return  # what is mapped needs no copy
    read, decoded = [], Array.decoded

    def count(self, numbers):
        for number, chunk in decoded(self, numbers):
            read.append(number)
            yield number, chunk

    monkeypatch.setattr(Array, "decoded", count)
    first = np.random.default_rng(2).integers(0, BYTES - 50, 500)
    gather(Chunks(array), first, first + 50, np.empty((500, 50), np.uint8), np.zeros(500, np.int64))
    assert len(read) == len(set(read)) > 30


def test_what_was_decoded_last_is_kept_within_its_room(array):
    kept = Kept(350)
    kept.take(array, np.array([0, 1, 2]))
    kept.take(array, np.array([0]))
    kept.take(array, np.array([6]))
    assert [number for _, number in kept._chunks] == [2, 0, 6]


def test_what_was_touched_stays_in_memory_when_the_array_is_verified(array):
    chunks, out, at = Chunks(array), np.empty((1, BYTES), np.uint8), np.zeros(1, np.int64)
    for _ in range(2):
        gather(chunks, np.array([0]), np.array([BYTES]), out, at)
        assert np.array_equal(out[0], array.read())
        for shard in range(array.layout.shards):
            for _ in array.verify_shard(shard):
                pass


def test_a_shard_that_was_evicted_is_not_read_where_it_was(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, 1600).astype(np.uint8)
    array = written(tmp_path / "there", values, Layout((1600,), np.dtype("u1"), 100, 400))
    with Files(tmp_path / "there") as server:
        array = elsewhere(array, server, ShardCache(tmp_path / "cache", 400 + array.index_bytes))
        chunks, out = Chunks(array), np.empty((1, 400), np.uint8)
        (part,) = chunks.parts(np.array([0]), np.array([400]))
        first = next(iter(chunks._tables))
        gather(chunks, np.array([400]), np.array([800]), out, np.zeros(1, np.int64))
        assert server.gets("c/0") == 2  # the index, and the chunks
        # Who reads still holds what is no longer there; then it goes, and so do its addresses.
        assert np.array_equal(np.frombuffer(ctypes.string_at(int(part.addresses[3]), 100), np.uint8), values[300:400])
        del part, first
        gather(chunks, np.array([700]), np.array([1100]), out, np.zeros(1, np.int64))
        assert np.array_equal(out[0], values[700:1100])
        gc.collect()
        assert len(chunks._tables) == 1
        gather(chunks, np.array([0]), np.array([400]), out, np.zeros(1, np.int64))
        assert np.array_equal(out[0], values[:400])
        assert server.gets("c/0") == 4


def test_what_the_disk_of_a_cache_has_damaged_is_fetched_again(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, 1600).astype(np.uint8)
    array = written(tmp_path / "there", values, Layout((1600,), np.dtype("u1"), 100, 400))
    with Files(tmp_path / "there") as server:
        elsewhere(array, server, ShardCache(tmp_path / "cache", 10_000)).read()
        for number in (0, 2):
            path = tmp_path / "cache" / array.cache_name(number)
            content = bytearray(path.read_bytes())
            content[250] ^= 1
            path.unlink()
            path.write_bytes(content)
        chunks = Chunks(elsewhere(array, server, ShardCache(tmp_path / "cache", 10_000)))
        out, firsts = np.empty((3, 700), np.uint8), np.array([0, 500, 900])
        gather(chunks, firsts, firsts + 700, out, np.zeros(3, np.int64))
        assert all(np.array_equal(row, values[first : first + 700]) for row, first in zip(out, firsts, strict=True))
        assert [server.gets(f"c/{number}") for number in range(4)] == [4, 2, 4, 2]


def test_arrays_count_together_for_as_long_as_their_rows_are_read(tmp_path, monkeypatch):
    gc.collect()
    before, layout = module._files._bytes, Layout((4_000,), np.dtype("u1"), 100, 800)
    monkeypatch.setattr(module, "memory", lambda: 2 * (before + 10_000))
    arrays = [written(tmp_path / name, np.ones(4_000, np.uint8), layout) for name in "abc"]
    chunks = [Chunks(array) for array in arrays]
    assert module._files._bytes == before + 12_000
    assert module._files.too_large
    del chunks[1:]
    assert module._files._bytes == before + 4_000
    assert not module._files.too_large
    with Files(tmp_path / "a") as server:
        remote = Chunks(elsewhere(arrays[0], server, ShardCache(tmp_path / "cache", 10_000)))
        assert module._files._bytes == before + 4_000, remote


@pytest.mark.skipif(sys.platform != "linux", reason="whether pages are in memory is asked of Linux")
def test_pages_that_rows_lie_in_are_read_before_they_are_touched_and_no_others(tmp_path):
    pages, page = 64, mmap.PAGESIZE
    (tmp_path / "file").write_bytes(np.random.default_rng(3).bytes(pages * page))
    with open(tmp_path / "file", "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        data = np.memmap(file, np.uint8, "c")
    found, libc = np.empty(pages, np.uint8), ctypes.CDLL(None)

    def resident():
        assert not libc.mincore(ctypes.c_void_p(data.ctypes.data), data.nbytes, ctypes.c_void_p(found.ctypes.data))
        return set(np.flatnonzero(found & 1).tolist())

    if resident():
        pytest.skip("the file system keeps files in memory")
    assert copying.advise(data.ctypes.data, data.nbytes, mmap.MADV_RANDOM) == 0
    first, last = np.array([10 * page + 5, 0, 41 * page - 1]), np.array([10 * page + 7, 0, 42 * page + 1])
    addresses = data.ctypes.data + 16 * page * np.arange(4)
    assert copying.ask_for(np.arange(3), first // (16 * page), addresses, 16 * page, 1, first, last) == 0
    wanted, end = {10, 40, 41, 42}, time.monotonic() + 30
    while not resident() >= wanted and time.monotonic() < end:
        time.sleep(0.01)
    assert resident() == wanted


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the system takes no advice")
def test_the_system_is_asked_for_all_chunks_of_a_go_before_the_first_is_read(tmp_path, monkeypatch):
    values = np.random.default_rng(1).integers(1, 256, 4_000).astype(np.uint8)
    values[800:1200] = 0
    array = written(tmp_path, values, Layout((4_000,), np.dtype("u1"), 100, 800))
    events = []

    def advise(handle, begin, size, advice):
        assert advice == os.POSIX_FADV_WILLNEED
        shard = os.path.relpath(os.readlink(f"/proc/self/fd/{handle}"), tmp_path)
        events.append((shard, begin, os.pread(handle, size, begin)))

    monkeypatch.setattr(os, "posix_fadvise", advise)
    monkeypatch.setattr(array, "check", lambda number, size, crc: events.append(number))
    first = np.array([3_999, 50, 1_150, 250])
    gather(Chunks(array), first, np.array([4_000, 250, 1_350, 250]), np.empty((4, 200), np.uint8), np.zeros(4, int))
    keys = [array.layout.key(shard) for shard in (0, 1, 4)]
    ends = [(key, (tmp_path / key).stat().st_size - array.index_bytes) for key in keys]
    assert [event[:2] for event in events[:3]] == ends
    stored = [values[number * 100 : (number + 1) * 100].tobytes() for number in (0, 1, 2, 12, 13, 39)]
    assert [event[2] for event in events[3:9]] == stored
    assert events[9:] == [0, 1, 2, 12, 13, 39]


def test_a_damaged_chunk_is_named_when_it_is_first_touched(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, 1000).astype(np.uint8)
    array = written(tmp_path, values, Layout((1000,), np.dtype("u1"), 100, 400))
    shard = tmp_path / "c" / "1"
    damaged = bytearray(shard.read_bytes())
    damaged[250] ^= 1
    shard.write_bytes(damaged)
    chunks, out, at = Chunks(array), np.empty((1, 100), np.uint8), np.zeros(1, np.int64)
    gather(chunks, np.array([0]), np.array([100]), out, at)
    for _ in range(2):
        with pytest.raises(StoreError, match="rows 600 to 700"):
            gather(chunks, np.array([590]), np.array([690]), out, at)


@pytest.mark.parametrize(("low", "high"), [(-1, 4), (-200, -100), (BYTES - 5, BYTES + 1), (1 << 40, (1 << 40) + 9)])
def test_what_lies_outside_of_the_array_is_never_read(array, low, high):
    ends = np.array([3, low, BYTES + 7]), np.array([9, high, BYTES + 7])  # an empty stretch may lie anywhere
    with pytest.raises(IndexError, match=f" has 5,000 rows, not {low:,} to {high:,}"):
        gather(Chunks(array), *ends, np.empty((3, 200), np.uint8), np.zeros(3, np.int64))
