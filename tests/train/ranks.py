"""Workers as processes of this machine, without a launcher."""

from __future__ import annotations

import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from distgen.train.worker import Worker


def on_ranks(world_size: int, out: Path, function: Callable[..., Any], *args: Any) -> list[Any]:
    """What `function(worker, *args)` returned on each of so many gloo ranks."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with mp.Manager() as manager:
        found = manager.dict()
        mp.spawn(_rank, (world_size, port, out, found, function, args), nprocs=world_size)
        return [found[rank] for rank in range(world_size)]


def _rank(rank: int, world_size: int, port: int, out: Path, found: Any, function: Any, args: Any) -> None:
    torch.set_num_threads(1)
    limit = timedelta(seconds=120)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size, timeout=limit)
    try:
        found[rank] = function(Worker(rank, world_size, torch.device("cpu"), out), *args)
    finally:
        dist.destroy_process_group()
