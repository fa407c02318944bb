"""What is fetched ahead against the order: the shards that come next, soonest first, within bounds, and no others."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from distgen import GenomeLoader
from distgen.errors import RemoteError, StoreError
from distgen.ingest.objects import Object
from distgen.loader import reading
from distgen.loader.gather import Read
from distgen.loader.reading import ReadAhead
from distgen.store.cache import ShardCache
from distgen.store.reader import open_store
from tests.servers import Files

SIZE = 400


class Asked:
    """Stands in for a cache and an array of it, and takes note of what it is asked for."""

    def __init__(self, max_bytes):
        self.id, self.shards, self.lost, self.max_bytes = "array", 10, 0, max_bytes
        self.asked, self.cancelled = [], []

    def stored(self, number):
        return SIZE

    def prefetch(self, array, numbers):
        assert array is self
        self.asked += numbers

    def cancel(self, array, number):
        self.cancelled.append(number)


@given(
    table=st.lists(st.lists(st.integers(0, 9 * SIZE), min_size=2, max_size=2), min_size=1, max_size=60),
    room=st.integers(1, 12),
    early=st.integers(1, 12),
    far=st.integers(1, 20),
    together=st.integers(1, 4),
)
def test_shards_are_asked_for_in_their_order_within_the_bounds(table, room, early, far, together):
    cache, first = Asked(room * SIZE), np.array(table)

    def reads(epoch, batches):
        rows = first[list(batches)].reshape(-1)
        return [Read(cache, SIZE, rows, rows + SIZE // 2)]

    def needed(batch):
        return {int(b) // SIZE for b in [*first[batch], *(first[batch] + SIZE // 2 - 1)]}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "_BYTES", early * SIZE)
        patch.setattr(reading, "_FAR", far)
        ahead = ReadAhead(cache, lambda epoch: len(table), reads)
        ahead.come_to(0, range(1))
        assert not cache.asked  # nobody walks
        ahead.start(0, 0)
        for epoch in range(2):
            for at in range(0, len(table), together):
                batches = range(at, min(at + together, len(table)))
                ahead.come_to(epoch, batches)
                now = set().union(*map(needed, batches))
                assert now <= {number for _, number in ahead._asked}
                later = [need for need in ahead._asked.values() if need.first > (epoch, batches[-1])]
                assert sum(need.size for need in later) <= early * SIZE
                assert not later or len(ahead._asked) <= max(room, len(now))
            ahead.start(epoch + 1, 0)
        order = [n for batch in [*range(len(table))] * 2 for n in sorted(needed(batch))]
        assert set(cache.asked) == set(order)
        ahead.stop()
        assert set(cache.cancelled) <= set(cache.asked)
        before = len(cache.asked)
        ahead.come_to(0, range(1))
        assert len(cache.asked) == before


def test_nothing_is_looked_at_once_a_cache_has_all_until_it_loses_some():
    cache, looked = Asked(10 * SIZE), []
    table = np.random.default_rng(0).permutation(200) % 10 * SIZE

    def reads(epoch, batches):
        looked.append((epoch, batches))
        return [Read(cache, SIZE, table[list(batches)], table[list(batches)] + 1)]

    ahead = ReadAhead(cache, lambda epoch: len(table), reads)
    ahead.start(0, 0)
    for at in range(150):
        ahead.come_to(0, [at])
    assert set(cache.asked) == set(range(10))
    assert looked[-1][1].stop < 100
    cache.lost, cache.asked, before = 1, [], len(looked)
    ahead.come_to(0, [150])
    assert looked[before] == (0, range(150, 158))
    assert cache.asked[0] == table[150] // SIZE


def test_all_shards_of_an_epoch_are_fetched_ahead_of_the_rows_that_need_them(pieces, tmp_path, monkeypatch):
    arguments = {"window": 48, "stride": 9, "batch_size": 8, "tracks": ("genes", "squeezed"), "order": "grouped"}
    with Files(pieces.path) as server:
        cache = ShardCache(tmp_path / "cache", 1 << 20)
        store = open_store(Object(server.url, RemoteError), cache)
        loader = GenomeLoader(store, lanes=2, **arguments)
        there, missed, get = set(), [], ShardCache.get
        ask = ShardCache.prefetch
        monkeypatch.setattr(
            ShardCache,
            "prefetch",
            lambda self, array, numbers: (there.update((array.id, n) for n in numbers), ask(self, array, numbers))[1],
        )

        def watched(self, array, number):
            missed.extend([(array.id, number)] * ((array.id, number) not in there))
            return get(self, array, number)

        monkeypatch.setattr(ShardCache, "get", watched)
        assert len(list(loader)) == len(loader)
        assert not missed
        assert len(there) > 8
        assert all(server.gets(f"sequence/c/{number}") == 2 for number in range(2))


def test_who_leaves_in_the_middle_has_nothing_more_fetched(pieces, tmp_path):
    with Files(pieces.path) as server:
        cache = ShardCache(tmp_path / "cache", 1 << 20)
        loader = GenomeLoader(
            open_store(Object(server.url, RemoteError), cache), window=48, batch_size=4, order="sequential"
        )
        for _ in loader:
            break
        for future in list(cache._coming.values()):
            future.result()
        before = len(server.asked)
        assert loader._ahead._next == (-1, -1)
        loader.batch(0, 0)
        assert not cache._coming
        assert len(server.asked) == before
        assert len(list(loader)) == len(loader) - 1


def test_nothing_is_looked_at_any_more_once_all_that_fits_was_asked_for():
    cache, looked = Asked(10 * SIZE), []

    def reads(epoch, batches):
        looked.append((epoch, len(batches)))
        rows = np.arange(10)[list(batches)] * SIZE
        return [Read(cache, SIZE, rows, rows + 1)]

    ahead = ReadAhead(cache, lambda epoch: 10, reads)
    ahead.start(0, 0)
    for batch in range(10):
        ahead.come_to(0, range(batch, batch + 1))
    assert 10 <= sum(count for _, count in looked) <= 20
    before = list(looked)
    for epoch in range(1, 4):
        ahead.start(epoch, 0)
        ahead.come_to(epoch, range(1))
    assert looked == before


@pytest.mark.parametrize("way", ["fork", "spawn"])
def test_workers_of_a_torch_data_loader_read_from_elsewhere_or_say_how(pieces, tmp_path, way):
    with Files(pieces.path) as server:
        store = open_store(Object(server.url, RemoteError), ShardCache(tmp_path / "cache", 1 << 20))
        loader = GenomeLoader(store, window=48, batch_size=4)
        first = loader.batch(0, 0)
        workers = DataLoader(loader, batch_size=None, num_workers=1, multiprocessing_context=way, timeout=60)
        if way == "fork":
            with pytest.raises(StoreError, match='was forked .* multiprocessing_context="spawn"'):
                next(iter(workers))
        else:
            assert torch.equal(next(iter(workers)).positions, first.positions)
            assert not list(tmp_path.glob("*/*.part"))
            assert pickle.loads(pickle.dumps(loader)).store.cache.folder == tmp_path / "cache"
