"""Where the members of a tar shard lie: its headers read one by one, compiled. The format: `distgen.store.exported`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from distgen.compiled import compiled
from distgen.genome import Bytes, Int64
from distgen.store.exported import LARGEST_JSON, Export, Shard, sample_key
from distgen.store.tar import BLOCK, END, tar_header

Places = npt.NDArray[np.uint32]

_DIGITS = 12  # of a sample's number in its key
LARGEST = BLOCK << 30  # bytes of a shard whose places fit into 32 bits


class Members(NamedTuple):
    """What the samples of a part have in common.

    Args:
        headers: uint64 (members, 64), of sample 0; of the JSON with size 0.
        sizes: int64 (members,), bytes of each, without padding; of the JSON 0.
        optional: uint32 (members,), the bit of a place that says whether it is there; 0 where it always is.
        digits: where in its header the number of a sample begins.
    """

    headers: npt.NDArray[np.uint64]
    sizes: Int64
    optional: Places
    digits: int

    @classmethod
    def of(cls, export: Export, part: str) -> Members:
        """Those of a part of an export."""
        suffixes = [*export.layout, "json"]
        sizes = [*(size for size, _ in export.layout.values()), 0]
        key = sample_key(part, 0)
        headers = b"".join(tar_header(f"{key}.{name}", size) for name, size in zip(suffixes, sizes, strict=True))
        optional = np.array([("amb", "soft").index(s) + 1 if s in ("amb", "soft") else 0 for s in suffixes], np.uint32)
        words = np.frombuffer(headers, np.uint64).reshape(len(suffixes), -1)
        return cls(words, np.array(sizes), optional, len(key) - _DIGITS)

    def offsets(self) -> Int64:
        """int64 (4, members): by which of the optional members are there, how far behind the content of the first each
        member's content begins; -1 where it is not there."""
        found = np.full((4, len(self.sizes)), -1, np.int64)
        for there in range(4):
            at = 0
            for member, (size, bit) in enumerate(zip(self.sizes.tolist(), self.optional.tolist(), strict=True)):
                if not bit or there & bit:
                    found[there, member] = at
                    at += size + -size % BLOCK + BLOCK
        return found


def places(content: Bytes, shard: Shard, members: Members) -> Places | None:
    """Where the samples of a shard lie: which block of 512 bytes the content of the first member begins with, times 4, and
    in the lowest two bits which of the optional members are there.

    Args:
        content: of the shard.
        shard: which.
        members: of its part.

    Returns:
        uint32 (samples,). None if any header is not what `distgen export` writes, or anything follows.
    """
    if content.size % BLOCK or not len(END) <= content.size <= LARGEST:
        return None
    found = np.empty(shard.samples, np.uint32)
    end = _walk(content, content.view(np.uint64), shard.first, *members, found)
    return found if content[end:].tobytes() == END else None


@compiled
def _walk(
    content: Bytes, words: Any, first: int, headers: Any, sizes: Int64, optional: Any, digits: int, found: Any
) -> int:
    """Fill `found`; returns where the last sample ends, or where what is not expected stands."""
    expected = headers.copy()
    text = expected.view(np.uint8)
    sums = np.empty(len(sizes), np.int64)
    for member in range(len(sizes)):
        text[member, 148:156] = 32
        sums[member] = text[member].sum()
    at, last = 0, len(sizes) - 1
    for sample in range(found.size):
        place, number, digit_sum = np.uint32((at // 512 + 1) << 2), first + sample, 0
        for i in range(12):
            digit = number % 10
            text[:, digits + 11 - i] = 48 + digit
            digit_sum, number = digit_sum + digit, number // 10
        for member in range(last + 1):
            if at + 512 > content.size:
                return at
            size, total = sizes[member], sums[member] + digit_sum
            if member == last:
                size, size_sum = _size(content[at + 124 : at + 135])
                if size < 0:
                    return at
                text[member, 124:135] = content[at + 124 : at + 135]
                total += size_sum
            for i in range(6):
                text[member, 148 + i] = 48 + ((total >> (3 * (5 - i))) & 7)
            text[member, 154], text[member, 155] = 0, 32
            if not _same(words[at // 8 : at // 8 + 64], expected[member]):
                if optional[member]:
                    continue
                return at
            place |= optional[member]
            at += 512 + (size + 511) // 512 * 512
        found[sample] = place
    return at


@compiled
def _size(octal: Bytes) -> tuple[int, int]:
    """The size of a JSON member and the sum of its digits; -1 if it cannot be."""
    size, total = 0, 0
    for i in range(octal.size):
        digit = int(octal[i]) - 48
        if digit < 0 or digit > 7:
            return -1, 0
        size, total = 8 * size + digit, total + digit
    return (size, total) if size <= LARGEST_JSON else (-1, 0)


@compiled
def _same(words: Any, expected: Any) -> bool:
    different = np.uint64(0)
    for i in range(64):
        different |= words[i] ^ expected[i]
    return bool(different == 0)
