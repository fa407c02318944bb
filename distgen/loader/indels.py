"""Insertions and deletions of haplotypes: windows put together out of stretches of the assembly and of what is inserted.

A window keeps its length and its first base: what is inserted pushes bases out at its end, what is deleted brings in those
that follow, within the window's limits; what these can't fill is N. It is the sequence that `Store.codes` gives the same
haplotype of a stretch from the window's first base on, cut to its length. Importing this loads the compiler.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numpy import uint8, uint64

from distgen.compiled import compiled
from distgen.genome import Bytes, Int64
from distgen.loader.alleles import BIN_BITS, BIT, DE_BRUIJN, LINE, SITES, Table

_FAR = 2  # windows whose bases lie so many times their length apart are read one by one: a batch of them would be large


class Alleles(NamedTuple):
    """What the sites of a table of insertions and deletions are; the flag of a site (see `alleles.py`) says that it belongs
    to the base before its position.

    Args:
        deleted: int32 (n,), bases from the site's position on.
        begins: int64 (n,), where in `codes` those begin that are inserted.
        sizes: int32 (n,), how many are.
        codes: uint8, of all sites.
    """

    deleted: npt.NDArray[np.int32]
    begins: Int64
    sizes: npt.NDArray[np.int32]
    codes: Bytes


class Pieces(NamedTuple):
    """Stretches of the assembly that windows are put together of, sorted by window and within; each window has one or more.

    Args:
        rows: int64 (p,), which window.
        out: int64 (p,), where in it the stretch begins.
        first: int64 (p,), flat, the first base of it.
        sizes: int64 (p,), bases; 0 where what is inserted before reaches to the window's end.
        sites: int64 (p,), what stands before it: a site of the table; -1 at the window's begin.
        shifts: int64 (p,), how much further along the assembly its bases lie than those at their places in the window.
    """

    rows: Int64
    out: Int64
    first: Int64
    sizes: Int64
    sites: Int64
    shifts: Int64

    def after(self, margin: int) -> Pieces:
        """The same by their places in what begins so many bases behind the window's first."""
        return self._replace(out=self.out - margin)

    def moved(self, length: int, windows: int) -> Moved | None:
        """Of so many windows of so many bases those that are no single stretch from their first base on; None if all are."""
        moved = np.zeros(windows, np.bool_)
        moved[self.rows[(self.sites >= 0) | (self.shifts != 0)]] = True
        if not moved.any():
            return None
        own = Pieces(*(column[moved[self.rows]] for column in self))
        begin = np.flatnonzero(np.diff(own.rows, prepend=-1))
        last = np.append(begin[1:], len(own.rows)) - 1
        ends = np.maximum.reduceat(np.where(own.sizes > 0, own.first + own.sizes, 0), begin)
        read = np.stack([own.first[begin], np.maximum(ends, own.first[begin])], axis=1)
        return Moved(own.rows[begin], read, np.minimum(own.out[last] + own.sizes[last], length), own)


class Moved(NamedTuple):
    """Windows that are not a single stretch of the assembly from their first base on.

    Args:
        rows: int64 (m,), which of the windows.
        read: int64 (m, 2), flat, all of the assembly that each is made of.
        made: int64 (m,), bases from the window's first on that it has, those before its limits as well.
        pieces: theirs.
    """

    rows: Int64
    read: Int64
    made: Int64
    pieces: Pieces

    def some(self, which: Int64) -> Moved:
        """A part of them, by their places among them (sorted)."""
        rows = self.rows[which]
        own = np.isin(self.pieces.rows, rows)
        return Moved(rows, self.read[which], self.made[which], Pieces(*(column[own] for column in self.pieces)))

    def groups(self, length: int) -> Iterator[Int64]:
        """Which of them to read together."""
        far = self.read[:, 1] - self.read[:, 0] > _FAR * length
        if not far.all():
            yield np.flatnonzero(~far)
        yield from np.flatnonzero(far)[:, None]


def pieces(
    table: Table, known: Alleles, reach: int, starts: Int64, limits: Int64, length: int, copies: Int64
) -> Pieces:
    """The pieces of windows; see `Haplotypes.apply` for the arguments. `reach` is the longest deletion."""
    room = 2 * len(starts) + 8
    while True:
        found = np.empty((5, room), np.int64)
        if (count := _pieces(table, known.deleted, known.sizes, reach, starts, limits, length, copies, found)) <= room:
            rows, out, first, sizes, sites = found[:, :count]
            return Pieces(rows, out, first, sizes, sites, first - out - starts[rows])
        room = count


@compiled
def _pieces(
    table: Any,
    deleted: Any,
    sizes: Any,
    reach: int,
    starts: Int64,
    limits: Int64,
    length: int,
    copies: Int64,
    found: Any,
) -> int:
    """The first columns of `Pieces` into `found` as far as there is room; returns how many there are."""
    records, where, first, _ = table
    words = (first[-1] + 63) >> 6
    count = 0
    for row in range(starts.size):
        high = limits[row, 1]
        begin = max(starts[row], limits[row, 0])
        out, here, before = begin - starts[row], begin, -1
        word, going = first[max(begin - reach, 0) >> BIN_BITS] >> 6 if begin < high else words, True
        while going and word < words:
            base = where[word >> 3]
            if out + np.int64(records[base + (word & 7) * 64] >> uint64(2)) - here >= length:
                break
            bits = records[base + SITES + copies[row] * LINE + (word & 7)]
            while bits:
                bit = bits & (~bits + uint64(1))
                bits ^= bit
                number = BIT[(bit * DE_BRUIJN) >> uint64(58)]
                site = records[base + (word & 7) * 64 + number]
                position, index = np.int64(site >> uint64(2)), word * 64 + number
                of = position - np.int64(site & uint64(3))
                if of < begin:
                    here = max(here, min(position + deleted[index], high))
                    continue
                if of >= high or out + position - here >= length:
                    going = False
                    break
                if count < found.shape[1]:
                    found[0, count], found[1, count], found[2, count] = row, out, here
                    found[3, count], found[4, count] = position - here, before
                count += 1
                out += position - here + sizes[index]
                here, before = min(position + deleted[index], high), index
                if out >= length:
                    going = False
                    break
            word += 1
        if count < found.shape[1]:
            found[0, count], found[1, count], found[2, count] = row, out, here
            found[3, count], found[4, count] = max(min(length - out, high - here), 0), before
        count += 1
    return count


@compiled
def first_of(flat: Int64, deleted: Any, calls: Any, free: Int64) -> int:
    """Of alleles that overlap in a haplotype, leave the first; what is not known is not there.

    Args:
        flat: int64 (n,), sorted positions.
        deleted: (n,), bases.
        calls: int8 (n, haplotypes): 1 where the haplotype has it; changed.
        free: int64 (haplotypes,), the first base of each that no allele before has taken; changed.

    Returns:
        How many are left out.
    """
    left_out = 0
    for row in range(flat.size):
        for h in range(calls.shape[1]):
            if calls[row, h] == 1 and flat[row] >= free[h]:
                free[h] = flat[row] + max(deleted[row], 1)
            else:
                left_out += calls[row, h] == 1
                calls[row, h] = 0
    return left_out


def join(
    staged: dict[str, Bytes], begins: Int64, some: Pieces, known: Alleles, length: int, to: Int64, out: Any
) -> None:
    """Put windows together.

    Args:
        staged: of each plane, uint8 (m + 1, bytes): the rows that the windows' stretches are in; the last is of no matter.
        begins: int64 (p,), where each piece begins in its plane, in bases from the first row's begin on.
        some: the pieces.
        known: what is inserted between them.
        length: of a window.
        to: int64 (p,), the first base of each piece's window in the planes of `out`.
        out: of each plane uint8 (rows, bytes), zero where the windows lie.
    """
    from distgen.loader.shifting import shift
    from distgen.store.planes import PER_BYTE

    filled = some.sizes > 0
    sizes, target = some.sizes[filled], (to + some.out)[filled]
    for name, rows in staged.items():
        width = 8 // PER_BYTE[name]
        words = rows.reshape(-1).view(np.uint64)
        each = np.broadcast_to(words, (len(sizes), len(words)))
        no = np.zeros(len(sizes), np.bool_)
        flat = out[name].reshape(-1).view(np.uint64)
        shift(each, begins[filled] * width, target * width, sizes * width, no, width, flat)
    between = some.sites >= 0
    sites = some.sites[between]
    at = some.out[between] - known.sizes[sites]
    fits = np.minimum(known.sizes[sites], length - at)
    _insert(known.codes, known.begins[sites], fits, to[between] + at, out["sequence"].reshape(-1))


@compiled
def _insert(codes: Bytes, begins: Int64, sizes: Int64, to: Int64, out: Bytes) -> None:
    """Codes into bases of a packed plane that are 0."""
    for k in range(begins.size):
        for i in range(sizes[k]):
            at = to[k] + i
            out[at >> 2] |= codes[begins[k] + i] << uint8(2 * (at & 3))
