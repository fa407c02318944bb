"""How benchmarks measure: medians of repeated runs, and what they ran on."""

from __future__ import annotations

import json
import os
import platform
import socket
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist


def median_seconds(work: Callable[[], object], repeats: int = 15) -> float:
    """The median time of one call, after two calls that warm up."""
    work()
    work()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def in_turn(*works: Callable[[], object], repeats: int = 101) -> list[float]:
    """The median times of calls that take turns, so that what else the machine does meets all of them."""
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(repeats):
        for work, found in zip(works, seconds, strict=True):
            began = time.perf_counter()
            work()
            found.append(time.perf_counter() - began)
    return [statistics.median(found) for found in seconds]


def machine() -> str:
    """One line: processor, cores, versions."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    name = next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
    return f"{name}, {torch.get_num_threads()} threads, Python {platform.python_version()}, torch {torch.__version__}"


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Print a Markdown table."""
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")


def bound(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """The median of some values, and what it stays below with so much confidence (percentiles of 10,000 bootstrap draws)."""
    found, rng = np.asarray(values), np.random.default_rng(0)
    medians = np.median(found[rng.integers(0, len(found), (10_000, len(found)))], axis=1)
    return float(np.median(found)), float(np.quantile(medians, level))


def on_ranks(workers: int, folder: Path, function: Callable[[int], Any], together: bool = True) -> list[Any]:
    """What a function of the rank returned on each of so many processes of one thread, in a gloo group if they work
    `together`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(_rank, (workers, port, folder, function, together), nprocs=workers)  # type: ignore[no-untyped-call]
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(workers)]


def _rank(rank: int, workers: int, port: int, folder: Path, function: Callable[[int], Any], together: bool) -> None:
    torch.set_num_threads(1)
    if together:
        dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=workers)
    (folder / f"rank-{rank}.json").write_text(json.dumps(function(rank)))
    if together:
        dist.destroy_process_group()
    # As `distgen.cli.main` leaves: native threads of the libraries have aborted such processes as they went down.
    sys.stderr.flush()
    os._exit(0)
