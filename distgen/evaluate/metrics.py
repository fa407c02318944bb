"""A model's metrics over a whole split, and over each part of it that may be taken as independent."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from distgen.genome import Bits, Interval
from distgen.loader.base import Loader
from distgen.loader.batch import Batch
from distgen.loader.sampled import Sampled
from distgen.objectives import Metrics, Objective
from distgen.objectives.base_classes import NEITHER

Values: TypeAlias = dict[str, "float | dict[str, float]"]
_FEWEST, _MOST, _BLOCKS = 6, 256, 32  # contigs to resample, units to keep apart, and about how many blocks


class Collector(Protocol):
    """Takes predictions as they come, for more than the metrics of all."""

    def update(self, objective: Objective, batch: Batch, logits: Tensor, target: Tensor, valid: Tensor) -> None:
        """Add a batch of predictions; see `distgen.objectives.Metrics`. Of rows that only pad it nothing is valid."""


def measure(
    model: nn.Module,
    objective: Objective,
    loader: Loader | Sampled,
    precision: torch.dtype,
    keep: Sequence[Collector] = (),
) -> Values:
    """The values of `collect`."""
    return collect(model, objective, loader, precision, keep).compute()


@torch.no_grad()
def collect(
    model: nn.Module,
    objective: Objective,
    loader: Loader | Sampled,
    precision: torch.dtype,
    keep: Sequence[Collector] = (),
) -> Metrics:
    """Metrics over one epoch of a loader, exact over all ranks (predictions are pooled, not averaged).

    Args:
        model: in any mode; left in the mode it was in.
        objective: says what is predicted.
        loader: with `order="sequential"` and `last="pad"`, so that every window counts once; or a sample of its batches.
        precision: bfloat16 runs the model under autocast.
        keep: what else takes the predictions; not on several ranks, which see different ones.
    """
    was_training = model.training
    model.eval()
    metrics = objective.metrics(loader.device)
    loader.epoch, loader.position = 0, 0
    for batch in loader:
        x, target, valid = objective.encode(batch, precision, evaluating=True)
        with torch.autocast(loader.device.type, precision, enabled=precision != torch.float32):
            logits = model(x)
        metrics.update(logits.float(), target, valid)
        for collector in keep:
            collector.update(objective, batch, logits.float(), target, valid)
    model.train(was_training)
    return metrics


class Units:
    """Metrics by units of the genome that resampling may take as independent: contigs, if there are enough of them, else
    stretches of contigs. Many contigs (scaffolds, sequences of a table) share units.

    Args:
        loader: whose windows they are.

    Attributes:
        kind: "contigs", "blocks" or "groups of contigs".
        name: the unit that a window lies in.
    """

    def __init__(self, loader: Loader):
        contigs: dict[str, tuple[int, int]] = {}  # from where to where there are windows
        for position in range(0, loader.plan.batches(0) * loader.batch_size, loader.batch_size):
            for place in loader.places(0, position)[1]:
                first, end = contigs.get(place.contig, (place.start, place.end))
                contigs[place.contig] = min(first, place.start), max(end, place.end)
        self.name: Callable[[Interval], str] = lambda place: place.contig
        self.kind = "contigs"
        if len(contigs) < _FEWEST:
            # A power of two, so that other windows on the same split fall into the same blocks.
            size = 1 << max(sum(end - first for first, end in contigs.values()) // _BLOCKS, 1).bit_length()
            self.kind, self.name = "blocks", lambda place: _block(place, size)
        elif len(contigs) > _MOST:
            group = {name: f"group {number % _MOST}" for number, name in enumerate(sorted(contigs))}
            self.kind, self.name = "groups of contigs", lambda place: group[place.contig]
        self._found: dict[str, Metrics] = {}
        self._targets: defaultdict[str, int] = defaultdict(int)

    def update(self, objective: Objective, batch: Batch, logits: Tensor, target: Tensor, valid: Tensor) -> None:
        """Add a batch of predictions; see `distgen.objectives.Metrics`."""
        rows: defaultdict[str, list[int]] = defaultdict(list)
        for row, place in enumerate(batch.where()):
            rows[self.name(place)].append(row)
        for unit, some in rows.items():
            chosen = torch.tensor(some, device=logits.device)
            counted = int((valid[chosen] > 0).sum())
            if counted:  # rows that only pad the last batch have no targets
                if unit not in self._found:
                    self._found[unit] = objective.metrics(logits.device)
                self._found[unit].update(logits[chosen], target[chosen], valid[chosen])
                self._targets[unit] += counted

    def compute(self) -> dict[str, dict[str, Any]]:
        """By unit: how many "targets" it has, and its metrics."""
        return {
            unit: {"targets": self._targets[unit], **metrics.compute()} for unit, metrics in sorted(self._found.items())
        }


class Chosen:
    """Metrics of some of the windows.

    Args:
        metrics: empty ones.
        rows: bool (N,), of all windows in the order in which they come; None: all.
    """

    def __init__(self, metrics: Metrics, rows: Bits | None = None):
        self._metrics, self._rows, self._seen = metrics, rows, 0

    def update(self, objective: Objective, batch: Batch, logits: Tensor, target: Tensor, valid: Tensor) -> None:
        """Add a batch of predictions."""
        if self._rows is not None:
            counted = torch.nonzero(batch.weight > 0)[:, 0]
            here = torch.from_numpy(self._rows[self._seen : self._seen + len(counted)]).to(logits.device)
            self._seen += len(counted)
            logits, target, valid = (tensor[counted[here]] for tensor in (logits, target, valid))
        if len(logits):
            self._metrics.update(logits, target, valid)

    def compute(self) -> Values:
        """The metrics."""
        return self._metrics.compute()


def _block(place: Interval, size: int) -> str:
    number = max((place.start + place.end) // 2, 0) // size
    return f"{place.contig}:{number * size}-{(number + 1) * size}"


def named_value(values: dict[str, Any], name: str) -> float | None:
    """One metric by its dotted name ("auprc.cds+"); the mean over classes of one that has several, None if there is none.

    "neither" is what is left where there is none of the classes, easy where these are rare: it is in no mean.
    """
    first, _, inner = name.partition(".")
    value = values.get(first)
    if isinstance(value, dict):
        asked = [number for kind, number in value.items() if kind != NEITHER]
        value = value.get(inner) if inner else (sum(asked) / len(asked) if asked else None)
    elif inner:
        value = None
    return None if value is None else float(value)
