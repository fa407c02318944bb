"""Objects in object stores and on web servers: requests, made again while their failure may pass.

What obstore says of a failure holds the URI with any credentials, so none of it is shown.
"""

from __future__ import annotations

import base64
import copy
import errno
import hashlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

from distgen.config import TIMEOUTS
from distgen.errors import ConfigError, DistgenError, RemoteError, SourceError, redact, suggest
from distgen.ingest.open import blake3

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult, ObjectMeta, PutMode, UpdateVersion
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

T = TypeVar("T")

RANGE = 1 << 23  # bytes of one request
SCHEMES = ("s3", "gs", "az")  # of what can be written
_ACCESS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true for a public bucket; "
    "AWS_REGION must be the bucket's",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or GOOGLE_SKIP_SIGNATURE=true for a public bucket",
    "az": "set AZURE_STORAGE_ACCOUNT_NAME, and AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN, or "
    "AZURE_SKIP_SIGNATURE=true for a public container",
    "http": "give a URI that may be read, with user:password@ or signed, best by an environment variable",
}


# A forked process has the connections and the threads that serve them in name only: its requests would wait for ever.
FORKED = (
    "this process was forked from one that has read from elsewhere, and cannot; start it anew, for a DataLoader by "
    'multiprocessing_context="spawn"'
)
_first: dict[str, int] = {}  # "process" that has made a request


class ShortError(Exception):
    """A body ended before its end."""


class ChangedError(SourceError):
    """What was fetched of a source is of no use: it belongs to another version."""


class Object:
    """One object; or, as with a path, the folder of those whose names go on after its own and a slash.

    Args:
        uri: `s3://bucket/key`, `gs://bucket/key`, `az://container/key` or an http(s) URL, with any credentials.
        failure: what is raised when a request fails for good.
    """

    def __init__(self, uri: str, failure: type[DistgenError] = SourceError):
        self.shown, self.stop = redact(uri), threading.Event()
        self._uri, self._failure = uri, failure
        self._scheme = uri.split(":")[0].replace("https", "http")
        self._root, self._key = uri, ""
        if self._scheme != "http":
            bucket, _, self._key = uri.split("://", 1)[1].partition("/")
            self._root = f"{self._scheme}://{bucket}"
        self._clients: dict[str, ObjectStore] = {}  # of all objects that were named from one

    def __str__(self) -> str:
        return self.shown

    def __repr__(self) -> str:
        return f"Object({self.shown!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Object, (self._uri, self._failure)

    def __copy__(self) -> Object:
        # By default `__reduce__` would make it, without the clients; each reads certificates and has connections of its own.
        other = object.__new__(Object)
        other.__dict__.update(self.__dict__)
        return other

    def __truediv__(self, name: str) -> Object:
        other = copy.copy(self)
        for key in ("_uri", "shown", "_key"):
            setattr(other, key, f"{getattr(self, key)}/{name}" if name else getattr(self, key))
        return other

    @property
    def name(self) -> str:
        """What follows the last slash."""
        return self._key.rsplit("/", 1)[-1]

    @property
    def parent(self) -> Object:
        """The folder it is in."""
        return Object(self._uri.rpartition("/")[0], self._failure)

    # ---- reading

    def head(self) -> ObjectMeta:
        """Size and version. A signed URL may allow GET alone, so that is tried, too."""
        try:
            return self.patiently(lambda: self._client().head(self._key))
        except SourceError:
            if self._scheme == "http":
                from obstore.exceptions import BaseError

                with suppress(BaseError, OSError, ValueError):
                    return self.get({"range": (0, 1)}).meta
            raise

    def get(self, options: GetOptions) -> GetResult:
        """One request, without patience."""
        return self._client().get(self._key, options=options)

    def find(self) -> ObjectMeta | None:
        """Size and version; None if there is no such object."""
        return self._unless_missing(lambda: self._client().head(self._key))

    def is_file(self) -> bool:
        """Whether there is such an object."""
        return self.find() is not None

    def read_bytes(self) -> bytes:
        """The whole object. Raises FileNotFoundError if there is none."""
        return self.read()[0]

    def read(self) -> tuple[bytes, ObjectMeta]:
        """The whole object, its size and version. Raises FileNotFoundError if there is none."""

        def request() -> tuple[bytes, ObjectMeta]:
            result = self.get({})
            body = bytes(result.bytes())
            if len(body) != result.meta["size"]:
                raise ShortError
            return body, result.meta

        found = self._unless_missing(request)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.shown)
        return found

    def read_range(self, begin: int, end: int) -> memoryview:
        """The bytes [begin, end); there are so many."""

        def request() -> memoryview:
            body = memoryview(self.get({"range": (begin, end)}).bytes())
            if len(body) != end - begin:
                raise ShortError
            return body

        return self.patiently(request)

    def names(self) -> dict[str, ObjectMeta]:
        """All objects of a folder by their names in it."""
        skip = len(self._key) + 1 if self._key else 0
        request = lambda: [item for page in self._client().list(self._key) for item in page]  # noqa: E731
        return {item["path"][skip:]: item for item in self.patiently(request)}

    def beside(self) -> list[str]:
        """The folders next to this one, by their names."""
        parent = self._key.rpartition("/")[0]
        with suppress(DistgenError):
            found = self.patiently(lambda: self._client().list_with_delimiter(parent))["common_prefixes"]
            return [prefix.rstrip("/").rsplit("/", 1)[-1] for prefix in found]
        return []

    # ---- writing

    def put(self, content: bytes | memoryview | Path, mode: Literal["create", "overwrite"] | ObjectMeta) -> bool:
        """Write the object as a whole: one that is not there, any, or in the place of a certain version.

        Returns:
            Whether it was so.
        """
        condition: PutMode = mode if isinstance(mode, str) else _condition(mode)

        def request() -> bool:
            from obstore.exceptions import AlreadyExistsError, PreconditionError

            try:
                self._client("remote_write").put(self._key, content, mode=condition, use_multipart=False)
            except (AlreadyExistsError, PreconditionError):
                return False
            return True

        return self.patiently(request, "write")

    def holds(self, path: Path, meta: ObjectMeta | None) -> bool:
        """Whether the object has the content of a file: by the ETag where that is an MD5, else by reading it.

        Args:
            path: of the file.
            meta: what the store says of the object; None if there is none.
        """
        if meta is None or meta["size"] != path.stat().st_size:
            return False
        with path.open("rb") as file:
            md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if (meta["e_tag"] or "").strip('"') == md5:
            return True
        return self.patiently(lambda: stream(self.get({}), lambda piece: None)) == blake3(path)

    def delete(self, names: Iterable[str]) -> None:
        """Remove objects of a folder by their names in it; those that are not there are no fault."""
        keys = [(self / name)._key for name in names]
        with suppress(FileNotFoundError):
            self.patiently(lambda: self._client().delete(keys), "write")

    # ---- requests

    def _client(self, patience: str = "remote_read") -> ObjectStore:
        if _first.setdefault("process", os.getpid()) != os.getpid():
            raise self._failure(f"{self.shown}: {FORKED}")
        if patience not in self._clients:
            self._clients[patience] = self._open(patience)
        return self._clients[patience]

    def _open(self, patience: str) -> ObjectStore:
        try:
            from obstore.exceptions import BaseError
            from obstore.store import HTTPStore, from_url
        except ImportError:
            what = "remote sources need" if self._failure is SourceError else "stores elsewhere need"
            raise self._failure(f"{self.shown}: {what} obstore: pip install 'distgen[cloud]'") from None
        client: ClientConfig = {
            "allow_http": not self._uri.startswith("https:"),
            "connect_timeout": timedelta(seconds=TIMEOUTS["remote_host"]),
            "read_timeout": timedelta(seconds=TIMEOUTS[patience]),
            "timeout": timedelta(days=7),  # of a whole body, however large; a stalled one runs into read_timeout
        }
        retry: RetryConfig = {"max_retries": 0}  # `patiently` sees truncated bodies, too
        try:
            if self._scheme == "http":
                parts = urlsplit(self._root)
                login, _, host = parts.netloc.rpartition("@")
                if login:
                    token = base64.b64encode(unquote(login).encode()).decode()
                    client["default_headers"] = {"Authorization": f"Basic {token}"}
                url = urlunsplit(parts._replace(netloc=host, fragment=""))
                return HTTPStore.from_url(url, client_options=client, retry_config=retry)
            return from_url(self._root, client_options=client, retry_config=retry)
        except (BaseError, ValueError):
            raise self._failure(f"{self.shown}: no store can be opened there; {_ACCESS[self._scheme]}") from None

    def _unless_missing(self, request: Callable[[], T]) -> T | None:
        def attempt() -> T | None:
            try:
                return request()
            except FileNotFoundError:
                return None

        return self.patiently(attempt)

    def patiently(self, request: Callable[[], T], doing: str = "read") -> T:
        """Make a request again and again while its failure may pass, a little later each time.

        Raises:
            ChangedError: the source is no longer what the request's condition names.
            SourceError, or what `failure` is: what is wrong and what to do.
            NotSupportedError: the server knows no ranges.
        """
        self._client()  # says so if there is no obstore
        from obstore.exceptions import BaseError, NotSupportedError, PreconditionError

        first, wait = 0.0, 0.1
        while True:
            try:
                return request()
            except NotSupportedError:
                raise
            except PreconditionError:
                failure: DistgenError = self.changed()
                patience = 0.0
            except (BaseError, FileNotFoundError, ValueError, ShortError) as error:
                problem, patience = self._explain(error, doing)
                failure = self._failure(f"{self.shown}: {problem}")
            first = first or time.monotonic()
            if time.monotonic() + wait > first + patience or self.stop.wait(wait):
                raise failure
            wait = min(wait * 2, 10.0)

    def changed(self) -> ChangedError:
        """What to raise for another version."""
        return ChangedError(f"{self.shown}: it changed while it was read; the same command fetches it as it is now")

    def _explain(self, error: Exception, doing: str) -> tuple[str, float]:
        """What is wrong and what to do, and for how many seconds to hope that it passes."""
        from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

        text = str(error)
        match = re.search(r"status code: (\d{3})", text)
        status, access = int(match[1]) if match else 0, _ACCESS[self._scheme]
        again = "; the same command goes on from here"
        if doing == "read" and self._failure is not SourceError:
            again = "; try again"
        if isinstance(error, FileNotFoundError) or status == 404:
            return self._missing(), 0.0
        denied = isinstance(error, PermissionDeniedError | UnauthenticatedError) or status in (401, 403)
        if denied or re.search(r"//169\.254\.|//metadata\.google", text):  # where a cloud's machines ask who they are
            doubt = " (a bucket that may not be listed says so of missing objects, too)"
            return f"no permission to {doing} it{'' if self._scheme == 'http' else doubt}; {access}", 0.0
        if status >= 500 or status in (408, 429):
            return f"the server is failing (HTTP {status}){again}", TIMEOUTS["remote_retry"]
        if status:
            return f"the server refuses the request (HTTP {status}); {access}", 0.0
        if "kind: Connect" in text:
            return "its host cannot be reached; correct the URI, or see to the network", TIMEOUTS["remote_host"]
        if "MissingContentLength" in text:
            return "the server does not say how long it is; fetch it by hand", 0.0
        if isinstance(error, ValueError):
            return "this is no name an object can have", 0.0
        if doing == "write":
            return f"the connection broke{again}", TIMEOUTS["remote_retry"]
        return f"what the server sends is cut short or not what was asked for{again}", TIMEOUTS["remote_retry"]

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
                    item["path"] for item in next(iter(self._client().list(prefix or None, chunk_size=1000)), [])
                ]
        except (BaseError, OSError, ValueError) as error:
            if "status code: 404" in str(error):
                return "there is no such bucket"
            return "there is no such object, and the bucket may not be listed"
        return f"there is no such object. {suggest(self._key, names)}"


def _condition(meta: ObjectMeta) -> UpdateVersion:
    # obstore takes no None. S3 and Azure go by the ETag, Google Cloud by the version.
    known: UpdateVersion = {}
    if meta["e_tag"]:
        known["e_tag"] = meta["e_tag"]
    if meta["version"]:
        known["version"] = meta["version"]
    return known


def stream(result: GetResult, keep: Callable[[bytes], Any]) -> str:
    """Hand on the pieces of a body that must be whole; returns its BLAKE3."""
    from blake3 import blake3

    content, size = blake3(), 0
    for piece in result.stream(RANGE):
        keep(bytes(piece))
        content.update(piece)
        size += len(piece)
    if size != result.meta["size"]:
        raise ShortError
    return str(content.hexdigest())


Place = Path | Object  # where a store lies


def locate(place: str | Path | Object) -> Place:
    """The place that a path or a URI names.

    Args:
        place: a path, or `s3://bucket/key`, `gs://bucket/key` or `az://container/key`; who may read and write there,
            the environment says.

    Raises:
        ConfigError: the URI names no place for a store, or holds credentials.
    """
    if isinstance(place, Object):
        return place
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):/(/?)", str(place))
    if match is None or (not match[2] and match[1] not in SCHEMES):
        return Path(place).expanduser()
    text, shown = str(place), redact(str(place))
    if not match[2]:
        raise ConfigError(f"{shown}: a URI is given as a string; as a path it has lost a slash")
    if match[1] not in SCHEMES:
        raise ConfigError(
            f"{shown}: a store can lie in {', '.join(f'{scheme}://' for scheme in SCHEMES)} or in a folder"
        )
    bucket, _, key = text[match.end() :].partition("/")
    if "@" in bucket or "?" in text:
        raise ConfigError(f"{shown}: credentials belong into the environment, not into the URI")
    if not bucket or not key.strip("/"):
        raise ConfigError(f"{shown} names no place in a bucket; write {match[1]}://BUCKET/NAME")
    return Object(f"{match[1]}://{bucket}/{key.strip('/')}", RemoteError)
