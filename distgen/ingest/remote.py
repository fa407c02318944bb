"""Sources in object stores and on web servers: described by one request, fetched whole before they are read.

An object is what its store declares it to be: size and ETag (RFC 9110, 8.8.3), else size and Last-Modified, else size
and the BLAKE3 of its content.
"""

from __future__ import annotations

import errno
import os
import shutil
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distgen.config import digest, source_name
from distgen.errors import SourceError, redact
from distgen.ingest.objects import RANGE, ChangedError, Object, ShortError, stream
from distgen.ingest.open import sha256 as sha256_of

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult, ObjectMeta

IN_FLIGHT = 6  # requests at a time: at most so many ranges are in memory


@dataclass(frozen=True)
class Remote:
    """A source elsewhere, as its store declares it.

    Args:
        uri: where it is, with any credentials; never shown.
        size: in bytes.
        etag: of this version; None if the store gives none.
        modified: when it was last changed (ISO 8601), where there is no ETag; None if the store does not say.
        blake3: of the content, where neither is given.
        sha256: what the content must have; None if any will do.
    """

    uri: str = field(repr=False)
    size: int
    etag: str | None = None
    modified: str | None = None
    blake3: str | None = None
    sha256: str | None = None

    @property
    def shown(self) -> str:
        """The URI without credentials."""
        return redact(self.uri)

    def entry(self) -> dict[str, Any]:
        """What a store's provenance says of it; two versions of a source differ in this."""
        known = {"etag": self.etag, "modified": self.modified, "blake3": self.blake3, "sha256": self.sha256}
        return {"uri": self.shown, "bytes": self.size} | {key: value for key, value in known.items() if value}


def describe(uri: str, sha256: str | None = None) -> Remote:
    """What a remote source is now: one HEAD request, and its content only where the store declares no version.

    Args:
        uri: `s3://bucket/key`, `gs://bucket/key`, `az://container/key` or an http(s) URL, with any credentials.
        sha256: what `fetch` is to check.

    Raises:
        SourceError: there is no such object, it may not be read, or its host does not answer.
    """
    source = Object(uri)
    meta = source.head()
    etag, modified = _version(meta)
    content = None
    if not etag and not modified:
        content = source.patiently(lambda: stream(source.get({}), lambda piece: None))
    return Remote(uri, meta["size"], etag, modified, content, sha256)


def fetch(remote: Remote, folder: Path) -> Path:
    """The whole of a remote source as a local file of the same name; a fetch that was stopped goes on where it was.

    Args:
        remote: as described; any other version is refused.
        folder: where such files are kept, each in a folder of its own.

    Raises:
        SourceError: it changed meanwhile, its checksum is not the one expected, the connection or the disk failed.
    """
    home = folder / digest([remote.entry(), RANGE])
    path = home / source_name(remote.uri)
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _Fetch(remote, home).run(path)
    except OSError as error:
        free = shutil.disk_usage(folder).free
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = f"{free:,} bytes are free: free some" if full else "mend that"
        problem = f"its {remote.size:,} bytes cannot be kept in {folder} ({error.strerror or error})"
        raise SourceError(f"{remote.shown}: {problem}; {advice}, and the same command goes on from there") from None
    return path


def _version(meta: ObjectMeta) -> tuple[str | None, str | None]:
    """ETag, and the date only where there is none; obstore puts 1970 for a date that is not given."""
    date = meta["last_modified"]
    dated = date.timestamp() > 0 and not meta["e_tag"]
    return meta["e_tag"], date.astimezone(UTC).isoformat() if dated else None


# ---- one fetch ------------------------------------------------------------------------------


class _Fetch:
    """One download: its bytes in HOME.part, and in HOME.finished one byte for each range that is on disk."""

    def __init__(self, remote: Remote, home: Path):
        self._remote, self._source = remote, Object(remote.uri)
        self._part, self._finished = home.with_suffix(".part"), home.with_suffix(".finished")

    def run(self, path: Path) -> None:
        """Fetch what is missing, check the whole, and give it its name; what is of another version is removed."""
        try:
            self._fetch()
            self._check()
        except ChangedError:
            self._part.unlink()
            self._finished.unlink()
            raise
        path.parent.mkdir(exist_ok=True)
        self._part.rename(path)
        self._finished.unlink()

    def _fetch(self) -> None:
        from obstore.exceptions import NotSupportedError

        size, count = self._remote.size, -(-self._remote.size // RANGE)
        if not self._part.exists() or self._part.stat().st_size != size:
            self._finished.unlink(missing_ok=True)  # its marks stand for bytes that are not there
        done = self._finished.read_bytes().ljust(count, b"\0") if self._finished.exists() else bytes(count)
        missing = [number for number in range(count) if not done[number]]
        needed = min(len(missing) * RANGE, size)
        if needed > shutil.disk_usage(self._part.parent).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        part = os.open(self._part, os.O_RDWR | os.O_CREAT, 0o644)
        marks = os.open(self._finished, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            os.truncate(part, size)
            os.truncate(marks, count)
            if self._remote.blake3:
                self._fetch_whole(part)
            else:
                try:
                    self._fetch_ranges(part, marks, missing)
                except NotSupportedError:
                    self._fetch_whole(part)
            os.fsync(part)
        finally:
            os.close(part)
            os.close(marks)

    def _fetch_ranges(self, part: int, marks: int, missing: list[int]) -> None:
        pool = ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="distgen-fetch")
        try:
            for future in as_completed([pool.submit(self._fetch_range, part, marks, number) for number in missing]):
                future.result()
        finally:
            self._source.stop.set()
            pool.shutdown(cancel_futures=True)
            self._source.stop.clear()

    def _fetch_range(self, part: int, marks: int, number: int) -> None:
        begin, end = number * RANGE, min((number + 1) * RANGE, self._remote.size)
        body = self._source.patiently(lambda: self._range(begin, end))
        written = 0
        while written < len(body):
            written += os.pwrite(part, body[written:], begin + written)
        # A mark outlives a power failure only if what it stands for does.
        os.fdatasync(part)
        os.pwrite(marks, b"\1", number)

    def _range(self, begin: int, end: int) -> memoryview:
        options: GetOptions = {"range": (begin, end)}
        if self._remote.etag and not self._remote.etag.startswith("W/"):  # If-Match never matches a weak one
            options["if_match"] = self._remote.etag
        elif self._remote.modified:
            options["if_unmodified_since"] = datetime.fromisoformat(self._remote.modified)
        body = memoryview(self._same(self._source.get(options)).bytes())
        if len(body) != end - begin:
            raise ShortError
        return body

    def _fetch_whole(self, part: int) -> None:
        """One request for everything, for servers that know no ranges or no versions: it begins anew each time."""

        def request() -> str:
            os.lseek(part, 0, os.SEEK_SET)
            return stream(self._same(self._source.get({})), lambda piece: _write(part, piece))

        content = self._source.patiently(request)
        if self._remote.blake3 and content != self._remote.blake3:
            raise self._source.changed()

    def _same(self, result: GetResult) -> GetResult:
        """Refuse another version from a server that ignores conditions."""
        expected = self._remote.size, self._remote.etag, self._remote.modified
        if (result.meta["size"], *_version(result.meta)) != expected:
            raise self._source.changed()
        return result

    def _check(self) -> None:
        expected = self._remote.sha256
        if expected and (found := sha256_of(self._part)) != expected:
            problem = f"its SHA-256 is {found}, and the recipe wants {expected}"
            raise ChangedError(f"{self._remote.shown}: {problem}; put the right file there, or correct the recipe")


def _write(file: int, piece: bytes) -> None:
    while piece:
        piece = piece[os.write(file, piece) :]
