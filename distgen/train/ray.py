"""Ray Train puts the loop on N workers and brings it back after a fault; with none it runs in this process."""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from distgen import cluster
from distgen.config import TIMEOUTS
from distgen.errors import CheckpointError, DistgenError, TrainError
from distgen.train.checkpoint import newest
from distgen.train.loop import forget_later_records, train
from distgen.train.parallel import Worker
from distgen.train.run import Run

Show = Callable[[dict[str, Any]], None]


def launch(run: Run, out: Path, show: Show) -> None:
    """Train a run on `cluster.workers` Ray Train workers, or in this process if that is 0.

    Nothing is written before the run, its store, its checkpoint to go on from and the cores it asks for are known to fit.

    Args:
        run: what to train.
        out: the run directory; training goes on from its newest checkpoint.
        show: called with every metrics record.

    Raises:
        ConfigError, CheckpointError: something does not fit.
        TrainError: Ray did not start, or a worker failed more often than `cluster.max_failures`.
    """
    workers = run.cluster.workers
    ids, found = run.check(), newest(out / "checkpoints")
    if found:
        try:
            found.expect(**ids)
        except CheckpointError as error:
            if differ := run.differences(out / "run.toml"):
                error.add_note(f"What differs: {'; '.join(differ)}. Leave it as it was, or give another --out")
            raise
    if workers > 0:
        cluster.connect(workers * run.cluster.cpus_per_worker)
    out.mkdir(parents=True, exist_ok=True)
    run.write(out / "run.toml")
    forget_later_records(out, found.state["step"] if found else 0)
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    logging.getLogger("ray.train").setLevel(logging.WARNING)  # its local mode speaks of every report
    # Ray resumes silently what has the same name and place: its own folder goes as soon as it returns.
    scratch = out / ".ray"
    shutil.rmtree(scratch, ignore_errors=True)
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"run": run, "out": out.resolve(), "show": _silent if workers else show},
        torch_config=TorchConfig(timeout_s=int(TIMEOUTS["process_group"])),
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=torch.cuda.is_available(),
            resources_per_worker={
                "CPU": run.cluster.cpus_per_worker,
                **({"GPU": 1} if torch.cuda.is_available() else {}),
            },
        ),
        run_config=RunConfig(
            name=run.name,
            storage_path=str(scratch.resolve()),
            failure_config=FailureConfig(max_failures=run.cluster.max_failures),
        ),
    )
    try:
        with _following(out / "metrics.jsonl", show) if workers else nullcontext():
            trainer.fit()
    except TrainingFailedError as error:
        failures = list(getattr(error, "worker_failures", {}).values())
        # One worker knows what is wrong; the others only lost it.
        cause = next((e for e in failures if isinstance(e, DistgenError)), failures[0] if failures else error)
        if isinstance(cause, DistgenError):
            raise cause from None
        raise TrainError(f"training failed on {workers} workers: {cause}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _following(path: Path, show: Show) -> Iterator[None]:
    """Show the records that workers append to a file: the same live line as without workers."""
    done = threading.Event()
    position = path.read_bytes().rfind(b"\n") + 1 if path.exists() else 0
    shown = -1

    def follow() -> None:
        nonlocal position, shown
        last = False
        while not last:
            last = done.wait(0.5)
            if not path.exists():
                continue
            with path.open("rb") as file:
                if (
                    file.seek(0, os.SEEK_END) < position
                ):  # workers that were brought back dropped the steps they take again
                    position = 0
                file.seek(position)
                whole, newline, _ = file.read().rpartition(b"\n")
            position += len(whole + newline)
            for record in map(json.loads, whole.splitlines()):
                if record["step"] >= shown:
                    shown = record["step"]
                    show(record)

    thread = threading.Thread(target=follow, name="distgen-follow", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _silent(record: dict[str, Any]) -> None:
    """Workers write their records to the file that the driver follows."""


def _worker(config: dict[str, Any]) -> None:
    import ray.train.torch

    context = ray.train.get_context()
    train(
        config["run"],
        Worker(
            rank=context.get_world_rank(),
            world_size=context.get_world_size(),
            device=ray.train.torch.get_device(),
            out=config["out"],
            show=config["show"],
            report=ray.train.report,
        ),
    )
