"""Ray Train puts the loop on N workers and brings it back after a fault."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from distgen import cluster
from distgen.config import TIMEOUTS
from distgen.errors import DistgenError, TrainError
from distgen.train.loop import train
from distgen.train.parallel import Worker
from distgen.train.run import Run

Show = Callable[[dict[str, Any]], None]


def train_on_ray(run: Run, out: Path, show: Show, begin: Callable[[], None]) -> None:
    """Train a run on Ray Train workers.

    Args:
        run, out, show: see `distgen.train.launch.launch`.
        begin: called when there are the cores that the run asks for.

    Raises:
        ConfigError: there are fewer. TrainError: Ray did not start, or a worker failed more often than it may.
    """
    workers = run.cluster.workers
    cluster.connect(run.cluster.fewest * run.cluster.cpus_per_worker)
    begin()
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    # Ray resumes silently what has the same name and place: its own folder goes as soon as it returns.
    scratch = out / ".ray"
    shutil.rmtree(scratch, ignore_errors=True)
    trainer = TorchTrainer(
        _worker,
        train_loop_config={
            "run": run,
            "out": out.resolve(),
        },
        torch_config=TorchConfig(timeout_s=int(TIMEOUTS["process_group"])),
        scaling_config=ScalingConfig(
            num_workers=workers,  # type: ignore[arg-type]
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
        with _following(out / "metrics.jsonl", show):
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
            report=lambda path, record: ray.train.report(record),
            context=config["run"].cluster.context,
        ),
    )
