"""The first convolution on the matrix units: one-hot tiles are made in registers, of 2 bits a base.

A column of a tile is an output position; its bases under 16 taps are one 32-bit word of the plane, and which of them
count is a mask of 16 bits. Row 4*t + c of the one-hot tile asks whether the base under tap t is c, so that one tile of
(64, columns) serves all features. Products are exact, as one factor is 0 or 1, and are summed in float32; float32
weights are split into three bfloat16 parts, which together have all their bits.

float64, and pools larger than a tile, are left to `reference`.

Shapes: B windows, D features, K taps in C chunks, X rows of a one-hot tile, N pooled positions, S parts of a weight.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from distgen.kernels import reference
from distgen.kernels.library import first_bad
from distgen.kernels.reference import bases_of
from distgen.kernels.triton_gpu.decode import bounds, cells, contiguous, outside, read

_FORWARD, _BACKWARD = 128, 64  # columns of a tile: as many as leave a thread registers enough
_LARGEST_POOL = 64
# Triton's interpreter multiplies the bits of bfloat16, not the numbers.
_OPERAND = torch.float32 if triton.knobs.runtime.interpret else torch.bfloat16
_PROGRAMS = 1024  # that share the gradients' sums; the same on every device, and so are the sums


# ---- one-hot tiles ------------------------------------------------------------------------------


@triton.jit
def _row(starts, limits, reverse, row, length, bases, first_bad, tile):
    """A row's first base, whether it is read from the other strand, and what may be read of it, counted from there."""
    start, low, high = bounds(starts, limits, row, length, bases, first_bad, tile)
    backward = tl.full((), 0, tl.int1)
    if reverse is not None:
        backward = tl.load(reverse + row)
    low = tl.minimum(tl.maximum(low - start, 0), length).to(tl.int32)
    return start, backward, low, tl.minimum(tl.maximum(high - start, 0), length).to(tl.int32)


@triton.jit
def _hot(
    plane, ambiguous, start, backward, low, high, position, length, before, tap, X: tl.constexpr, dtype: tl.constexpr
):
    """(X, columns): ones where the base under a tap, `tap` and those after it, is the one asked for."""
    # On the other strand the word is read from its end: its last base lies under the first tap.
    forth = position - before + tap
    at = tl.where(backward, length - 16 - forth, forth)
    word = read(plane, start, at, low, high, 2, 16)
    unknown = outside(at, low, high)
    if ambiguous is not None:
        unknown |= read(ambiguous, start, at, low, high, 1, 16)
    row = tl.arange(0, X)
    slot = tl.where(backward, 15 - (row >> 2), row >> 2)
    code = tl.where(backward, 3 - (row & 3), row & 3)
    same = ((word[None, :] >> (2 * slot[:, None])) & 3) == code[:, None]
    one, zero = tl.full((), 1, dtype), tl.full((), 0, dtype)  # chosen, not converted: that is slow
    return tl.where(same & ((unknown[None, :] >> slot[:, None]) & 1 == 0), one, zero)


@triton.jit
def _add_products(weight, hot, sums, feature, features, chunk, C: tl.constexpr, X: tl.constexpr, S: tl.constexpr):
    """Add weight (features, X) times one-hot (X, columns)."""
    for part in tl.static_range(S):
        at = ((part * C + chunk) * features + feature[:, None]) * X + tl.arange(0, X)[None, :]
        sums = tl.dot(tl.load(weight + at), hot, sums)
    return sums


# ---- activations --------------------------------------------------------------------------------


@triton.jit
def _normal(x):
    """Cumulative distribution and density of the standard normal: Abramowitz and Stegun 7.1.26, within 1.5e-7."""
    decay = tl.exp2(x * x * -0.7213475204444817)  # 1 / (2 ln 2)
    t = 1.0 / (1.0 + 0.2316418882663604 * tl.abs(x))  # 0.3275911 / sqrt(2)
    tail = t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))
    tail = t * (0.254829592 + t * (-0.284496736 + tail)) * 0.5 * decay
    return tl.where(x < 0, tail, 1.0 - tail), decay * 0.3989422804014327


@triton.jit
def _activate(x, ACTIVATION: tl.constexpr):
    if ACTIVATION == "relu":
        x = tl.where(x < 0, 0.0, x)
    if ACTIVATION == "gelu":
        below, _ = _normal(x)
        x = x * below
    return x


@triton.jit
def _slope(x, ACTIVATION: tl.constexpr):
    if ACTIVATION == "relu":
        return tl.where(x > 0, 1.0, 0.0)
    elif ACTIVATION == "gelu":
        below, density = _normal(x)
        return below + x * density
    else:
        return tl.full(x.shape, 1.0, tl.float32)


@triton.jit
def _pool(x, real, BLOCK_N: tl.constexpr, WIDTH: tl.constexpr, ACTIVATION: tl.constexpr):
    """What the highest activation of each WIDTH columns, of the `real` ones, comes from, and in which column."""
    x = tl.reshape(tl.where(real[None, :], x, float("-inf")), (x.shape[0], BLOCK_N, WIDTH))
    high, at = tl.max(x, 2, return_indices=True)
    if ACTIVATION == "gelu":
        # It falls and then rises: highest of the lowest or of the highest. So two activations do for a group.
        low, other = tl.min(tl.where(x == float("-inf"), float("inf"), x), 2, return_indices=True)
        lower = _activate(low, ACTIVATION) > _activate(high, ACTIVATION)
        high, at = tl.where(lower, low, high), tl.where(lower, other, at)
    return high, at


# ---- kernels ------------------------------------------------------------------------------------


@triton.jit
def _forward(
    plane, ambiguous, starts, limits, reverse, weight, bias, out, first_bad,
    length, pooled, bases, tiles, features, padded, before,
    POOL: tl.constexpr, WIDTH: tl.constexpr, ACTIVATION: tl.constexpr,
    C: tl.constexpr, X: tl.constexpr, S: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """One tile of positions, all features. A group of POOL positions has WIDTH columns, a power of 2."""
    row, tile = (tl.program_id(0) // tiles).to(tl.int64), tl.program_id(0) % tiles
    start, backward, low, high = _row(starts, limits, reverse, row, length, bases, first_bad, tile)
    column = tl.arange(0, BLOCK_N * WIDTH)
    position = (tile * BLOCK_N + column // WIDTH) * POOL + column % WIDTH
    group = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    dtype: tl.constexpr = weight.dtype.element_ty
    taps: tl.constexpr = X // 4
    hot = _hot(plane, ambiguous, start, backward, low, high, position, length, before, 0, X, dtype)
    for first in range(0, padded, BLOCK_D):
        feature = first + tl.arange(0, BLOCK_D)
        y = tl.zeros((BLOCK_D, BLOCK_N * WIDTH), tl.float32)
        y = _add_products(weight, hot, y, feature, padded, 0, C, X, S)
        for chunk in range(1, C):
            more = _hot(plane, ambiguous, start, backward, low, high, position, length, before, chunk * taps, X, dtype)
            y = _add_products(weight, more, y, feature, padded, chunk, C, X, S)
        y += tl.load(bias + feature)[:, None]
        if WIDTH > 1:
            y, _ = _pool(y, column % WIDTH < POOL, BLOCK_N, WIDTH, ACTIVATION)
        y = _activate(y, ACTIVATION)
        at = (row * features + feature[:, None]) * pooled + group[None, :]
        inside = (feature < features)[:, None] & (group < pooled)[None, :]
        tl.store(out + at, y.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _backward(
    plane, ambiguous, starts, limits, reverse, weight, bias, gradient, to_weight, to_bias, first_bad,
    length, pooled, bases, tiles, all_tiles, features, padded, before,
    POOL: tl.constexpr, WIDTH: tl.constexpr, ACTIVATION: tl.constexpr,
    C: tl.constexpr, X: tl.constexpr, S: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Sums over a stretch of tiles, for some features and one chunk of taps."""
    part, parts, mine = tl.program_id(0), tl.num_programs(0), tl.program_id(2)
    feature = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    column = tl.arange(0, BLOCK_N * WIDTH)
    dtype: tl.constexpr = weight.dtype.element_ty
    taps: tl.constexpr = X // 4
    bias_D = tl.load(bias + feature)
    weight_sums, bias_sums = tl.zeros((BLOCK_D, X), tl.float32), tl.zeros((BLOCK_D,), tl.float32)
    for number in range(part.to(tl.int64) * all_tiles // parts, (part + 1).to(tl.int64) * all_tiles // parts):
        row, tile = number // tiles, (number % tiles).to(tl.int32)
        start, backward, low, high = _row(starts, limits, reverse, row, length, bases, first_bad, tile)
        position = (tile * BLOCK_N + column // WIDTH) * POOL + column % WIDTH
        hot = _hot(plane, ambiguous, start, backward, low, high, position, length, before, mine * taps, X, dtype)
        group = tile * BLOCK_N + tl.arange(0, BLOCK_N)
        at = (row * features + feature[:, None]) * pooled + group[None, :]
        inside = (feature < features)[:, None] & (group < pooled)[None, :]
        g = tl.load(gradient + at, mask=inside, other=0).to(tl.float32)
        if ACTIVATION != "none" or WIDTH > 1:
            x = tl.zeros((BLOCK_D, BLOCK_N * WIDTH), tl.float32)
            for chunk in range(C):
                other = hot
                if C > 1:
                    other = _hot(
                        plane, ambiguous, start, backward, low, high, position, length, before, chunk * taps, X, dtype
                    )
                x = _add_products(weight, other, x, feature, padded, chunk, C, X, S)
            x += bias_D[:, None]
            if WIDTH > 1:
                x, best = _pool(x, column % WIDTH < POOL, BLOCK_N, WIDTH, ACTIVATION)
            g *= _slope(x, ACTIVATION)
            if WIDTH > 1:
                chosen = best[:, :, None] == tl.arange(0, WIDTH)[None, None, :]
                g = tl.reshape(tl.where(chosen, g[:, :, None], 0.0), (BLOCK_D, BLOCK_N * WIDTH))
        bias_sums += tl.sum(g, 1)
        turned = tl.trans(hot)
        for _ in tl.static_range(S):  # as many numbers of the operands' dtype as make up a weight
            rounded = g.to(dtype)
            weight_sums = tl.dot(rounded, turned, weight_sums)
            g -= rounded.to(tl.float32)
    at = part.to(tl.int64) * padded + feature
    if mine == 0:
        tl.store(to_bias + at, bias_sums)
    at = (at[:, None] * C + mine) * X + tl.arange(0, X)[None, :]
    tl.store(to_weight + at, weight_sums)


# ---- how they are launched ----------------------------------------------------------------------


class _Stem:
    """What both kernels are given."""

    def __init__(
        self,
        plane: Tensor,
        starts: Tensor,
        length: int,
        weight: Tensor,
        bias: Tensor | None,
        reverse: Tensor | None,
        ambiguous: Tensor | None,
        limits: Tensor | None,
        activation: str,
        pool: int,
        columns: int,
    ):
        self.features, _, kernel = weight.shape
        self.pooled = length // pool
        self.taps = 4 if kernel <= 4 else 8 if kernel <= 8 else 16
        self.chunks = -(-kernel // self.taps)
        width = triton.next_power_of_2(pool)
        # A second chunk's tile needs registers, and so does telling the columns that only fill a group up.
        most = 32 if self.chunks > 1 and width > pool else 64
        self.block_d = min(max(triton.next_power_of_2(self.features), 16), most)
        self.block_n = columns // width
        self.padded = -(-self.features // self.block_d) * self.block_d
        self.tiles = -(-self.pooled // self.block_n)
        self.weight = self._matrices(weight)
        self.bias = weight.new_zeros(self.padded, dtype=torch.float32)
        if bias is not None:
            self.bias[: self.features] = bias
        self.windows = (cells(plane), cells(ambiguous), *contiguous(starts, limits, reverse))
        self.sizes = (length, self.pooled, bases_of(plane, ambiguous), self.tiles)
        self.before = (kernel - 1) // 2
        self.constants: dict[str, Any] = {
            "POOL": pool, "WIDTH": width, "ACTIVATION": activation, "C": self.chunks, "X": 4 * self.taps,
            "S": len(self.weight), "BLOCK_D": self.block_d, "BLOCK_N": self.block_n,
            "num_warps": 4, "num_stages": 2,
        }  # fmt: skip

    def _matrices(self, weight: Tensor) -> Tensor:
        """(S, C, padded D, X) in the dtype of the matrix units."""
        features, _, kernel = weight.shape
        rest = weight.new_zeros((self.padded, self.chunks * self.taps, 4))
        rest[:features, :kernel] = weight.permute(0, 2, 1)
        rest = rest.view(self.padded, self.chunks, 4 * self.taps).transpose(0, 1)
        if weight.dtype == torch.float16:
            return rest[None].contiguous()
        parts = []
        for _ in range(3 if weight.dtype == torch.float32 else 1):
            parts.append(rest.bfloat16())
            rest = rest - parts[-1]
        return torch.stack(parts).to(_OPERAND)


def _by_reference(weight: Tensor, pool: int) -> bool:
    return weight.dtype == torch.float64 or pool > _LARGEST_POOL


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
    arguments = (plane, starts, length, weight, bias, reverse, ambiguous, limits, activation, pool)
    if _by_reference(weight, pool):
        return reference.conv_stem(*arguments)
    stem = _Stem(*arguments, _FORWARD)
    out_BDN = weight.new_empty((len(starts), stem.features, stem.pooled))
    if out_BDN.numel():
        with torch.cuda.device_of(plane):
            _forward[(len(starts) * stem.tiles,)](
                *stem.windows, stem.weight, stem.bias, out_BDN, first_bad(plane.device),
                *stem.sizes, stem.features, stem.padded, stem.before, **stem.constants,
            )  # fmt: skip
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
    arguments = (plane, starts, length, weight, bias, reverse, ambiguous, limits, activation, pool)
    if _by_reference(weight, pool):
        return reference.conv_stem_backward(gradient, *arguments)
    if not gradient.numel():
        return torch.zeros_like(weight), weight.new_zeros(len(weight))
    stem = _Stem(*arguments, _BACKWARD)
    blocks, all_tiles = stem.padded // stem.block_d, len(starts) * stem.tiles
    parts = min(all_tiles, max(_PROGRAMS // (blocks * stem.chunks), 1))
    to_weight = weight.new_empty((parts, stem.padded, stem.chunks * stem.taps, 4), dtype=torch.float32)
    to_bias = weight.new_empty((parts, stem.padded), dtype=torch.float32)
    with torch.cuda.device_of(plane):
        _backward[(parts, blocks, stem.chunks)](
            *stem.windows, stem.weight, stem.bias, gradient.contiguous(), to_weight, to_bias, first_bad(plane.device),
            *stem.sizes, all_tiles, stem.features, stem.padded, stem.before, **stem.constants,
        )  # fmt: skip
    weight_DKc = to_weight.sum(0)[: stem.features, : weight.shape[2]]
    to_weight = weight_DKc.transpose(1, 2).to(weight.dtype).contiguous()
    return to_weight, to_bias.sum(0)[: stem.features].to(weight.dtype)
