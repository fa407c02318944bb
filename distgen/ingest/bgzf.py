"""Where the blocks of a bgzip file lie: each can be decompressed on its own (SAM specification, 4.1)."""

from __future__ import annotations

import mmap
from functools import lru_cache
from pathlib import Path

import numpy as np

from distgen.errors import SourceError
from distgen.genome import Int64

_MAGIC = b"\x1f\x8b\x08\x04"


def index(path: Path) -> tuple[Int64, Int64] | None:
    """The beginning of every block in the file and in the content, each with the end at last; None if it is no bgzip.

    The blocks' own headers say how long they are, so no .gzi is needed.

    Raises:
        SourceError: a block is damaged.
    """
    found = path.stat()
    return _index(path, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=4)
def _index(path: Path, size: int, changed: int) -> tuple[Int64, Int64] | None:
    with path.open("rb") as file:
        head = file.read(18)
        if len(head) < 18 or head[:4] != _MAGIC or head[12:16] != b"BC\x02\x00":
            return None
        places, contents, place, content = [], [], 0, 0
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            while place < size:
                end = place + int.from_bytes(data[place + 16 : place + 18], "little") + 1
                if data[place : place + 4] != _MAGIC or end > size:
                    raise SourceError(f"{path}: the bgzip block at byte {place:,} is damaged; fetch the file again")
                places.append(place)
                contents.append(content)
                content += int.from_bytes(data[end - 4 : end], "little")
                place = end
    return np.array([*places, place], np.int64), np.array([*contents, content], np.int64)
