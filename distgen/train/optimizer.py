"""Optimizers, the rate at every step, and averaged weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from distgen.config import Optimizer


class Updater:
    """Moves a model's trained parameters along their gradients.

    Args:
        config: `[optimizer]` of a run.
        model: biases and norms (one axis) don't decay.
        steps: of the whole training, which the rate follows.
    """

    def __init__(self, config: Optimizer, model: nn.Module, steps: int):
        self._config, self._model, self._steps = config, model, steps
        trained = [p for p in model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self._optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=config.lr, betas=config.betas)]

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)

    def update(self, step: int) -> None:
        """Take step 0, 1, … with the gradients there are."""
        rate = learning_rate(self._config, step, self._steps)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()

    def tensors(self) -> dict[str, Tensor]:
        """All that steps have left in the optimizers, as `<entry>/<parameter name>`, there also before the first step: what
        a checkpoint holds, and what is written to when one is loaded."""
        found: dict[str, Tensor] = {}
        for optimizer in self._optimizers:
            _fill(optimizer)
            for name, parameter in self._model.named_parameters():
                found |= {f"{entry}/{name}": value for entry, value in optimizer.state.get(parameter, {}).items()}
        return found


def learning_rate(config: Optimizer, step: int, steps: int) -> float:
    """The rate for step 0 to steps - 1."""
    warmup = min(config.warmup_steps, steps // 2)
    if step < warmup:
        return config.lr * (step + 1) / (warmup + 1)
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _fill(optimizer: torch.optim.Optimizer) -> None:
    """Have the optimizer make its state: by a step that moves nothing."""
    missing = [p for group in optimizer.param_groups for p in group["params"] if not optimizer.state.get(p)]
    if not missing:
        return
    rates = [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups]
    kept = [p.grad for p in missing]
    for group in optimizer.param_groups:
        group["lr"], group["weight_decay"] = 0.0, 0.0
    for p in missing:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for p, grad in zip(missing, kept, strict=True):
        p.grad = grad
        for entry in optimizer.state[p].values():
            entry.zero_()
    for group, (rate, decay) in zip(optimizer.param_groups, rates, strict=True):
        group["lr"], group["weight_decay"] = rate, decay
