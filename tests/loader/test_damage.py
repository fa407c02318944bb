"""What is left out where chunks are damaged: the rows that need them, on any number of ranks, and nothing else."""

import logging
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distgen import GenomeLoader, config, kernels
from distgen.errors import RemoteError, StoreError
from distgen.ingest.objects import Object
from distgen.loader import gather, transfer
from distgen.store.cache import ShardCache
from distgen.store.format import ABSENT
from distgen.store.planes import PER_BYTE
from distgen.store.reader import open_store
from tests.servers import Files

ARGUMENTS = {"window": 48, "target_length": 40, "stride": 9, "jitter": 3, "batch_size": 7, "last": "pad", "seed": 3}
TRACKS = ("genes", "squeezed")
PLANES = ("sequence", "ambiguous", "softmask")


def arrays_of(store):
    """Name and array of all that loaders with these tracks read."""
    found = {name: store.planes[name] for name in PLANES}
    return found | {name: store.track(name).blocks[0] for name in TRACKS}


def spoil(store, name, shard, how):
    """Damage a shard of a store on the disk: "missing", "index", or one of its chunks by number. Returns which chunks of
    the array that makes useless; none if there is no such."""
    array = arrays_of(store)[name]
    per = array.layout.chunks_per_shard
    path = array.folder / array.layout.key(shard)
    every = range(shard * per, min((shard + 1) * per, array.layout.chunks))
    stored = [number for number in every if not array.absent[number]]
    if not stored:
        return []
    content = bytearray(path.read_bytes())
    path.unlink()  # what others have mapped stays
    if how == "missing":
        return stored
    if how == "index":
        content[-7] ^= 1
        path.write_bytes(content)
        return stored
    number = stored[how % len(stored)]
    index = np.frombuffer(bytes(content[-array.index_bytes : -4]), "<u8").reshape(-1, 2)
    assert index[number % per, 0] != ABSENT
    content[int(index[number % per, 0]) + 5] ^= 1
    path.write_bytes(content)
    return [number]


def needing(loader, epoch, bad):
    """The reference: which samples of an epoch read damaged chunks, base by base."""
    store, sampling = loader.store, loader.plan.sampling(epoch)
    drawn = sampling.draw(np.arange(loader.plan.batches(epoch) * loader.batch_size), epoch)
    arrays, lost = arrays_of(store), []
    for position, (low, high) in zip(drawn.positions, drawn.limits, strict=True):
        touched = set()
        for base in range(max(position, low), min(position + 48, high)):
            for name in PLANES:
                touched.add((name, base // PER_BYTE[name] // arrays[name].layout.chunk))
            contig = int(store.contigs.locate(np.array([base]))[0])
            if (
                position + 4 <= base < position + 44
                and base < store.contigs.offsets[contig] + store.contigs.lengths[contig]
            ):
                for name in TRACKS:
                    bin_ = store.track(name).bin_offsets[contig] + base - store.contigs.offsets[contig]
                    touched.add((name, bin_ // arrays[name].layout.chunk))
        lost.append(bool(touched & bad))
    return np.array(lost)


def compare(whole, ranks, lost):
    """Batches of ranks are those of a whole store, but for the rows that are lost; returns how many these are."""
    left_out = 0
    rows = iter(lost)
    for batch, *parts in zip(whole, *ranks, strict=True):
        at = 0
        for part in parts:
            mine = slice(at, at + len(part))
            at += len(part)
            gone = torch.tensor([next(rows) for _ in range(len(part))])
            left_out += int((gone & (batch.weight[mine] > 0)).sum())
            assert torch.equal(part.samples, batch.samples[mine])
            assert torch.equal(part.keys, batch.keys[mine])
            assert torch.equal(part.weight, batch.weight[mine].masked_fill(gone, 0))
            assert part.where() == batch.where()[mine]
            tokens = kernels.tokens(**part.packed)
            assert torch.equal(tokens[~gone], kernels.tokens(**batch.packed)[mine][~gone])
            assert (tokens[gone] == 4).all()
            for name in TRACKS:
                assert torch.equal(part.targets[name][~gone], batch.targets[name][mine][~gone])
                assert torch.equal(part.mask[name][~gone], batch.mask[name][mine][~gone])
                assert not part.targets[name][gone].any()
                assert not part.mask[name][gone].any()
        assert at == len(batch)
    return left_out


@pytest.fixture(scope="module")
def counter():
    return iter(range(10**9))


FAULTS = st.lists(
    st.tuples(
        st.sampled_from([*PLANES, *TRACKS]),
        st.integers(0, 1),
        st.one_of(st.sampled_from(["missing", "index"]), st.integers(0, 3)),
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda fault: fault[:2],
)


@settings(max_examples=20)
@given(
    faults=FAULTS,
    placement=st.sampled_from(["device", "host", "stream"]),
    order=st.sampled_from(["flat", "grouped"]),
    world_size=st.sampled_from([1, 2, 3]),
)
def test_the_rows_that_need_what_is_damaged_are_left_out_and_no_others(
    pieces, tmp_path, counter, faults, placement, order, world_size
):
    folder = tmp_path / str(next(counter))
    shutil.copytree(pieces.path, folder)
    store, bad = open_store(folder), set()
    for name, shard, how in faults:
        bad |= {(name, number) for number in spoil(store, name, shard, how)}
    arguments = ARGUMENTS | {"order": order, "tracks": TRACKS, "strand": "random"}
    whole = GenomeLoader(pieces, placement="host", **arguments)
    lost, batches = needing(whole, 0, bad), list(whole)
    # What other loaders have in memory is whole.
    transfer._resident.clear()
    gather._kept._chunks.clear()
    with Files(folder) as server:
        if placement == "stream":
            store = open_store(Object(server.url, RemoteError), ShardCache(f"{folder}.cache", 1 << 20))
        else:
            store = open_store(folder)
        ranks = [
            GenomeLoader(store, placement=placement, on_corrupt="skip", rank=rank, world_size=world_size, **arguments)
            for rank in range(world_size)
        ]
        assert compare(batches, ranks, lost) == sum(rank.skipped.rows for rank in ranks)
    if lost.any():
        arrays = arrays_of(store)
        names = {str(arrays[n].folder / arrays[n].layout.key(c // arrays[n].layout.chunks_per_shard)) for n, c in bad}
        assert set().union(*(rank.skipped.shards for rank in ranks)) <= names
        with pytest.raises(StoreError, match="is damaged .*run distgen repair RECIPE"):
            list(GenomeLoader(open_store(folder), placement="host", **arguments))


def test_a_damaged_shard_is_told_of_once(pieces, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("distgen"), "propagate", True)
    shutil.copytree(pieces.path, tmp_path / "p.zarr")
    store = open_store(tmp_path / "p.zarr")
    for chunk in (0, 1):
        assert spoil(store, "sequence", 1, chunk)
    loader = GenomeLoader(store, placement="host", on_corrupt="skip", tracks=TRACKS, order="sequential", **ARGUMENTS)
    for _ in range(2):
        for _ in loader:
            pass
    (told,) = [record.getMessage() for record in caplog.records if "damaged" in record.getMessage()]
    (shard,) = loader.skipped.shards
    assert told.startswith(f"{shard} is damaged (crc32c ")
    assert told.endswith("; run distgen repair RECIPE. Samples that need it are left out.")
    assert loader.skipped.rows > 0


def test_what_cannot_be_fetched_is_an_error_in_either_mode(pieces, tmp_path, monkeypatch):
    monkeypatch.setitem(config.TIMEOUTS, "remote_retry", 0.2)
    with Files(pieces.path) as server:
        store = open_store(Object(server.url, RemoteError), ShardCache(tmp_path / "cache", 1 << 20))
        loader = GenomeLoader(store, on_corrupt="skip", order="grouped", **ARGUMENTS)
        server.spoil("c/1", 503, times=1000)
        with pytest.raises(RemoteError, match=r"c/1: the server is failing \(HTTP 503\); try again"):
            list(loader)
    assert loader.skipped == (0, ())


@pytest.mark.parametrize("placement", ["device", "host"])
def test_a_last_shard_that_is_missing_may_have_fewer_chunks_than_others(small, placement):
    layout = small.planes["sequence"].layout
    assert layout.chunks % layout.chunks_per_shard
    (small.path / "sequence" / layout.key(0)).unlink()
    loader = GenomeLoader(open_store(small.path), placement=placement, on_corrupt="skip", **ARGUMENTS)
    assert not any(batch.weight.any() for batch in loader)
    assert loader.skipped.shards == (str(small.path / "sequence" / layout.key(0)),)
