"""Whole shards of stores that lie elsewhere, kept on the local disk for all processes of a machine.

A folder holds `NAME` for each shard that is whole, `NAME.part` for each that is being fetched, and `lock`. Locks are the
kernel's (flock), so whoever dies frees them:

- whoever fetches a shard holds an exclusive lock on its `.part`, which is renamed when all its chunks were checked; a
  `.part` that nobody has locked was left by one that died, and goes;
- whoever has mapped a shard has a shared lock on it for as long as the map is there. What makes way for another is
  unlinked, and stays as it is for those who have mapped it; where nobody has, the file itself is written over: it has
  its blocks and its pages already, which is what makes a new file dear;
- whoever makes room or takes it holds `lock`.

The files in the folder never have more than `max_bytes` together. What was unlinked while it was mapped takes up disk
space until those who mapped it let go: each process does so when it next fetches a shard, or when it next uses that one.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from distgen.config import TIMEOUTS
from distgen.errors import ConfigError, StoreError
from distgen.genome import Bytes
from distgen.ingest.objects import FORKED, Place
from distgen.store.format import ABSENT
from distgen.store.locks import is_named, locked
from distgen.store.ranges import Ranges, write

if TYPE_CHECKING:
    from distgen.store.array import Shard

log = logging.getLogger("distgen")

IN_FLIGHT = 6  # requests at a time
AHEAD = 2  # shards that are fetched at a time before they are asked for
_HELD = 256  # shards that a process has mapped at most; each takes a file descriptor
_FRESH = 1.0  # seconds for which a shard that was used counts as just used
_PART = ".part"
_NAME = re.compile(r"[0-9a-f]{32}\.\d+\.[0-9a-f]{8}(\.part)?")  # whatever else lies in the folder is left alone


class Sharded(Protocol):
    """What shards are of: an array of a store, or the tar shards of an export."""

    @property
    def id(self) -> str:
        """What their content is known by."""

    @property
    def folder(self) -> Place:
        """Where they lie."""

    @property
    def per_shard(self) -> int:
        """Chunks of each shard; those of shard n are numbered from n times as many on."""

    @property
    def shards(self) -> int:
        """How many there may be; see `stored`."""

    def cache_name(self, number: int) -> str:
        """What a shard is known by: one of other bytes has another name."""

    def stored(self, number: int) -> int:
        """Bytes of a shard, if nothing of it were compressed; 0 if there is no such shard."""

    def bytes_of(self, number: int, stop: threading.Event | None = None) -> Bytes | Ranges:
        """The bytes of a shard where it lies; `stop` ends requests for them."""

    def table(self, number: int, remote: Ranges) -> tuple[Bytes, npt.NDArray[np.uint64]]:
        """What follows the last chunk of a shard, and position and size of each chunk; `ABSENT` where it is not stored."""

    def check(self, number: int, size: int, crc: int) -> None:
        """Raise what is to be said if a chunk is not the one that was published."""

    def opened(self, number: int, data: Bytes | Ranges, whole: bool = False) -> Shard:
        """A shard from its bytes. Raises StoreError if they are not those that were fetched."""


class ShardCache:
    """Keeps the shards that were used last; any number of threads, and of one user's processes, may share a folder.

    It can be pickled; a process that was forked is refused, since the threads that fetch are not there.

    Args:
        folder: on a local disk; made if it is not there.
        max_bytes: of all shards in the folder. Those who share it may say different numbers: each makes room for its own.

    Raises:
        ConfigError: there can be no such folder, or nothing fits into it.
    """

    def __init__(self, folder: str | Path, max_bytes: int):
        self.folder, self.max_bytes = Path(folder).expanduser().absolute(), max_bytes
        if max_bytes <= 0:
            problem = f"a cache of {max_bytes:,} bytes holds nothing: a shard has up to 64 MiB"
            raise ConfigError(problem, key="max_bytes")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{self.folder} cannot be made ({error.strerror})", key="folder") from None
        self._lock, self._process = threading.Lock(), os.getpid()
        self._held: OrderedDict[str, Shard] = OrderedDict()
        self._used: dict[str, float] = {}
        self._coming: dict[str, Future[None]] = {}
        self.lost = 0  # how often a shard had to make way, as far as this process knows
        with suppress(ImportError):  # who needs it is told when it is
            import obstore.store  # noqa: F401 - threads that import it at the same time may see half of it
        self._requests = ThreadPoolExecutor(IN_FLIGHT, "distgen-fetch")
        self._ahead = ThreadPoolExecutor(AHEAD, "distgen-ahead")
        # A process that ends waits for the threads of its pools: they hear of it here, and nowhere else in time.
        self._ending, self._stops = threading.Event(), set[threading.Event]()
        threading._register_atexit(_end, self._ending, self._stops)  # type: ignore[attr-defined]

    def __reduce__(self) -> tuple[Any, ...]:
        return ShardCache, (self.folder, self.max_bytes)

    def get(self, source: Sharded, number: int) -> Shard:
        """One shard, mapped; fetched first if it is not there.

        Raises:
            StoreError: it is missing or damaged where the store lies; the disk is full; another process that fetches it
                takes longer than `TIMEOUTS["cached_shard"]`. RemoteError: it cannot be fetched.
            ConfigError: it is larger than the cache.
        """
        self._check_process()
        name = source.cache_name(number)
        while True:
            with self._lock:
                found, coming = self._held.get(name), self._coming.pop(name, None)
            if found is not None and self._touch(name):
                return found
            if coming is None or coming.cancel():
                return self._load(source, number, name)
            coming.result()

    def prefetch(self, source: Sharded, numbers: Iterable[int]) -> None:
        """Begin to fetch shards that will be asked for, `AHEAD` at a time in this order; what goes wrong is raised by `get`.
        Who asks for more than `max_bytes` loses the first of them again."""
        self._check_process()
        for number in numbers:
            name = source.cache_name(number)
            with self._lock:
                known = name in self._held or name in self._coming
                if not known and source.stored(number):
                    self._coming[name] = self._ahead.submit(self._bring, source, number, name)

    def cancel(self, source: Sharded, number: int) -> None:
        """A shard that `prefetch` was asked for is not needed after all; what is being fetched already is."""
        name = source.cache_name(number)
        with self._lock:
            if name in self._coming and self._coming[name].cancel():
                del self._coming[name]

    def discard(self, source: Sharded, number: int, shard: Shard) -> None:
        """Remove a shard that is not what was fetched."""
        name = source.cache_name(number)
        log.warning("cache: %s was damaged on the disk; it is fetched again", self.folder / name)
        with self._lock:
            if self._held.get(name) is shard:
                del self._held[name]
        (self.folder / name).unlink(missing_ok=True)

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise StoreError(f"cache {self.folder}: {FORKED}")

    # ---- what is there

    def _touch(self, name: str) -> bool:
        """Say that a shard is in use. Returns whether it is still there."""
        now = time.monotonic()
        with self._lock:
            if name in self._held:
                self._held.move_to_end(name)
            if now < self._used.get(name, -_FRESH) + _FRESH:
                return True
            self._used[name] = now
        try:  # left to itself, the kernel counts in some milliseconds
            os.utime(self.folder / name, ns=(time.time_ns(),) * 2)
        except FileNotFoundError:  # others have made room of it
            self._forget([name])
            return False
        return True

    def _forget(self, names: Iterable[str]) -> None:
        with self._lock:
            for name in names:
                self.lost += 1
                self._held.pop(name, None)
                self._used.pop(name, None)

    def _bring(self, source: Sharded, number: int, name: str) -> None:
        if not self._ending.is_set():
            self._load(source, number, name)
        with self._lock:
            self._coming.pop(name, None)

    def _load(self, source: Sharded, number: int, name: str) -> Shard:
        """Map a shard: the one that is there, or else this process fetches it, or waits for another that does."""
        for _ in self._attempts(f"{self.folder / name} has been locked by another process"):
            whole = False
            data = self._mapped(name)
            if data is None:
                data, whole = self._fetched(source, number, name), True
            if data is None:
                continue
            try:
                shard = source.opened(number, data, whole)
            except StoreError:
                log.warning("cache: %s was damaged on the disk; it is fetched again", self.folder / name)
                (self.folder / name).unlink(missing_ok=True)
                continue
            with self._lock:
                self._held[name] = shard
                for old in list(self._held)[:-_HELD]:  # it stays on the disk
                    del self._held[old]
            self._touch(name)
            return shard
        raise AssertionError

    def _mapped(self, name: str) -> Bytes | None:
        """The bytes of a shard that is there."""
        file = locked(self.folder / name, fcntl.LOCK_SH)
        return None if file is None else _map(file)

    # ---- what is fetched

    def _fetched(self, source: Sharded, number: int, name: str) -> Bytes | None:
        """Fetch a shard and map it; None if another process or thread is fetching it, or has done so just now."""
        part, whole = self.folder / (name + _PART), self.folder / name
        self.folder.mkdir(parents=True, exist_ok=True)  # a cache may be deleted at any time
        file = locked(part, fcntl.LOCK_EX, os.O_CREAT)
        if file is None:
            return None
        stop = threading.Event()
        self._stops.add(stop)
        try:
            if whole.exists():
                part.unlink()
                return None
            remote = source.bytes_of(number, stop)
            assert isinstance(remote, Ranges)
            tail, index = source.table(number, remote)
            stored = np.flatnonzero(index[:, 0] != ABSENT)
            ends = np.cumsum(index[stored, 1].astype(np.int64))
            chunks = (number * source.per_shard + stored).tolist()
            for _ in self._attempts(f"all {self.max_bytes:,} bytes of {self.folder} are being fetched into by others"):
                if self._make_room(file, part, remote.size):
                    break
            remote.fetch(file, ends, lambda k, size, crc: source.check(chunks[k], size, crc), self._requests)
            write(file, tail, int(ends[-1]))
            part.rename(whole)
            # Between the two locks another process may have begun to write over it.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return _map(os.dup(file)) if is_named(file, whole) else None
        except BlockingIOError:
            return None
        except BaseException as error:
            with suppress(OSError):
                if is_named(file, part):
                    part.unlink()
            if isinstance(error, OSError):
                raise self._failure(error, source.folder) from None
            raise
        finally:
            self._stops.discard(stop)
            os.close(file)

    def _make_room(self, file: int, part: Path, size: int) -> bool:
        """Evict what was used longest ago until `size` more bytes fit, and reserve them for `part`, which may become
        one of the files that were evicted; `file` is then open on that one.

        Returns:
            Whether there is room: there is none while others fetch too much at a time, or make room themselves.

        Raises:
            ConfigError: there never is. OSError: the disk is full.
        """
        if size > self.max_bytes:
            raise ConfigError(
                f"a cache of {self.max_bytes:,} bytes is too small for a shard of {size:,} (in a run, data.cache_gb)",
                key="max_bytes",
            )
        lock = locked(self.folder / "lock", fcntl.LOCK_EX, os.O_CREAT)
        if lock is None:
            return False
        try:
            reserved, shards = self._survey(part)
            spare = self.max_bytes - reserved - size
            if spare < 0:
                return False
            kept = sum(shards.values())
            for victim, its_size in shards.items():
                if kept <= spare:
                    break
                kept -= its_size
                self._evict(victim, file, part)
            os.truncate(file, size)
            os.posix_fallocate(file, 0, size)
        finally:
            os.close(lock)
        return True

    def _failure(self, error: OSError, folder: Place) -> StoreError:
        problem, advice = error.strerror or str(error), "mend that"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(self.folder).free
            advice = f"{free:,} bytes are free: free some, or give the cache less than {self.max_bytes:,}"
        return StoreError(f"{folder}: a shard cannot be kept in the cache {self.folder} ({problem}); {advice}")

    def _survey(self, own: Path) -> tuple[int, dict[str, int]]:
        """The bytes that are being fetched by others, and the sizes of all shards by name, the one used longest ago first.
        What was left by processes that died is removed; this one lets go of what others have evicted."""
        reserved, shards = 0, []
        files = self._files()
        files.pop(own.name, None)
        for name, stat in files.items():
            if not name.endswith(_PART):
                shards.append((stat.st_mtime_ns, name, stat.st_size))
            elif (left := locked(self.folder / name, fcntl.LOCK_EX)) is not None:
                (self.folder / name).unlink(missing_ok=True)
                os.close(left)
            else:
                reserved += stat.st_size
        there = {name: size for _, name, size in sorted(shards)}
        with self._lock:
            gone = self._held.keys() - there.keys()
        self._forget(gone)
        return reserved, there

    def _files(self) -> dict[str, os.stat_result]:
        """All files at one time: had one got its last name meanwhile, neither of its names might have been seen."""
        while True:
            names, found = self._names(), {}
            for name in names:
                with suppress(FileNotFoundError):
                    found[name] = (self.folder / name).stat()
            if found.keys() == names == self._names():
                return found

    def _names(self) -> set[str]:
        return {name for name in os.listdir(self.folder) if _NAME.fullmatch(name)}

    def _evict(self, name: str, file: int, part: Path) -> None:
        self._forget([name])
        path = self.folder / name
        taken = locked(path, fcntl.LOCK_EX) if not os.fstat(file).st_size else None
        if taken is None:
            path.unlink(missing_ok=True)
        else:
            path.rename(part)
            os.dup2(taken, file)  # what was open, and its lock, are closed
            os.close(taken)

    def _attempts(self, problem: str) -> Iterator[None]:
        """One turn of a loop after another, with pauses that grow.

        Raises:
            StoreError: it has gone on for `TIMEOUTS["cached_shard"]` seconds, or the process ends.
        """
        end, pause = time.monotonic() + TIMEOUTS["cached_shard"], 0.001
        while True:
            yield
            if time.monotonic() > end or self._ending.wait(pause):
                raise StoreError(f"cache: {problem} for {TIMEOUTS['cached_shard']:.0f} s; is one of them stopped?")
            pause = min(2 * pause, 0.1)


def _end(ending: threading.Event, stops: set[threading.Event]) -> None:
    ending.set()
    for stop in list(stops):
        stop.set()


def _map(file: int) -> Bytes:
    """Map a file and close it; its lock stays for as long as the map does."""
    with os.fdopen(file, "rb") as opened:
        if not os.fstat(file).st_size:  # the disk has lost it, and it cannot be mapped
            return np.empty(0, np.uint8)
        return np.memmap(opened, np.uint8, "c").view(np.ndarray)


def default_folder() -> Path:
    """Where what can be made or fetched again is kept: $XDG_CACHE_HOME/distgen, or ~/.cache/distgen."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "distgen"


def default_cache() -> ShardCache:
    """At most 64 GB in the user's cache folder."""
    return ShardCache(default_folder() / "shards", 64 * 10**9)
