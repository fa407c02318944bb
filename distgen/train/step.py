"""One optimizer step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distgen.config import Optimizer
from distgen.loader.batch import Batch
from distgen.objectives import Objective
from distgen.train.parallel import reduce_gradients


@dataclass(frozen=True)
class Stepped:
    """What a step saw, over all workers: the loss in nats summed over targets, how many there were, and the gradient's norm."""

    total: Tensor
    count: Tensor
    norm: Tensor


def train_step(
    model: nn.Module,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    *,
    lr: float,
    clip_norm: float,
    precision: torch.dtype,
) -> Stepped:
    """Decode, forward, backward, reduce, clip, update. The gradient is that of the mean over the global batch's targets."""
    x, target, valid = objective.encode(batch, precision)
    with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == torch.bfloat16):
        logits = model(x)
    total, count = objective.loss(logits, target, valid)
    optimizer.zero_grad(set_to_none=True)
    total.backward()
    parameters = [p for p in model.parameters() if p.requires_grad]
    total, count = reduce_gradients(parameters, total, count)
    norm = nn.utils.clip_grad_norm_(parameters, clip_norm)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    return Stepped(total, count, norm)


def make_optimizer(config: Optimizer, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW; biases and norms (one axis) don't decay."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas)


def learning_rate(config: Optimizer, step: int, steps: int) -> float:
    """The rate for step 0 to steps - 1: linear warm-up, then a cosine to zero."""
    warmup = min(config.warmup_steps, steps // 2)
    if step < warmup:
        return config.lr * (step + 1) / (warmup + 1)
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
