"""What must be alike for a training to come out alike: threads, algorithms, and what is drawn."""

from __future__ import annotations

import hashlib
import os
import struct

import torch

from distgen.errors import TrainError
from distgen.train.heap import keep_heap
from distgen.train.run import Run

_CUBLAS = (":4096:8", ":16:8")  # sizes of its workspace for which sums do not depend on which stream they are in


def settle(run: Run) -> None:
    """Have this process compute as a run asks for, before it computes anything.

    Raises:
        TrainError: the environment forbids it.
    """
    train = run.train
    keep_heap()
    if train.threads or train.deterministic:
        torch.set_num_threads(train.threads or run.cluster.cpus_per_worker)
    if train.deterministic and os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", _CUBLAS[0]) not in _CUBLAS:
        found = os.environ["CUBLAS_WORKSPACE_CONFIG"]
        raise TrainError(
            f'train.deterministic: CUBLAS_WORKSPACE_CONFIG is "{found}", where sums differ from run to run. Unset it.'
        )
    torch.use_deterministic_algorithms(train.deterministic)
    torch.backends.cudnn.deterministic = train.deterministic


def seed_draws(seed: int, rank: int, step: int, device: torch.device) -> None:
    """Have torch draw what worker `rank` draws in step 0, 1, … of a run, on its device and on the CPU, whatever was drawn before.

    The numbers are hashed, not added: neighbours share no stream. `torch.manual_seed` would do, but takes the stack of its
    callers for each kind of device that is not there: 0.3 ms a step.
    """
    drawn = hashlib.blake2b(struct.pack("<Qqq", seed, rank, step), digest_size=8).digest()
    number = int.from_bytes(drawn, "little", signed=True)
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.default_generators[
            torch.cuda.current_device() if device.index is None else device.index
        ].manual_seed(number)
