"""Processor time of streaming: whole shards through the cache, and what obstore alone needs for the same bytes from the
same server: python -m benchmarks.stream

The server is a process of its own that sends files by sendfile; the time is that of this process, user and system.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.measure import machine, table
from distgen.errors import RemoteError
from distgen.ingest.objects import RANGE, Object
from distgen.store import format
from distgen.store.array import Array
from distgen.store.cache import IN_FLIGHT, ShardCache

SHARD = format.CHUNK_BYTES * format.SHARD_CHUNKS
SHARDS = 8
ROUNDS = 7


def serve(folder: str) -> None:
    """Send files of a folder, or ranges of them, for as long as anyone reads."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    print(listener.getsockname()[1], flush=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_answer, args=(connection, folder), daemon=True).start()


def _answer(connection: socket.socket, folder: str) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection, connection.makefile("rb") as lines:
        while request := lines.readline().split():
            headers = dict(line.lower().split(b": ", 1) for line in iter(lambda: lines.readline().strip(), b""))
            with open(folder + request[1].decode(), "rb") as file:
                size = os.fstat(file.fileno()).st_size
                asked = re.match(rb"bytes=(\d+)-(\d+)", headers.get(b"range", b""))
                begin, end = (int(asked[1]), min(int(asked[2]) + 1, size)) if asked else (0, size)
                status = b"206 Partial Content" if asked else b"200 OK"
                connection.sendall(
                    b"HTTP/1.1 %s\r\nContent-Length: %d\r\nContent-Range: bytes %d-%d/%d\r\n"
                    b"Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n\r\n"
                    % (status, end - begin, begin, end - 1, size)
                )
                while request[0] == b"GET" and begin < end:
                    begin += os.sendfile(connection.fileno(), file.fileno(), begin, end - begin)


def processor_seconds(work: Callable[[], None]) -> float:
    """User and system time of this process, per GB of the array."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    work()
    after = resource.getrusage(resource.RUSAGE_SELF)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent / (SHARDS * SHARD / 1e9)


def works(url: str, entry: format.Entry, folder: Path) -> dict[str, Callable[[], None]]:
    """What is compared, by name; each moves the whole array."""
    from obstore.store import HTTPStore

    plain = HTTPStore.from_url(url, client_options={"allow_http": True})
    pool = ThreadPoolExecutor(IN_FLIGHT)
    keys = [f"c/{shard}" for shard in range(SHARDS)]

    def ranges() -> None:
        asked = [(key, at) for key in keys for at in range(0, SHARD, RANGE)]
        for size in pool.map(lambda a: len(plain.get_range(a[0], start=a[1], end=a[1] + RANGE)), asked):
            assert size == RANGE

    def objects() -> None:
        for key in keys:
            assert len(plain.get(key).bytes()) > SHARD

    place = Object(url, RemoteError)  # one client, as the plain store is

    def walk(cache: ShardCache) -> None:
        array = Array(place, entry, cache=cache)
        for shard in range(SHARDS):
            cache.prefetch(array, [shard + 1] if shard + 1 < SHARDS else [])
            assert cache.get(array, shard).checked.all()

    def fill() -> None:
        shutil.rmtree(folder / "new", ignore_errors=True)
        walk(ShardCache(folder / "new", 2 * SHARDS * SHARD))

    full = ShardCache(folder / "full", 3 * (SHARD + (1 << 15)))

    def read() -> None:  # what another process does with what is there
        cache = ShardCache(folder / "new", 2 * SHARDS * SHARD)
        array = Array(Object(url, RemoteError), entry, cache=cache)
        for _ in array.chunks(0, array.layout.chunks):
            pass

    return {
        "obstore, ranges of 8 MiB, discarded": ranges,
        "obstore, whole shards, discarded": objects,
        "cache, new": fill,
        "cache, full": lambda: walk(full),
        "shards that are there, mapped and checked": read,
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        entry = format.write_array(
            folder / "array", np.random.default_rng(0).integers(0, 256, SHARDS * SHARD, np.uint8)
        )
        server = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.stream", "--serve", str(folder / "array")], stdout=subprocess.PIPE
        )
        try:
            assert server.stdout is not None
            url = f"http://127.0.0.1:{int(server.stdout.readline())}"
            compared = works(url, entry, folder)
            found: dict[str, list[float]] = {what: [] for what in compared}
            for turn in range(ROUNDS + 1):  # the first warms up
                for what, work in compared.items():
                    seconds = processor_seconds(work)
                    found[what] += [seconds] * (turn > 0)
        finally:
            server.kill()
    medians = {what: statistics.median(seconds) for what, seconds in found.items()}
    first = next(iter(medians.values()))
    print(machine(), "\n")
    table(
        ("", "processor s / GB", "times", "least, most"),
        [
            (what, f"{seconds:.2f}", f"{seconds / first:.2f}", f"{min(found[what]):.2f}, {max(found[what]):.2f}")
            for what, seconds in medians.items()
        ],
    )


if __name__ == "__main__":
    serve(sys.argv[2]) if sys.argv[1:2] == ["--serve"] else main()
