"""Bytes out of chunks, by the address of each: what `gather.py` and `targets.py` have compiled.

A row's bytes are copied straight from where they are mapped or decoded; no Python runs and the GIL is free until all rows
are there. `slots[k]` says where in `addresses` the first chunk of row `order[k]` is; those that follow it in the array
follow it there, too.
"""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, types  # type: ignore[attr-defined]
from numba.core import cgutils
from numba.extending import intrinsic
from numpy import uint64

from distgen.compiled import compiled
from distgen.genome import Bits, Bytes, Int64
from distgen.kernels.numba_cpu.bins import keep

_BLOCK = 4096  # values turned at a time: they stay in the first-level cache


def _moving(context: Any, to: Any, address: Any, size: Any) -> Any:
    """The C library's memcpy, from one address to another."""

    def code(target: Any, builder: Any, signature: Any, given: Any) -> Any:
        copy: Any = cgutils.raw_memcpy
        copy(builder, *(builder.inttoptr(end, cgutils.voidptr_t) for end in given[:2]), given[2], 1)
        return target.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), code


_move: Any = intrinsic(_moving)


def _pointing(context: Any, address: Any) -> Any:
    def code(target: Any, builder: Any, signature: Any, given: Any) -> Any:
        return builder.inttoptr(given[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), code


_pointer: Any = intrinsic(_pointing)


def _advising(context: Any, address: Any, size: Any, advice: Any) -> Any:
    """The C library's madvise."""

    def code(target: Any, builder: Any, signature: Any, given: Any) -> Any:
        word = ir.IntType(64)
        kind = ir.FunctionType(ir.IntType(32), [cgutils.voidptr_t, word, ir.IntType(32)])
        function: Any = cgutils.get_or_insert_function
        return builder.call(
            function(builder.module, kind, "madvise"), [builder.inttoptr(given[0], cgutils.voidptr_t), *given[1:]]
        )

    return types.int32(types.int64, types.int64, types.int32), code


_advise: Any = intrinsic(_advising)


@compiled
def advise(address: int, size: int, advice: int) -> Any:
    """Say how bytes of a map will be used (`mmap.MADV_*`). Returns 0 unless the system refuses."""
    begin = address // mmap.PAGESIZE * mmap.PAGESIZE
    return _advise(begin, address + size - begin, np.int32(advice))


@compiled
def ask_for(order: Int64, slots: Int64, addresses: Int64, chunk: int, row_bytes: int, first: Int64, last: Int64) -> int:
    """Have the system read what rows [first, last) are made of, all at once; `chunk` rows of `row_bytes` are a chunk.
    Returns how often it refused."""
    refused = 0
    for k in range(order.size):
        low, high, slot = first[order[k]], last[order[k]], slots[k]
        inside = low % chunk
        while low < high:
            size = min(high - low, chunk - inside)
            if advise(addresses[slot] + inside * row_bytes, size * row_bytes, mmap.MADV_WILLNEED) != 0:
                refused += 1
            low, slot, inside = low + size, slot + 1, 0
    return refused


@compiled
def missing(addresses: Int64, chunk: int, first: Int64, last: Int64, found: Int64) -> int:
    """Numbers of chunks without an address that rows [first, last) need, into `found`; how many, at most its size."""
    count = 0
    for row in range(first.size):
        if first[row] >= last[row]:
            continue
        for number in range(first[row] // chunk, (last[row] - 1) // chunk + 1):
            if addresses[number] == 0:
                if count == found.size:
                    return count
                found[count] = number
                count += 1
    return count


@compiled
def copy_rows(
    order: Int64, slots: Int64, addresses: Int64, chunk: int, first: Int64, last: Int64, out: Bytes, at: Int64
) -> None:
    """Bytes [first, last) of each row to `out[row, at:]`, and zeros to the rest of the row."""
    width = out.shape[1]
    for k in range(order.size):
        row = order[k]
        low, high, to, slot = first[row], last[row], at[row], slots[k]
        if low >= high:
            out[row] = 0
            continue
        out[row, :to] = 0
        inside = low % chunk
        base = out.ctypes.data + row * width
        while low < high:
            size = min(high - low, chunk - inside)
            _move(base + to, addresses[slot] + inside, size)
            low, to, slot, inside = low + size, to + size, slot + 1, 0
        out[row, to:] = 0


@compiled
def span(
    offsets: Int64, lengths: Int64, bin_offsets: Int64, bin_bp: int, starts: Int64, limits: Int64, bins: int, out: Int64
) -> None:
    """Windows as bins of a track: the fields of `targets.Spans` into `out` (4, n)."""
    for row in range(starts.size):
        low, high = limits[row, 0], limits[row, 1]
        contig = max(np.searchsorted(offsets, max(starts[row], low), side="right") - 1, 0)
        offset, length = offsets[contig], lengths[contig]
        number = (starts[row] - offset) // bin_bp
        begin = -((offset - max(low, offset)) // bin_bp) - number
        last = (min(high, offset + length) - offset) // bin_bp
        if high >= offset + length:
            last = -(-length // bin_bp)
        begin = min(max(begin, 0), bins)
        out[0, row] = bin_offsets[contig] + number
        out[1, row] = begin
        out[2, row] = max(min(last - number, bins), begin)
        out[3, row] = offset + number * bin_bp


@compiled
def frame(of: Int64, begin: Int64, stop: Int64, reverse: Bits, values: Any, known: Any, all_inside: bool) -> None:
    """What lies outside the bins [begin, stop) of all stretches of a row (on the forward strand) is 0 and unknown.

    Stretches are sorted by row, `of` (p,), and within; each row has one or more. `values` (n, bins, any) as bits, `known`
    bool (n, bins, any); if `all_inside`, all else is known.
    """
    bins = values.shape[1]
    done = 0
    for k in range(begin.size):
        row = of[k]
        low, high, end = begin[k], stop[k], stop[k]
        if k == 0 or of[k - 1] != row:
            done = 0
        if k + 1 == begin.size or of[k + 1] != row:
            end = bins
        for first, last, inside in ((done, low, False), (low, high, True), (high, end, False)):
            if reverse[row]:
                first, last = bins - last, bins - first
            if not inside:
                values[row, first:last], known[row, first:last] = 0, False
            elif all_inside:
                known[row, first:last] = True
        done = high


@compiled
def _mirror(values: Any, out: Any) -> None:
    last = uint64(values.size - 1)
    for i in range(values.size):
        out[i] = values[last - uint64(i)]


@compiled
def _scatter(values: Any, columns: Int64, order: int, backward: int, out: Any, every: int, at: int) -> None:
    """Bins of one block into the columns `columns` of a row's bins of `every` columns, from bin `at` on; flat, both.

    `order` is 1 where the columns follow one another, -1 where they do so back to front, else 0.
    """
    width = columns.size
    count = values.size // width
    if backward and order < 0 and width == every:
        _mirror(values, out[at * every : (at + count) * every])
    elif order > 0 and width > 7:
        for i in range(count):
            bin_ = count - 1 - i if backward else i
            begin = (at + i) * every + columns[0]
            out[begin : begin + width] = values[bin_ * width : (bin_ + 1) * width]
    else:
        for c in range(width):
            to, source, step = uint64(at * every + columns[c]), uint64(c), uint64(width)
            if backward:
                source, step = uint64((count - 1) * width + c), uint64(-width)  # modulo 2^64
            for i in range(count):
                out[to + uint64(i) * uint64(every)] = values[source + uint64(i) * step]


@compiled
def keep_rows(
    order: Int64,
    slots: Int64,
    addresses: Int64,
    chunk: int,
    of: Int64,
    first: Int64,
    begin: Int64,
    stop: Int64,
    reverse: Bits,
    columns: Int64,
    orders: Int64,
    infinity: Any,
    missing: Any,
    some_missing: bool,
    out: Any,
    known: Any,
) -> None:
    """The bins [begin, stop) of each stretch, of which bin 0 is bin `first` of a block of columns; reversed where so asked.

    Args:
        order, slots, addresses: see above, for stretches; chunk: bins of each.
        of, begin, stop, reverse: see `frame`.
        columns: int64 (2, T), which column of `out` each of the block's is, forward and reversed.
        orders: int64 (2,), of these, see `_scatter`.
        infinity, missing: see `kernels.numba_cpu.bins`.
        some_missing: whether values may be missing; if not, `known` is left alone.
        out: (n, bins, columns) bits.
        known: bool (n, bins, columns).
    """
    bins, every = out.shape[1], out.shape[2]
    width = columns.shape[1]
    at_once = max(_BLOCK // width, 1)
    some, some_known = np.empty(at_once * width, out.dtype), np.empty(at_once * width, np.bool_)
    for k in range(order.size):
        row = order[k]
        backward = int(reverse[of[row]])
        to, flags = out[of[row]].reshape(-1), known[of[row]].reshape(-1)
        at, slot, inside = begin[row], slots[k], (first[row] + begin[row]) % chunk
        while at < stop[row]:
            count = min(stop[row] - at, chunk - inside)
            start = addresses[slot] + inside * width * out.itemsize
            values = carray(_pointer(start), count * width, out.dtype)
            if not backward and width == every:
                here = slice(at * width, (at + count) * width)
                if some_missing:
                    keep(values, infinity, missing, to[here], flags[here])
                else:
                    to[here] = values
            else:
                for low in range(0, count, at_once):
                    part = values[low * width : (low + at_once) * width]
                    first_bin = bins - at - low - part.size // width if backward else at + low
                    if some_missing:
                        keep(part, infinity, missing, some, some_known)
                        found = some_known[: part.size]
                        _scatter(found, columns[backward], orders[backward], backward, flags, every, first_bin)
                        part = some[: part.size]
                    _scatter(part, columns[backward], orders[backward], backward, to, every, first_bin)
            at, slot, inside = at + count, slot + 1, 0


@compiled
def cut(
    holes: Int64,
    bases: Int64,
    bin_bp: int,
    of: Int64,
    begin: Int64,
    stop: Int64,
    reverse: Bits,
    values: Any,
    known: Any,
) -> None:
    """Bins that a hole touches are 0 and unknown.

    Args:
        holes: int64 (m, 2), sorted disjoint intervals, flat.
        bases: int64 (p,), first base of each stretch's bin 0, flat.
        bin_bp: bases per bin.
        of, begin, stop, reverse, values, known: see `frame`.
    """
    bins = values.shape[1]
    for k in range(bases.size):
        row, low, high = of[k], bases[k] + begin[k] * bin_bp, bases[k] + stop[k] * bin_bp
        hole = np.searchsorted(holes[:, 1], low, side="right")
        while hole < len(holes) and holes[hole, 0] < high and low < high:
            first = (max(holes[hole, 0], low) - bases[k]) // bin_bp
            end = -((bases[k] - min(holes[hole, 1], high)) // bin_bp)
            if reverse[row]:
                first, end = bins - end, bins - first
            values[row, first:end], known[row, first:end] = 0, False
            hole += 1
