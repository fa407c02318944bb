"""Loaders are killed, and stores and servers fail under them: the next starts at once, and every byte is right or an error."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distgen import GenomeLoader, config, kernels
from distgen.errors import RemoteError, StoreError, TrainError
from distgen.ingest.objects import Object
from distgen.loader import gather
from distgen.store.cache import ShardCache
from distgen.store.reader import open_store
from tests.servers import FAILING, Files

ARGUMENTS = {"window": 48, "stride": 9, "batch_size": 8, "tracks": ("genes", "squeezed"), "order": "grouped", "seed": 5}
# Walks epochs without end, and says when it has the first batch; argument: a JSON object.
WALK = """
import json, sys
from distgen import GenomeLoader
from distgen.errors import RemoteError
from distgen.ingest.objects import Object
from distgen.store.cache import ShardCache
from distgen.store.reader import open_store
asked = json.loads(sys.argv[1])
cache = ShardCache(asked["cache"], asked["bound"])
loader = GenomeLoader(open_store(Object(asked["url"], RemoteError), cache), **asked["arguments"])
print("ready", flush=True)
while True:
    for batch in loader:
        print(loader.position, flush=True)
"""


LOST: dict[str, list[bool]] = {}  # what one number of ranks left out, another one does


def content(loader):
    """What an epoch of a loader says."""
    found = []
    for batch in loader:
        values = [batch.targets[name] for name in ARGUMENTS["tracks"]]
        found.append([kernels.tokens(**batch.packed), *values, batch.samples, batch.weight])
    return found


def same(one, other):
    assert len(one) == len(other)
    return all(torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


@pytest.fixture
def whole(pieces):
    found = content(GenomeLoader(pieces, placement="host", **ARGUMENTS))
    gather._kept._chunks.clear()  # else what was decoded here would not be fetched
    return found


@pytest.fixture
def server(pieces):
    with Files(pieces.path) as files:
        yield files


def streamed(server, folder, bound=1 << 20, **other):
    store = open_store(Object(server.url, RemoteError), ShardCache(folder, bound))
    return GenomeLoader(store, **(ARGUMENTS | other))


def walker(server, folder, bound):
    asked = {"url": server.url, "cache": str(folder), "bound": bound, "arguments": ARGUMENTS}
    return subprocess.Popen([sys.executable, "-c", WALK, json.dumps(asked)], stdout=subprocess.PIPE)


@pytest.mark.parametrize("moment", ["batches", "a download", "a cache that is too small"])
def test_whoever_comes_after_one_that_was_killed_reads_the_right_bytes_at_once(moment, server, whole, tmp_path):
    bound = 2500 if "small" in moment else 1 << 20
    if moment == "a download":
        server.spoil("sequence/c/1", "stall")
    process = walker(server, tmp_path / "cache", bound)
    process.stdout.readline()
    if moment == "a download":
        assert server.stalled.wait(60)
    else:
        for _ in range(5):
            process.stdout.readline()
    assert "/dev/shm" not in Path(f"/proc/{process.pid}/maps").read_text()  # what nobody makes nobody leaves
    process.kill()
    process.communicate()
    server.go_on.set()
    begin = time.monotonic()
    loader = streamed(server, tmp_path / "cache", bound)
    assert same(content(loader), whole)
    assert time.monotonic() - begin < config.TIMEOUTS["cached_shard"] / 10  # for no lock that is left
    for future in list(loader.store.cache._coming.values()):  # what the next epoch begins with
        future.result()
    assert not list(Path(tmp_path / "cache").glob("*.part"))


@pytest.mark.parametrize("fault", [503, "reset", "cut"])
def test_requests_that_fail_in_an_epoch_are_made_again(fault, server, whole, tmp_path):
    for end in ("sequence/c/0", "sequence/c/1", "softmask/c/0", "c/0/0"):
        server.spoil(end, fault, times=2)
    assert same(content(streamed(server, tmp_path / "cache")), whole)
    assert not server.faults


def test_an_answer_that_stalls_is_given_up_and_asked_for_again(server, whole, tmp_path, monkeypatch):
    monkeypatch.setitem(config.TIMEOUTS, "remote_read", 0.5)
    server.spoil("sequence/c/1", "stall", times=2)
    assert same(content(streamed(server, tmp_path / "cache")), whole)
    server.go_on.set()


@pytest.mark.parametrize(("fault", "problem"), FAILING)
def test_a_server_that_goes_on_failing_ends_the_epoch_with_an_error(fault, problem, server, tmp_path, monkeypatch):
    monkeypatch.setitem(config.TIMEOUTS, "remote_retry", 0.3)
    loader = streamed(server, tmp_path / "cache")
    server.spoil("sequence/c/1", fault, times=1000)
    with pytest.raises(RemoteError, match=rf"{server.url}/sequence/c/1: {problem}"):
        content(loader)
    server.faults.clear()
    assert len(content(loader)) == len(loader) - loader.position // 8  # it goes on where it stood


def test_a_rank_waits_for_no_batch_for_ever(server, tmp_path, monkeypatch):
    monkeypatch.setitem(config.TIMEOUTS, "next_batch", 0.5)
    loader = streamed(server, tmp_path / "cache")
    server.spoil("sequence/c/1", "stall", times=1000)
    with pytest.raises(TrainError, match=r"no batch came within 0 s; is the storage alive\?"):
        content(loader)
    server.go_on.set()


@pytest.mark.parametrize("name", ["genes", "squeezed", "sequence"])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_a_damaged_shard_stops_a_run_or_costs_the_same_samples_on_any_number_of_ranks(
    name, world_size, pieces, server, whole, tmp_path
):
    array = pieces.planes["sequence"] if name == "sequence" else pieces.track(name).blocks[0]
    path = array.folder / array.layout.key(0)
    content_before = path.read_bytes()
    try:
        path.unlink()
        path.write_bytes(content_before[:3] + bytes([content_before[3] ^ 1]) + content_before[4:])
        problem = r"/c/0(/0)? is damaged \(crc32c .*\) in chr1:.*; run distgen repair RECIPE"
        with pytest.raises(StoreError, match=problem):
            content(streamed(server, tmp_path / "cache"))
        loaders = [
            streamed(server, tmp_path / "cache", on_corrupt="skip", rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
        ranks = [content(loader) for loader in loaders]
    finally:
        path.unlink()
        path.write_bytes(content_before)
    found = [[torch.cat(parts) for parts in zip(*batches, strict=True)] for batches in zip(*ranks, strict=True)]
    lost = torch.cat([batch[-1] == 0 for batch in found])
    assert 0 < lost.sum() == sum(loader.skipped.rows for loader in loaders) < len(lost)
    assert all(re.search(r"/c/0(/0)?$", name) for loader in loaders for name in loader.skipped.shards)
    kept = [[column[batch[-1] > 0] for column in batch] for batch in found]
    assert same(kept, [[column[got[-1] > 0] for column in batch] for batch, got in zip(whole, found, strict=True)])
    assert lost.tolist() == LOST.setdefault(name, lost.tolist())


@settings(max_examples=40)
@given(data=st.data(), last=st.sampled_from(["drop", "pad", "wrap"]), order=st.sampled_from(["flat", "grouped"]))
def test_all_ranks_have_as_many_steps_whatever_the_sizes(pieces, data, last, order):
    batch_size = data.draw(st.integers(1, 23))
    world_size = data.draw(st.integers(1, min(batch_size, 9)))
    sizes = {
        "window": data.draw(st.integers(1, 300)),
        "stride": data.draw(st.integers(7, 60)),
        "batch_size": batch_size,
    }
    ranks = [
        GenomeLoader(pieces, **sizes, order=order, last=last, split=None, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    steps = [[batch.weight for batch in rank] for rank in ranks]
    assert len({len(batches) for batches in steps}) == 1
    assert all(len(weight) for batches in steps for weight in batches)
    rows = [sum(len(weight) for weight in batches) for batches in zip(*steps, strict=True)]
    assert set(rows) == {batch_size}
