"""What a fresh process pays before its first batch, and the memory it holds: run by benchmarks/loader.py."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

_OPTIONS = "window=8192, split=None, batch_size=64, strand='random', jitter=16, placement=sys.argv[2]"

_FIRST = f"""
import json, sys, time
import torch
from distgen import GenomeLoader
began = time.perf_counter()
loader = GenomeLoader(sys.argv[1], {_OPTIONS})
next(iter(loader))
print(json.dumps([time.perf_counter() - began, time.time()]))
"""

_EPOCH = f"""
import json, sys
import torch
from distgen import GenomeLoader
def anonymous():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))
imported = most = anonymous()
for number, batch in enumerate(GenomeLoader(sys.argv[1], {_OPTIONS})):
    if number % 64 == 0:
        most = max(most, anonymous())
print(json.dumps([imported, max(most, anonymous())]))
"""

_DISK = f"""
import json, mmap, sys, time
from pathlib import Path
import numpy as np
import torch
from benchmarks.loader_fresh import drop
from distgen import GenomeLoader
from distgen.loader import gather
if sys.argv[3] == "together":
    gather.memory = lambda: 0  # as if there were no room in it
loader = GenomeLoader(sys.argv[1], {_OPTIONS.replace("8192", "int(sys.argv[4])")})
rng, seconds = np.random.default_rng(0), []
for array in loader.store.planes.values():
    array.read()  # what is checked at first touch is checked
loader.batch(0, 0)
for _ in range(7):
    for array in loader.store.planes.values():
        for number in filter(array.stored, range(array.shards)):
            array.shard(number).data.base._mmap.madvise(mmap.MADV_DONTNEED)  # what is mapped is not dropped
    drop(Path(sys.argv[1]))
    batches = rng.choice(len(loader), 20, replace=False).tolist()
    began = time.perf_counter()
    for number in batches:
        loader.make(0, [number])
    seconds.append((time.perf_counter() - began) / len(batches))
print(json.dumps([float(np.median(seconds)), loader.batch_size * int(sys.argv[4])]))
"""


def first_batch(store: Path, placement: str, repeats: int) -> list[tuple[str, float, float]]:
    """For files in the page cache, then for files dropped from it: what that is called, the median seconds from
    `GenomeLoader(...)` to its first batch, and those from the start of Python."""
    found = []
    for called in ("warm", "cold"):
        batch, process = [], []
        for repeat in range(repeats + 1):
            if called == "cold":
                drop(store)
            began = time.time()
            seconds, ended = _run(_FIRST, store, placement)
            if repeat:  # the very first compiles what numba keeps
                batch.append(seconds)
                process.append(ended - began)
        found.append((called, statistics.median(batch), statistics.median(process)))
    return found


def anonymous(store: Path, placement: str) -> tuple[float, float]:
    """RssAnon (kB) once all is imported, and the most of it in an epoch."""
    imported, most = _run(_EPOCH, store, placement)
    return imported, most


def from_disk(store: Path, how: str, window: int) -> float:
    """Bases a second of windows whose pages have to come from the disk, the median of seven times twenty batches; `how` is
    "together", or "one by one" as the system finds that they are needed."""
    seconds, bases = _run(_DISK, store, "host", how, str(window))
    return bases / seconds


def drop(folder: Path) -> None:
    """Drop all files below a folder from the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)  # what is not yet on the disk stays
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(handle)


def _run(script: str, store: Path, placement: str, *more: str) -> tuple[float, float]:
    command = [sys.executable, "-c", script, str(store), placement, *more]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    one, two = json.loads(done.stdout)
    return one, two
