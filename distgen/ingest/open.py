"""Open a source file: plain, gzip or bgzip; bzip2, xz, zstd and zip are refused, and damage is reported, by name."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import cast

import numpy as np
from isal import igzip, igzip_lib

from distgen.errors import SourceError, beside
from distgen.ingest import bgzf
from distgen.ingest.ahead import Ahead

BLOCK = 1 << 24
INFLATE_ERROR = cast("type[Exception]", igzip_lib.IsalError)  # its stub declares an instance
_NOT_READ = {b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\3\4": "zip"}
_BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")


_listener: ContextVar[Callable[[int], None] | None] = ContextVar("_listener", default=None)


@contextmanager
def heard(listener: Callable[[int], None]) -> Iterator[None]:
    """Tell `listener` of the bytes of files, as they lie there, that readers called from here are done with."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def consumed(size: int) -> None:
    """Said by a reader that is done with so many more bytes of a file."""
    if listener := _listener.get():
        listener(size)


def is_gzip(path: Path) -> bool:
    """Whether a file is gzip (or bgzip), told by its first bytes, not by its name.

    Raises:
        SourceError: it is compressed in another way.
    """
    with explained(path), path.open("rb") as raw:
        head = raw.read(6)
    for magic, name in _NOT_READ.items():
        if head.startswith(magic):
            raise SourceError(f"{path}: the file is compressed with {name}; distgen reads plain files, gzip and bgzip")
    return head[:2] == b"\x1f\x8b"


def read_blocks(path: Path, block: int = BLOCK, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
    """As `fill_blocks`, of which each block may be kept."""
    buffer = memoryview(bytearray(block))
    return (bytes(buffer[:size]) for size in fill_blocks(path, buffer, start, stop))


def fill_blocks(path: Path, buffer: memoryview, start: int = 0, stop: int | None = None) -> Iterator[int]:
    """The decompressed content of a plain, gzip or bgzip file, as much at a time as a buffer takes: how much that is.

    Pages that the system has to find anew for each block would cost as much as reading it.

    Args:
        path: the file. gzip is decompressed in a thread of its own.
        buffer: where each block is put.
        start: where to begin, in bytes of the content; in a gzip file that is no bgzip, what comes before has to be
            decompressed.
        stop: where to end, in bytes of the content; None for its end.

    Raises:
        SourceError: no such file, not readable, or a gzip stream that is cut short or damaged.
    """
    gzipped = is_gzip(path)
    with explained(path), path.open("rb") as raw:
        if not gzipped:
            raw.seek(start)
            while size := raw.readinto(buffer if stop is None else buffer[: stop - start]):
                consumed(size)
                yield size
                start += size
            return
        _refuse_cut_bgzip(raw)
        left = None if stop is None else stop - start
        if start and (blocks := bgzf.index(path)) is not None:
            number = int(np.searchsorted(blocks[1], start, side="right")) - 1
            raw.seek(int(blocks[0][number]))
            start -= int(blocks[1][number])
        place = raw.tell()  # before its thread begins to read
        with io.BufferedReader(Ahead(igzip.IGzipFile(fileobj=raw))) as stream:
            while start and (size := stream.readinto(buffer[:start])):
                start -= size
            while size := stream.readinto(buffer if left is None else buffer[:left]):
                before, place = place, raw.tell()
                consumed(place - before)
                yield size
                left = None if left is None else left - size


def content_size(path: Path) -> int | None:
    """Bytes of the content of a file that can be read from any place (plain or bgzip); None for gzip."""
    if not is_gzip(path):
        return path.stat().st_size
    blocks = bgzf.index(path)
    return int(blocks[1][-1]) if blocks else None


def sha256(path: Path) -> str:
    """The SHA-256 of a file as it lies there (compressed bytes, not content): what published lists state."""
    with explained(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def blake3(path: Path) -> str:
    """The BLAKE3 of a file as it lies there: what tells one version of a source from another, five times as fast."""
    from blake3 import blake3

    with explained(path), path.open("rb", buffering=0) as file:
        digest, buffer = blake3(max_threads=blake3.AUTO), bytearray(1 << 22)
        while size := file.readinto(buffer):
            digest.update(memoryview(buffer)[:size])
        return str(digest.hexdigest())


def _refuse_cut_bgzip(raw: io.BufferedReader) -> None:
    """A bgzip file ends with an empty block, without which it was cut between two blocks (SAM specification, 4.1.2)."""
    head = raw.read(18)
    if len(head) == 18 and head[3] & 4 and head[12:14] == b"BC":
        raw.seek(-min(28, raw.seek(0, os.SEEK_END)), os.SEEK_END)
        if raw.read() != _BGZF_END:
            raise EOFError("a bgzip file ends with an empty block, which it lacks")
    raw.seek(0)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Whatever goes wrong with a file becomes a SourceError that names it."""
    try:
        yield
    except FileNotFoundError:
        raise SourceError(f"{path}: there is no such file. {beside(path)}") from None
    except EOFError as error:
        why = f" ({error})" if "bgzip" in str(error) else ""
        raise SourceError(f"{path}: the gzip stream is cut short{why}; fetch the file again") from None
    except (gzip.BadGzipFile, zlib.error, INFLATE_ERROR) as error:
        raise SourceError(f"{path}: the gzip stream is damaged ({error}); fetch the file again") from None
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror or error}") from None
