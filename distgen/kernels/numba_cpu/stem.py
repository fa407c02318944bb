"""The first convolution for the CPU: what a few bases under the kernel add together is looked up, not multiplied.

The kernel's taps are grouped by one to three. For each group, a table holds the sum that each string of so many codes
adds to every feature (code 4 adds nothing), so that a position costs one row of a table for each group, added over
features that lie side by side. Rows are added five at a time: 15 taps need five rows of three bases each.

Shapes: B windows, L bases, D features in F blocks of W, K taps in G groups, R rows of a table, N pooled positions.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from distgen.kernels.numba_cpu.stem_tiles import GELU, GELU_64, NONE, RELU, ROWS, W, backward, forward
from distgen.kernels.numba_cpu.windows import tokens

_TILE = 512  # positions at a time: with the tables' frequent rows they stay in the second-level cache
_PARTS = 8  # partial sums of gradients; the same for any number of threads, and so are the gradients
_HELD = 2**20  # numbers of an output or gradient that are held in another dtype at a time


# ---- tables -------------------------------------------------------------------------------------


def _grouping(kernel: int) -> tuple[int, int]:
    """Taps per group, and groups (a multiple of those added at a time)."""
    turns, taps = min((-(-kernel // (ROWS * taps)), taps) for taps in (1, 2, 3))
    return taps, turns * ROWS


def _tables(weight: Tensor, taps: int, groups: int) -> Tensor:
    """(F, G, R, W): what each string of `taps` codes adds; its first code is the highest digit to the base 5."""
    features, _, kernel = weight.shape
    blocks = -(-features // W)
    weight_Kcd = weight.new_zeros((groups * taps, 5, blocks * W))
    weight_Kcd[:kernel, :4, :features] = weight.permute(2, 1, 0)
    weight_FGtcW = weight_Kcd.view(groups, taps, 5, blocks, W).permute(3, 0, 1, 2, 4)
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
        self.bias = self.tables.new_zeros((len(self.tables), W))
        if bias is not None:
            self.bias.view(-1)[: self.features] = bias.detach()
        before = (kernel - 1) // 2  # code 4 before and after the window
        self.codes = F.pad(codes_BL, (before, groups * self.taps - 1 - before), value=4).numpy()
        self.activation = {"none": NONE, "relu": RELU, "gelu": GELU}[activation]
        if activation == "gelu" and self.dtype == torch.float64:
            self.activation = GELU_64
        self.pooled = length // pool
        self.step = max(min(_TILE // pool, self.pooled), 1)  # pooled positions of a tile
        self.tiles = -(-self.pooled // self.step)
        # Rows whose results or gradients are held once more, to convert them.
        self.rows = max(_HELD // max(self.features * self.pooled, 1), 1)

    def chunks(self) -> range:
        return range(0, len(self.codes) if self.pooled else 0, self.rows)


def _in_parallel(tasks: int, tiles: int, run: Callable[[int, int], object]) -> None:
    """Run the tasks [0, tasks) in as many threads as torch takes; numba's loops hold no lock."""
    threads = max(min(torch.get_num_threads(), tasks, tiles // 8), 1)  # a thread costs as much as some tiles
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
    held = out_BDN[: stem.rows].to(stem.dtype)
    for begin in stem.chunks():
        codes = stem.codes[begin : begin + stem.rows]
        part = out_BDN[begin : begin + stem.rows]
        made = part if part.dtype == stem.dtype else held[: len(part)]
        out = made.numpy()

        def run(first: int, last: int, codes: Any = codes, out: Any = out) -> None:
            forward(
                codes,
                stem.taps,
                stem.tables.numpy(),
                stem.bias.numpy(),
                stem.activation,
                pool,
                stem.step,
                first,
                last,
                out,
            )

        tasks = len(codes) * len(stem.tables) * stem.tiles
        _in_parallel(tasks, tasks, run)
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
    for begin in stem.chunks():
        codes = stem.codes[begin : begin + stem.rows]
        given = gradient[begin : begin + stem.rows].to(stem.dtype).contiguous().numpy()
        tiles = len(codes) * stem.tiles

        def run(first: int, last: int, codes: Any = codes, given: Any = given, tiles: int = tiles) -> None:
            for task in range(first, last):
                part, block = divmod(task, blocks)
                backward(
                    codes, stem.taps, stem.tables[block].numpy(), stem.bias[block].numpy(), stem.activation, pool, stem.step,
                    given, tiles * part // _PARTS, tiles * (part + 1) // _PARTS, block,
                    to_tables[part, block].numpy(),
                )  # fmt: skip

        _in_parallel(_PARTS * blocks, tiles * blocks, run)
    tables_FGRW = to_tables.sum(0)
    to_weight = _fold(tables_FGRW, stem.taps, weight.shape)
    to_bias = tables_FGRW[:, 0].sum(1).view(-1)[: stem.features]  # each position added to one row of each group
    return to_weight.to(weight.dtype), to_bias.to(weight.dtype)
