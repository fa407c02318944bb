"""Packed bases to four channels in registers, sixteen at a time, where all are known: writing is then all that takes time."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy import uint32

from distgen.compiled import compiled
from distgen.kernels.numba_cpu.decode import Bytes, any_set

_WORD, _INDEX = ir.IntType(32), ir.IntType(64)
_BASES = 16
_CODES = ir.VectorType(_WORD, _BASES)


@compiled
def known(
    plane: Bytes,
    ambiguous: Bytes,
    start: int,
    length: int,
    low: int,
    high: int,
    first: int,
    size: int,
    backward: bool,
    one: Any,
    out: Any,
) -> Any:
    """Write the one-hot of a block of a window, `out` (4 * length,), but for what is over sixteens.

    Returns:
        How many bases were written; none if one of them may not be known, or lies in the last bytes of the plane.
    """
    begin = start + (length - first - size if backward else first)
    if begin < low or begin + size > high or ((begin + size) >> 2) + 8 > plane.size:
        return 0
    if ambiguous.size and any_set(ambiguous, begin >> 3, (begin + size + 7) >> 3):
        return 0
    whole = size // _BASES * _BASES
    at, step, complement, turn = begin, _BASES, uint32(0), uint32(0)
    if backward:
        at, step, complement, turn = begin + size - _BASES, -_BASES, uint32(0xFFFFFFFF), uint32(30)
    for i in range(0, whole, _BASES):
        _write(plane, at, complement, turn, one, out, first + i, length)
        at += step
    return whole


def _writing(
    context: Any, plane: Any, start: Any, complement: Any, turn: Any, one: Any, out: Any, at: Any, stride: Any
) -> Any:
    """Read sixteen bases from `start` on, flip the bits of their codes by `complement` and their order by `turn`, and write
    `one` or 0 for each at `at` of each channel."""

    def code(target: Any, builder: Any, signature: Any, given: Any) -> Any:
        plane, start, complement, turn, one, out, at, stride = given
        element = ir.VectorType(one.type, _BASES)

        def each(value: Any) -> Any:
            wide = ir.VectorType(value.type, _BASES)
            alone = builder.insert_element(ir.Constant(wide, ir.Undefined), value, _WORD(0))
            return builder.shuffle_vector(alone, ir.Constant(wide, ir.Undefined), ir.Constant(_CODES, [0] * _BASES))

        def address(number: int, array: Any, index: Any, kind: Any) -> Any:
            data = target.make_array(signature.args[number])(target, builder, array).data
            return builder.bitcast(builder.gep(data, [index]), kind.as_pointer())

        packed = builder.load(address(0, plane, builder.lshr(start, _INDEX(2)), _INDEX), align=1)
        phase = builder.shl(builder.and_(start, _INDEX(3)), _INDEX(1))
        word = builder.xor(builder.trunc(builder.lshr(packed, phase), _WORD), complement)
        shifts = builder.xor(ir.Constant(_CODES, [2 * i for i in range(_BASES)]), each(turn))
        codes = builder.and_(builder.lshr(each(word), shifts), ir.Constant(_CODES, [3] * _BASES))
        for channel in range(4):
            here = builder.icmp_unsigned("==", codes, ir.Constant(_CODES, [channel] * _BASES))
            values = builder.select(here, each(one), ir.Constant(element, [0] * _BASES))
            place = builder.add(at, builder.mul(stride, _INDEX(channel)))
            builder.store(values, address(5, out, place, element), align=1)
        return target.get_dummy_value()

    return types.void(plane, types.int64, types.uint32, types.uint32, one, out, types.int64, types.int64), code


_write: Any = intrinsic(_writing)
