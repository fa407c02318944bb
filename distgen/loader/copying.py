"""Bytes out of chunks, by the address of each: what `gather.py` and `targets.py` have compiled.

A row's bytes are copied straight from where they are mapped or decoded; no Python runs and the GIL is free until all rows
are there. `slots[k]` says where in `addresses` the first chunk of row `order[k]` is; those that follow it in the array
follow it there, too.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from distgen.compiled import compiled
from distgen.genome import Bytes, Int64


def _moving(context: Any, to: Any, address: Any, size: Any) -> Any:
    """The C library's memcpy, from one address to another."""

    def code(target: Any, builder: Any, signature: Any, given: Any) -> Any:
        copy: Any = cgutils.raw_memcpy
        copy(builder, *(builder.inttoptr(end, cgutils.voidptr_t) for end in given[:2]), given[2], 1)
        return target.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), code


_move: Any = intrinsic(_moving)


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
