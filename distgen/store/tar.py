"""Tar files whose bytes follow from their content: ustar (POSIX.1-1988), regular files alone, no times, no owners."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from distgen.errors import SourceError

BLOCK = 512  # bytes
END = bytes(2 * BLOCK)
_HEADER = struct.Struct("100s8s8s8s12s12s8s1s100s6s2s32s32s8s8s155s12x")
_TYPES = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"5": "a folder",
    b"6": "a pipe",
}


def tar_header(name: str, size: int) -> bytes:
    """The 512 bytes before a regular file's content: mode 644, owner 0, time 0."""
    zero = b"0000000\0"
    numbers = b"0000644\0", zero, zero, b"%011o\0" % size, b"00000000000\0"
    blank = _HEADER.pack(name.encode(), *numbers, b" " * 8, b"0", b"", b"ustar\0", b"00", b"", b"", b"", b"", b"")
    return blank[:148] + b"%06o\0 " % sum(blank) + blank[156:]


def npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """What `numpy.save` writes before the values of a C-contiguous array."""
    file = BytesIO()
    description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, description)
    return file.getvalue()


def read_members(path: Path, largest: int) -> Iterator[tuple[str, bytes]]:
    """Name and content of every member of a tar file that `distgen export` has written.

    Args:
        path: of the file.
        largest: bytes that a member may have.

    Raises:
        SourceError: the file is cut, or a member is no regular file, leaves the folder, is too large or has a header
            of another form; names the member.
    """
    with path.open("rb") as file:
        before = "its beginning"
        while (header := file.read(BLOCK)) != bytes(BLOCK):
            if len(header) < BLOCK:
                raise SourceError(f"{path} is cut after {before}: it has no end of archive")
            name = header[:100].rstrip(b"\0").decode(errors="replace")
            try:
                size = int(header[124:135], 8)
            except ValueError:
                size = -1
            if header[257:262] != b"ustar" or size < 0:
                raise SourceError(f"{path}: what follows {before} is no header of a member")
            if header[156:157] != b"0":
                what = _TYPES.get(header[156:157], f"of type {header[156:157]!r}")
                raise SourceError(f'{path}: member "{name}" is {what}; only regular files belong here')
            if name.startswith("/") or ".." in name.split("/"):
                raise SourceError(f'{path}: member "{name}" would leave the folder it is unpacked in')
            if size > largest:
                raise SourceError(f'{path}: member "{name}" has {size:,} bytes, more than any can have ({largest:,})')
            if header != tar_header(name, size):
                raise SourceError(f'{path}: the header of member "{name}" is damaged')
            content = file.read(size + -size % BLOCK)
            if len(content) < size + -size % BLOCK:
                raise SourceError(
                    f'{path} is cut in member "{name}": {min(len(content), size):,} of {size:,} bytes are there'
                )
            yield name, content[:size]
            before = f'member "{name}"'
        if file.read(2 * BLOCK) != bytes(BLOCK):
            raise SourceError(f"{path}: after {before} there is no end of archive, or more than that")
