"""Processes that share a cache are killed, and servers fail: the next one goes on at once, and what it reads is right."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress

import numpy as np
import pytest

from distgen import config
from distgen.errors import RemoteError
from distgen.store import ranges
from distgen.store.cache import ShardCache
from tests.servers import FAILING, Files
from tests.store.test_cache import CHUNK, PER, SIZE, VALUES, files, publish, there

# Walks the shards in an order of its own, for so many rounds, and says where it is; argument: a JSON object.
WALK = """
import json, random, sys
import numpy as np
from distgen.errors import RemoteError
from distgen.ingest.objects import Object
from distgen.store import cache, ranges
from distgen.store.array import Array
asked = json.loads(sys.argv[1])
ranges.RANGE = 3000
kept = cache.ShardCache(asked["folder"], asked["bound"])
array = Array(Object(asked["url"], RemoteError), asked["entry"], cache=kept)
values = np.load(asked["values"])
draw = random.Random(asked["seed"])
if asked["kill"]:  # in the middle of an eviction: one file is gone, or has become another
    evict = kept._evict
    def dying(*arguments):
        evict(*arguments)
        print("evicted", flush=True)
        import time; time.sleep(60)
    kept._evict = dying
print("ready", flush=True)
for _ in range(asked["rounds"]):
    for shard in draw.sample(range(6), 6):
        kept.prefetch(array, [shard, (shard + 1) % 6])
        first = shard * 8000
        assert np.array_equal(array[first:first + 8000], values[first:first + 8000]), shard
"""


@pytest.fixture
def server(tmp_path):
    with Files(tmp_path / "remote") as found:
        yield found


@pytest.fixture
def asked(server, tmp_path):
    np.save(tmp_path / "values.npy", VALUES)
    entry = publish(server.folder, VALUES, sparse=True)
    return {
        "url": server.url,
        "entry": entry,
        "folder": str(tmp_path / "cache"),
        "values": str(tmp_path / "values.npy"),
        "bound": 2 * SIZE,
        "rounds": 1,
        "seed": 0,
        "kill": False,
    }


def walker(asked, **other):
    return subprocess.Popen(
        [sys.executable, "-c", WALK, json.dumps(asked | other)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finish(process):
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()


def disk(folder):
    """The bytes of the files in a folder, as far as they stay where they are while they are counted."""
    found = 0
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            found += path.stat().st_size
    return found


def test_processes_that_walk_more_than_fits_agree_with_the_source_and_keep_within_the_bound(asked, tmp_path):
    walkers = [walker(asked, seed=seed, rounds=5) for seed in range(4)]
    (tmp_path / "cache").mkdir(exist_ok=True)
    most = 0
    while any(process.poll() is None for process in walkers):
        most = max(most, disk(tmp_path / "cache"))
    for process in walkers:
        finish(process)
    # A shard that comes and one that goes may both be counted while files are looked at one after the other.
    assert SIZE < most <= 3 * SIZE
    assert disk(tmp_path / "cache") <= 2 * SIZE
    assert not [name for name in files(tmp_path / "cache") if name.endswith(".part")]


def test_processes_with_different_bounds_share_a_folder(asked, tmp_path):
    walkers = [walker(asked, seed=seed, rounds=4, bound=(1 + seed) * SIZE) for seed in range(3)]
    for process in walkers:
        finish(process)
    assert disk(tmp_path / "cache") <= 3 * SIZE


@pytest.mark.parametrize("kills", [4, pytest.param(60, marks=pytest.mark.slow)])
def test_whoever_comes_after_one_that_was_killed_goes_on_at_once(kills, asked, tmp_path):
    draw, folder = random.Random(kills), tmp_path / "cache"
    for seed in range(kills):
        process = walker(asked, seed=seed, rounds=1000)
        process.stdout.readline()
        time.sleep(draw.uniform(0, 0.3))
        assert process.poll() is None
        process.kill()
        process.communicate()
        assert disk(folder) <= 2 * SIZE
    finish(walker(asked, seed=99))
    assert not [name for name in files(folder) if name.endswith(".part")]
    assert disk(folder) <= 2 * SIZE


def test_one_that_is_killed_while_it_evicts_blocks_nobody(asked, tmp_path):
    process = walker(asked, kill=True)
    assert [process.stdout.readline() for _ in range(2)] == [b"ready\n", b"evicted\n"]
    process.kill()
    process.communicate()
    finish(walker(asked))
    assert not [name for name in files(tmp_path / "cache") if name.endswith(".part")]


def test_a_process_waits_for_another_that_fetches_and_goes_on_when_that_is_killed(asked, server, tmp_path):
    server.spoil("c/0", "stall")
    first = walker(asked | {"bound": 10 * SIZE})
    assert server.stalled.wait(60)
    second = walker(asked | {"bound": 10 * SIZE, "seed": 1})
    second.stdout.readline()
    time.sleep(0.3)
    assert second.poll() is None
    first.kill()
    first.communicate()
    finish(second)
    server.go_on.set()
    assert len(files(tmp_path / "cache")) == 5


@pytest.mark.parametrize("fault", [503, "reset", "cut"])
def test_requests_that_fail_are_made_again(fault, asked, server, tmp_path):
    server.spoil("c/1", fault, times=4)
    array = there(server, asked["entry"], ShardCache(tmp_path / "cache", 10 * SIZE))
    assert np.array_equal(array.read(), VALUES)
    assert not server.faults


def test_a_body_that_is_cut_goes_on_where_it_broke_off(asked, server, tmp_path, monkeypatch):
    monkeypatch.setattr(ranges, "_PIECE", 1)
    server.spoil("c/1", None)  # the index
    server.spoil("c/1", "cut")
    array = there(server, asked["entry"], ShardCache(tmp_path / "cache", 10 * SIZE))
    assert np.array_equal(array[CHUNK * PER : 2 * CHUNK * PER], VALUES[CHUNK * PER : 2 * CHUNK * PER])
    _, first, second = [found.split()[0] for found in server.asked]
    assert first == "bytes=0-7999"
    assert re.fullmatch("bytes=[1-4][0-9]*-7999", second)


def test_an_answer_that_does_not_go_on_is_given_up(asked, server, tmp_path, monkeypatch):
    monkeypatch.setitem(config.TIMEOUTS, "remote_read", 0.5)
    server.spoil("c/1", "stall")
    array = there(server, asked["entry"], ShardCache(tmp_path / "cache", 10 * SIZE))
    assert np.array_equal(array.read(), VALUES)
    server.go_on.set()


@pytest.mark.parametrize(("fault", "problem"), FAILING)
def test_a_server_that_goes_on_failing_is_told_and_leaves_nothing_behind(
    fault, problem, asked, server, tmp_path, monkeypatch
):
    monkeypatch.setitem(config.TIMEOUTS, "remote_retry", 0.3)
    server.spoil("c/1", fault, times=1000)
    kept = ShardCache(tmp_path / "cache", 10 * SIZE)
    array = there(server, asked["entry"], kept)
    kept.prefetch(array, [1])
    with pytest.raises(RemoteError, match=rf"{server.url}/c/1: {problem}"):
        kept.get(array, 1)
    assert not files(kept.folder)
    server.faults.clear()
    assert np.array_equal(array.read(), VALUES)


def test_a_server_without_ranges_is_refused(asked, server, tmp_path):
    server.spoil("c/1", "whole", times=1000)
    array = there(server, asked["entry"], ShardCache(tmp_path / "cache", 10 * SIZE))
    with pytest.raises(
        RemoteError, match=f"{server.url}/c/1: its server knows no ranges; copy the store to one that does"
    ):
        array.read()


def test_a_process_that_ends_does_not_wait_for_what_it_was_fetching_ahead(asked, server):
    program = WALK.split("for _ in range")[0] + "kept.prefetch(array, [0, 1, 2]); sys.stdin.readline()"
    server.spoil("c/0", "stall", times=1000)
    process = subprocess.Popen(
        [sys.executable, "-c", program, json.dumps(asked)], stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert server.stalled.wait(60)
    server.go_on.set()  # from here on answers end in the middle, and are asked for again
    _, errors = process.communicate(b"\n", timeout=60)
    assert process.returncode == 0, errors.decode()


def test_a_fetch_that_is_interrupted_leaves_nothing_behind(asked, server, tmp_path):
    server.spoil("c/0", "stall", times=3)
    program = WALK.replace("kept.prefetch", "0 and kept.prefetch").replace("draw.sample(range(6), 6)", "[0]")
    process = subprocess.Popen(
        [sys.executable, "-c", program, json.dumps(asked)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert server.stalled.wait(60)
    os.kill(process.pid, signal.SIGINT)
    server.go_on.set()
    _, errors = process.communicate(timeout=60)
    assert b"KeyboardInterrupt" in errors
    assert not files(tmp_path / "cache")
