"""Packed DNA to model input: the ops, their checks, and which implementation a device gets.

An op takes a plane and where to start, so that one kernel serves a gathered host batch and a
genome that lives on the device. `reference.py` is the specification; the CPU runs `numba_cpu.py`,
CUDA the reference. The ops are registered with torch.library: torch.compile sees them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distgen.kernels import reference
from distgen.kernels.reference import IGNORE_INDEX, MASK_ID, SAMPLE, philox, threshold

__all__ = [
    "IGNORE_INDEX", "MASK_ID", "SAMPLE", "mask_tokens", "one_hot", "philox", "threshold", "tokens",
]  # fmt: skip

_TOKEN_DTYPES = (torch.uint8, torch.int32, torch.int64)
_ONE_HOT_DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.uint8)


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
        WindowError: a window leaves the plane; names the first row that does.
        TypeError: an argument has the wrong dtype, shape or device.
    """
    _check(plane, starts, length, reverse, ambiguous, limits)
    _check_dtype(dtype, _TOKEN_DTYPES)
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
) -> Tensor:
    """Decode packed windows to one-hot channels in the order A, C, G, T; an ambiguous base is all zeros.

    Args:
        plane, starts, length, reverse, ambiguous, limits: as for `tokens`.
        dtype: bfloat16, float16, float32 or uint8.

    Returns:
        (B, 4, length) on the plane's device.

    Raises:
        WindowError, TypeError: as for `tokens`.
    """
    _check(plane, starts, length, reverse, ambiguous, limits)
    _check_dtype(dtype, _ONE_HOT_DTYPES)
    return torch.ops.distgen.one_hot(plane, starts, length, reverse, ambiguous, limits, dtype)  # type: ignore[no-any-return]


def mask_tokens(
    tokens: Tensor, keys: Tensor, rate: float, *, mask: float = 0.8, random: float = 0.1
) -> tuple[Tensor, Tensor]:
    """Hide some bases for masked language modelling (Devlin et al. 2019), by counter-based draws.

    Each base is chosen with probability `rate`. A chosen one becomes `MASK_ID` (5) with probability
    `mask`, a base drawn uniformly with probability `random`, and else stays. Ambiguous bases are
    never chosen. The draw of position i of row b depends on (keys[b], i) alone.

    Args:
        tokens: (B, L) codes as `tokens` returns them.
        keys: int64 (B,). One key per sample (`Batch.keys`).
        rate, mask, random: probabilities; mask + random is at most 1.

    Returns:
        inputs (B, L) in the dtype of `tokens`, and targets int64 (B, L): the code where chosen,
        `IGNORE_INDEX` (-100) elsewhere.

    Raises:
        ValueError: a probability is out of range.
        TypeError: `tokens` or `keys` has the wrong dtype or shape.
    """
    if not (0 <= rate <= 1 and mask >= 0 and random >= 0 and mask + random <= 1):
        raise ValueError(f"rate {rate}, mask {mask}, random {random} are no probabilities")
    _check_dtype(tokens.dtype, _TOKEN_DTYPES)
    _check_tensor("keys", keys, torch.int64, (len(tokens),), tokens.device)
    return torch.ops.distgen.mask_tokens(tokens, keys, rate, mask, random)  # type: ignore[no-any-return]


def _check(
    plane: Tensor, starts: Tensor, length: int, reverse: Tensor | None, ambiguous: Tensor | None, limits: Tensor | None
) -> None:
    device, rows = plane.device, starts.numel()
    _check_tensor("plane", plane, torch.uint8, (plane.numel(),), device)
    _check_tensor("starts", starts, torch.int64, (rows,), device)
    if reverse is not None:
        _check_tensor("reverse", reverse, torch.bool, (rows,), device)
    if ambiguous is not None:
        _check_tensor("ambiguous", ambiguous, torch.uint8, (ambiguous.numel(),), device)
    if limits is not None:
        _check_tensor("limits", limits, torch.int64, (rows, 2), device)
    if length < 0:
        raise TypeError(f"length {length} is negative")


def _check_tensor(name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...], device: torch.device) -> None:
    if tensor.dtype != dtype or tuple(tensor.shape) != shape or tensor.device != device:
        raise TypeError(
            f"{name} must be {dtype} {shape} on {device}, not {tensor.dtype} {tuple(tensor.shape)} on {tensor.device}"
        )


def _check_dtype(dtype: torch.dtype, valid: tuple[torch.dtype, ...]) -> None:
    if dtype not in valid:
        raise TypeError(f"dtype {dtype} is none of {', '.join(map(str, valid))}")


# ---- registration ---------------------------------------------------------------------------

_WINDOWS = (
    "Tensor plane, Tensor starts, SymInt length, Tensor? reverse, Tensor? ambiguous, Tensor? limits, ScalarType dtype"
)
_library = torch.library.Library("distgen", "DEF")
_library.define(f"tokens({_WINDOWS}) -> Tensor")
_library.define(f"one_hot({_WINDOWS}) -> Tensor")
_library.define("mask_tokens(Tensor tokens, Tensor keys, float rate, float mask, float random) -> (Tensor, Tensor)")


def _register(name: str) -> None:
    def on_cpu(*arguments: object) -> object:
        from distgen.kernels import numba_cpu  # numba takes 0.3 s to import: only who decodes pays

        return getattr(numba_cpu, name)(*arguments)

    _library.impl(name, on_cpu, "CPU")
    _library.impl(name, getattr(reference, name), "CUDA")


for _name in ("tokens", "one_hot", "mask_tokens"):
    _register(_name)


@torch.library.register_fake("distgen::tokens")
def _(plane, starts, length, reverse, ambiguous, limits, dtype):  # type: ignore[no-untyped-def]
    return plane.new_empty((starts.shape[0], length), dtype=dtype)


@torch.library.register_fake("distgen::one_hot")
def _(plane, starts, length, reverse, ambiguous, limits, dtype):  # type: ignore[no-untyped-def]
    return plane.new_empty((starts.shape[0], 4, length), dtype=dtype)


@torch.library.register_fake("distgen::mask_tokens")
def _(tokens, keys, rate, mask, random):  # type: ignore[no-untyped-def]
    return torch.empty_like(tokens), torch.empty_like(tokens, dtype=torch.int64)
