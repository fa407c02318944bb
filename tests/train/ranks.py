"""Workers as processes of this machine, without a launcher."""

from __future__ import annotations

import socket
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor.debug import _clear_sharding_prop_cache

from distgen.train.worker import Worker

_SECONDS = 240  # what a function may take on all ranks
_ranks: list[ProcessPoolExecutor] = []  # one process each, which waits for the next test: importing torch takes seconds


def on_ranks(world_size: int, out: Path, function: Callable[..., Any], *args: Any) -> list[Any]:
    """What `function(worker, *args)` returned on each of so many gloo ranks; raises what the first of them raised."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    while len(_ranks) < world_size:
        _ranks.append(ProcessPoolExecutor(1, mp_context=get_context("spawn")))
    calls = [
        pool.submit(_rank, rank, world_size, port, out, function, args)
        for rank, pool in zip(range(world_size), _ranks, strict=False)
    ]
    done, late = wait(calls, timeout=_SECONDS, return_when=FIRST_EXCEPTION)
    if late:  # they wait for one that failed, or for each other
        for process in (process for pool in _ranks for process in pool._processes.values()):
            process.kill()
        _ranks.clear()
        for call in done:
            call.result()
        raise TimeoutError(f"{len(late)} of {world_size} ranks took more than {_SECONDS} s")
    return [call.result() for call in calls]


def _rank(rank: int, world_size: int, port: int, out: Path, function: Any, args: Any) -> Any:
    torch.set_num_threads(1)
    limit = timedelta(seconds=120)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size, timeout=limit)
    try:
        return function(Worker(rank, world_size, torch.device("cpu"), out), *args)
    finally:
        dist.destroy_process_group()
        _clear_sharding_prop_cache()  # it would give the next function groups that are no more
