"""Alleles of haplotypes as bits along the assembly: the loops. `haplotypes.py` says what they are for. Importing this loads the compiler.

Sites that some haplotype differs at lie in blocks of `SITES`, in the order of the flat coordinate. A block's record is, in
words of 64 bits: a word for each site (its flat position times 4, plus the alternative's code), for each haplotype a cache
line of bits (it has the alternative), and, where a genotype of the block is not known, as many lines again (it may have).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numpy import uint8, uint64

from distgen.compiled import compiled
from distgen.genome import AMBIGUOUS, Bytes, Int64
from distgen.kernels.numba_cpu.philox import WORD, philox_round

SITES = 512
LINE = SITES // 64  # words of a haplotype in a block
BIN_BITS = 10  # sites are looked up by the 1,024 bases that they lie in

_GROUP = 128  # rows whose bits are brought near together

# The number of the lowest bit of a word that has one bit alone (Leiserson, Prokop and Randall 1998).
DE_BRUIJN = uint64(0x03F79D71B4CB0A89)
BIT = np.zeros(64, np.uint8)
BIT[[((1 << bit) * int(DE_BRUIJN) % 2**64) >> 58 for bit in range(64)]] = np.arange(64)

Words = npt.NDArray[np.uint64]


class Table(NamedTuple):
    """Sites and alleles of all haplotypes.

    Args:
        records: uint64, of all blocks; see the module.
        where: int64 (blocks + 1,), the first word of each block.
        first: int64 (bins + 1,), the first site of each bin of the flat coordinate.
        haplotypes: how many.
    """

    records: Words
    where: Int64
    first: Int64
    haplotypes: int


# ---- out of genotypes -------------------------------------------------------------------------


@compiled
def _swapped(site: int, sample: int, seed: int, tag: int) -> Any:
    """Whether the alleles of a sample change places: the lowest bit of what `draws.philox` gives."""
    a, b, c, d = uint64(site), uint64(site) >> uint64(32), uint64(tag), uint64(sample)
    x, y = uint64(seed) & WORD, uint64(seed) >> uint64(32)
    for _ in range(10):
        a, b, c, d, x, y = philox_round(a, b, c, d, x, y)
    return a & uint64(1)


@compiled
def resolve(calls: Any, phased: Any, columns: Int64, sites: Int64, draw: bool, seed: int, tag: int) -> Any:
    """Decide which haplotype has which allele where alleles differ and have no phase.

    Args:
        calls: int8 (n, samples, 2), genotypes as the store has them; those that are drawn change places.
        phased: uint8 (n, samples).
        columns: int64 (samples,), what each sample is drawn by.
        sites: int64 (n,), likewise.
        draw: or refuse.

    Returns:
        Row and number of the first sample that is refused, or (-1, -1).
    """
    for row in range(calls.shape[0]):
        unclear = uint8(0)
        for i in range(columns.size):  # without a branch: most rows of most files have none
            unclear |= uint8(phased[row, i] == 0)
        if not unclear:
            continue
        for i in range(columns.size):
            first, second = calls[row, i, 0], calls[row, i, 1]
            if first != second and min(first, second) >= 0 and not phased[row, i]:
                if not draw:
                    return row, i
                if _swapped(sites[row], columns[i], seed, tag):
                    calls[row, i, 0], calls[row, i, 1] = second, first
    return -1, -1


@compiled
def clash(words: Words, calls: Any) -> Any:
    """Row and haplotype of the first base that gets another one than a row before it gave, or (-1, -1); for calls (n,
    haplotypes)."""
    for row in range(1, words.size):
        other = row - 1
        while other >= 0 and words[other] >> uint64(2) == words[row] >> uint64(2):
            if words[other] != words[row]:
                for haplotype in range(calls.shape[1]):
                    if calls[row, haplotype] == 1 and calls[other, haplotype] == 1:
                        return row, haplotype
            other -= 1
    return -1, -1


@compiled
def pack(calls: Any, carried: Bytes, unknown: Bytes) -> Any:
    """The bits of up to `SITES` sites: calls (n, haplotypes) into zeros (haplotypes, SITES / 8). Whether any is unknown."""
    rows, haplotypes = calls.shape
    has, lacks = np.empty(haplotypes, np.uint8), np.empty(haplotypes, np.uint8)
    some = uint8(0)
    for at in range(0, rows, 8):
        has[:], lacks[:] = uint8(0), uint8(0)
        for row in range(at, min(at + 8, rows)):
            bit = uint8(row - at)
            for h in range(haplotypes):
                has[h] |= uint8(calls[row, h] > 0) << bit
                lacks[h] |= uint8(calls[row, h] < 0) << bit
        for h in range(haplotypes):
            carried[h, at >> 3], unknown[h, at >> 3] = has[h], lacks[h]
            some |= lacks[h]
    return some != 0


# ---- into rows --------------------------------------------------------------------------------


@compiled
def _alleles(table: Any, haplotype: int, low: int, high: int, positions: Int64, codes: Bytes) -> int:
    """Flat positions and codes of what a haplotype has in [low, high) in place of the assembly's bases, in order and each
    position once; a known base counts more than an unknown one. Returns how many."""
    records, where, first, haplotypes = table
    begin, end, found = first[low >> BIN_BITS], first[((high - 1) >> BIN_BITS) + 1], 0
    if begin == end:
        return 0
    first_word, last_word = begin >> 6, (end - 1) >> 6
    for word in range(first_word, last_word + 1):
        base = where[word >> 3]
        line = base + SITES + haplotype * LINE + (word & 7)
        carried, either = records[line], records[line]
        if where[(word >> 3) + 1] - base > SITES + haplotypes * LINE:
            either |= records[line + haplotypes * LINE]
        if word == first_word:
            either &= ~uint64(0) << uint64(begin & 63)
        if word == last_word:
            either &= ~uint64(0) >> uint64(63 - ((end - 1) & 63))
        while either:
            bit = either & (~either + uint64(1))
            either ^= bit
            site = records[base + (word & 7) * 64 + BIT[(bit * DE_BRUIJN) >> uint64(58)]]
            position = np.int64(site >> uint64(2))
            if position < low:
                continue
            if position >= high:
                return found
            code = uint8(site & uint64(3)) if carried & bit else uint8(AMBIGUOUS)
            if not found or positions[found - 1] != position:
                positions[found], codes[found] = position, code
                found += 1
            elif code != AMBIGUOUS:
                codes[found - 1] = code
    return found


@compiled
def _ahead(table: Any, starts: Int64, limits: Int64, length: int, copies: Int64) -> Any:
    """The sites of the bins that a window lies in, at most and of all together. The bits that are going to be looked at come
    into the processor's caches, many at a time; one by one, each row would wait for its own."""
    records, where, first, _ = table
    most, total, met = 0, 0, uint64(0)
    for row in range(starts.size):
        low, high = max(starts[row], limits[row, 0]), min(starts[row] + length, limits[row, 1])
        if low < high:
            begin, end = first[low >> BIN_BITS], first[((high - 1) >> BIN_BITS) + 1]
            most, total = max(most, end - begin), total + end - begin
            for block in range(begin // SITES, -(-end // SITES)):
                met |= records[where[block] + SITES + copies[row] * LINE]
    return most + (met == WORD), total  # what was read must count, or no compiler would read it


@compiled
def apply(
    table: Any, starts: Int64, limits: Int64, length: int, copies: Int64, sequence: Bytes, ambiguous: Bytes
) -> None:
    """Give rows (B, bytes), each from its start rounded down to 64 bases, the bases of haplotypes; `ambiguous` may be empty."""
    positions, codes = np.empty(0, np.int64), np.empty(0, np.uint8)
    flags = ambiguous.size > 0
    for row in range(starts.size):
        if row % _GROUP == 0:
            group = slice(row, row + _GROUP)
            most, _ = _ahead(table, starts[group], limits[group], length, copies[group])
            if most > positions.size:
                positions, codes = np.empty(most, np.int64), np.empty(most, np.uint8)
        low, high = max(starts[row], limits[row, 0]), min(starts[row] + length, limits[row, 1])
        if low >= high:
            continue
        floor = starts[row] >> 6 << 6
        for i in range(_alleles(table, copies[row], low, high, positions, codes)):
            at, code = uint64(positions[i] - floor), codes[i]
            shift, bit = uint8(2 * (at & uint64(3))), uint8(1) << uint8(at & uint64(7))
            known = code if code < AMBIGUOUS else uint8(0)
            sequence[row, at >> uint64(2)] = (sequence[row, at >> uint64(2)] & ~(uint8(3) << shift)) | (known << shift)
            if flags:
                kept = ambiguous[row, at >> uint64(3)] & ~bit
                ambiguous[row, at >> uint64(3)] = kept if code < AMBIGUOUS else kept | bit


@compiled
def listed(table: Any, starts: Int64, limits: Int64, length: int, copies: Int64) -> Any:
    """Offsets (B + 1,), positions and codes of what the windows' haplotypes have in place of the assembly's bases."""
    _, total = _ahead(table, starts, limits, length, copies)
    offsets, positions, codes = (
        np.zeros(starts.size + 1, np.int64),
        np.empty(total, np.int64),
        np.empty(total, np.uint8),
    )
    for row in range(starts.size):
        at = offsets[row]
        low, high = max(starts[row], limits[row, 0]), min(starts[row] + length, limits[row, 1])
        found = _alleles(table, copies[row], low, high, positions[at:], codes[at:]) if low < high else 0
        offsets[row + 1] = at + found
    return offsets, positions[: offsets[-1]].copy(), codes[: offsets[-1]].copy()


@compiled
def touched(first: Int64, starts: Int64, limits: Int64, length: int, checked: Any) -> Any:
    """The blocks that windows read and that are not `checked` (blocks,), each once."""
    found, seen = np.empty(checked.size, np.int64), checked.copy()
    count = 0
    for row in range(starts.size):
        low, high = max(starts[row], limits[row, 0]), min(starts[row] + length, limits[row, 1])
        if low < high:
            begin, end = first[low >> BIN_BITS], first[((high - 1) >> BIN_BITS) + 1]
            for block in range(begin // SITES, -(-end // SITES)):
                if not seen[block]:
                    seen[block] = True
                    found[count] = block
                    count += 1
    return found[:count]
