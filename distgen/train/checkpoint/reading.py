"""A checkpoint, and what is read of it: by any number of workers, however they split the tensors between them."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import safetensors.torch
import torch
from blake3 import blake3
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.storage import StorageReader
from torch.futures import Future

from distgen.errors import CheckpointError, DistgenError
from distgen.ingest.objects import Place
from distgen.train.checkpoint.format import STATE, read_state, read_tensors
from distgen.train.checkpoint.storage import follow
from distgen.train.checkpoint.team import Team

_READS = 4  # files at a time


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint, and its `state.json`.

    Args:
        path: where it is.
        state: what was saved with it; `files` are the sizes and BLAKE3 of all files.
        team: the workers that load it together.
    """

    path: Place
    state: dict[str, Any]
    team: Team = field(default_factory=Team, repr=False, compare=False)

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Read into tensors, however they are spread over workers; all workers of a training together. What is read is
        checked.

        Args:
            tensors: by the names they were saved under, plain or this worker's DTensors; what else the checkpoint has stays
                unread.

        Raises:
            CheckpointError: one is not there, has another shape, or its file is damaged.
        """
        self.team.all(lambda: self._load(tensors))

    def read(self, prefix: str = "") -> dict[str, Tensor]:
        """The whole tensors whose names begin so, by what follows; in this process alone, in CPU memory."""
        known = self._metadata.state_dict_metadata
        found = {
            name: torch.empty(known[name].size, dtype=known[name].properties.dtype)  # type: ignore[union-attr]
            for name in self.names()
            if name.startswith(prefix)
        }
        self._load(found)
        return {name.removeprefix(prefix): tensor for name, tensor in found.items()}

    def names(self) -> set[str]:
        """The tensors it has."""
        return set(self._metadata.state_dict_metadata)

    def expect(self, **ids: Any) -> None:
        """Refuse a checkpoint of another run or store; names what differs."""
        for key, value in ids.items():
            if self.state[key] != value:
                raise CheckpointError(
                    f"checkpoint {self.path} belongs to another {key}: it has {self.state[key]}, this is {value}"
                )

    def check(self, part: int = 0, of: int = 1) -> None:
        """Read every `of`-th file from the `part`-th on, and see that it is what was written.

        Raises:
            CheckpointError: it is not; names the file.
        """
        with ThreadPoolExecutor(_READS, thread_name_prefix="distgen-check") as pool:
            for _ in pool.map(self.content, sorted(self.state["files"])[part::of]):
                pass

    def content(self, name: str) -> bytes:
        """A whole file of the checkpoint, checked."""
        try:
            content = (self.path / name).read_bytes()
        except OSError as error:
            raise CheckpointError(
                f"checkpoint {self.path} is damaged: {name} cannot be read ({error.strerror})"
            ) from None
        size, checksum = self.state["files"][name]
        if len(content) != size:
            raise CheckpointError(f"checkpoint {self.path} is damaged: {name} has {len(content)} bytes, not {size}")
        if blake3(content, max_threads=blake3.AUTO).hexdigest() != checksum:
            raise CheckpointError(f"checkpoint {self.path} is damaged: {name} has another checksum")
        return content

    @cached_property
    def _metadata(self) -> Metadata:
        return read_tensors(self.content(self.state["tensors"]))

    def _load(self, tensors: dict[str, Tensor]) -> None:
        known = self._metadata.state_dict_metadata
        for name, tensor in tensors.items():
            if name not in known:
                raise CheckpointError(f"checkpoint {self.path} has no {name}")
            shape = known[name].size  # type: ignore[union-attr]
            if shape != tensor.shape:
                shapes = f"{tuple(shape)}, not {tuple(tensor.shape)}"
                raise CheckpointError(f"checkpoint {self.path} does not fit this model: {name} is {shapes}")
        # Each worker finds what it needs by itself: resharding takes no communication.
        planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
        _alone(lambda: load(dict(tensors), storage_reader=_Reader(self), planner=planner, no_dist=True))


class _Reader(StorageReader):
    """Reads the files that hold what a plan asks for, each once."""

    def __init__(self, checkpoint: Checkpoint):
        self._checkpoint = checkpoint

    def reset(self, checkpoint_id: Any = None) -> None:
        pass

    def read_metadata(self) -> Metadata:
        return self._checkpoint._metadata

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool) -> None:
        self._places: dict[Any, tuple[str, str]] = metadata.storage_data

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        files: dict[str, list[ReadItem]] = defaultdict(list)
        for item in plan.items:
            files[self._places[item.storage_index][0]].append(item)
        with ThreadPoolExecutor(_READS, thread_name_prefix="distgen-load") as pool:
            for _ in pool.map(partial(self._read, planner), *zip(*files.items(), strict=True) if files else ([], [])):
                pass
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _read(self, planner: LoadPlanner, name: str, items: list[ReadItem]) -> None:
        there = safetensors.torch.load(self._checkpoint.content(name))
        for item in items:
            part = there[self._places[item.storage_index][1]]
            for axis, (begin, length) in enumerate(zip(item.storage_offsets, item.lengths, strict=True)):
                part = part.narrow(axis, begin, length)
            planner.resolve_tensor(item).detach().copy_(part)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return True


def open_checkpoint(place: Place) -> Checkpoint:
    """Open a checkpoint for one process; its files are checked as they are read.

    Args:
        place: it, or `last` or `best`.

    Raises:
        CheckpointError: it is missing, unfinished or damaged; names the file.
    """
    try:
        place = follow(place)
        return Checkpoint(place, read_state((place / STATE).read_bytes()))
    except (OSError, ValueError, KeyError) as error:
        problem = error.strerror if isinstance(error, OSError) else error
        raise CheckpointError(f"checkpoint {place} is not whole: {STATE}: {problem}") from None


def _alone(task: Callable[[], Any]) -> None:
    """What `torch.distributed.checkpoint` does in one process, without its warning that it does."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        try:
            task()
        except CheckpointException as error:
            raise cause(error) from None


def cause(error: CheckpointException) -> Exception:
    """What went wrong first, among what all workers say."""
    _, (found, _) = min(error.failures.items())
    if isinstance(found, DistgenError):
        return found
    return CheckpointError(f"a checkpoint failed: {type(found).__name__}: {found}")
