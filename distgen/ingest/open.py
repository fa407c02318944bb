"""Open a source file, whatever its compression; damage is reported by name."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from isal import igzip

from distgen.errors import SourceError, suggest

BLOCK = 1 << 24
_BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")


def read_blocks(path: Path, block: int = BLOCK) -> Iterator[bytes]:
    """The decompressed content of a plain, gzip or bgzip file, `block` bytes at a time.

    The compression is told by the first bytes, not by the name.

    Raises:
        SourceError: no such file, not readable, or a gzip stream that is cut short or damaged.
    """
    try:
        with path.open("rb") as raw:
            head = raw.read(18)
            gzipped = head[:2] == b"\x1f\x8b"
            # A bgzip file ends with an empty block, without which it was cut between two blocks (SAM specification, 4.1.2).
            if gzipped and head[3] & 4 and head[12:14] == b"BC":
                raw.seek(max(-28, -path.stat().st_size), os.SEEK_END)
                if raw.read() != _BGZF_END:
                    raise EOFError
            raw.seek(0)
            stream: io.BufferedIOBase = igzip.GzipFile(fileobj=raw, mode="rb") if gzipped else raw
            while data := stream.read(block):
                yield data
    except FileNotFoundError:
        near = sorted(str(other) for other in path.parent.glob("*") if other.is_file())
        raise SourceError(f"{path}: there is no such file. {suggest(str(path), near)}") from None
    except EOFError:
        raise SourceError(f"{path}: the gzip stream is cut short; fetch the file again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise SourceError(f"{path}: the gzip stream is damaged ({error}); fetch the file again") from None
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror or error}") from None


def sha256(path: Path) -> str:
    """The checksum of a file as it lies there (compressed bytes, not content)."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror or error}") from None
