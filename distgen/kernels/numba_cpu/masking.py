"""mask_tokens for the CPU: the draws of a block of positions in vector registers, then what they decide."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy import uint8, uint32, uint64
from torch import Tensor

from distgen.compiled import compiled
from distgen.kernels.draws import MASKING, threshold
from distgen.kernels.numba_cpu.philox import WORD, philox_round
from distgen.kernels.reference import IGNORE_INDEX, span_rate

_BLOCK = 2048  # positions whose draws are made at a time: they stay in the first-level cache
_KEEP, _MASK, _RANDOM = uint8(1), uint8(2), uint8(3)  # fates of a chosen token; 0: not chosen


@compiled
def _draw(
    first: int, key: int, limits: Any, soft: Any, mask: int, random: int, known: Any, fates: Any, drawn: Any
) -> None:
    """The fate of spans that begin at `first` and on, and the tokens drawn for them: what `draws.philox` gives, thresholded."""
    low, high = uint64(key) & WORD, uint64(key) >> uint64(32)
    position, limit, other = uint64(first), uint64(limits[0]), uint64(limits[1])
    few = uint32(known) - uint32(1)
    for i in range(fates.size):
        counter = position + uint64(i)
        a, b, c, d, x, y = counter, counter >> uint64(32), uint64(MASKING), uint64(0), low, high
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
        action = b & WORD
        fate = _MASK if action < uint64(mask) else (_RANDOM if action < uint64(random) else _KEEP)
        fates[i] = fate if (a & WORD) < (other if soft[i] else limit) else uint8(0)
        drawn[i] = uint32(c) & few


@compiled
def _stretch(fates: Any, span: int, held: int, left: int) -> Any:
    """Each span's fate over all its positions: the last span that began decides. Returns what reaches beyond."""
    for i in range(fates.size):
        if fates[i]:
            held, left = fates[i], span
        fates[i] = held if left > 0 else 0
        left -= 1
    return held, max(left, 0)


@compiled
def _hide(tokens: Any, fates: Any, drawn: Any, known: Any, inputs: Any) -> None:
    for i in range(tokens.size):
        token, fate = tokens[i], fates[i]
        other = drawn[i] if fate == _RANDOM else known + 1
        inputs[i] = other if (fate > _KEEP) & (token < known) else token


@compiled
def _target(tokens: Any, fates: Any, known: Any, targets: Any) -> None:
    for i in range(tokens.size):
        token = tokens[i]
        targets[i] = token if (fates[i] != uint8(0)) & (token < known) else IGNORE_INDEX


@compiled
def _fill_masked(
    tokens: Any,
    keys: Any,
    softmask: Any,
    limits: Any,
    mask: int,
    random: int,
    span: int,
    known: Any,
    inputs: Any,
    targets: Any,
) -> None:
    length = tokens.shape[1]
    fates, drawn = np.empty(_BLOCK, np.uint8), np.empty(_BLOCK, tokens.dtype)
    soft = np.zeros(_BLOCK, np.bool_)
    for b in range(tokens.shape[0] if length else 0):
        held, left = 0, 0
        for first in range(1 - span, length, _BLOCK):
            n = min(_BLOCK, length - first)
            before = min(max(-first, 0), n)  # positions before the window, as soft-masked as its first
            if softmask.size:
                soft[:before] = softmask[b, 0]
                soft[before:n] = softmask[b, first + before : first + n]
            _draw(first, keys[b], limits, soft, mask, random, known, fates[:n], drawn)
            if span > 1:
                held, left = _stretch(fates[:n], span, held, left)
            here = slice(first + before, first + n)
            _hide(tokens[b, here], fates[before:n], drawn[before:n], known, inputs[b, here])
            _target(tokens[b, here], fates[before:n], known, targets[b, here])


def mask_tokens(
    tokens: Tensor,
    keys: Tensor,
    rate: float,
    mask: float = 0.8,
    random: float = 0.1,
    softmask: Tensor | None = None,
    softmask_rate: float = 0.0,
    span: int = 1,
    k: int = 1,
) -> tuple[Tensor, Tensor]:
    tokens = tokens.contiguous()
    inputs, targets = torch.empty_like(tokens), torch.empty(tokens.shape, dtype=torch.int64)
    limits = np.array([threshold(span_rate(r, span)) for r in (rate, softmask_rate)], np.int64)
    soft = np.empty((0, 0), np.bool_) if softmask is None else softmask.contiguous().numpy()
    cuts = threshold(mask), threshold(mask + random)
    arrays = (tokens.numpy(), keys.contiguous().numpy(), soft, limits)
    _fill_masked(*arrays, *cuts, span, tokens.numpy().dtype.type(4**k), inputs.numpy(), targets.numpy())
    return inputs, targets
