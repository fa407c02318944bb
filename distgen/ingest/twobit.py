"""UCSC .2bit to the planes of a store (https://genome.ucsc.edu/FAQ/FAQformat.html#format7).

Versions 0 and 1 (64-bit offsets), either byte order. The file is memory-mapped; a stretch costs what it is long.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from distgen.errors import SourceError, beside
from distgen.genome import ALIGNMENT, Bytes, Int64

SIGNATURE = 0x1A412743


def _table() -> Bytes:
    """What each byte of a .2bit file (T 0, C 1, A 2, G 3, first base in the high bits) is in a store."""
    byte = np.arange(256)
    codes = np.array([3, 1, 0, 2])
    return sum((codes[byte >> (6 - 2 * i) & 3] << (2 * i) for i in range(4)), np.zeros(256, np.int64)).astype(np.uint8)


TABLE = _table()


def is_twobit(path: Path) -> bool:
    """Whether a file is .2bit, told by its first bytes."""
    with path.open("rb") as file:
        return file.read(4) in (SIGNATURE.to_bytes(4, "little"), SIGNATURE.to_bytes(4, "big"))


@dataclass(frozen=True)
class _Record:
    """Where the parts of one contig lie in the file, in bytes; blocks are counts of stretches."""

    length: int
    ambiguous_at: int
    ambiguous: int
    softmask_at: int
    softmask: int
    bases_at: int


class TwoBit:
    """A .2bit file, read-only.

    Args:
        path: the file, not compressed.

    Attributes:
        names: contig names in the order of the file.
        lengths: int64 (C,), bases.

    Raises:
        SourceError: no such file, no .2bit file, cut short, or a contig that does not lie within the file.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            self._bytes: Bytes = np.memmap(path, np.uint8, "r").view(np.ndarray)
        except FileNotFoundError:
            raise SourceError(f"{path}: there is no such file. {beside(path, '*.2bit')}") from None
        except (OSError, ValueError) as error:
            raise SourceError(f"{path}: no .2bit file ({error})") from None
        self._order, version, count = self._header()
        self._records: list[_Record] = []
        index, end = self._index(count, "Q" if version else "I")
        seen: set[str] = set()
        for name, offset in index:
            if name in seen:
                raise SourceError(f'{path}: contig "{name}" comes a second time')
            if offset < end:
                raise SourceError(
                    f'{path}: contig "{name}" lies at byte {offset:,}, inside the index: the file is damaged'
                )
            seen.add(name)
            self._records.append(self._record(name, offset))
        self.names = tuple(name for name, _ in index)
        self.lengths: Int64 = np.array([record.length for record in self._records], np.int64)
        self._blocks = lru_cache(maxsize=4)(self._read_blocks)

    def planes(self, row: int, start: int, end: int) -> tuple[Bytes, Bytes, Bytes]:
        """A stretch of one contig as a store holds it; about four bytes of memory a base.

        Args:
            row: the contig's number in `names`.
            start, end: 0-based half-open positions; `start` is a multiple of 64.

        Returns:
            sequence uint8 (ceil(n / 4),), base i in bits 2*(i % 4) of byte i // 4, A 0, C 1, G 2, T 3, ambiguous 0;
            ambiguous and softmask uint8 (ceil(n / 8),), base i in bit i % 8 of byte i // 8. Unused bits are 0.

        Raises:
            ValueError: the stretch is not one of the contig's, or `start` is no multiple of 64.
            SourceError: the contig's blocks of N or of lower case overlap, are not sorted or leave the contig.
        """
        record, n = self._records[row], end - start
        if not 0 <= start <= end <= record.length or start % ALIGNMENT:
            raise ValueError(
                f"{self.names[row]}:{start}-{end} is no stretch of {record.length} bases from a multiple of 64"
            )
        first = record.bases_at + start // 4
        sequence = TABLE[self._bytes[first : first + -(-n // 4)]]
        if n % 4:
            sequence[-1] &= (1 << 2 * (n % 4)) - 1
        ambiguous, softmask = (_flags(*self._blocks(row, kind), start, end) for kind in ("ambiguous", "softmask"))
        if ambiguous.any():
            sequence &= np.packbits(np.repeat(~ambiguous, 2), bitorder="little")
        return sequence, np.packbits(ambiguous, bitorder="little"), np.packbits(softmask, bitorder="little")

    def _header(self) -> tuple[str, int, int]:
        for order in "<>":
            if len(self._bytes) >= 16 and struct.unpack_from(order + "I", self._bytes.data)[0] == SIGNATURE:
                version, count = struct.unpack_from(order + "II", self._bytes.data, 4)
                if version > 1:
                    raise SourceError(f"{self.path}: .2bit version {version} is not known; distgen reads 0 and 1")
                if not count:
                    raise SourceError(f"{self.path}: the file holds no contig")
                return order, version, count
        hint = "; it is gzip: decompress it first" if bytes(self._bytes[:2]) == b"\x1f\x8b" else ""
        raise SourceError(f"{self.path}: no .2bit file (it does not begin with the signature 1A412743){hint}")

    def _index(self, count: int, offset_type: str) -> tuple[list[tuple[str, int]], int]:
        """Name and offset of each contig, and where the index ends."""
        entries, at, width = [], 16, struct.calcsize("<" + offset_type)
        for number in range(count):
            size = int(self._bytes[at]) if at < len(self._bytes) else 0
            if at + 1 + size + width > len(self._bytes):
                raise SourceError(
                    f"{self.path}: the index is cut short at contig {number + 1} of {count:,}; fetch the file again"
                )
            name = self._bytes[at + 1 : at + 1 + size].tobytes().decode("latin-1")
            if not name or any(letter <= " " for letter in name):
                raise SourceError(f"{self.path}: contig {number + 1} of {count:,} has no proper name ({name!r})")
            entries.append((name, struct.unpack_from(self._order + offset_type, self._bytes.data, at + 1 + size)[0]))
            at += 1 + size + width
        return entries, at

    def _record(self, name: str, offset: int) -> _Record:
        """The parts of a record: length, blocks of N (starts, sizes), of lower case (alike), a reserved word, bases."""
        length, ambiguous = self._words(name, offset, 2)
        if not length:
            raise SourceError(f'{self.path}: contig "{name}" has no sequence')
        softmask_at = offset + 8 + 8 * ambiguous
        (softmask,) = self._words(name, softmask_at, 1)
        bases_at = softmask_at + 8 + 8 * softmask
        self._words(name, bases_at + -(-length // 4), 0)
        return _Record(length, offset + 8, ambiguous, softmask_at + 4, softmask, bases_at)

    def _words(self, name: str, at: int, count: int) -> tuple[int, ...]:
        if at + 4 * count > len(self._bytes):
            raise SourceError(
                f'{self.path}: contig "{name}" reaches to byte {at + 4 * count:,} of a file of {len(self._bytes):,}: '
                "the file is cut short or damaged; fetch it again"
            )
        return struct.unpack_from(f"{self._order}{count}I", self._bytes.data, at)

    def _read_blocks(self, row: int, kind: str) -> tuple[Int64, Int64]:
        """Starts and ends of a contig's blocks, checked."""
        record = self._records[row]
        at, count = getattr(record, f"{kind}_at"), getattr(record, kind)
        words = np.frombuffer(self._bytes, self._order + "u4", 2 * count, at).astype(np.int64)
        starts, ends = words[:count], words[:count] + words[count:]
        bad = np.flatnonzero((ends > record.length) | (starts < np.r_[0, ends[:-1]]))
        if bad.size:
            i = int(bad[0])
            what = "leaves the contig" if ends[i] > record.length else "begins before the block before it ends"
            raise SourceError(
                f'{self.path}: contig "{self.names[row]}" ({record.length:,} bases): {kind} block {i + 1} of {count:,}, '
                f"{starts[i]}-{ends[i]}, {what}: the file is damaged; fetch it again"
            )
        return starts, ends


def _flags(starts: Int64, ends: Int64, start: int, end: int) -> npt.NDArray[np.bool_]:
    """Which bases of [start, end) lie in sorted disjoint blocks."""
    here = slice(np.searchsorted(ends, start, side="right"), np.searchsorted(starts, end, side="left"))
    edges = np.clip(np.stack([starts[here], ends[here]], axis=1), start, end).reshape(-1)
    runs = np.diff(np.r_[start, edges, end])
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs)
