"""What every loader does alike: walk an epoch with threads that work ahead, say where it stands, go back there."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from numbers import Integral
from typing import Any, NamedTuple, Protocol

import torch
from torch.utils.data import IterableDataset, get_worker_info

from distgen.config import Lengths
from distgen.errors import CheckpointError, ConfigError
from distgen.genome import Interval
from distgen.loader.ahead import ahead
from distgen.loader.batch import Batch

_THREADS = 4  # that make batches before they are asked for, at most
_CORES = 4  # that a process has for each of them
_TOGETHER = 8 << 20  # bytes of batches that are made in one go: what is paid per call is paid once for many of them
_MOST = 64  # batches in one go


class Made(NamedTuple):
    """Some batches.

    Args:
        batches: them.
        receive: what whoever uses them is to call before: what is still on its way to a device is then waited for there.
    """

    batches: list[Batch]
    receive: list[Callable[[], None]]

    def received(self) -> list[Batch]:
        """The batches, for use on the current stream."""
        for call in self.receive:
            call()
        return self.batches


class Steps(Protocol):
    """Which global batches there are."""

    def batches(self, epoch: int) -> int:
        """How many an epoch has."""

    def at_step(self, step: int) -> tuple[int, int]:
        """The epoch, and its first sample, of the one that comes after `step` others since the very first."""

    def steps(self, epochs: int) -> int:
        """How many so many epochs have."""


class Loader(IterableDataset[Batch], ABC):
    """Iterates over one epoch of one rank's batches at a time; the next iteration is the next epoch.

    It is its own data loader, with threads that work ahead. Inside a `torch.utils.data.DataLoader(loader, batch_size=None)`
    each of its worker processes makes every so many-th batch, so that they come in the same order. They walk copies, which
    go to the next epoch with each iteration; this one stays where it is.

    Args:
        batch_size: samples per global batch, all ranks together.
        device: where batches are to be.

    Attributes:
        receiving: around waiting for what is on its way to the device; who measures that puts a clock here.
    """

    plan: Steps

    def __init__(self, batch_size: int, device: torch.device):
        self.batch_size, self.device = batch_size, device
        self.epoch, self.position = 0, 0
        self.receiving: AbstractContextManager[Any] = nullcontext()

    @abstractmethod
    def make(self, epoch: int, batches: Sequence[int]) -> Made:
        """This rank's rows of some global batches of an epoch, by their numbers in it."""

    @abstractmethod
    def places(self, epoch: int, position: int) -> tuple[list[int], list[Interval]]:
        """The samples of a batch and where they lie, without reading them; see `Batch.samples` and `Batch.where`."""

    @property
    @abstractmethod
    def lengths(self) -> Sequence[Lengths]:
        """Of the windows of a curriculum, those that stay last; of a collection, those of the store whose turn comes first."""

    @abstractmethod
    def source(self, epoch: int, position: int) -> str:
        """The name of the assembly that the rows of a batch come from."""

    @abstractmethod
    def batch_bytes(self, epoch: int) -> float:
        """About how many bytes a rank's rows of a batch take."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What must be the same wherever a state is loaded; nothing in it depends on ranks."""

    def __len__(self) -> int:
        """How many global batches the current epoch has, those already served as well."""
        return self.plan.batches(self.epoch)

    def __iter__(self) -> Iterator[Batch]:
        """The rest of the current epoch. `state_dict` always speaks of the batch that comes next.

        Raises:
            TrainError: no batch came within `TIMEOUTS["next_batch"]` seconds.
        """
        epoch, first, end = self.epoch, self.position // self.batch_size, len(self)
        worker = get_worker_info()
        mine = range(first, end) if worker is None else range(first + worker.id, end, worker.num_workers)
        if worker is not None:
            # Each sees a part of the batches, and some of them late or never: all must leave the epoch alike.
            self.epoch, self.position = epoch + 1, 0
        step = min(_MOST, max(1, int(_TOGETHER // self.batch_bytes(epoch))))
        calls = (partial(self.make, epoch, mine[some]) for some in _growing(len(mine), step))
        threads = max(1, min(_THREADS, _cores() // _CORES))
        made = (batch for some in ahead(calls, threads, threads) for batch in self._received(some))
        for number, batch in zip(mine, made, strict=True):
            if worker is None:
                served = number + 1
                self.epoch, self.position = (epoch, served * self.batch_size) if served < end else (epoch + 1, 0)
            yield batch

    def _received(self, made: Made) -> list[Batch]:
        with self.receiving:
            return made.received()

    def batch(self, epoch: int, position: int) -> Batch:
        """This rank's rows of the global batch whose first sample is `position` of `epoch`: past or future, always the same.

        Raises:
            ConfigError: no batch begins there.
        """
        if wrong := self._wrong(epoch, position):
            raise ConfigError(wrong, key="position")
        (batch,) = self.make(epoch, [position // self.batch_size]).received()
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Where the next batch stands; the same on every rank, without a world size in it."""
        here = {"epoch": self.epoch, "position": self.position, "batch_size": self.batch_size}
        return self.identity() | here

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where another loader of the same data was, on any number of ranks.

        Raises:
            CheckpointError: the state belongs to other data, another order, seed or batch size, or no batch begins there.
        """
        for key, value in self.state_dict().items():
            if key not in ("epoch", "position") and state.get(key) != value:
                raise CheckpointError(f"the loader's state has {key} {state.get(key)!r}, this loader {value!r}")
        epoch, position = state.get("epoch"), state.get("position")
        if wrong := self._wrong(epoch, position):
            raise CheckpointError(f"the loader's state is damaged: {wrong}")
        self.epoch, self.position = int(state["epoch"]), int(state["position"])

    def _wrong(self, epoch: Any, position: Any) -> str:
        """What is wrong with a place where a batch should begin; nothing if one does."""
        if not (isinstance(epoch, Integral) and isinstance(position, Integral)) or epoch < 0:
            return f"epoch {epoch} and position {position} are no numbers from 0 on"
        number, within = divmod(int(position), self.batch_size)
        count = self.plan.batches(int(epoch))
        if within or not 0 <= number < count:
            last = (count - 1) * self.batch_size
            return f"no batch of epoch {epoch} begins at {position}: they begin at multiples of {self.batch_size} to {last}"
        return ""


def _growing(count: int, most: int) -> Iterator[slice]:
    """`count` batches in goes of 1, 2, 4 ... up to `most`, so that the first one comes soon."""
    at, size = 0, 1
    while at < count:
        yield slice(at, at + size)
        at, size = at + size, min(2 * size, most)


def _cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
