"""The specification of every op, in plain torch. Clear before quick; any device.

Shapes: B windows, L bases. A window's valid positions are those inside its `limits`; the others
are code 4 and are never read. What arguments mean is said once, in `distgen.kernels`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distgen.errors import WindowError

MASK_ID = 5
IGNORE_INDEX = -100


def check_bounds(plane: Tensor, starts: Tensor, length: int, ambiguous: Tensor | None, limits: Tensor | None) -> None:
    """Raise WindowError for the first row whose valid positions leave the plane."""
    bases = plane.numel() * 4 if ambiguous is None else min(plane.numel() * 4, ambiguous.numel() * 8)
    first_B, end_B = starts, starts + length
    if limits is not None:
        first_B, end_B = torch.maximum(first_B, limits[:, 0]), torch.minimum(end_B, limits[:, 1])
    bad_B = (first_B < end_B) & ((first_B < 0) | (end_B > bases))
    if bad_B.any():
        row = int(bad_B.nonzero()[0, 0])
        raise WindowError(
            f"window {row} reads bases {int(first_B[row]):,} to {int(end_B[row]):,}, the plane has {bases:,}; pass limits to pad"
        )


def tokens(
    plane: Tensor,
    starts: Tensor,
    length: int,
    reverse: Tensor | None = None,
    ambiguous: Tensor | None = None,
    limits: Tensor | None = None,
    dtype: torch.dtype = torch.uint8,
) -> Tensor:
    check_bounds(plane, starts, length, ambiguous, limits)
    index_BL = starts[:, None] + torch.arange(length, device=plane.device)
    valid_BL = torch.ones_like(index_BL, dtype=torch.bool)
    if limits is not None:
        valid_BL = (index_BL >= limits[:, :1]) & (index_BL < limits[:, 1:])
    index_BL = index_BL[valid_BL]
    codes = (plane[index_BL >> 2].long() >> (2 * (index_BL & 3))) & 3
    if ambiguous is not None:
        codes[(ambiguous[index_BL >> 3].long() >> (index_BL & 7)) & 1 == 1] = 4
    codes_BL = torch.full_like(valid_BL, 4, dtype=torch.int64)
    codes_BL[valid_BL] = codes
    if reverse is not None:
        other_BL = torch.where(codes_BL < 4, 3 - codes_BL, 4).flip(1)
        codes_BL = torch.where(reverse[:, None], other_BL, codes_BL)
    return codes_BL.to(dtype)


def one_hot(
    plane: Tensor,
    starts: Tensor,
    length: int,
    reverse: Tensor | None = None,
    ambiguous: Tensor | None = None,
    limits: Tensor | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> Tensor:
    codes_BL = tokens(plane, starts, length, reverse, ambiguous, limits)
    return (codes_BL[:, None, :] == torch.arange(4, device=plane.device)[:, None]).to(dtype)


def mask_tokens(
    tokens: Tensor, keys: Tensor, rate: float, mask: float = 0.8, random: float = 0.1
) -> tuple[Tensor, Tensor]:
    position_BL = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
    draw_BL, action_BL, base_BL, _ = philox(position_BL, keys[:, None].expand(tokens.shape), tag=MASKING)
    chosen_BL = (draw_BL < threshold(rate)) & (tokens < 4)
    replaced_BL = torch.where(action_BL < threshold(mask), MASK_ID, tokens.long())
    replaced_BL = torch.where(
        (action_BL >= threshold(mask)) & (action_BL < threshold(mask + random)), base_BL & 3, replaced_BL
    )
    inputs_BL = torch.where(chosen_BL, replaced_BL, tokens.long()).to(tokens.dtype)
    return inputs_BL, torch.where(chosen_BL, tokens.long(), IGNORE_INDEX)


# ---- counter-based draws --------------------------------------------------------------------

# One tag for each purpose a key is used for, so that no two purposes share draws.
SAMPLE, MASKING = 1, 2

_WORD = 0xFFFFFFFF


def threshold(probability: float) -> int:
    """The integer that a uniform 32-bit draw is below with the given probability."""
    return min(round(probability * 2**32), 2**32)


def philox(counter: Tensor, key: Tensor, *, tag: int, epoch: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").

    Args:
        counter: int64, any shape: the low two counter words.
        key: int64, same shape: the two key words.
        tag: third counter word, the purpose.
        epoch: fourth counter word.

    Returns:
        Four int64 tensors of uniform integers in [0, 2^32).
    """
    # int64 with masks: torch lacks unsigned 64-bit arithmetic on the CPU. A product of two words
    # wraps into the sign bit, which the mask after the arithmetic shift takes off again.
    c0, c1 = counter & _WORD, (counter >> 32) & _WORD
    c2, c3 = torch.full_like(counter, tag), torch.full_like(counter, epoch & _WORD)
    k0, k1 = key & _WORD, (key >> 32) & _WORD
    for _ in range(10):
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _WORD) ^ c1 ^ k0,
            p1 & _WORD,
            ((p0 >> 32) & _WORD) ^ c3 ^ k1,
            p0 & _WORD,
        )
        k0, k1 = (k0 + 0x9E3779B9) & _WORD, (k1 + 0xBB67AE85) & _WORD
    return c0, c1, c2, c3
