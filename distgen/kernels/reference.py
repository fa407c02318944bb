"""The specification of every op, in plain torch. Clear before quick; any device.

Shapes: B windows, L bases, n k-mers, D features, K kernel width, T tracks. A window's valid positions are those inside its
`limits`; the others are code 4 and are never read. What arguments mean is said once, in `distgen.kernels.ops`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from distgen.errors import WindowError
from distgen.kernels.draws import MASKING, philox, threshold

IGNORE_INDEX = -100
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"none": lambda x: x, "relu": F.relu, "gelu": F.gelu}


def check_bounds(
    items: int, starts: Tensor, length: int, limits: Tensor | None, unit: str = "base", row: int = 0
) -> None:
    """Raise WindowError for the first row whose valid positions leave a plane of so many bases (or a track of bins).

    Rows are counted from `row` on.
    """
    first_B, end_B = starts, starts + length
    if limits is not None:
        first_B, end_B = torch.maximum(first_B, limits[:, 0]), torch.minimum(end_B, limits[:, 1])
    bad_B = (first_B < end_B) & ((first_B < 0) | (end_B > items))
    if bad_B.any():
        bad = int(bad_B.nonzero()[0, 0])
        raise WindowError(
            f"window {row + bad} reads {unit}s {int(first_B[bad]):,} to {int(end_B[bad]):,}, the "
            f"{'plane' if unit == 'base' else 'track'} has {items:,}; pass limits to pad"
        )


def bases_of(plane: Tensor, ambiguous: Tensor | None) -> int:
    """How many bases two planes both have."""
    return plane.numel() * 4 if ambiguous is None else min(plane.numel() * 4, ambiguous.numel() * 8)


def _positions(starts: Tensor, length: int, limits: Tensor | None) -> tuple[Tensor, Tensor]:
    """Where each position of each window lies, and whether it may be read; both (B, length)."""
    index_BL = starts[:, None] + torch.arange(length, device=starts.device)
    if limits is None:
        return index_BL, torch.ones_like(index_BL, dtype=torch.bool)
    return index_BL, (index_BL >= limits[:, :1]) & (index_BL < limits[:, 1:])


def _flip(values_BL: Tensor, reverse: Tensor | None) -> Tensor:
    """Rows read from the other strand, back to front."""
    if reverse is None:
        return values_BL
    return torch.where(reverse.view(-1, *[1] * (values_BL.ndim - 1)), values_BL.flip(1), values_BL)


def tokens(
    plane: Tensor,
    starts: Tensor,
    length: int,
    reverse: Tensor | None = None,
    ambiguous: Tensor | None = None,
    limits: Tensor | None = None,
    dtype: torch.dtype = torch.uint8,
) -> Tensor:
    check_bounds(bases_of(plane, ambiguous), starts, length, limits)
    index_BL, valid_BL = _positions(starts, length, limits)
    index = index_BL[valid_BL]
    codes = (plane[index >> 2].long() >> (2 * (index & 3))) & 3
    if ambiguous is not None:
        codes[(ambiguous[index >> 3].long() >> (index & 7)) & 1 == 1] = 4
    codes_BL = torch.full_like(valid_BL, 4, dtype=torch.int64)
    codes_BL[valid_BL] = codes
    if reverse is not None:
        other_BL = torch.where(codes_BL < 4, 3 - codes_BL, 4)
        codes_BL = _flip(torch.where(reverse[:, None], other_BL, codes_BL), reverse)
    return codes_BL.to(dtype)


def one_hot(
    plane: Tensor,
    starts: Tensor,
    length: int,
    reverse: Tensor | None = None,
    ambiguous: Tensor | None = None,
    limits: Tensor | None = None,
    dtype: torch.dtype = torch.bfloat16,
    channels_last: bool = False,
) -> Tensor:
    codes_BL = tokens(plane, starts, length, reverse, ambiguous, limits)
    hot_BL4 = codes_BL[:, :, None] == torch.arange(4, device=plane.device)
    return (hot_BL4 if channels_last else hot_BL4.transpose(1, 2)).to(dtype).contiguous()


def kmers(
    plane: Tensor,
    starts: Tensor,
    length: int,
    k: int,
    stride: int = 1,
    reverse: Tensor | None = None,
    ambiguous: Tensor | None = None,
    limits: Tensor | None = None,
    dtype: torch.dtype = torch.int64,
) -> Tensor:
    codes_BL = tokens(plane, starts, length, reverse, ambiguous, limits, torch.int64)
    if length < k:
        return plane.new_empty((len(starts), 0), dtype=dtype)
    codes_Bnk = codes_BL.unfold(1, k, stride)
    id_Bn = (codes_Bnk * 4 ** torch.arange(k - 1, -1, -1, device=plane.device)).sum(2)
    return torch.where((codes_Bnk == 4).any(2), 4**k, id_Bn).to(dtype)


def bits(
    plane: Tensor, starts: Tensor, length: int, reverse: Tensor | None = None, limits: Tensor | None = None
) -> Tensor:
    check_bounds(plane.numel() * 8, starts, length, limits)
    index_BL, valid_BL = _positions(starts, length, limits)
    bits_BL = torch.zeros_like(valid_BL)
    index = index_BL[valid_BL]
    bits_BL[valid_BL] = (plane[index >> 3].long() >> (index & 7)) & 1 == 1
    return _flip(bits_BL, reverse)


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
    known, ahead = 4**k, span - 1  # spans may begin before the window
    position_J = torch.arange(-ahead, tokens.shape[1], device=tokens.device)
    shape = (len(tokens), len(position_J))
    draw_BJ, action_BJ, base_BJ, _ = philox(position_J.expand(shape), keys[:, None].expand(shape), tag=MASKING)
    limit_BJ = torch.full_like(draw_BJ, threshold(span_rate(rate, span)))
    if softmask is not None and tokens.shape[1]:
        limit_BJ[softmask[:, position_J.clamp(min=0)]] = threshold(span_rate(softmask_rate, span))
    # The last span that begins at or before a position decides over it, if it reaches so far.
    begin_BJ = torch.where(draw_BJ < limit_BJ, torch.arange(len(position_J), device=tokens.device), -span)
    last_BL = begin_BJ.cummax(1).values[:, ahead:] if tokens.shape[1] else begin_BJ[:, ahead:]
    chosen_BL = (last_BL + span > torch.arange(ahead, len(position_J), device=tokens.device)) & (tokens < known)
    action_BL = action_BJ.gather(1, last_BL.clamp(min=0))
    codes_BL = tokens.long()
    replaced_BL = torch.where(action_BL < threshold(mask), known + 1, codes_BL)
    drawn_BL = (action_BL >= threshold(mask)) & (action_BL < threshold(mask + random))
    replaced_BL = torch.where(drawn_BL, base_BJ[:, ahead:] & (known - 1), replaced_BL)
    inputs_BL = torch.where(chosen_BL, replaced_BL, codes_BL).to(tokens.dtype)
    return inputs_BL, torch.where(chosen_BL, codes_BL, IGNORE_INDEX)


def span_rate(rate: float, span: int) -> float:
    """How often a span must begin for `rate` of all positions to lie in one."""
    return 1 - math.pow(1 - rate, 1 / span)


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
    wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
    x_B4L = one_hot(plane, starts, length, reverse, ambiguous, limits, torch.uint8).to(wide)
    # What padding="same" means; and one position more, as conv1d refuses what is shorter than its kernel.
    x_B4L = F.pad(x_B4L, ((weight.shape[2] - 1) // 2, weight.shape[2] // 2 + 1))
    y_BDL = F.conv1d(x_B4L, weight.to(wide), None if bias is None else bias.to(wide))[:, :, :length]
    y_BDL = ACTIVATIONS[activation](y_BDL)[:, :, : length // pool * pool]
    highest_BDn: Tensor = y_BDL.unflatten(2, (length // pool, pool)).max(3).values
    return highest_BDn.to(weight.dtype)


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
    """Gradients of weight (D, 4, K) and bias (D,), which is computed whether or not there is a bias."""
    with torch.enable_grad():
        weight = weight.detach().requires_grad_()
        bias = (weight.new_zeros(len(weight)) if bias is None else bias.detach()).requires_grad_()
        out = conv_stem(plane, starts, length, weight, bias, reverse, ambiguous, limits, activation, pool)
        return torch.autograd.grad(out, (weight, bias), gradient)  # type: ignore[return-value]


def check_replacements(
    starts: Tensor, offsets: Tensor, position: Tensor, deleted: Tensor, inserted_offsets: Tensor, inserted: Tensor
) -> None:
    """Raise ValueError for the first replacement that is out of order."""
    many = len(position)
    for name, at, end in (("offsets", offsets, many), ("inserted_offsets", inserted_offsets, inserted.numel())):
        if at[0] != 0 or at[-1] != end or (at.diff() < 0).any():
            raise ValueError(f"replacements.{name} must rise from 0 to {end}")
    if inserted.numel() and inserted.max() > 4:
        raise ValueError(f"replacements.inserted has a code {int(inserted.max())}: use 0 to 4")
    rows = torch.repeat_interleave(offsets.diff(), output_size=many)
    earliest = starts[rows]
    follows = rows[1:] == rows[:-1]
    earliest[1:][follows] = (position + deleted)[:-1][follows]
    bad = (position < earliest) | (deleted < 0)
    if bad.any():
        r = int(bad.nonzero()[0, 0])
        row = int(rows[r])
        raise ValueError(
            f"replacement {r - int(offsets[row])} of window {row} deletes {int(deleted[r])} bases at {int(position[r]):,}: "
            f"use 0 or more, at {int(earliest[r]):,} (where the window starts, or the one before ends) or later"
        )


def substitute(
    plane: Tensor,
    starts: Tensor,
    length: int,
    offsets: Tensor,
    position: Tensor,
    deleted: Tensor,
    inserted_offsets: Tensor,
    inserted: Tensor,
    ambiguous: Tensor | None = None,
    limits: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    check_replacements(starts, offsets, position, deleted, inserted_offsets, inserted)
    codes_BL = torch.full((len(starts), length), 4, dtype=torch.uint8, device=plane.device)
    for row in range(len(starts)):
        pieces, at, made = [], int(starts[row]), 0

        def copy(first: int, bases: int, row: int = row) -> Tensor:
            limit, start = None if limits is None else limits[row : row + 1], starts.new_tensor([first])
            check_bounds(bases_of(plane, ambiguous), start, bases, limit, row=row)
            return tokens(plane, start, bases, None, ambiguous, limit)[0]

        for r in range(int(offsets[row]), int(offsets[row + 1])):
            if made + int(position[r]) - at >= length:
                break
            pieces.append(copy(at, int(position[r]) - at))
            pieces.append(inserted[int(inserted_offsets[r]) : int(inserted_offsets[r + 1])])
            made += len(pieces[-2]) + len(pieces[-1])
            at = int(position[r]) + int(deleted[r])
        pieces.append(copy(at, max(length - made, 0)))
        codes_BL[row] = torch.cat(pieces)[:length]
    return pack(codes_BL)


def pack(codes_BL: Tensor) -> tuple[Tensor, Tensor]:
    """Codes as packed planes (sequence, ambiguous), each row from a multiple of 64 bases on."""
    codes_BS = F.pad(codes_BL, (0, -codes_BL.shape[1] % 64), value=4).long()
    two = torch.where(codes_BS < 4, codes_BS, 0).view(-1, 4) << torch.tensor([0, 2, 4, 6], device=codes_BL.device)
    one = (codes_BS == 4).long().view(-1, 8) << torch.arange(8, device=codes_BL.device)
    return two.sum(1).to(torch.uint8), one.sum(1).to(torch.uint8)


def gather_bins(
    values: Tensor,
    starts: Tensor,
    bins: int,
    reverse: Tensor | None = None,
    swap: Tensor | None = None,
    limits: Tensor | None = None,
    missing: float | None = None,
) -> tuple[Tensor, Tensor]:
    check_bounds(len(values), starts, bins, limits, "bin")
    index_BN, valid_BN = _positions(starts, bins, limits)
    values_BNT = values.new_zeros((*valid_BN.shape, values.shape[1]))
    values_BNT[valid_BN] = values[index_BN[valid_BN]]
    known_BNT = valid_BN[:, :, None] & (values_BNT == values_BNT)  # NaN differs from itself
    if missing is not None:
        known_BNT &= values_BNT != missing
    values_BNT = torch.where(known_BNT, values_BNT, 0)
    if reverse is not None and swap is not None:
        values_BNT = torch.where(reverse[:, None, None], values_BNT[:, :, swap], values_BNT)
        known_BNT = torch.where(reverse[:, None, None], known_BNT[:, :, swap], known_BNT)
    return _flip(values_BNT, reverse), _flip(known_BNT, reverse)
