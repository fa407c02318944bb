"""One optimizer step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distgen.loader.batch import Batch
from distgen.objectives import Objective
from distgen.train.clock import Clock
from distgen.train.optimizer import Updater
from distgen.train.parallel import Parallel
from distgen.train.precision import Precision
from distgen.train.reproducible import seed_draws


@dataclass
class Learner:
    """What a step takes and changes.

    Args:
        model: as it was made; `parallel.model` is how it is called.
        micro_batch: rows that go through the model at once.
        micro_steps: how often that is done in a step, the same on every worker.
        clip_norm: the longest gradient.
        seed: of what the model draws (dropout), which is the same whenever this worker takes a step.
    """

    model: nn.Module
    objective: Objective
    parallel: Parallel
    updater: Updater
    precision: Precision
    micro_batch: int
    micro_steps: int
    clip_norm: float
    seed: tuple[int, int]


def train_step(
    learner: Learner, batch: Batch, step: int, clock: Clock, asks: tuple[bool, bool] = (False, False)
) -> Tensor:
    """Decode, forward, backward, reduce, clip, update. The gradient is that of the mean over the global batch's targets.

    Args:
        asks: whether this worker was asked to leave, and whether it knows that training has no more use.

    Returns:
        float64 (6,), on the batch's device: the loss in nats summed over all workers' targets, how many there were, how many
        workers ask for each of both, the gradient's norm, and whether nothing moved since it overflowed (its norm is then 0).
    """
    precision, parallel, device = learner.precision, learner.parallel, batch.starts.device
    seed_draws(*learner.seed, step, device)
    learner.updater.zero_grad()
    sums = torch.tensor([0.0, 0.0, *asks], dtype=torch.float64, device=device)
    for number in range(learner.micro_steps):
        with parallel.accumulating(last=number == learner.micro_steps - 1):
            with clock.part("encode"):
                rows = batch.rows(number * learner.micro_batch, (number + 1) * learner.micro_batch)
                x, target, valid = learner.objective.encode(rows, precision.dtype)
            with clock.part("forward"), precision.autocast():
                total, count = learner.objective.loss(parallel.model(x), target, valid)
            with clock.part("backward"):
                precision.scaled(total).backward()
        sums[:2] += torch.stack([total.detach().double(), count.detach().double()])
    with clock.part("communicate"):
        sums = parallel.reduce(sums)
    with clock.part("optimize"):
        norm = precision.mean(learner.updater.trained, sums[1], learner.clip_norm)
        skipped = precision.skips(sums[0], norm)
        if not skipped:
            learner.updater.update(step)
        learner.updater.average(step)
    nothing, yes = sums.new_zeros(1), sums.new_ones(1)
    return torch.cat([sums, nothing, yes] if skipped else [sums, norm.double().reshape(1), nothing])
