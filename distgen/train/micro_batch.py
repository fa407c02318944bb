"""How many rows go through a worker's model at once."""

from __future__ import annotations

import logging
from itertools import accumulate

import torch
import torch.distributed as dist
from torch import Tensor, nn

from distgen.errors import TrainError
from distgen.loader.base import Loader
from distgen.loader.batch import Batch
from distgen.objectives import Objective
from distgen.train.checkpoint import Checkpoint
from distgen.train.precision import Precision
from distgen.train.run import Run
from distgen.train.worker import Worker

log = logging.getLogger("distgen")


def micro_batch(
    run: Run,
    worker: Worker,
    model: nn.Module,
    objective: Objective,
    precision: Precision,
    loader: Loader,
    rows: int,
    found: Checkpoint | None,
) -> int:
    """How many rows go through the model at once, the same on all workers.

    As many as the run says; for "auto" as many as the checkpoint to go on from says, if it was written by as many workers,
    so that sums are cut in the same places; else what fits.

    Args:
        model: before it is given to `Parallel`: no worker then waits for another while one runs out of memory.
        rows: the most that a worker has of a global batch.

    Raises:
        TrainError: not even one row fits into the device's memory.
    """
    asked = run.train.micro_batch
    if asked != "auto":
        return min(asked or rows, rows)
    if found and found.state["made"]["world_size"] == worker.world_size:
        return min(int(found.state["made"]["micro_batch"]), rows)
    epochs = [0, *accumulate(stage.epochs for stage in run.data.curriculum)]
    batch = max((loader.batch(epoch, 0) for epoch in epochs), key=lambda batch: batch.length)
    most = torch.tensor(fitting(model, objective, precision, batch, rows, 4 if run.optimizer.ema else 3))
    if dist.is_initialized():
        most = most.to(worker.device)
        dist.all_reduce(most, op=dist.ReduceOp.MIN)
    if int(most) == 0:
        problem = (
            f"one window of {batch.length:,} bases does not fit into the memory of a worker's device with this model"
        )
        raise TrainError(
            f"{problem}. Try train.activation_checkpointing, smaller sizes in [model] or a smaller data.window."
        )
    if worker.leads:
        log.info("train.micro_batch: %d of %d rows go through the model at once", int(most), rows)
    return int(most)


def fitting(model: nn.Module, objective: Objective, precision: Precision, batch: Batch, rows: int, copies: int) -> int:
    """How many rows, `rows` or a half, a quarter, … of them, there is memory for forward and backward; 0 if not for one.

    Args:
        batch: what is tried with; weights, gradients and statistics are left as they were.
        copies: of the trained weights that will be in memory while a step is taken, beside weights and gradients: what the
            optimizer keeps, and gradients on their way to other workers.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    statistics = [buffer.clone() for buffer in model.buffers()]
    while rows and not _fits(model, objective, precision, batch.rows(0, rows), trained, copies):
        if batch.starts.is_cuda:
            torch.cuda.empty_cache()
        rows //= 2
    for p in trained:
        p.grad = None
    for buffer, before in zip(model.buffers(), statistics, strict=True):
        buffer.copy_(before)
    return rows


def _fits(
    model: nn.Module, objective: Objective, precision: Precision, rows: Batch, trained: list[nn.Parameter], copies: int
) -> bool:
    taken: list[Tensor] = []
    try:
        taken += [torch.empty_like(p) for p in trained for _ in range(copies)]
        x, target, valid = objective.encode(rows, precision.dtype)
        with precision.autocast():
            total, _ = objective.loss(model(x), target, valid)
        precision.scaled(total).backward()
    except torch.OutOfMemoryError:
        return False
    finally:
        for p in trained:
            p.grad = None
    return True
