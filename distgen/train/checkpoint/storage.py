"""Where checkpoints are kept: a folder that all workers see, or an object store.

Each has one act that makes a checkpoint of files that were nothing before: a folder is renamed; `state.json` is put, the
last of all objects. What dead trainings have left half done is cleared away by the next one.
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from distgen.errors import CheckpointError
from distgen.ingest.objects import Object, Place
from distgen.train.checkpoint.format import STATE

_STEP = re.compile(r"step-(\d{8,})")


class Storage(Protocol):
    """The checkpoints of one training. All but `write` is called by one worker."""

    writes: int  # how many files a worker writes at a time

    def steps(self) -> list[int]:
        """The steps of which there are checkpoints, the newest first."""

    def path(self, step: int) -> Place:
        """Where the checkpoint of a step is."""

    def clear(self) -> None:
        """Remove what dead trainings have left half done, and see that something can be written."""

    def begin(self, step: int) -> str:
        """A draft of a checkpoint, by which all workers know where to write."""

    def write(self, draft: str, name: str, content: memoryview) -> str:
        """Write a file of a draft for good; returns its name in the checkpoint."""

    def commit(self, draft: str, step: int, files: Mapping[str, int], state: bytes) -> None:
        """Make a draft the checkpoint of a step, also where there is one.

        Args:
            draft: it.
            step: which.
            files: the bytes of all that was written.
            state: the content of `state.json`.
        """

    def replace_state(self, step: int, state: bytes) -> None:
        """Give a checkpoint another `state.json`."""

    def discard(self, draft: str) -> None:
        """Remove a draft."""

    def point(self, link: str, step: int) -> None:
        """Make `last` or `best` lead to a checkpoint."""

    def remove(self, step: int) -> None:
        """Remove a checkpoint, as a whole or not at all."""


def storage(place: Place) -> Storage:
    """That of a folder, or of the name of one in an object store."""
    return Bucket(place) if isinstance(place, Object) else Folder(place)


def follow(place: Place) -> Place:
    """The checkpoint that `last` or `best` leads to; any other place is its own."""
    if isinstance(place, Path):
        return place.resolve()
    if place.name not in ("last", "best"):
        return place
    return place.parent / place.read_bytes().decode()


def step_name(step: int) -> str:
    """What the checkpoint of a step is called."""
    return f"step-{step:08d}"


# ---- a folder ---------------------------------------------------------------------------------


class Folder:
    """Checkpoints on a file system."""

    writes = 1  # training needs the processors

    def __init__(self, place: Path):
        self._place = place

    def steps(self) -> list[int]:
        """See `Storage`."""
        return _steps(path.name for path in self._place.glob("step-*"))

    def path(self, step: int) -> Path:
        """See `Storage`."""
        return self._place / step_name(step)

    def clear(self) -> None:
        """See `Storage`."""
        with _explained(self._place):
            self._place.mkdir(parents=True, exist_ok=True)
            for path in self._place.glob(".step-*.replaced"):
                # It was moved aside for another that never came.
                if not path.with_name(path.name[1:].split(".")[0]).exists():
                    path.rename(path.with_name(path.name[1:].split(".")[0]))
            for path in [*self._place.glob(".step-*"), *self._place.glob(".last.*"), *self._place.glob(".best.*")]:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def begin(self, step: int) -> str:
        """See `Storage`."""
        # A worker that is thought dead may still write into another draft of the same step.
        draft = f".{step_name(step)}.{uuid.uuid4().hex[:8]}"
        with _explained(self._place):
            (self._place / draft).mkdir(parents=True)
        return draft

    def write(self, draft: str, name: str, content: memoryview) -> str:
        """See `Storage`."""
        folder = self._place / draft
        if not folder.is_dir():
            raise CheckpointError(_unseen(self._place))
        with _explained(folder / name), (folder / name).open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        return name

    def commit(self, draft: str, step: int, files: Mapping[str, int], state: bytes) -> None:
        """See `Storage`."""
        folder, path = self._place / draft, self.path(step)
        self.write(draft, STATE, memoryview(state))
        with _explained(path):
            there = {file.name: file.stat().st_size for file in folder.iterdir()}
            if any(there.get(name) != size for name, size in files.items()):
                raise CheckpointError(_unseen(self._place))
            _sync(folder)
            if path.exists():
                aside = path.with_name(f".{path.name}.replaced")
                path.rename(aside)
            folder.rename(path)
            _sync(self._place)
            shutil.rmtree(path.with_name(f".{path.name}.replaced"), ignore_errors=True)

    def replace_state(self, step: int, state: bytes) -> None:
        """See `Storage`."""
        draft = self._place / f".{step_name(step)}.{uuid.uuid4().hex[:8]}"
        with _explained(draft):
            with draft.open("xb") as file:
                file.write(state)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.path(step) / STATE)

    def discard(self, draft: str) -> None:
        """See `Storage`."""
        shutil.rmtree(self._place / draft, ignore_errors=True)

    def point(self, link: str, step: int) -> None:
        """See `Storage`."""
        draft = self._place / f".{link}.{uuid.uuid4().hex[:8]}"
        with _explained(self._place / link):
            draft.symlink_to(step_name(step))
            draft.replace(self._place / link)

    def remove(self, step: int) -> None:
        """See `Storage`."""
        path = self.path(step)
        gone = path.with_name(f".{path.name}.removed")
        with _explained(path):
            path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def _unseen(place: Path) -> str:
    return (
        f"{place}: what one worker writes there another does not find. All workers need one file system for the run "
        "directory, or train.checkpoints on one or in an object store"
    )


def _sync(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """What a file system refuses, with what to do."""
    try:
        yield
    except OSError as error:
        problem = f"{path} cannot be written: {error.strerror or error}"
        try:
            free = shutil.disk_usage(next(folder for folder in path.parents if folder.exists())).free
        except OSError:
            free = 0
        raise CheckpointError(
            f"{problem} ({free / 1e9:.1f} GB are free there). Make room or mend that, and go on with --resume"
        ) from None


# ---- an object store --------------------------------------------------------------------------


class Bucket:
    """Checkpoints in an object store."""

    writes = 4

    def __init__(self, place: Object):
        self._place = place

    def steps(self) -> list[int]:
        """See `Storage`."""
        return _steps(name.split("/")[0] for name in self._place.names() if name.endswith(f"/{STATE}"))

    def path(self, step: int) -> Object:
        """See `Storage`."""
        return self._place / step_name(step)

    def clear(self) -> None:
        """See `Storage`."""
        there, whole = self._place.names(), {step_name(step) for step in self.steps()}
        self._place.delete([name for name in there if _STEP.match(name) and name.split("/")[0] not in whole])
        # Who may not write learns it before anything is trained.
        (self._place / ".writable").put(b"", "overwrite")
        self._place.delete([".writable"])

    def begin(self, step: int) -> str:
        """See `Storage`."""
        return f"{step_name(step)}/{uuid.uuid4().hex[:8]}-"

    def write(self, draft: str, name: str, content: memoryview) -> str:
        """See `Storage`."""
        step, _, token = draft.partition("/")
        # Of a checkpoint that is being replaced, nothing is.
        (self._place / step / f"{token}{name}").put(content, "overwrite")
        return f"{token}{name}"

    def commit(self, draft: str, step: int, files: Mapping[str, int], state: bytes) -> None:
        """See `Storage`."""
        path = self.path(step)
        (path / STATE).put(state, "overwrite")
        path.delete([name for name in path.names() if name not in files and name != STATE])

    def replace_state(self, step: int, state: bytes) -> None:
        """See `Storage`."""
        (self.path(step) / STATE).put(state, "overwrite")

    def discard(self, draft: str) -> None:
        """See `Storage`."""
        step, _, token = draft.partition("/")
        path = self._place / step
        path.delete([name for name in path.names() if name.startswith(token)])

    def point(self, link: str, step: int) -> None:
        """See `Storage`."""
        (self._place / link).put(step_name(step).encode(), "overwrite")

    def remove(self, step: int) -> None:
        """See `Storage`."""
        path = self.path(step)
        path.delete([STATE])
        path.delete(list(path.names()))


def _steps(names: Iterable[str]) -> list[int]:
    return sorted({int(match[1]) for name in names if (match := _STEP.fullmatch(name))}, reverse=True)
