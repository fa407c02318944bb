"""Letters to the three planes of an assembly: `reference` is the specification, `pack` its fast twin.

Base i of a plane of 2 bits is in bits 2*(i % 4) of byte i // 4, flag i of a plane of 1 bit in bit i % 8 of
byte i // 8. Letters are A C G T in either case, U is read as T, and whatever else is ambiguous.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from distgen.compiled import compiled
from distgen.genome import AMBIGUOUS, Bits, Bytes

IUPAC = b"RYSWKMBDHVN.-"  # what may stand for a base that is not known; "." and "-" are gaps
BLANK = b" \t\r\n"
SMALL = 1 << 25  # letters: loading the compiler costs more than packing so many
_INVALID = 255
_PER_BYTE = (4, 8, 8)  # letters of each plane


class Packed(NamedTuple):
    """A stretch of the planes: `sequence` uint8 (n/4,), `ambiguous` and `softmask` uint8 (n/8,), and whether any
    letter is none of A C G T."""

    sequence: Bytes
    ambiguous: Bytes
    softmask: Bytes
    mixed: bool


def _table() -> Bytes:
    table = np.full(256, _INVALID, np.uint8)
    for letters, code in ((b"A", 0), (b"C", 1), (b"G", 2), (b"TU", 3), (IUPAC, AMBIGUOUS)):
        for letter in letters + letters.lower():
            table[letter] = code
    return table


CODES = _table()


def foreign(letters: Bytes) -> Bits:
    """Which bytes (n,) are neither nucleotide letters of the IUPAC alphabet nor gaps."""
    return np.equal(CODES[letters], _INVALID)


def pack_codes(codes: Bytes) -> Bytes:
    """Base codes 0 to 3 (n,), n a multiple of 4, to 2 bits a base."""
    words = codes.view(np.uint32)
    pairs = words | (words >> np.uint32(6))
    packed: Bytes = (pairs | (pairs >> np.uint32(12))).astype(np.uint8)
    return packed


def pack_flags(flags: npt.NDArray[np.bool_]) -> Bytes:
    """Flags (n,) to 1 bit each."""
    return np.packbits(flags, bitorder="little")


class Plane(Protocol):
    """A packed plane, of which stretches of bytes can be had."""

    def __getitem__(self, stretch: slice, /) -> Any: ...


def codes_between(sequence: Plane, ambiguous: Plane, start: int, end: int) -> Bytes:
    """The codes uint8 (end - start,) of the bases [start, end) of two planes; ambiguous ones are 4."""
    codes: Bytes = unpack_codes(sequence[start // 4 : -(-end // 4)])[start % 4 :][: end - start]
    codes[flags_between(ambiguous, start, end)] = AMBIGUOUS
    return codes


def flags_between(plane: Plane, start: int, end: int) -> Bits:
    """The flags bool (end - start,) of the bases [start, end) of a plane of 1 bit."""
    return np.unpackbits(plane[start // 8 : -(-end // 8)], bitorder="little")[start % 8 :][: end - start].view(np.bool_)


def unpack_codes(packed: Bytes) -> Bytes:
    """2-bit codes (n,) to one byte a base (4n,)."""
    codes: Bytes = (packed[:, None] >> np.array([0, 2, 4, 6], np.uint8)) & np.uint8(3)
    return codes.reshape(-1)


def reference(letters: Bytes) -> Packed:
    """Pack letters (n,), n a multiple of 64."""
    codes = CODES[letters]
    ambiguous = codes > 3
    lower = letters & 0x60 == 0x60
    sequence = pack_codes(np.where(ambiguous, np.uint8(0), codes))
    mixed = bool((ambiguous | (letters & 0xDF == ord("U"))).any())
    return Packed(sequence, pack_flags(ambiguous), pack_flags(lower), mixed)


def room(most: int) -> tuple[Bytes, ...]:
    """What the planes of so many letters take, to be used again and again."""
    return tuple(np.empty(most // per, np.uint8) for per in _PER_BYTE)


def pack(letters: Bytes, into: tuple[Bytes, ...] | None = None) -> Packed:
    """As `reference`, some twenty times as fast; `into` some `room`, where the planes hold until it is used again."""
    n = len(letters)
    planes = zip(into or room(n), _PER_BYTE, strict=True)
    sequence, ambiguous, softmask = (plane[: n // per] for plane, per in planes)
    mixed = _kernel()(letters.view(np.uint64), sequence.view(np.uint16), ambiguous, softmask)
    return Packed(sequence, ambiguous, softmask, bool(mixed))


@cache
def _kernel() -> Callable[..., Any]:
    """Eight letters at a time in one 64-bit word; the compiler makes vectors of it."""

    def every(byte: int) -> np.uint64:
        return np.uint64(byte * 0x0101010101010101)

    ones, threes, sevens, upper = every(1), every(3), every(0x7F), every(0xDF)
    letter_a, gather = every(ord("A")), np.uint64(0x0102040810204080)
    nibbles, bytes_ = np.uint64(0x000F000F000F000F), np.uint64(0x000000FF000000FF)
    s1, s2, s4, s5, s6, s7, s12, s24, s56 = (np.uint64(s) for s in (1, 2, 4, 5, 6, 7, 12, 24, 56))

    def kernel(words: Any, sequence: Any, ambiguous: Any, softmask: Any) -> Any:
        mixed = np.uint64(0)
        for i in range(len(words)):
            w = words[i]
            code = ((w >> s1) & threes) ^ ((w >> s2) & ones)
            low, high = code & ones, (code >> s1) & ones
            # The letter of that code: A 0x41, C 0x43, G 0x47, T 0x54; T and U differ in the lowest bit, which T ignores.
            both = low & high
            expected = letter_a ^ (low << s1) ^ (high << s1) ^ (high << s2) ^ both ^ (both << s4)
            strange = ((w & upper) ^ expected) & ~both
            odd = ((((strange & sevens) + sevens) | strange) >> s7) & ones
            code &= ~(odd | (odd << s1))
            code = (code | (code >> s6)) & nibbles
            code = (code | (code >> s12)) & bytes_
            sequence[i] = np.uint16(code | (code >> s24))
            ambiguous[i] = np.uint8((odd * gather) >> s56)
            softmask[i] = np.uint8((((w >> s5) & (w >> s6) & ones) * gather) >> s56)
            mixed |= odd | (both & w)
        return mixed

    return compiled(kernel)  # type: ignore[no-any-return]
