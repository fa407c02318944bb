"""Context parallelism: which workers share windows, and which windows they can share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import timedelta

import torch.distributed as dist

from distgen.config import TIMEOUTS, Cluster, Lengths
from distgen.errors import ConfigError
from distgen.models.context import Context
from distgen.train.worker import Worker

_TRIED = 64  # sizes below and above what was asked for, among which those that fit are looked for


def share_windows(worker: Worker) -> Context | None:
    """The workers that share windows with this one; None where each has whole ones. Called by all workers."""
    if worker.context == 1:
        return None
    group, _ = dist.new_subgroups(worker.context, timeout=timedelta(seconds=TIMEOUTS["process_group"]))
    return Context(group, worker.context_rank, worker.context)


def check_workers(cluster: Cluster, world_size: int | None = None) -> int:
    """In how many parts the rows of a batch are dealt, at most.

    Args:
        cluster: `[cluster]` of a run.
        world_size: workers that there are; None: as many as it says.

    Raises:
        ConfigError: these don't divide into groups that share windows; names the key and what would fit.
    """
    most = world_size or cluster.most
    if cluster.context == 1:
        return most
    if world_size is None and cluster.fewest < most:
        problem = (
            f"{cluster.context} workers share each window, and of {cluster.fewest} to {most} some may be left over"
        )
        raise ConfigError(f"{problem}. Use {_near(most, cluster.context)}.", key="workers")
    if most % cluster.context:
        problem = (
            f"{cluster.context} workers share each window, and {most} {'is' if most == 1 else 'are'} no multiple of it"
        )
        raise ConfigError(f"{problem}. Use {_near(most, cluster.context)} workers.", key="context")
    return most // cluster.context


def check_windows(lengths: Sequence[Lengths], multiple: int, bin_bp: int, context: int) -> None:
    """Refuse windows that a model or the workers that share them cannot take.

    Args:
        lengths: of a curriculum, those that stay come last.
        multiple: what the model's windows are multiples of.
        bin_bp: bases of one target.
        context: workers that share each window: each has whole targets, and whole positions of the model.

    Raises:
        ConfigError: names the key, and the nearest windows that fit.
    """
    whole = math.lcm(multiple, bin_bp)
    unit = multiple if context == 1 else whole * context
    even = 2 if context == 1 else 2 * bin_bp  # what surrounds the targets: half of it stands on either side

    def fits(window: int, target: int | None) -> bool:
        around = 0 if target is None else window - target
        return window > 0 and window % unit == 0 and around >= 0 and around % even == 0

    for number, own in enumerate(lengths):
        window, target = own.window, own.target_length
        if fits(window, target):
            continue
        near = [n * unit for n in range(window // unit - _TRIED, window // unit + _TRIED) if fits(n * unit, target)]
        good = [*[n for n in near if n < window][-1:], *[n for n in near if n > window][:1]]
        problem = f"{window} has targets of {bin_bp} bases that do not begin where slices can"
        if window % unit:
            problem = f"{window} is no multiple of the {multiple} bases that the model makes one position"
            if context > 1:
                problem = f"{window} does not divide into {context} slices, one for each worker, of {whole} bases or so many times that"
        hint = f"Use {' or '.join(map(str, good))}." if good else f"Use multiples of {unit} for it and target_length."
        key = f"curriculum.{number}.window" if number < len(lengths) - 1 else "window"
        raise ConfigError(f"{problem}. {hint}", key=key)


def _near(count: int, unit: int) -> str:
    below = count // unit * unit
    return f"{below} or {below + unit}" if below else f"{unit}"
