"""Some batches of an epoch, always the same."""

from __future__ import annotations

from collections.abc import Iterator

from distgen.loader.base import Loader
from distgen.loader.batch import Batch


class Sampled:
    """Batches of a loader's first epoch that stand in equal distances, to measure something on a part of it.

    Args:
        loader: with `order="sequential"`, so that they are spread over all that it serves.
        count: batches, at most.

    Attributes:
        epoch, position: what a loader has; they say nothing here.
    """

    def __init__(self, loader: Loader, count: int):
        self._loader, self.device, self.epoch, self.position = loader, loader.device, 0, 0
        there = loader.plan.batches(0)
        self.batches = [number * there // count for number in range(count)] if there > count else list(range(there))

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        for number in self.batches:
            yield self._loader.batch(0, number * self._loader.batch_size)
