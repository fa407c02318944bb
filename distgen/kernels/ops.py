"""The ops as they are called: what they take and give, and what is refused before a kernel runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from distgen.kernels import library as library  # registers torch.ops.distgen
from distgen.kernels.reference import ACTIVATIONS

_TOKEN_DTYPES = (torch.uint8, torch.int32, torch.int64)
_ONE_HOT_DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.uint8)
_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_BIN_DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32)


def tokens(
    plane: Tensor,
    starts: Tensor,
    length: int,
    *,
    reverse: Tensor | None = None,
    ambiguous: Tensor | None = None,
    limits: Tensor | None = None,
    dtype: torch.dtype = torch.uint8,
) -> Tensor:
    """Decode packed windows to base codes (A 0, C 1, G 2, T 3, ambiguous 4).

    Args:
        plane: uint8 (bytes,). Base i is in bits 2*(i % 4) of byte i // 4.
        starts: int64 (B,). First base of each window in the plane, 0-based, any phase.
        length: bases per window.
        reverse: bool (B,) or None. True: the window is read from the other strand.
        ambiguous: uint8 (bytes,) or None. Base i is in bit i % 8 of byte i // 8; a set bit makes the code 4.
        limits: int64 (B, 2) or None. Bases outside [first, end) are code 4 and never read.
        dtype: uint8, int32 or int64.

    Returns:
        (B, length) on the plane's device.

    Raises:
        WindowError: a window leaves the plane; names the first row that does. On CUDA what lies outside is
            code 4, and the next `check` raises.
        TypeError: an argument has the wrong dtype, shape or device.
    """
    _check_windows(plane, starts, length, reverse, ambiguous, limits)
    _check_dtype("dtype", dtype, _TOKEN_DTYPES)
    return torch.ops.distgen.tokens(plane, starts, length, reverse, ambiguous, limits, dtype)  # type: ignore[no-any-return]


def one_hot(
    plane: Tensor,
    starts: Tensor,
    length: int,
    *,
    reverse: Tensor | None = None,
    ambiguous: Tensor | None = None,
    limits: Tensor | None = None,
    dtype: torch.dtype = torch.bfloat16,
    channels_last: bool = False,
) -> Tensor:
    """Decode packed windows to one-hot channels in the order A, C, G, T; an ambiguous base is all zeros.

    Args:
        plane, starts, length, reverse, ambiguous, limits: as for `tokens`.
        dtype: bfloat16, float16, float32 or uint8.
        channels_last: the four channels are the last dimension, as linear layers take them.

    Returns:
        (B, 4, length), or (B, length, 4) with `channels_last`, on the plane's device.

    Raises:
        WindowError, TypeError: as for `tokens`.
    """
    _check_windows(plane, starts, length, reverse, ambiguous, limits)
    _check_dtype("dtype", dtype, _ONE_HOT_DTYPES)
    return torch.ops.distgen.one_hot(plane, starts, length, reverse, ambiguous, limits, dtype, channels_last)  # type: ignore[no-any-return]


def kmers(
    plane: Tensor,
    starts: Tensor,
    length: int,
    k: int,
    stride: int = 1,
    *,
    reverse: Tensor | None = None,
    ambiguous: Tensor | None = None,
    limits: Tensor | None = None,
    dtype: torch.dtype = torch.int64,
) -> Tensor:
    """Decode packed windows to k-mers: numbers to the base 4 whose first digit is the first base.

    They are counted from the window's first base after strand; what is left at the end is dropped.

    Args:
        plane, starts, length, reverse, ambiguous, limits: as for `tokens`.
        k: bases per k-mer, 1 to 12.
        stride: bases from one k-mer to the next: 1 for overlapping ones, k for one after the other.
        dtype: int32 or int64.

    Returns:
        (B, (length - k) // stride + 1) on the plane's device; 4**k where any base is ambiguous.

    Raises:
        WindowError, TypeError: as for `tokens`.
        ValueError: k or stride is out of range.
    """
    _check_windows(plane, starts, length, reverse, ambiguous, limits)
    _check_dtype("dtype", dtype, (torch.int32, torch.int64))
    if not (1 <= k <= 12 and stride >= 1):
        raise ValueError(f"k is {k} and stride {stride}: use a k of 1 to 12 and a stride of 1 or more")
    return torch.ops.distgen.kmers(plane, starts, length, k, stride, reverse, ambiguous, limits, dtype)  # type: ignore[no-any-return]


def bits(
    plane: Tensor, starts: Tensor, length: int, *, reverse: Tensor | None = None, limits: Tensor | None = None
) -> Tensor:
    """Decode windows of a plane of one bit a base, such as `softmask`.

    Args:
        plane: uint8 (bytes,). Base i is in bit i % 8 of byte i // 8.
        starts, length, reverse, limits: as for `tokens`; bases outside the limits are False.

    Returns:
        bool (B, length) on the plane's device.

    Raises:
        WindowError, TypeError: as for `tokens`.
    """
    _check_windows(plane, starts, length, reverse, None, limits)
    return torch.ops.distgen.bits(plane, starts, length, reverse, limits)  # type: ignore[no-any-return]


def mask_tokens(
    tokens: Tensor,
    keys: Tensor,
    rate: float,
    *,
    mask: float = 0.8,
    random: float = 0.1,
    softmask: Tensor | None = None,
    softmask_rate: float | None = None,
    span: int | None = None,
    k: int = 1,
) -> tuple[Tensor, Tensor]:
    """Hide some tokens for masked language modelling (Devlin et al. 2019), by counter-based draws.

    Each token is chosen with probability `rate`. A chosen one becomes the mask with probability `mask`, a token drawn
    uniformly with probability `random`, and else stays. Unknown tokens (ambiguous bases) are never chosen. With `span`,
    whole stretches of so many tokens are chosen and fare alike (Joshi et al. 2020); they may overlap. The draw of
    position i of row b depends on (keys[b], i) alone.

    Args:
        tokens: (B, L) codes as `tokens` returns them, or ids as `kmers` does.
        keys: int64 (B,). One key per sample (`Batch.keys`).
        rate, mask, random: probabilities; mask + random is at most 1.
        softmask: bool (B, L) or None, as `bits` returns it: where `softmask_rate` takes the place of `rate`.
        softmask_rate: probability; needs `softmask`.
        span: tokens hidden together; k if None, so that of overlapping k-mers no neighbour gives a base away.
        k: bases per token. 4**k is the unknown token and 4**k + 1 the mask (5 for single bases).

    Returns:
        inputs (B, L) in the dtype of `tokens`, and targets int64 (B, L): the token where chosen,
        `IGNORE_INDEX` (-100) elsewhere.

    Raises:
        ValueError: a probability, `span` or `k` is out of range.
        TypeError: a tensor has the wrong dtype or shape.
    """
    if not (0 <= rate <= 1 and mask >= 0 and random >= 0 and mask + random <= 1):
        raise ValueError(f"rate {rate}, mask {mask}, random {random} are no probabilities")
    if (softmask is None) != (softmask_rate is None) or not 0 <= (softmask_rate or 0) <= 1:
        raise ValueError(f"softmask_rate {softmask_rate} is no probability that goes with a softmask")
    span = k if span is None else span
    if not (1 <= k <= 12 and k <= span):
        raise ValueError(f"k is {k} and span {span}: use a k of 1 to 12 and a span of k or more")
    _check_dtype("tokens", tokens.dtype, _TOKEN_DTYPES if k == 1 else (torch.int32, torch.int64))
    if tokens.ndim != 2:
        raise TypeError(f"tokens must be (B, L), not {tuple(tokens.shape)}")
    _check_tensor("keys", keys, torch.int64, (len(tokens),), tokens.device)
    if softmask is not None:
        _check_tensor("softmask", softmask, torch.bool, tuple(tokens.shape), tokens.device)
    return torch.ops.distgen.mask_tokens(  # type: ignore[no-any-return]
        tokens, keys, rate, mask, random, softmask, softmask_rate or 0.0, span, k
    )


def conv_stem(
    plane: Tensor,
    starts: Tensor,
    length: int,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    reverse: Tensor | None = None,
    ambiguous: Tensor | None = None,
    limits: Tensor | None = None,
    activation: Literal["none", "relu", "gelu"] = "none",
    pool: int = 1,
) -> Tensor:
    """The first convolution straight from packed bases: `conv1d(one_hot(...), weight, bias, padding="same")`,
    then the activation, then max-pooling, without a one-hot in memory. Differentiable by weight and bias.

    Args:
        plane, starts, length, reverse, ambiguous, limits: as for `tokens`.
        weight: (D, 4, K) in float32, bfloat16, float16 or float64; products are summed in float32 (float64).
        bias: (D,) in the dtype of `weight`, or None.
        activation: "relu", "gelu" (with erf) or "none".
        pool: positions of which the highest is kept; what is left at the end is dropped.

    Returns:
        (B, D, length // pool) in the dtype of `weight`.

    Raises:
        WindowError, TypeError: as for `tokens`.
        ValueError: `activation` or `pool` is unknown or out of range.
    """
    _check_windows(plane, starts, length, reverse, ambiguous, limits)
    _check_dtype("weight", weight.dtype, _FLOATS)
    if weight.ndim != 3 or weight.shape[1] != 4 or not weight.shape[2] or weight.device != plane.device:
        raise TypeError(f"weight must be (D, 4, K) on {plane.device}, not {tuple(weight.shape)} on {weight.device}")
    if bias is not None:
        _check_tensor("bias", bias, weight.dtype, (len(weight),), plane.device)
    if activation not in ACTIVATIONS or pool < 1:
        raise ValueError(f'activation "{activation}", pool {pool}: use {", ".join(ACTIVATIONS)}, and 1 or more')
    return torch.ops.distgen.conv_stem(  # type: ignore[no-any-return]
        plane, starts, length, weight, bias, reverse, ambiguous, limits, activation, pool
    )


class Replacements(NamedTuple):
    """What is put into windows in place of what: for each row, sorted by position and without overlap.

    Args:
        offsets: int64 (B + 1,). Row b has the replacements [offsets[b], offsets[b + 1]).
        position: int64 (R,). First replaced base, in the plane's coordinate; not before the window's start.
        deleted: int64 (R,). Bases taken out there; 0 for a plain insertion before `position`.
        inserted_offsets: int64 (R + 1,). Replacement r puts in the codes [inserted_offsets[r], inserted_offsets[r + 1]).
        inserted: uint8 (S,). Base codes 0 to 4 of the forward strand.
    """

    offsets: Tensor
    position: Tensor
    deleted: Tensor
    inserted_offsets: Tensor
    inserted: Tensor

    @classmethod
    def of(
        cls, rows: Sequence[Sequence[tuple[int, int, Sequence[int]]]], device: torch.device | str = "cpu"
    ) -> Replacements:
        """From (position, deleted, inserted codes) of each replacement of each row."""
        flat = [entry for row in rows for entry in row]
        counts = ([0, *map(len, rows)], [0, *(len(codes) for *_, codes in flat)])
        offsets, inserted_offsets = (torch.tensor(c, dtype=torch.int64).cumsum(0).to(device) for c in counts)
        position, deleted = (torch.tensor([e[i] for e in flat], dtype=torch.int64, device=device) for i in (0, 1))
        inserted = torch.tensor([c for *_, codes in flat for c in codes], dtype=torch.uint8, device=device)
        return cls(offsets, position, deleted, inserted_offsets, inserted)

    @property
    def rows(self) -> Tensor:
        """int64 (R,): the window of each replacement."""
        return torch.repeat_interleave(self.offsets.diff(), output_size=len(self.position))

    def begins(self, starts: Tensor) -> Tensor:
        """int64 (R,): where in its window each replacement's first base comes to lie."""
        grown = self.inserted_offsets.diff() - self.deleted
        before = torch.cat([grown.new_zeros(1), grown.cumsum(0)])
        rows = self.rows
        return self.position - starts[rows] + before[:-1] - before[self.offsets[rows]]


class Windows(NamedTuple):
    """Packed windows that any op takes: `one_hot(**windows._asdict())`; see `tokens` for the fields."""

    plane: Tensor
    starts: Tensor
    length: int
    ambiguous: Tensor


def substitute(
    plane: Tensor,
    starts: Tensor,
    length: int,
    replacements: Replacements,
    *,
    ambiguous: Tensor | None = None,
    limits: Tensor | None = None,
) -> Windows:
    """Put replacements into windows: variants, haplotypes, motifs, mutants.

    A window keeps its length and its first base (it is left-anchored): what is inserted pushes bases out at its end,
    what is deleted brings the plane's next ones in. The result is packed as the plane is, a quarter of a byte and a bit
    for each base, so that any op decodes it, on either strand. `substituted_positions` maps it back.

    Args:
        plane, starts, length, ambiguous, limits: as for `tokens`, on the forward strand.
        replacements: see `Replacements`; those beyond the window's end change nothing.

    Returns:
        `Windows` of B rows, each from a multiple of 64 bases on.

    Raises:
        WindowError, TypeError: as for `tokens`.
        ValueError: replacements overlap, are not sorted or begin before their window; names row and replacement. On
            CUDA this is not checked (it would wait for the device); no such row reads outside the plane.
    """
    _check_windows(plane, starts, length, None, ambiguous, limits)
    _check_replacements(replacements, starts)
    made, unknown = torch.ops.distgen.substitute(plane, starts, length, *replacements, ambiguous, limits)
    stride = -(-length // 64) * 64
    return Windows(made, torch.arange(len(starts), device=plane.device) * stride, length, unknown)


def substituted_positions(starts: Tensor, length: int, replacements: Replacements) -> Tensor:
    """Where each base of substituted windows comes from.

    Returns:
        int64 (B, length), in the plane's coordinate. Inserted bases take the places of the deleted ones, one by one,
        and then all that of the last (of the base that follows, if none was deleted).
    """
    begins = replacements.begins(starts)
    sizes, out_BL = replacements.inserted_offsets.diff(), torch.arange(length, device=starts.device)
    # One sorted key for all rows: a row's replacements begin inside its own stretch of length + 1.
    inside = begins < length
    key = (replacements.rows * (length + 1) + begins)[inside]
    rows_B1 = torch.arange(len(starts), device=starts.device)[:, None]
    found_BL = torch.searchsorted(key, rows_B1 * (length + 1) + out_BL, right=True) - 1
    index = torch.cat([inside.nonzero()[:, 0], inside.new_zeros(1, dtype=torch.int64)])[found_BL]
    plain_BL = starts[:, None] + out_BL
    if not len(begins):
        return plain_BL
    first_BL, gone_BL, since_BL = replacements.position[index], replacements.deleted[index], out_BL - begins[index]
    within_BL = first_BL + since_BL.minimum((gone_BL - 1).clamp(min=0))
    after_BL = first_BL + gone_BL + since_BL - sizes[index]
    here_BL = (found_BL >= 0) & (replacements.rows[index] == rows_B1)
    return torch.where(here_BL, torch.where(since_BL < sizes[index], within_BL, after_BL), plain_BL)


def single_mutants(
    plane: Tensor, starts: Tensor, length: int, *, ambiguous: Tensor | None = None, limits: Tensor | None = None
) -> tuple[Tensor, Replacements]:
    """All 3 * length changes of one base of each window, for `substitute`.

    Returns:
        starts int64 (B * length * 3,) and their replacements: row (b * length + i) * 3 + j has the j-th of the three
        other bases (in the order A, C, G, T; of A, C, G for an ambiguous base) at position i of window b.
    """
    codes_BL = tokens(plane, starts, length, ambiguous=ambiguous, limits=limits)
    other = torch.arange(3, device=plane.device, dtype=torch.uint8)
    inserted_BL3 = other + (other >= codes_BL[:, :, None]).to(torch.uint8)
    position_BL3 = (starts[:, None] + torch.arange(length, device=plane.device))[:, :, None].expand(inserted_BL3.shape)
    each = torch.arange(inserted_BL3.numel() + 1, device=plane.device)
    replacements = Replacements(
        each, position_BL3.reshape(-1), torch.ones_like(each[1:]), each, inserted_BL3.reshape(-1)
    )
    return starts.repeat_interleave(3 * length), replacements


def gather_bins(
    values: Tensor,
    starts: Tensor,
    bins: int,
    *,
    reverse: Tensor | None = None,
    swap: Tensor | None = None,
    limits: Tensor | None = None,
    missing: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Windows of tracks, in the window's orientation, and where they are known.

    Args:
        values: (N, T) in uint8, float16, bfloat16 or float32: bins by tracks, of a whole assembly or gathered rows.
        starts: int64 (B,). First bin of each window.
        bins: bins per window.
        reverse: bool (B,) or None. True: the window is read back to front.
        swap: int64 (T,) or None. Where a reversed window's column t is found: stranded tracks change places.
        limits: int64 (B, 2) or None. Bins outside [first, end) are unknown and never read.
        missing: the value that means "no data"; NaN always does.

    Returns:
        values (B, bins, T), 0 where unknown, and bool (B, bins, T), True where known.

    Raises:
        WindowError: a window leaves the track; names the first row that does (on CUDA: the next `check`).
        TypeError: an argument has the wrong dtype, shape or device.
    """
    _check_dtype("values", values.dtype, _BIN_DTYPES)
    if values.ndim != 2:
        raise TypeError(f"values must be (N, T), not {tuple(values.shape)}")
    _check_rows(values.device, starts, bins, reverse, limits)
    if swap is not None:
        _check_tensor("swap", swap, torch.int64, (values.shape[1],), values.device)
    return torch.ops.distgen.gather_bins(values, starts, bins, reverse, swap, limits, missing)  # type: ignore[no-any-return]


# ---- what is refused ------------------------------------------------------------------------


def _check_windows(
    plane: Tensor, starts: Tensor, length: int, reverse: Tensor | None, ambiguous: Tensor | None, limits: Tensor | None
) -> None:
    _check_tensor("plane", plane, torch.uint8, (plane.numel(),), plane.device)
    _check_rows(plane.device, starts, length, reverse, limits)
    if ambiguous is not None:
        _check_tensor("ambiguous", ambiguous, torch.uint8, (ambiguous.numel(),), plane.device)


def _check_rows(
    device: torch.device, starts: Tensor, length: int, reverse: Tensor | None, limits: Tensor | None
) -> None:
    rows = starts.numel()
    _check_tensor("starts", starts, torch.int64, (rows,), device)
    if reverse is not None:
        _check_tensor("reverse", reverse, torch.bool, (rows,), device)
    if limits is not None:
        _check_tensor("limits", limits, torch.int64, (rows, 2), device)
    if length < 0:
        raise TypeError(f"length {length} is negative")


def _check_tensor(name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...], device: torch.device) -> None:
    if tensor.dtype != dtype or tensor.shape != shape or tensor.device != device:
        raise TypeError(
            f"{name} must be {dtype} {shape} on {device}, not {tensor.dtype} {tuple(tensor.shape)} on {tensor.device}"
        )


def _check_dtype(name: str, dtype: torch.dtype, valid: tuple[torch.dtype, ...]) -> None:
    if dtype not in valid:
        raise TypeError(f"{name} {dtype} is none of {', '.join(map(str, valid))}")


def _check_replacements(replacements: Replacements, starts: Tensor) -> None:
    offsets, position, deleted, inserted_offsets, inserted = replacements
    many, device = position.numel(), starts.device
    _check_tensor("replacements.offsets", offsets, torch.int64, (starts.numel() + 1,), device)
    _check_tensor("replacements.position", position, torch.int64, (many,), device)
    _check_tensor("replacements.deleted", deleted, torch.int64, (many,), device)
    _check_tensor("replacements.inserted_offsets", inserted_offsets, torch.int64, (many + 1,), device)
    _check_tensor("replacements.inserted", inserted, torch.uint8, (inserted.numel(),), device)
