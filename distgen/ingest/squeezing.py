"""Text without its blanks: what `bytes.translate` does, at twice its speed, into room that is there already, and while
other threads run. Importing this loads the compiler."""

from __future__ import annotations

from functools import reduce
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from distgen.compiled import compiled
from distgen.genome import Bytes
from distgen.ingest.packing import BLANK

_BLANK = tuple(BLANK)
_VECTOR = ir.VectorType(ir.IntType(8), 64)


def squeeze(text: Bytes, letters: Bytes) -> int:
    """Put text uint8 (n,) without its blanks into `letters` (n,); returns how many they are."""
    return int(compiled(_squeeze)(text, letters))


def _squeeze(text: Any, letters: Any) -> Any:
    i = n = 0
    while i + 64 <= len(text):
        run = _copy(text, i, letters, n)
        n += run
        i += run + (run < 64)
    while i < len(text):
        letters[n] = text[i]
        n += text[i] not in _BLANK
        i += 1
    return n


def _copying(context: Any, text: Any, i: Any, letters: Any, n: Any) -> Any:
    """letters[n : n + 64] = text[i : i + 64]; returns how many of these come before the first blank."""

    def code(target: Any, builder: Any, signature: Any, given: Any) -> Any:
        def address(array: int, at: int) -> Any:
            data = target.make_array(signature.args[array])(target, builder, given[array]).data
            return builder.bitcast(builder.gep(data, [given[at]]), _VECTOR.as_pointer())

        found = builder.load(address(0, 1), align=1)
        builder.store(found, address(2, 3), align=1)
        each = (builder.icmp_unsigned("==", found, ir.Constant(_VECTOR, [blank] * 64)) for blank in BLANK)
        blanks = builder.bitcast(reduce(builder.or_, each), ir.IntType(64))
        return builder.cttz(blanks, ir.Constant(ir.IntType(1), 0))

    return types.intp(text, types.intp, letters, types.intp), code


_copy: Any = intrinsic(_copying)
