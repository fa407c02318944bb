"""Checkpoints: safetensors and JSON, nothing is ever unpickled.

DIR/checkpoints/step-00000200/ holds `tensors.safetensors` and `state.json`, which has its checksum. A checkpoint is renamed into place when whole; `last` and `best` are links to it.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from distgen.errors import CheckpointError
from distgen.ingest.open import sha256
from distgen.train.parallel import Worker

log = logging.getLogger("distgen")
_FILE = "tensors.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint, and its `state.json`."""

    path: Path
    state: dict[str, Any]

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Read into tensors, however they are spread over workers; all workers together.

        Args:
            tensors: by the names they were saved under; what else the checkpoint has stays unread.

        Raises:
            CheckpointError: one is not there, or has another shape.
        """
        with torch.no_grad(), safe_open(self.path / _FILE, "pt") as file:
            there = set(file.keys())
            for name, tensor in tensors.items():
                if name not in there:
                    raise CheckpointError(f"checkpoint {self.path} has no {name}")
                found = file.get_tensor(name)
                if found.shape != tensor.shape:
                    shapes = f"{tuple(found.shape)}, not {tuple(tensor.shape)}"
                    raise CheckpointError(f"checkpoint {self.path} does not fit this model: {name} is {shapes}")
                tensor.copy_(found)

    def names(self) -> set[str]:
        """The tensors it has."""
        with safe_open(self.path / _FILE, "pt") as file:
            return set(file.keys())

    def expect(self, **ids: Any) -> None:
        """Refuse a checkpoint of another run or store; names what differs."""
        for key, value in ids.items():
            if self.state[key] != value:
                raise CheckpointError(
                    f"checkpoint {self.path} belongs to another {key}: it has {self.state[key]}, this is {value}"
                )


class Checkpoints:
    """The checkpoints of a run; written while training goes on.

    Args:
        folder: DIR/checkpoints, or the URI of what stands for it.
        worker: which of the workers that write them together.
        keep: how many of the newest stay.
        keep_best: how many of those with the lowest score stay.
    """

    def __init__(self, folder: Path, worker: Worker, *, keep: int, keep_best: int):
        self._folder, self._worker, self._keep, self._keep_best = folder, worker, keep, keep_best

    def newest(self) -> Checkpoint | None:
        """The newest whole checkpoint, None if there is none; damaged ones are passed over with a warning.

        Raises:
            CheckpointError: there are checkpoints, and none is whole.
        """
        return newest(self._folder)

    def save(self, tensors: dict[str, Tensor], state: dict[str, Any], score: float) -> None:
        """Copy tensors and return; the copies are then written, and published when all workers' are. If the checkpoint
        before is still being written, that is waited for.

        Args:
            tensors: by name; on every worker the same names, or the worker's shards of them.
            state: plain data; must have "step".
            score: what `best` is the lowest of.
        """
        if not self._worker.leads:
            return
        path = self._folder / f"step-{state['step']:08d}"
        draft = self._folder / f".{path.name}.writing"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, draft / _FILE)
        state = state | {"files": {_FILE: sha256(draft / _FILE)}, "score": score}
        (draft / "state.json").write_text(json.dumps(state, indent=1, sort_keys=True))
        for file in draft.iterdir():
            with file.open("rb") as written:
                os.fsync(written.fileno())
        shutil.rmtree(path, ignore_errors=True)
        draft.rename(path)
        self._drop(path)

    def _drop(self, path: Path) -> None:
        numbered = _numbered(self._folder)
        scores = {p: json.loads((p / "state.json").read_text()).get("score", 0.0) for p in numbered}
        best = sorted(numbered, key=lambda p: (scores[p], -int(p.name[5:])))
        _link(self._folder / "last", path.name)
        _link(self._folder / "best", best[0].name)
        for old in set(numbered[self._keep :]) - set(best[: self._keep_best]):
            shutil.rmtree(old)

    def wait(self) -> str | None:
        """Return when nothing is being written any more; the path of the newest checkpoint, on all workers."""
        if self._worker.world_size > 1:
            dist.barrier()
        return str(self._folder / "last")


def newest(folder: Path) -> Checkpoint | None:
    """See `Checkpoints.newest`."""
    numbered = _numbered(folder)
    for path in numbered:
        try:
            return open_checkpoint(path)
        except CheckpointError as error:
            log.warning("%s; looking at the one before", error)
    if numbered:
        raise CheckpointError(
            f"none of the {len(numbered)} checkpoints in {folder} is whole; train anew with another --out"
        )
    return None


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a checkpoint and check its files.

    Raises:
        CheckpointError: it is missing, unfinished or damaged; names the file.
    """
    try:
        state = json.loads((path / "state.json").read_bytes())
        expected = state["files"]
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"checkpoint {path} is not whole: {error}") from None
    for name in expected:
        if not (path / name).is_file() or sha256(path / name) != expected[name]:
            raise CheckpointError(f"checkpoint {path} is damaged: {name} is missing or has another checksum")
    return Checkpoint(path, state)


def _numbered(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), reverse=True)


def _link(link: Path, target: str) -> None:
    draft = link.with_name(f".{link.name}.link")
    draft.unlink(missing_ok=True)
    draft.symlink_to(target)
    draft.replace(link)
