"""Sources in object stores and on web servers: described by one request, fetched whole before they are read.

An object is what its store declares it to be: size and ETag (RFC 9110, 8.8.3), else size and Last-Modified, else size
and the BLAKE3 of its content. What obstore says of a failure holds the URI with any credentials, so none of it is shown.
"""

from __future__ import annotations

import base64
import errno
import os
import re
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

from distgen.config import TIMEOUTS, digest, redact, source_name
from distgen.errors import SourceError, suggest
from distgen.ingest.open import sha256 as sha256_of

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult, ObjectMeta
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

T = TypeVar("T")

RANGE = 1 << 23  # bytes of one request
IN_FLIGHT = 6  # requests at a time: at most so many ranges are in memory
_ACCESS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true for a public bucket; "
    "AWS_REGION must be the bucket's",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or GOOGLE_SKIP_SIGNATURE=true for a public bucket",
    "az": "set AZURE_STORAGE_ACCOUNT_NAME, and AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN, or "
    "AZURE_SKIP_SIGNATURE=true for a public container",
    "http": "give a URI that may be read, with user:password@ or signed, best by an environment variable",
}


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
    source = _Object(uri)
    meta = source.head()
    etag, modified = _version(meta)
    content = None
    if not etag and not modified:
        content = source.patiently(lambda: _stream(source.get({}), lambda piece: None))
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


class _OtherError(SourceError):
    """What was fetched of a source is of no use: it belongs to another version."""


class _PassingError(SourceError):
    """A request failed in a way that may pass within `patience` seconds."""

    def __init__(self, problem: str, patience: float):
        super().__init__(problem)
        self.patience = patience


def _version(meta: ObjectMeta) -> tuple[str | None, str | None]:
    """ETag, and the date only where there is none; obstore puts 1970 for a date that is not given."""
    date = meta["last_modified"]
    dated = date.timestamp() > 0 and not meta["e_tag"]
    return meta["e_tag"], date.astimezone(UTC).isoformat() if dated else None


def _stream(result: GetResult, keep: Callable[[bytes], Any]) -> str:
    """Hand on the pieces of a body that must be whole; returns its BLAKE3."""
    from blake3 import blake3

    content, size = blake3(), 0
    for piece in result.stream(RANGE):
        keep(bytes(piece))
        content.update(piece)
        size += len(piece)
    if size != result.meta["size"]:
        raise _ShortError
    return str(content.hexdigest())


class _ShortError(Exception):
    """A body ended before its end."""


# ---- one fetch ------------------------------------------------------------------------------


class _Fetch:
    """One download: its bytes in HOME.part, and in HOME.finished one byte for each range that is on disk."""

    def __init__(self, remote: Remote, home: Path):
        self._remote, self._source = remote, _Object(remote.uri)
        self._part, self._finished = home.with_suffix(".part"), home.with_suffix(".finished")

    def run(self, path: Path) -> None:
        """Fetch what is missing, check the whole, and give it its name; what is of another version is removed."""
        try:
            self._fetch()
            self._check()
        except _OtherError:
            self._part.unlink()
            self._finished.unlink()
            raise
        path.parent.mkdir(exist_ok=True)
        self._part.rename(path)
        self._finished.unlink()

    def _fetch(self) -> None:
        from obstore.exceptions import NotSupportedError

        size, count = self._remote.size, -(-self._remote.size // RANGE)
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
            raise _ShortError
        return body

    def _fetch_whole(self, part: int) -> None:
        """One request for everything, for servers that know no ranges or no versions: it begins anew each time."""

        def request() -> str:
            os.lseek(part, 0, os.SEEK_SET)
            return _stream(self._same(self._source.get({})), lambda piece: _write(part, piece))

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
            raise _OtherError(f"{self._remote.shown}: {problem}; put the right file there, or correct the recipe")


def _write(file: int, piece: bytes) -> None:
    while piece:
        piece = piece[os.write(file, piece) :]


# ---- requests -------------------------------------------------------------------------------


class _Object:
    """One object of a store, and the patience to ask for it again."""

    def __init__(self, uri: str):
        self.shown, self.stop = redact(uri), threading.Event()
        self._scheme = uri.split(":")[0].replace("https", "http")
        self._store, self._key = self._open(uri)

    def _open(self, uri: str) -> tuple[ObjectStore, str]:
        try:
            from obstore.exceptions import BaseError
            from obstore.store import HTTPStore, from_url
        except ImportError:
            raise SourceError(f"{self.shown}: remote sources need obstore: pip install 'distgen[cloud]'") from None
        client: ClientConfig = {
            "allow_http": not uri.startswith("https:"),
            "connect_timeout": timedelta(seconds=TIMEOUTS["remote_host"]),
            "read_timeout": timedelta(seconds=TIMEOUTS["remote_read"]),
            "timeout": timedelta(days=7),  # of a whole body, however large; a stalled one runs into read_timeout
        }
        retry: RetryConfig = {"max_retries": 0}  # `patiently` sees truncated bodies, too
        try:
            if self._scheme == "http":
                parts = urlsplit(uri)
                login, _, host = parts.netloc.rpartition("@")
                if login:
                    token = base64.b64encode(unquote(login).encode()).decode()
                    client["default_headers"] = {"Authorization": f"Basic {token}"}
                url = urlunsplit(parts._replace(netloc=host, fragment=""))
                return HTTPStore.from_url(url, client_options=client, retry_config=retry), ""
            bucket, _, key = uri.split("://", 1)[1].partition("/")
            root = f"{self._scheme}://{bucket}"
            return from_url(root, client_options=client, retry_config=retry), key
        except (BaseError, ValueError):
            raise SourceError(f"{self.shown}: no store can be opened there; {_ACCESS[self._scheme]}") from None

    def head(self) -> ObjectMeta:
        """Size and version. A signed URL may allow GET alone, so that is tried, too."""
        from obstore.exceptions import BaseError

        try:
            return self.patiently(lambda: self._store.head(self._key))
        except SourceError:
            if self._scheme == "http":
                with suppress(BaseError, OSError, ValueError):
                    return self.get({"range": (0, 1)}).meta
            raise

    def get(self, options: GetOptions) -> GetResult:
        return self._store.get(self._key, options=options)

    def patiently(self, request: Callable[[], T]) -> T:
        """Make a request again and again while its failure may pass, a little later each time.

        Raises:
            SourceError: what is wrong and what to do. NotSupportedError: the server knows no ranges.
        """
        from obstore.exceptions import BaseError, NotSupportedError

        first, wait = 0.0, 0.1
        while True:
            try:
                return request()
            except NotSupportedError:
                raise
            except (BaseError, FileNotFoundError, ValueError, _ShortError) as error:
                failure = self._explain(error)
            first = first or time.monotonic()
            patience = failure.patience if isinstance(failure, _PassingError) else 0.0
            if time.monotonic() + wait > first + patience or self.stop.wait(wait):
                raise failure
            wait = min(wait * 2, 10.0)

    def changed(self) -> _OtherError:
        return _OtherError(f"{self.shown}: it changed while it was read; the same command fetches it as it is now")

    def _explain(self, error: Exception) -> SourceError:
        from obstore.exceptions import PermissionDeniedError, PreconditionError, UnauthenticatedError

        text = str(error)
        match = re.search(r"status code: (\d{3})", text)
        status, again = int(match[1]) if match else 0, "; the same command goes on from here"
        if isinstance(error, FileNotFoundError):
            return SourceError(f"{self.shown}: {self._missing()}")
        if isinstance(error, PreconditionError):
            return self.changed()
        denied = isinstance(error, PermissionDeniedError | UnauthenticatedError) or status in (401, 403)
        if denied or re.search(r"//169\.254\.|//metadata\.google", text):  # where a cloud's machines ask who they are
            doubt = (
                "" if self._scheme == "http" else " (a bucket that may not be listed says so of missing objects, too)"
            )
            return SourceError(f"{self.shown}: no permission to read it{doubt}; {_ACCESS[self._scheme]}")
        if status >= 500 or status in (408, 429):
            return _PassingError(
                f"{self.shown}: the server is failing (HTTP {status}){again}", TIMEOUTS["remote_retry"]
            )
        if status:
            return SourceError(f"{self.shown}: the server refuses the request (HTTP {status}); {_ACCESS[self._scheme]}")
        if "kind: Connect" in text:
            problem = "its host cannot be reached; correct the URI, or see to the network"
            return _PassingError(f"{self.shown}: {problem}", TIMEOUTS["remote_host"])
        if "MissingContentLength" in text:
            return SourceError(f"{self.shown}: the server does not say how long it is; fetch it by hand")
        if isinstance(error, ValueError):
            return SourceError(f"{self.shown}: this is no name an object can have")
        problem = "what the server sends is cut short or not what was asked for"
        return _PassingError(f"{self.shown}: {problem}{again}", TIMEOUTS["remote_retry"])

    def _missing(self) -> str:
        """Why there is no such object: the bucket, or the nearest names in it, where it may be listed."""
        from obstore.exceptions import BaseError

        if self._scheme == "http":
            return "there is no such file"
        names: list[str] = []
        parent = self._key.rpartition("/")[0]
        try:
            for prefix in dict.fromkeys((parent, "")):
                names = names or [
                    item["path"] for item in next(iter(self._store.list(prefix or None, chunk_size=1000)), [])
                ]
        except (BaseError, OSError, ValueError) as error:
            if "status code: 404" in str(error):
                return "there is no such bucket"
            return "there is no such object, and the bucket may not be listed"
        return f"there is no such object. {suggest(self._key, names)}"
