"""The first convolution for the CPU: what a few bases under the kernel add together is looked up, not multiplied.

The kernel's taps are grouped by one to three. For each group, a table holds the sum that each string of so many codes
adds to every feature (code 4 adds nothing), so that a position costs one row of a table for each group, added over
features that lie side by side. Rows are added five at a time: 15 taps need five rows of three bases each.

Shapes: B windows, L bases, D features in F blocks of W, K taps in G groups, R rows of a table, N pooled positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from distgen.kernels.numba_cpu.windows import tokens

_W = 64  # features side by side
_ROWS = 5  # rows added at a time
_TILE = 512  # positions at a time: with the tables' frequent rows they stay in the second-level cache
_PARTS = 8  # partial sums of gradients; the same for any number of threads, and so are the gradients
_HELD = 2**22  # numbers of an output or gradient that are held in another dtype at a time
_NONE, _RELU, _GELU, _GELU_64 = range(4)


def _jit(function: Any) -> Any:
    return numba.njit(function, cache=True, nogil=True, boundscheck=False)


# ---- a tile of positions (n, W) -----------------------------------------------------------------


@_jit
def _number(codes: Any, taps: int, rows: Any) -> None:
    """Which row of a table the bases at and after each position select."""
    for i in range(rows.size):
        rows[i] = codes[i]
    for t in range(1, taps):
        for i in range(rows.size):
            rows[i] = rows[i] * 5 + codes[i + t]


# Innermost loops stand alone: inlined by hand, LLVM leaves them scalar.
@_jit
def _add_five(base: Any, a: Any, b: Any, c: Any, d: Any, e: Any, out: Any) -> None:
    for w in range(_W):
        out[w] = base[w] + a[w] + b[w] + c[w] + d[w] + e[w]


@_jit
def _add(row: Any, to: Any) -> None:
    for w in range(_W):
        to[w] += row[w]


@_jit
def _convolve(rows: Any, taps: int, tables: Any, bias: Any, tile: Any) -> None:
    for g in range(0, len(tables), _ROWS):
        for p in range(len(tile)):
            q = p + g * taps
            _add_five(
                bias if g == 0 else tile[p],
                tables[g, rows[q]],
                tables[g + 1, rows[q + taps]],
                tables[g + 2, rows[q + 2 * taps]],
                tables[g + 3, rows[q + 3 * taps]],
                tables[g + 4, rows[q + 4 * taps]],
                tile[p],
            )


@_jit
def _scatter(rows: Any, taps: int, tile: Any, tables: Any, bias: Any) -> None:
    """The reverse of `_convolve`: add each position's gradients to the rows that it was made of."""
    for p in range(len(tile)):
        _add(tile[p], bias)
        for g in range(len(tables)):
            _add(tile[p], tables[g, rows[p + g * taps]])


@_jit
def _normal(x: Any) -> Any:
    """Cumulative distribution and density of the standard normal in float32, in operations that LLVM vectorizes.

    Abramowitz and Stegun 7.1.26, within 1.5e-7. Its exponential is 2^-whole, made of bits, times a series for the rest.
    """
    one, size = np.float32(1), abs(x)
    power = min(x * x * np.float32(0.5 / math.log(2)), np.float32(126))
    whole = np.int32(power)
    y = (np.float32(whole) - power) * np.float32(math.log(2))  # in (-ln 2, 0]
    series = one + y * np.float32(1 / 7)
    for term in (6, 5, 4, 3, 2, 1):
        series = one + y * series * np.float32(1 / term)
    decay = series * np.int32((np.int32(127) - whole) << np.int32(23)).view(np.float32)
    t = one / (one + np.float32(0.3275911 / math.sqrt(2)) * size)
    tail = np.float32(1.061405429)
    for factor in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        tail = tail * t + np.float32(factor)
    tail = np.float32(0.5) * tail * t * decay
    return (tail if x < 0 else one - tail), decay * np.float32(1 / math.sqrt(2 * math.pi))


@_jit
def _normal_64(x: Any) -> Any:
    return 0.5 * math.erfc(-x / math.sqrt(2)), math.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


@_jit
def _activate(tile: Any, activation: int, slope: Any) -> None:
    """Activations in place; their slopes too, if there is room for them."""
    wanted = slope.size > 0
    if activation == _RELU:
        for i in range(tile.size):
            if wanted:
                slope[i] = tile[i] > 0
            tile[i] = 0 if tile[i] < 0 else tile[i]
    elif activation == _GELU:
        for i in range(tile.size):
            below, density = _normal(np.float32(tile[i]))
            if wanted:
                slope[i] = below + tile[i] * density
            tile[i] *= below
    elif activation == _GELU_64:
        for i in range(tile.size):
            below, density = _normal_64(tile[i])
            if wanted:
                slope[i] = below + tile[i] * density
            tile[i] *= below
    elif wanted:
        slope[:] = 1


@_jit
def _higher(row: Any, number: int, best: Any, at: Any) -> None:
    for w in range(_W):
        if row[w] > best[w] or row[w] != row[w]:  # NaN is passed on
            best[w] = row[w]
            at[w] = number


@_jit
def _scale(gradient: Any, at: Any, number: int, slope: Any) -> None:
    for w in range(_W):
        slope[w] = slope[w] * gradient[w] if at[w] == number else 0


@_jit
def _highest(tile: Any, pool: int, at: Any) -> None:
    """The highest of each `pool` positions, at the tile's beginning, and which of them it was."""
    for n in range(len(at)):
        at[n] = 0
        best = tile[n]
        best[:] = tile[n * pool]
        for i in range(1, pool):
            _higher(tile[n * pool + i], i, best, at[n])


@_jit
def _turn(tile: Any, out: Any) -> None:
    """(n, W) to (features, n)."""
    for w in range(len(out)):
        for p in range(len(tile)):
            out[w, p] = tile[p, w]


# ---- all tiles ----------------------------------------------------------------------------------


@_jit
def _forward(
    codes: Any, taps: int, tables: Any, bias: Any, activation: int, pool: int, step: int, first: int, last: int, out: Any
) -> None:
    """Tiles [first, last) of all windows and blocks of features; a tile makes `step` pooled positions."""
    blocks, groups = tables.shape[:2]
    tiles = -(-out.shape[2] // step)
    rows = np.empty(step * pool + (groups - 1) * taps, np.int32)
    room = np.empty((step * pool, _W), tables.dtype)
    at = np.empty((step, _W), np.int32)
    for task in range(first, last):
        row, block, begin = task // (blocks * tiles), task // tiles % blocks, task % tiles * step
        n = min(step, out.shape[2] - begin)
        tile = room[: n * pool]
        _number(codes[row, begin * pool :], taps, rows[: n * pool + (groups - 1) * taps])
        _convolve(rows, taps, tables[block], bias[block], tile)
        _activate(tile.reshape(-1), activation, room[:0].reshape(-1))
        if pool > 1:
            _highest(tile, pool, at[:n])
        _turn(tile[:n], out[row, block * _W : (block + 1) * _W, begin : begin + n])


@_jit
def _backward(
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
    to_bias: Any,
) -> None:
    """Sums over tiles [first, last) of all windows, for one block of features."""
    groups = len(tables)
    tiles = -(-gradient.shape[2] // step)
    rows = np.empty(step * pool + (groups - 1) * taps, np.int32)
    room, slopes = np.empty((step * pool, _W), tables.dtype), np.empty((step * pool, _W), tables.dtype)
    pooled, at = np.zeros((step, _W), tables.dtype), np.zeros((step, _W), np.int32)
    for task in range(first, last):
        row, begin = task // tiles, task % tiles * step
        n = min(step, gradient.shape[2] - begin)
        tile, slope = room[: n * pool], slopes[: n * pool]
        _number(codes[row, begin * pool :], taps, rows[: n * pool + (groups - 1) * taps])
        if activation != _NONE or pool > 1:
            _convolve(rows, taps, tables, bias, tile)
        _activate(tile.reshape(-1), activation, slope.reshape(-1))
        if pool > 1:
            _highest(tile, pool, at[:n])
        given = gradient[row, block * _W : (block + 1) * _W, begin : begin + n]
        _turn(given, pooled[:n, : len(given)])
        for p in range(n * pool):
            _scale(pooled[p // pool], at[p // pool], p % pool, slope[p])
        _scatter(rows, taps, slope, to_tables, to_bias)


# ---- tables -------------------------------------------------------------------------------------


def _grouping(kernel: int) -> tuple[int, int]:
    """Taps per group, and groups (a multiple of those added at a time)."""
    turns, taps = min((-(-kernel // (_ROWS * taps)), taps) for taps in (1, 2, 3))
    return taps, turns * _ROWS


def _tables(weight: Tensor, taps: int, groups: int) -> Tensor:
    """(F, G, R, W): what each string of `taps` codes adds; its first code is the highest digit to the base 5."""
    features, _, kernel = weight.shape
    blocks = -(-features // _W)
    weight_Kcd = weight.new_zeros((groups * taps, 5, blocks * _W))
    weight_Kcd[:kernel, :4, :features] = weight.permute(2, 1, 0)
    weight_FGtcW = weight_Kcd.view(groups, taps, 5, blocks, _W).permute(3, 0, 1, 2, 4)
    tables_FGRW = weight_FGtcW[:, :, 0]
    for t in range(1, taps):
        tables_FGRW = (tables_FGRW[:, :, :, None] + weight_FGtcW[:, :, t, None]).flatten(2, 3)
    return tables_FGRW.contiguous()


def _fold(tables_FGRW: Tensor, taps: int, shape: torch.Size) -> Tensor:
    """Gradients of tables as those of the weight (D, 4, K): the reverse of `_tables`."""
    each = [tables_FGRW.unflatten(2, (5**t, 5, 5 ** (taps - 1 - t))).sum((2, 4)) for t in range(taps)]
    weight_FWcGt = torch.stack(each).permute(1, 4, 3, 2, 0)
    return weight_FWcGt.flatten(3, 4).flatten(0, 1)[: shape[0], : shape[1], : shape[2]]


class _Stem:
    """What forward and backward both need, in the dtype that sums are made in."""

    def __init__(self, length: int, weight: Tensor, bias: Tensor | None, codes_BL: Tensor, activation: str, pool: int):
        self.features, _, kernel = weight.shape
        self.dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        self.taps, groups = _grouping(kernel)
        self.tables = _tables(weight.detach().to(self.dtype), self.taps, groups)
        self.bias = self.tables.new_zeros((len(self.tables), _W))
        if bias is not None:
            self.bias.view(-1)[: self.features] = bias.detach()
        before = (kernel - 1) // 2  # code 4 before and after the window
        self.codes = F.pad(codes_BL, (before, groups * self.taps - 1 - before), value=4).numpy()
        self.activation = {"none": _NONE, "relu": _RELU, "gelu": _GELU}[activation]
        if activation == "gelu" and self.dtype == torch.float64:
            self.activation = _GELU_64
        self.pool, self.pooled = pool, length // pool
        self.step = max(min(_TILE // pool, self.pooled), 1)  # pooled positions of a tile
        self.tiles = -(-self.pooled // self.step)
        # Rows whose results or gradients are held once more, to convert them.
        self.rows = max(_HELD // max(self.features * self.pooled, 1), 1)

    def chunks(self) -> range:
        return range(0, len(self.codes) if self.pooled else 0, self.rows)


def _in_parallel(tasks: int, run: Callable[[int, int], object]) -> None:
    """Run the tasks [0, tasks) in as many threads as torch takes; numba's loops hold no lock."""
    threads = max(min(torch.get_num_threads(), tasks // 8), 1)
    bounds = [tasks * i // threads for i in range(threads + 1)]
    if threads == 1:
        run(0, tasks)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(run, bounds[:-1], bounds[1:]))


# ---- the ops ------------------------------------------------------------------------------------


def conv_stem(
    plane: Tensor,
    starts: Tensor,
    length: int,
    weight: Tensor,
    bias: Tensor | None = None,
    reverse: Tensor | None = None,
    ambiguous: Tensor | None = None,
    limits: Tensor | None = None,
    activation: str = "none",
    pool: int = 1,
) -> Tensor:
    codes_BL = tokens(plane, starts, length, reverse, ambiguous, limits)
    stem = _Stem(length, weight, bias, codes_BL, activation, pool)
    out_BDN = weight.new_empty((len(starts), stem.features, stem.pooled))
    for begin in stem.chunks():
        codes = stem.codes[begin : begin + stem.rows]
        part = out_BDN[begin : begin + stem.rows]
        made = part if part.dtype == stem.dtype else torch.empty_like(part, dtype=stem.dtype)
        out = made.numpy()

        def run(first: int, last: int, codes: Any = codes, out: Any = out) -> None:
            _forward(
                codes, stem.taps, stem.tables.numpy(), stem.bias.numpy(), stem.activation, pool, stem.step, first, last, out
            )

        _in_parallel(len(codes) * len(stem.tables) * stem.tiles, run)
        if made is not part:
            part.copy_(made)
    return out_BDN


def conv_stem_backward(
    gradient: Tensor,
    plane: Tensor,
    starts: Tensor,
    length: int,
    weight: Tensor,
    bias: Tensor | None = None,
    reverse: Tensor | None = None,
    ambiguous: Tensor | None = None,
    limits: Tensor | None = None,
    activation: str = "none",
    pool: int = 1,
) -> tuple[Tensor, Tensor]:
    codes_BL = tokens(plane, starts, length, reverse, ambiguous, limits)
    stem = _Stem(length, weight, bias, codes_BL, activation, pool)
    blocks = len(stem.tables)
    to_tables = stem.tables.new_zeros((_PARTS, *stem.tables.shape))
    to_bias = stem.tables.new_zeros((_PARTS, blocks, _W))
    for begin in stem.chunks():
        codes = stem.codes[begin : begin + stem.rows]
        given = gradient[begin : begin + stem.rows].to(stem.dtype).contiguous().numpy()
        tiles = len(codes) * stem.tiles

        def run(first: int, last: int, codes: Any = codes, given: Any = given, tiles: int = tiles) -> None:
            for task in range(first, last):
                part, block = divmod(task, blocks)
                _backward(
                    codes, stem.taps, stem.tables[block].numpy(), stem.bias[block].numpy(), stem.activation, pool, stem.step,
                    given, tiles * part // _PARTS, tiles * (part + 1) // _PARTS, block,
                    to_tables[part, block].numpy(), to_bias[part, block].numpy(),
                )  # fmt: skip

        _in_parallel(_PARTS * blocks, run)
    to_weight = _fold(to_tables.sum(0), stem.taps, weight.shape)
    return to_weight.to(weight.dtype), to_bias.sum(0).view(-1)[: stem.features].to(weight.dtype)
