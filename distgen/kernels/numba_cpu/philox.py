"""What `draws.philox` gives, for the CPU: draws of many counters in vector registers. Importing this loads the compiler."""

from __future__ import annotations

from typing import Any

from numpy import int64, uint64

from distgen.compiled import compiled

WORD = uint64(0xFFFFFFFF)


@compiled
def philox_round(a: Any, b: Any, c: Any, d: Any, x: Any, y: Any) -> Any:
    # Words in the low half of 64 bits, rubbish in the high half until a product is made: one instruction each.
    p, q = (a & WORD) * uint64(0xD2511F53), (c & WORD) * uint64(0xCD9E8D57)
    return (q >> uint64(32)) ^ b ^ x, q, (p >> uint64(32)) ^ d ^ y, p, x + uint64(0x9E3779B9), y + uint64(0xBB67AE85)


@compiled
def fill(counters: Any, key: int, tag: int, epoch: int, a_n: Any, b_n: Any, c_n: Any, d_n: Any) -> None:
    """Put the four words of each counter int64 (n,) into int64 (n,) each; key, tag and epoch are uint64."""
    low, high = key & WORD, key >> uint64(32)
    for i in range(counters.size):
        # The rounds stand here one by one: the ten in a function of their own are not made vector code, eight times slower.
        counter = uint64(counters[i])
        a, b, c, d, x, y = counter, counter >> uint64(32), tag, epoch, low, high
        a, b, c, d, x, y = philox_round(a, b, c, d, x, y)
        a, b, c, d, x, y = philox_round(a, b, c, d, x, y)
        a, b, c, d, x, y = philox_round(a, b, c, d, x, y)
        a, b, c, d, x, y = philox_round(a, b, c, d, x, y)
        a, b, c, d, x, y = philox_round(a, b, c, d, x, y)
        a, b, c, d, x, y = philox_round(a, b, c, d, x, y)
        a, b, c, d, x, y = philox_round(a, b, c, d, x, y)
        a, b, c, d, x, y = philox_round(a, b, c, d, x, y)
        a, b, c, d, x, y = philox_round(a, b, c, d, x, y)
        a, b, c, d, x, y = philox_round(a, b, c, d, x, y)
        a_n[i], b_n[i], c_n[i], d_n[i] = int64(a & WORD), int64(b & WORD), int64(c & WORD), int64(d & WORD)
