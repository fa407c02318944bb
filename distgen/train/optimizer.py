"""Optimizers, the rate at every step, and averaged weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from distgen.config import Optimizer
from distgen.train.parallel import local

ENDS = ("stem", "head")  # what families call their first and last layer, which Muon is not for


class Updater:
    """Moves a model's trained parameters along their gradients, and averages them.

    Args:
        config: `[optimizer]` of a run.
        model: whole, or sharded by `fully_shard`; what is called "stem" and "head" is its first and its last layer.
        steps: of the whole training, which the rate follows.
    """

    def __init__(self, config: Optimizer, model: nn.Module, steps: int):
        self._config, self._model, self._steps = config, model, steps
        self._trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        hidden = {name: p for name, p in self._trained.items() if config.kind == "muon" and is_hidden(name, p)}
        others = [p for name, p in self._trained.items() if name not in hidden]
        groups = [
            {"params": [p for p in others if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0},
        ]
        fused = all(p.device.type in ("cpu", "cuda") for p in others)
        self._optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=fused)
        ]
        self._matrices = {name: _Matrix(p) for name, p in hidden.items()}
        if hidden:
            moved = [matrix.parameter for matrix in self._matrices.values()]
            decay = config.weight_decay
            muon = torch.optim.Muon(moved, lr=config.lr, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
            self._optimizers.append(muon)
        self._averages = {name: p.detach().clone() for name, p in self._trained.items()} if config.ema else {}

    @cached_property
    def trained(self) -> list[nn.Parameter]:
        """The parameters that learn."""
        return list(self._trained.values())

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self._trained.values():
            parameter.grad = None

    def update(self, step: int) -> None:
        """Take step 0, 1, … with the gradients there are."""
        rate = learning_rate(self._config, step, self._steps)
        self._lay_out()
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()

    def _lay_out(self) -> None:
        """Have gradients lie in memory as their parameters do: fused kernels walk both from end to end."""
        for parameter in self._trained.values():
            if parameter.grad is not None and parameter.grad.stride() != parameter.stride():
                parameter.grad = torch.empty_like(parameter).copy_(parameter.grad)
        for matrix in self._matrices.values():
            matrix.take_gradient()

    def average(self, step: int) -> None:
        """Count the weights after step 0, 1, … into their average.

        Its start is corrected as that of Adam's moments (Kingma and Ba 2015, section 3): after n steps the weights of step
        i have ema^(n - i) of the sum of all these, and the first weights, which nobody trained, have nothing.
        """
        if self._averages:
            decay = self._config.ema or 0.0
            share = (1 - decay) / (1 - decay ** (step + 1))
            torch._foreach_lerp_([local(p) for p in self._averages.values()], self._here(), share)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the model has averaged weights, if there are any."""
        if not self._averages:
            yield
            return
        here = self._here()
        kept = [tensor.clone() for tensor in here]
        torch._foreach_copy_(here, [local(p) for p in self._averages.values()])
        try:
            yield
        finally:
            torch._foreach_copy_(here, kept)

    def _here(self) -> list[Tensor]:
        """What this worker has of the trained weights, in the same memory."""
        return [local(p).detach() for p in self._trained.values()]

    def averages(self) -> dict[str, Tensor]:
        """Averaged weights by the names of their parameters: what a checkpoint holds, and what one is loaded into."""
        return self._averages

    def tensors(self) -> dict[str, Tensor]:
        """All that steps have left in the optimizers, as `<entry>/<parameter name>`, there also before the first step: what
        a checkpoint holds, and what is written to when one is loaded."""
        for optimizer in self._optimizers:
            _fill(optimizer)
        found: dict[str, Tensor] = {}
        for name, parameter in self._trained.items():
            if matrix := self._matrices.get(name):
                kept = {e: matrix.shaped(v) for e, v in self._optimizers[1].state[matrix.parameter].items()}
            else:
                kept = self._optimizers[0].state[parameter]
            found |= {f"{entry}/{name}": value for entry, value in kept.items()}
        return found


class _Matrix:
    """A weight (D_out, …) as the matrix (D_out, rest) that Muon takes, in the same memory.

    Columns stand in the order of memory, which for channels-last convolutions is another than that of the axes: what makes
    a matrix orthogonal does not mind.
    """

    def __init__(self, weight: nn.Parameter):
        self._weight = weight
        strides = local(weight).stride()
        self._order = (0, *sorted(range(1, weight.ndim), key=lambda axis: (-strides[axis], axis)))
        self._sizes = [weight.shape[axis] for axis in self._order[1:]]
        self._columns = math.prod(self._sizes)
        here = local(weight).detach()
        self.parameter = nn.Parameter(self._whole(here.permute(self._order).view(here.shape[0], self._columns)))

    def take_gradient(self) -> None:
        """Have the gradient that the weight has."""
        self.parameter.grad = None
        if self._weight.grad is not None:
            here = local(self._weight.grad)
            self.parameter.grad = self._whole(here.permute(self._order).reshape(here.shape[0], self._columns))

    def shaped(self, matrix: Tensor) -> Tensor:
        """A matrix like this in the shape of the weight, in the same memory."""
        here = local(matrix)
        back = [self._order.index(axis) for axis in range(len(self._order))]
        return self._whole(here.view(here.shape[0], *self._sizes).permute(back))

    def _whole(self, here: Tensor) -> Tensor:
        """All rows of what this worker has some rows of, if the weight is spread over workers."""
        if local(self._weight) is self._weight:
            return here
        from torch.distributed.tensor import DTensor  # slow to import: only where it has been already

        spread: Any = self._weight
        shape = torch.Size((spread.shape[0], *here.shape[1:]))
        stride = torch.empty(shape, device="meta").stride()
        mesh, placements = spread.device_mesh, spread.placements
        whole: Tensor = DTensor.from_local(here, mesh, placements, run_check=False, shape=shape, stride=stride)
        return whole


def learning_rate(config: Optimizer, step: int, steps: int) -> float:
    """The rate for step 0 to steps - 1; `Optimizer` says how it goes. Where a schedule ends is the step after the last."""
    cycle = config.schedule == "one-cycle"
    asked = config.warmup_steps if config.warmup_steps is not None else round(0.3 * steps) if cycle else 50
    warmup = min(asked, steps // 2)
    if step < warmup:
        return config.lr * (_between(1 / 25, 1, step / warmup) if cycle else (step + 1) / (warmup + 1))
    if config.schedule == "wsd":
        fall = max(1, round(steps * (0.2 if config.decay is None else config.decay)))
        warmup = max(warmup, steps - fall)
    passed = max(0.0, (step - warmup) / max(1, steps - warmup))
    if config.schedule in ("linear", "wsd"):
        return config.lr * (1 + (config.final - 1) * passed)
    return config.lr * (1 if config.schedule == "constant" else _between(1, config.final, passed))


def _between(first: float, last: float, passed: float) -> float:
    """On half a cosine."""
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * passed))


def is_hidden(name: str, parameter: Tensor) -> bool:
    """Whether it is a matrix of more than a row or column between a model's first layer and its last."""
    if parameter.ndim < 2 or name.split(".")[0] in ENDS:
        return False
    return min(parameter.shape[0], math.prod(parameter.shape[1:])) > 1


def _fill(optimizer: torch.optim.Optimizer) -> None:
    """Have the optimizer make the state that parameters lack (nothing used them yet): by a step that moves nothing."""
    every = [p for group in optimizer.param_groups for p in group["params"]]
    missing = [p for p in every if not optimizer.state.get(p)]
    if not missing:
        return
    rates = [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups]
    kept = [p.grad for p in every]
    for group in optimizer.param_groups:
        group["lr"], group["weight_decay"] = 0.0, 0.0
    for p in every:
        p.grad = None
    for p in missing:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for p in missing:
        for entry in optimizer.state[p].values():
            entry.zero_()
    for p, grad in zip(every, kept, strict=True):
        p.grad = grad
    for group, (rate, decay) in zip(optimizer.param_groups, rates, strict=True):
        group["lr"], group["weight_decay"] = rate, decay
