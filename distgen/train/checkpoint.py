"""Checkpoints: safetensors and JSON, nothing is ever unpickled.

DIR/checkpoints/step-00000200/ holds `model.safetensors`, `optimizer.safetensors` and `state.json`, which has the
checksums of both. A checkpoint is renamed into place when whole; `last` and `best` are links to it.
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
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from distgen.errors import CheckpointError
from distgen.ingest.open import sha256

log = logging.getLogger("distgen")
_FILES = ("model.safetensors", "optimizer.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk, and its `state.json`."""

    path: Path
    state: dict[str, Any]

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Put its weights into a model (and its moments into an optimizer) of the same shape.

        Raises:
            CheckpointError: the tensors don't fit.
        """
        try:
            model.load_state_dict(load_file(self.path / "model.safetensors"))
            if optimizer is not None:
                _load_optimizer(optimizer, model, load_file(self.path / "optimizer.safetensors"))
        except (RuntimeError, KeyError) as error:
            raise CheckpointError(f"checkpoint {self.path} does not fit this model: {error}") from None

    def expect(self, **ids: Any) -> None:
        """Refuse a checkpoint of another run or store; names what differs."""
        for key, value in ids.items():
            if self.state[key] != value:
                raise CheckpointError(
                    f"checkpoint {self.path} belongs to another {key}: it has {self.state[key]}, this is {value}"
                )


def save(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any], *, keep: int, best: bool
) -> Path:
    """Write a checkpoint, point `last` (and `best`) to it, and drop all but the newest `keep` and the best.

    Args:
        folder: DIR/checkpoints.
        state: plain data; must have "step".
        keep: how many numbered checkpoints stay.
        best: whether this one is the best so far.
    """
    path = folder / f"step-{state['step']:08d}"
    draft = folder / f".{path.name}.writing"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    contents: tuple[dict[str, Tensor], ...] = (model.state_dict(), _optimizer_tensors(optimizer, model))
    for name, tensors in zip(_FILES, contents, strict=True):
        save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, draft / name)
    state = state | {"files": {name: sha256(draft / name) for name in _FILES}}
    (draft / "state.json").write_text(json.dumps(state, indent=1, sort_keys=True))
    for file in draft.iterdir():
        with file.open("rb") as written:
            os.fsync(written.fileno())
    shutil.rmtree(path, ignore_errors=True)
    draft.rename(path)
    for name in ["last"] + ["best"] * best:
        _link(folder / name, path.name)
    kept = (
        {path.name}
        | {p.name for p in _numbered(folder)[:keep]}
        | {os.readlink(p) for p in (folder / "best",) if p.is_symlink()}
    )
    for old in _numbered(folder):
        if old.name not in kept:
            shutil.rmtree(old)
    return path


def newest(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint below DIR/checkpoints, None if there is none; damaged ones are passed over with a warning.

    Raises:
        CheckpointError: there are checkpoints, and none is whole.
    """
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
    for name in _FILES:
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


def _optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimizer's state as `<entry>/<parameter name>`."""
    return {
        f"{entry}/{name}": value
        for name, parameter in model.named_parameters()
        for entry, value in optimizer.state.get(parameter, {}).items()
    }


def _load_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: dict[str, Tensor]) -> None:
    parameters = dict(model.named_parameters())
    for key, value in tensors.items():
        entry, name = key.split("/", 1)
        parameter = parameters[name]
        moved = value if entry == "step" else value.to(parameter.device, memory_format=torch.preserve_format)
        optimizer.state[parameter][entry] = moved.clone()
