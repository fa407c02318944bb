"""Questions along a window: what goes in, and the bins of one track in its middle."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from distgen import kernels
from distgen.loader.batch import Batch
from distgen.models.context import Context
from distgen.store.reader import Track


def answers(batch: Batch, track: str) -> tuple[Tensor, Tensor]:
    """Values (B, T, C) of a track's bins, and which of them are known: bool, (B, T, C) or (B, T, 1)."""
    return batch.targets[track], batch.mask[track] & (batch.weight[:, None, None] > 0)


def encode(
    batch: Batch, track: str, bin_bp: int, dtype: torch.dtype, context: Context | None
) -> tuple[Tensor, Tensor, Tensor]:
    """One-hot bases (B, 4, L), and the `answers`.

    Args:
        batch: its rows that only pad it know nothing.
        context: the workers that share each window; what comes is of this one's slice, and unknown beyond the target.
    """
    values_BTC, known_BTC = answers(batch, track)
    if context is None:
        return kernels.one_hot(**batch.packed, dtype=dtype), values_BTC, known_BTC
    first, end = context.part(batch.length)
    margin = (batch.length - batch.target_length) // 2 // bin_bp
    part = slice(first // bin_bp, end // bin_bp)
    values_BTC, known_BTC = (F.pad(some, (0, 0, margin, margin))[:, part] for some in (values_BTC, known_BTC))
    return kernels.one_hot(**batch.stretch(first, end), dtype=dtype), values_BTC, known_BTC


def middle(x_BOL: Tensor, bins: int, bin_bp: int) -> Tensor:
    """(B, O, bins, bin_bp), a view: the bases of the target, which lies centred in the window."""
    crop = (x_BOL.shape[2] - bins * bin_bp) // 2
    inside: Tensor = x_BOL[:, :, crop : crop + bins * bin_bp].unflatten(2, (bins, bin_bp))
    return inside


def swapped(track: Track) -> tuple[tuple[str, str], ...]:
    """Each column of a track and where it goes on the other strand."""
    return tuple((name, track.columns[other]) for name, other in zip(track.columns, track.swap, strict=True))
