"""The hidden folder where a build keeps what is finished, so that the next one goes on there: beside the store, or in
the current folder if the store is elsewhere.

A build is made of *units*, each some shards and a receipt of what is in them. A unit's id says what it was
made of; it is written under another name and renamed when whole: a unit that is there is whole.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from distgen.config import digest
from distgen.errors import ConfigError, SourceError, StoreError
from distgen.ingest.objects import Place
from distgen.ingest.open import heard
from distgen.store import format
from distgen.store.locks import is_named

_RECEIPT = "receipt.json"
_REMOVED = "removed"
_NO_FSYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF)


class Progress(Protocol):
    """Hears of what is done since the last call: bases (of an export windows), and bytes of the sources."""

    def __call__(self, amount: int, read: int = 0, /) -> None: ...


Task = Callable[[Progress], Any]
Execute = Callable[[Sequence[Task], Progress], list[Any]]


def silent(amount: int, read: int = 0) -> None:
    """Progress that nobody looks at."""


class Part:
    """The progress of a part of a build that is worth as many bytes as its sources have, however often they are read.

    Args:
        progress: what to tell.
        sources: the files.
        passes: how often they are read, where writing what was read counts as one more.
    """

    def __init__(self, progress: Progress, sources: Iterable[Path], passes: int = 1):
        self._progress, self._size = progress, sum(source.stat().st_size for source in sources)
        self._passes, self._heard, self._told = passes, 0, 0

    @property
    def share(self) -> float:
        """How much of the part is done."""
        return self._told / self._size if self._size else 1.0

    def __call__(self, amount: int, read: int = 0, /) -> None:
        self._progress(amount, read)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """What is read from here on counts."""
        with heard(self._read):
            yield

    def _read(self, size: int) -> None:
        self._heard += size
        self.reach(self._heard / self._passes / max(self._size, 1))

    def reach(self, share: float) -> None:
        """So much of the part is done, at least."""
        told = min(int(share * self._size), self._size)
        if told > self._told:
            self._progress(0, told - self._told)
            self._told = told


def in_this_process(tasks: Sequence[Task], progress: Progress) -> list[Any]:
    """Carry out tasks one after another."""
    return [task(progress) for task in tasks]


class Work:
    """The folder `.NAME.building` beside the store `out`; or `.NAME.ID8.building` in the current folder, where what is to
    be sent to an object store waits.

    Args:
        out: where the store is to be; as `Work.out` an absolute path, behind all links.
        purpose: tells the folder from others for the same store.

    Raises:
        ConfigError: there can be no store.
    """

    def __init__(self, out: Place, purpose: str = ""):
        # What is renamed is the store itself, not a link to it, and on its own disk; workers elsewhere stand in other folders.
        self.out = out = out.resolve() if isinstance(out, Path) else out
        self.published = False
        if not out.name:
            raise ConfigError(f"{out} cannot be a store: name a folder below it")
        if isinstance(out, Path):
            self.folder = out.with_name(f".{out.name}{purpose}.building")
        else:
            self.folder = Path.cwd() / f".{out.name}.{digest(str(out))[:8]}{purpose}.building"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the store for one builder; the system frees the lock of one that dies.

        Raises:
            ConfigError: another build of this store is running, or nothing can be written here.
        ConfigError, SourceError: what went wrong inside, with a note where is kept what is finished.
            StoreError: the system failed while building (a full disk); what is finished is kept.
        """
        try:
            lock = self._lock()
        except OSError as error:
            raise ConfigError(f"{self.out}: cannot write to {self.folder.parent} ({error.strerror or error})") from None
        try:
            for unfinished in (*self.folder.glob("units/*.part-*"), self.folder / _REMOVED):
                shutil.rmtree(unfinished, ignore_errors=True)
            yield
        except (ConfigError, SourceError) as error:
            if any(found for name in (f"units/*/{_RECEIPT}", "sources/*") for found in self.folder.glob(name)):
                error.add_note(f"What is finished waits in {self.folder}, and the next build goes on from there")
            else:
                self.remove()
            raise
        except OSError as error:
            problem = error.strerror or error
            raise StoreError(
                f"{self.out} is published, but {error.filename or self.folder} cannot be tidied up ({problem})"
                if self.published
                else f"{self.out}: the build stopped ({problem}); nothing was published, and the same command goes on "
                "from here"
            ) from error
        finally:
            os.close(lock)

    def _lock(self) -> int:
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / "lock"
            try:
                lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            except FileNotFoundError:
                continue  # another builder has just finished and removed the folder
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(lock, 200).decode(errors="replace")
                os.close(lock)
                raise ConfigError(f"{self.out}: another build of this store is running ({holder})") from None
            if is_named(lock, path):
                os.truncate(lock, 0)
                os.write(lock, f"process {os.getpid()} on {os.uname().nodename}".encode())
                return lock
            os.close(lock)

    def remove(self) -> None:
        """Forget everything; the store is published."""
        units = self.folder / "units"
        with suppress(FileNotFoundError):
            units.rename(self.folder / _REMOVED)  # in one go: of a builder that dies here, no half of a unit is left
        shutil.rmtree(self.folder, ignore_errors=True)

    def path(self, unit: str) -> Path:
        """Where a finished unit's files lie."""
        return self.folder / "units" / unit

    def receipt(self, unit: str) -> dict[str, Any] | None:
        """What a finished unit's builder said of it; None if it is still to be built."""
        path = self.path(unit) / _RECEIPT
        return format.read_json(path) if path.exists() else None

    def begin(self, unit: str) -> Path:
        """An empty folder for the files of a unit."""
        (self.folder / "units").mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f"{unit}.part-", dir=self.folder / "units"))

    def finish(self, unit: str, folder: Path, receipt: dict[str, Any]) -> None:
        """Declare the unit in `folder` whole."""
        format.write_json(folder / _RECEIPT, receipt)
        settle(folder)
        if self.path(unit).exists():  # a worker that was thought dead has built it, too
            shutil.rmtree(folder)
        else:
            folder.rename(self.path(unit))


def link(source: Path, target: Path) -> None:
    """Give a finished file another name; a copy where the file system knows no links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def sync(place: Path) -> None:
    """Make a file, or the names in a folder, outlast a power failure."""
    handle = os.open(place, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some file systems (CIFS, FUSE) know no fsync of a folder: they see to its names themselves.
        if error.errno not in _NO_FSYNC or not place.is_dir():
            raise
    finally:
        os.close(handle)


def settle(*places: Path) -> None:
    """Make some files and all that is in some folders outlast a power failure. Many that wait together wait hardly longer than
    one: a file system writes what they all need in one go."""
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(sync, (found for place in places for found in (place, *place.rglob("*")))))


def _replaced(out: Path) -> Path:
    return out.with_name(f".{out.name}.old")


def swap(folder: Path, work: Work) -> None:
    """Put the finished and settled folder in the place of `work.out`; a store that was there goes away afterwards."""
    out = work.out
    assert isinstance(out, Path)
    if out.exists():
        out.rename(_replaced(out))
    folder.rename(out)
    work.published = True
    sync(out.parent)
    _remove(_replaced(out))


def recover(work: Work) -> None:
    """Finish what a builder left that died between the two renames of `swap`."""
    out = work.out
    assert isinstance(out, Path)
    if os.path.lexists(_replaced(out)):
        if out.exists():
            _remove(_replaced(out))
        else:
            _replaced(out).rename(out)


def _remove(folder: Path) -> None:
    """Remove a folder, or a link to one, if it is there."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)
