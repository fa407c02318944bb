"""Counter-based draws: the same on any device, in any batch, on any number of workers."""

from __future__ import annotations

import torch
from torch import Tensor

# One tag for each purpose a key is used for, so that no two purposes share draws.
SAMPLE, MASKING, PHASE = 1, 2, 3
NEGATIVE = 16  # and in the upper half word which two of the candidates

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
