"""The loops of `stem`: tables' rows added up, activations, pooling, and the way back, a tile of positions at a time.

A tile is (n positions, W features); codes, tables and the like have the shapes that `stem` says.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np

from distgen.compiled import compiled

W = 64  # features side by side
ROWS = 5  # rows added at a time
NONE, RELU, GELU, GELU_64 = range(4)
_f = np.float32


_jit = partial(compiled, error_model="numpy")


# ---- a tile of positions (n, W) -----------------------------------------------------------------


@_jit
def _number(codes: Any, taps: int, rows: Any) -> None:
    """Which row of a table the bases at and after each position select."""
    for i in range(rows.size):
        rows[i] = codes[i]
    for t in range(1, taps):
        for i in range(rows.size):
            rows[i] = rows[i] * 5 + codes[i + t]


# The loops below that run over W, which LLVM knows, index whole arrays: handed slices, it vectorizes none of them.
@_jit
def _begin(rows: Any, taps: int, tables: Any, bias: Any, tile: Any) -> None:
    for p in range(len(tile)):
        a, b, c, d, e = rows[p], rows[p + taps], rows[p + 2 * taps], rows[p + 3 * taps], rows[p + 4 * taps]
        for w in range(W):
            sums = (tables[0, a, w] + tables[1, b, w] + tables[2, c, w]) + (tables[3, d, w] + tables[4, e, w])
            tile[p, w] = bias[w] + sums


@_jit
def _add(rows: Any, taps: int, tables: Any, tile: Any) -> None:
    for p in range(len(tile)):
        a, b, c, d, e = rows[p], rows[p + taps], rows[p + 2 * taps], rows[p + 3 * taps], rows[p + 4 * taps]
        for w in range(W):
            sums = (tables[0, a, w] + tables[1, b, w] + tables[2, c, w]) + (tables[3, d, w] + tables[4, e, w])
            tile[p, w] += sums


@_jit
def _convolve(rows: Any, taps: int, tables: Any, bias: Any, tile: Any) -> None:
    _begin(rows, taps, tables, bias, tile)  # to begin with the bias in the tile would write all of it once more
    for g in range(ROWS, len(tables), ROWS):
        _add(rows[g * taps :], taps, tables[g:], tile)


@_jit
def _scatter(rows: Any, taps: int, tile: Any, tables: Any) -> None:
    """The reverse of `_convolve`: add each position's gradients to the rows that it was made of."""
    for g in range(len(tables)):
        for p in range(len(tile)):
            row = rows[p + g * taps]
            for w in range(W):
                tables[g, row, w] += tile[p, w]


@_jit
def _normal(x: Any) -> Any:
    """Cumulative distribution and density of the standard normal in float32, in operations that LLVM vectorizes.

    Abramowitz and Stegun 7.1.26, within 1.5e-7. Its exponential is 2^-whole, made of bits, times a series for the rest.
    """
    one = _f(1)
    power = min(x * x * _f(0.5 / math.log(2)), _f(126))
    whole = np.int32(power + _f(0.5))
    y = (_f(whole) - power) * _f(math.log(2))  # within ln 2 / 2 of 0
    decay = one + y * _f(1 / 3) * (one + y * _f(1 / 4) * (one + y * _f(1 / 5) * (one + y * _f(1 / 6))))
    decay = one + y * (one + y * _f(1 / 2) * decay)
    decay *= np.int32((np.int32(127) - whole) << np.int32(23)).view(np.float32)
    t = one / (one + _f(0.3275911 / math.sqrt(2)) * abs(x))
    tail = t * (_f(1.421413741) + t * (_f(-1.453152027) + t * _f(1.061405429)))
    tail = t * (_f(0.254829592) + t * (_f(-0.284496736) + tail))
    tail *= _f(0.5) * decay
    return (tail if x < 0 else one - tail), decay * _f(1 / math.sqrt(2 * math.pi))


@_jit
def _normal_64(x: Any) -> Any:
    return 0.5 * math.erfc(-x / math.sqrt(2)), math.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


@_jit
def _activate(tile: Any, activation: int) -> None:
    values = tile.reshape(-1)
    if activation == RELU:
        for i in range(values.size):
            values[i] = 0 if values[i] < 0 else values[i]
    elif activation == GELU:
        for i in range(values.size):
            values[i] *= _normal(_f(values[i]))[0]
    elif activation == GELU_64:
        for i in range(values.size):
            values[i] *= _normal_64(values[i])[0]


@_jit
def _slope(tile: Any, activation: int, slope: Any) -> None:
    """The activation's derivative."""
    values, slopes = tile.reshape(-1), slope.reshape(-1)
    if activation == NONE:
        slopes[:] = 1
    elif activation == RELU:
        for i in range(values.size):
            slopes[i] = values[i] > 0
    elif activation == GELU:
        for i in range(values.size):
            below, density = _normal(_f(values[i]))
            slopes[i] = below + values[i] * density
    elif activation == GELU_64:
        for i in range(values.size):
            below, density = _normal_64(values[i])
            slopes[i] = below + values[i] * density


@_jit
def _highest(tile: Any, pool: int, at: Any) -> None:
    """The highest of each `pool` positions, at the tile's beginning, and which of them it was (the first of equals)."""
    for n in range(len(at)):
        at[n] = 0
        tile[n] = tile[n * pool]
        for i in range(1, pool):
            for w in range(W):
                value = tile[n * pool + i, w]
                if value > tile[n, w] or value != value:  # NaN is passed on
                    tile[n, w] = value
                    at[n, w] = i


@_jit
def _back(pooled: Any, at: Any, pool: int, slope: Any) -> None:
    """Slopes times the gradient, which goes to the highest of each `pool` positions."""
    for n in range(len(pooled)):
        for i in range(pool):
            for w in range(W):
                slope[n * pool + i, w] *= pooled[n, w] if at[n, w] == i else _f(0)


@_jit
def _turn(tile: Any, out: Any) -> None:
    """Transpose. Sixteen numbers that come to lie side by side are moved at a time."""
    whole = len(tile) // 16 * 16
    for p in range(0, whole, 16):
        for w in range(len(out)):
            for i in range(16):
                out[w, p + i] = tile[p + i, w]
    for p in range(whole, len(tile)):
        for w in range(len(out)):
            out[w, p] = tile[p, w]


# ---- all tiles ----------------------------------------------------------------------------------


@_jit
def forward(
    codes: Any,
    taps: int,
    tables: Any,
    bias: Any,
    activation: int,
    pool: int,
    step: int,
    first: int,
    last: int,
    out: Any,
) -> None:
    """Tiles [first, last) of all windows and blocks of features; a tile makes `step` pooled positions."""
    blocks, groups = tables.shape[:2]
    tiles = -(-out.shape[2] // step)
    rows = np.empty(step * pool + (groups - 1) * taps, np.int32)
    room = np.empty((step * pool, W), tables.dtype)
    at = np.empty((step, W), np.int32)
    for task in range(first, last):
        row, block, begin = task // (blocks * tiles), task // tiles % blocks, task % tiles * step
        n = min(step, out.shape[2] - begin)
        tile = room[: n * pool]
        _number(codes[row, begin * pool :], taps, rows[: n * pool + (groups - 1) * taps])
        _convolve(rows, taps, tables[block], bias[block], tile)
        _activate(tile, activation)
        if pool > 1:
            _highest(tile, pool, at[:n])
        _turn(tile[:n], out[row, block * W : (block + 1) * W, begin : begin + n])


@_jit
def backward(
    codes: Any,
    taps: int,
    tables: Any,
    bias: Any,
    activation: int,
    pool: int,
    step: int,
    gradient: Any,
    first: int,
    last: int,
    block: int,
    to_tables: Any,
) -> None:
    """Sums over tiles [first, last) of all windows, for one block of features."""
    groups = len(tables)
    tiles = -(-gradient.shape[2] // step)
    rows = np.empty(step * pool + (groups - 1) * taps, np.int32)
    room, slopes = np.empty((step * pool, W), tables.dtype), np.empty((step * pool, W), tables.dtype)
    pooled, at = np.zeros((step, W), tables.dtype), np.zeros((step, W), np.int32)
    for task in range(first, last):
        row, begin = task // tiles, task % tiles * step
        n = min(step, gradient.shape[2] - begin)
        tile, slope = room[: n * pool], slopes[: n * pool]
        _number(codes[row, begin * pool :], taps, rows[: n * pool + (groups - 1) * taps])
        if activation != NONE or pool > 1:
            _convolve(rows, taps, tables, bias, tile)
        _slope(tile, activation, slope)
        if pool > 1:
            _activate(tile, activation)
            _highest(tile, pool, at[:n])
        given = gradient[row, block * W : (block + 1) * W, begin : begin + n]
        _turn(given, pooled[:n, : len(given)])
        _back(pooled[:n], at[:n], pool, slope)
        _scatter(rows, taps, slope, to_tables)
