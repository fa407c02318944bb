"""Ray Train puts the loop on N workers and brings it back after a fault; with none it runs in this process."""

from __future__ import annotations

import shutil
from collections.abc import Callable
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


def launch(run: Run, out: Path, show: Show) -> dict[str, Any]:
    """Train a run on `cluster.workers` Ray Train workers, or in this process if that is 0.

    Args:
        run: what to train.
        out: the run directory; training goes on from its newest checkpoint.
        show: called with every metrics record (by the first worker, in its own process if there are workers).

    Returns:
        The last metrics record.

    Raises:
        TrainError: Ray did not start, or a worker failed more often than `cluster.max_failures`.
    """
    workers = run.cluster.workers
    if workers > 0:
        cluster.connect(workers * run.cluster.cpus_per_worker)
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    # Ray resumes silently what has the same name and place: its own folder goes as soon as it returns.
    scratch = out / ".ray"
    shutil.rmtree(scratch, ignore_errors=True)
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"run": run, "out": out.resolve(), "show": show},
        torch_config=TorchConfig(timeout_s=int(TIMEOUTS["process_group"])),
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=torch.cuda.is_available(),
            resources_per_worker={"CPU": run.cluster.cpus_per_worker, **({"GPU": 1} if torch.cuda.is_available() else {})},
        ),
        run_config=RunConfig(
            name=run.name,
            storage_path=str(scratch.resolve()),
            failure_config=FailureConfig(max_failures=run.cluster.max_failures),
        ),
    )
    try:
        result = trainer.fit()
    except TrainingFailedError as error:
        cause = next((e for e in getattr(error, "worker_failures", {}).values()), error)
        if isinstance(cause, DistgenError):
            raise cause from None
        raise TrainError(f"training failed on {workers} workers: {cause}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    record = result.return_value if workers == 0 else None
    return record or {}


def _worker(config: dict[str, Any]) -> dict[str, Any]:
    import ray.train

    context = ray.train.get_context()
    device = torch.device(f"cuda:{context.get_local_rank()}" if torch.cuda.is_available() else "cpu")
    return train(
        config["run"],
        Worker(
            rank=context.get_world_rank(),
            world_size=context.get_world_size(),
            device=device,
            out=config["out"],
            show=config["show"],
            report=ray.train.report,
        ),
    )
