"""Packed bases to their four channels, 64 bases at a time, in registers: writing is then all that takes time.

Nothing is decoded. A packed byte is laid beside each element of the result that one of its four bases decides; of it,
the two bits of that base are looked at, and are those of the element's channel or are not. So each of four vectors of
64 elements is an `and`, a comparison and a choice, whatever the order of bases and channels is. Nor is anything read
that was written just before, which would wait wherever a plane and a result lie a multiple of 4 KB apart.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy import uint64

from distgen.compiled import compiled
from distgen.kernels.numba_cpu.decode import Bytes

_GROUP = 64  # bases
_BIT, _BYTE, _LANE, _WORD = (ir.IntType(bits) for bits in (1, 8, 32, 64))


def _loading(context: Any, address: Any) -> Any:
    """Eight bytes as a number."""

    def code(target: Any, builder: Any, signature: Any, given: Any) -> Any:
        return builder.load(builder.inttoptr(given[0], _WORD.as_pointer()), align=1)

    return types.uint64(types.uint64), code


def _writer(last: bool, backward: bool) -> Any:
    """An intrinsic: write `one` or 0 for each of 64 bases, in two words, and each channel; for those not known 0.

    There are four parts, `stride` bytes apart: the channels, or quarters of the bases if channels come last.
    """

    def code(target: Any, builder: Any, signature: Any, given: Any) -> Any:
        first, second, known, one, address, stride = given

        def constant(element: Any, values: list[int]) -> Any:
            return ir.Constant(ir.VectorType(element, len(values)), values)

        def pick(values: Any, lanes: list[int]) -> Any:
            return builder.shuffle_vector(values, values, constant(_LANE, lanes))

        pair = ir.Constant(ir.VectorType(_WORD, 2), ir.Undefined)
        for lane, word in enumerate((first, second)):
            pair = builder.insert_element(pair, word, _LANE(lane))
        packed = builder.bitcast(pair, ir.VectorType(_BYTE, 16))
        known = builder.bitcast(known, ir.VectorType(_BIT, _GROUP))
        element = ir.VectorType(one.type, _GROUP)
        ones = pick(builder.insert_element(ir.Constant(element, ir.Undefined), one, _LANE(0)), [0] * _GROUP)
        for part in range(4):
            lanes = [divmod(_GROUP * part + lane, 4) if last else (lane, part) for lane in range(_GROUP)]
            if backward:
                lanes = [(_GROUP - 1 - base, 3 - channel) for base, channel in lanes]
            shifts = [base % 4 * 2 for base, _ in lanes]
            looked = builder.and_(
                pick(packed, [base // 4 for base, _ in lanes]), constant(_BYTE, [3 << shift for shift in shifts])
            )
            wanted = constant(_BYTE, [code << shift for (_, code), shift in zip(lanes, shifts, strict=True)])
            here = builder.and_(builder.icmp_unsigned("==", looked, wanted), pick(known, [base for base, _ in lanes]))
            place = builder.inttoptr(builder.add(address, builder.mul(stride, _WORD(part))), element.as_pointer())
            builder.store(builder.select(here, ones, ir.Constant(element, [0] * _GROUP)), place, align=1)
        return target.get_dummy_value()

    def typed(context: Any, first: Any, second: Any, known: Any, one: Any, address: Any, stride: Any) -> Any:
        return types.void(*[types.uint64] * 3, one, *[types.uint64] * 2), code

    return intrinsic(typed)


_load: Any = intrinsic(_loading)
_forward, _backward = _writer(last=False, backward=False), _writer(last=False, backward=True)
_forward_last, _backward_last = _writer(last=True, backward=False), _writer(last=True, backward=True)


@compiled
def _shifted(word: int, following: int, bits: int) -> Any:
    # In two steps: by all 64 bits at once one must not shift.
    return (word >> uint64(bits)) | ((following << uint64(1)) << (uint64(63) - uint64(bits)))


@compiled
def _words(plane: Any, phase: int) -> Any:
    """The 64 codes of two bits that begin so many bits after an address, of which 24 bytes are read."""
    middle = _load(plane + uint64(8))
    return _shifted(_load(plane), middle, phase), _shifted(middle, _load(plane + uint64(16)), phase)


@compiled
def _run(
    plane: Any,
    ambiguous: Any,
    begin: int,
    step: int,
    groups: int,
    last: bool,
    one: Any,
    out: Any,
    wide: int,
    stride: Any,
) -> None:
    """Groups of which all that is read may be read. Planes and result by address: numba counts references to arrays."""
    known = ~uint64(0)
    for _ in range(groups):
        first, second = _words(plane + uint64(begin >> 2), 2 * (begin & 3))
        if ambiguous:
            at = ambiguous + uint64(begin >> 3)
            known = ~_shifted(_load(at), _load(at + uint64(8)), begin & 7)
        if last and step > 0:
            _forward_last(first, second, known, one, out, stride)
        elif last:
            _backward_last(first, second, known, one, out, stride)
        elif step > 0:
            _forward(first, second, known, one, out, stride)
        else:
            _backward(first, second, known, one, out, stride)
        begin += step
        out += uint64(wide)


@compiled
def _copy_group(plane: Bytes, ambiguous: Bytes, begin: int, low: int, high: int, codes: Bytes, unknown: Bytes) -> None:
    """A group's bytes of both planes, base by base, where what is read with it may not be read."""
    codes[:], unknown[:] = 0, 0xFF
    for base in range(max(begin, low), min(begin + _GROUP, high)):
        lane = base - begin
        codes[lane >> 2] |= (plane[base >> 2] >> 2 * (base & 3) & 3) << 2 * (lane & 3)
        if not (ambiguous.size and ambiguous[base >> 3] >> (base & 7) & 1):
            unknown[lane >> 3] ^= 1 << (lane & 7)


@compiled
def hot(
    plane: Bytes, ambiguous: Bytes, start: int, low: int, high: int, backward: bool, last: bool, one: Any, out: Any
) -> None:
    """The one-hot of a window, `out` (4 * length,): channel by channel, or base by base if channels come last."""
    length = out.size // 4
    if start >= high or start <= low - length:  # nothing of it may be read; and from here on, no sum leaves 64 bits
        out[:] = 0
        return
    # With a group, up to 32 bases more of the plane are read, and up to 64 bits of the other.
    end = min(high, 4 * plane.size - 32, 8 * ambiguous.size - 64) if ambiguous.size else min(high, 4 * plane.size - 32)
    # Group i begins at begin + i * step. Of the whole ones, those from `first` to before `stop` may be read like this.
    if backward:
        begin, step = start + length - _GROUP, -_GROUP
        first, stop = -((end - start - length) // _GROUP), (start + length - low) // _GROUP
    else:
        begin, step = start, _GROUP
        first, stop = -((start - low) // _GROUP), (end - start) // _GROUP
    first = min(max(first, 0), length // _GROUP)
    stop = min(max(stop, first), length // _GROUP)
    planes = uint64(plane.ctypes.data), uint64(ambiguous.ctypes.data if ambiguous.size else 0)
    block = _GROUP * out.itemsize
    wide, stride = (4 * block, block) if last else (block, length * out.itemsize)
    into = uint64(out.ctypes.data + first * wide)
    _run(planes[0], planes[1], begin + first * step, step, stop - first, last, one, into, wide, uint64(stride))
    if first == 0 and stop * _GROUP >= length:
        return
    codes, unknown, some = np.empty(24, np.uint8), np.empty(16, np.uint8), np.empty(4 * _GROUP, out.dtype)
    planes, into = (uint64(codes.ctypes.data), uint64(unknown.ctypes.data)), uint64(some.ctypes.data)
    for i in range((length + _GROUP - 1) // _GROUP):
        if not first <= i < stop:
            _copy_group(plane, ambiguous, begin + i * step, low, high, codes, unknown)
            _run(planes[0], planes[1], 0, step, 1, last, one, into, 0, uint64(block))
            at, size = i * _GROUP, min(length - i * _GROUP, _GROUP)
            if last:
                out[4 * at : 4 * (at + size)] = some[: 4 * size]
            else:
                for row in range(0, 4 * length, length):
                    out[row + at : row + at + size] = some[row // length * _GROUP :][:size]
