"""Where a training runs: in this process, as one of torchrun's, or on Ray Train's workers."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from distgen.config import TIMEOUTS
from distgen.errors import CheckpointError, ConfigError
from distgen.store.locks import locked
from distgen.train.aside import beside
from distgen.train.checkpoint import newest
from distgen.train.loop import train
from distgen.train.run import Run
from distgen.train.signals import asked_to_leave
from distgen.train.worker import Worker

Show = Callable[[dict[str, Any]], None]


def launch(run: Run, out: Path, show: Show) -> bool:
    """Train a run as its `[cluster]` says; a process that torchrun started is one of its workers.

    Nothing is written before the run, its store, its checkpoint to go on from and the cores it asks for are known to fit.

    Args:
        run: what to train.
        out: the run directory; training goes on from its newest checkpoint.
        show: called with every metrics record.

    Returns:
        Whether this process speaks for the training: of those that torchrun started, one does.

    Raises:
        ConfigError, CheckpointError: something does not fit.
        TrainError: Ray did not start, or a worker failed more often than `cluster.max_failures`.
        PreemptedError: the process was asked to leave (SIGTERM, SIGUSR1); what was trained is kept.
    """
    torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    here = torchrun or run.cluster.workers == 0
    found = newest(run.checkpoints(out), deep=False)
    size = int(os.environ["WORLD_SIZE"]) if torchrun else None
    ids = run.check(size, _known_device(run, here), begins=found is None)
    local = int(os.environ["LOCAL_WORLD_SIZE"]) if torchrun else 1
    if here and run.cluster.valid_aside and 0 < torch.cuda.device_count() <= local:
        problem = (
            f"workers take all {torch.cuda.device_count()} GPUs of this machine. Leave it out, or use fewer workers"
        )
        raise run.error("cluster.valid_aside", problem)
    if found:
        try:
            found.expect(**ids)
        except CheckpointError as error:
            # Where checkpoints are elsewhere, this directory may have no run yet.
            if (out / "run.toml").exists() and (differ := run.differences(out / "run.toml")):
                error.add_note(f"What differs: {'; '.join(differ)}. Leave it as it was, or give another --out")
            raise
    with ExitStack() as held:

        def begin() -> None:
            held.enter_context(taken(out))
            run.write(out / "run.toml")

        if torchrun:
            return _under_torchrun(run, out, show, _device(local), begin)
        elif run.cluster.workers == 0:
            begin()
            with asked_to_leave() as leaving, beside(run, _device(local)) as aside:
                train(run, Worker(0, 1, _device(), out, show, leaving=leaving, aside=aside))
        else:
            from distgen.train.ray import train_on_ray

            train_on_ray(run, out, show, begin)
    return True


@contextmanager
def taken(out: Path) -> Iterator[None]:
    """A run directory that no other training writes to. A killed one keeps nothing.

    Raises:
        ConfigError: another does.
    """
    out.mkdir(parents=True, exist_ok=True)
    lock = locked(out / ".lock", fcntl.LOCK_EX, os.O_CREAT)
    if lock is None:
        raise ConfigError(f"another training writes to {out}: wait for it or stop it, or give another --out")
    try:
        yield
    finally:
        os.close(lock)


def _under_torchrun(run: Run, out: Path, show: Show, spare: torch.device, begin: Callable[[], None]) -> bool:
    device = _device(int(os.environ["LOCAL_RANK"]))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    limit = timedelta(seconds=TIMEOUTS["process_group"])
    store, rank, world_size = next(rendezvous("env://", timeout=limit))
    # torchrun keeps one store for all its restarts: without a place of its own each try may find the addresses of workers
    # that have died ("Connection refused"), and fail as well.
    store = PrefixStore(f"{os.environ['TORCHELASTIC_RESTART_COUNT']}/{world_size}", store)
    dist.init_process_group(store=store, rank=rank, world_size=world_size, timeout=limit)
    try:
        with asked_to_leave() as leaving, beside(run, spare) as aside:
            options: dict[str, Any] = {"leaving": leaving, "aside": aside, "context": run.cluster.context}
            worker = Worker(dist.get_rank(), dist.get_world_size(), device, out, show, **options)
            if worker.leads:
                begin()
            dist.barrier()
            train(run, worker)
            return worker.leads
    finally:
        dist.destroy_process_group()


def _known_device(run: Run, here: bool) -> torch.device | None:
    """Where workers compute; None where they may have other devices than this machine."""
    if here:
        return _device()
    if run.cluster.gpus_per_worker == 0:
        return torch.device("cpu")
    return None if run.cluster.address or os.environ.get("RAY_ADDRESS") else _device()


def _device(number: int = 0) -> torch.device:
    return torch.device("cuda", number) if torch.cuda.is_available() else torch.device("cpu")
