"""Decoding for programs that run without distgen: in plain torch, with shapes that depend on no numbers, so that
`torch.export` takes it along. `reference.py` specifies it; what lies outside a plane is N here, and nothing is raised."""

from __future__ import annotations

import torch
from torch import Tensor


def tokens(plane: Tensor, starts: Tensor, length: int, reverse: Tensor, ambiguous: Tensor, limits: Tensor) -> Tensor:
    """Decode packed windows to base codes (A 0, C 1, G 2, T 3, unknown 4).

    Args:
        plane: uint8 (bytes,), a byte at least. Base i is in bits 2*(i % 4) of byte i // 4.
        starts: int64 (B,). First base of each window in the plane, 0-based, any phase.
        length: bases per window.
        reverse: bool (B,). True: the window is read from the other strand.
        ambiguous: uint8 (bytes,), a byte at least. Base i is in bit i % 8 of byte i // 8; a set bit makes the code 4.
        limits: int64 (B, 2). Bases outside [first, end) are code 4 and never read.

    Returns:
        int64 (B, length).
    """
    index_BL = starts[:, None] + torch.arange(length, device=plane.device)
    inside_BL = (index_BL >= limits[:, :1].clamp(min=0)) & (index_BL < limits[:, 1:])
    inside_BL &= (index_BL >> 2 < plane.shape[0]) & (index_BL >> 3 < ambiguous.shape[0])
    index_BL = torch.where(inside_BL, index_BL, 0)
    known_BL = inside_BL & ((ambiguous[index_BL >> 3].long() >> (index_BL & 7)) & 1 == 0)
    codes_BL = (plane[index_BL >> 2].long() >> (2 * (index_BL & 3))) & 3
    codes_BL = torch.where(reverse[:, None], 3 - codes_BL, codes_BL)
    codes_BL = torch.where(known_BL, codes_BL, 4)
    return torch.where(reverse[:, None], codes_BL.flip(1), codes_BL)
