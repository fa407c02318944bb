"""Where a training runs: in this process, as one of torchrun's, or on Ray Train's workers."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from distgen.config import TIMEOUTS
from distgen.errors import CheckpointError
from distgen.train.checkpoint import newest
from distgen.train.loop import train
from distgen.train.parallel import Worker
from distgen.train.run import Run

Show = Callable[[dict[str, Any]], None]


def launch(run: Run, out: Path, show: Show) -> None:
    """Train a run as its `[cluster]` says; a process that torchrun started is one of its workers.

    Nothing is written before the run, its store, its checkpoint to go on from and the cores it asks for are known to fit.

    Args:
        run: what to train.
        out: the run directory; training goes on from its newest checkpoint.
        show: called with every metrics record.

    Raises:
        ConfigError, CheckpointError: something does not fit.
        TrainError: Ray did not start, or a worker failed more often than `cluster.max_failures`.
    """
    torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    found = newest(run.checkpoints(out), deep=False)
    ids = run.check(int(os.environ["WORLD_SIZE"]) if torchrun else None, begins=found is None)
