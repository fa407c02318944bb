"""The ops as torch.library knows them: schemas, shapes of results, gradients, and which code a device runs."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import torch
from torch import Tensor

from distgen.errors import WindowError

_ROWS = "Tensor plane, Tensor starts, SymInt length"
_READ = "Tensor? reverse, Tensor? ambiguous, Tensor? limits"
_STEM = f"{_ROWS}, Tensor weight, Tensor? bias, {_READ}, str activation, int pool"
_SCHEMAS = {
    "windows": [
        f"tokens({_ROWS}, {_READ}, ScalarType dtype) -> Tensor",
        f"one_hot({_ROWS}, {_READ}, ScalarType dtype, bool channels_last) -> Tensor",
        f"kmers({_ROWS}, int k, int stride, {_READ}, ScalarType dtype) -> Tensor",
        f"bits({_ROWS}, Tensor? reverse, Tensor? limits) -> Tensor",
    ],
    "masking": [
        "mask_tokens(Tensor tokens, Tensor keys, float rate, float mask, float random, Tensor? softmask, "
        "float softmask_rate, int span, int k) -> (Tensor, Tensor)"
    ],
    "stem": [
        f"conv_stem({_STEM}) -> Tensor",
        f"conv_stem_backward(Tensor gradient, {_STEM}) -> (Tensor, Tensor)",
    ],
    "substitution": [
        f"substitute({_ROWS}, Tensor offsets, Tensor position, Tensor deleted, Tensor inserted_offsets, Tensor inserted, "
        "Tensor? ambiguous, Tensor? limits) -> (Tensor, Tensor)"
    ],
    "bins": [
        "gather_bins(Tensor values, Tensor starts, SymInt bins, Tensor? reverse, Tensor? swap, Tensor? limits, "
        "float? missing) -> (Tensor, Tensor)"
    ],
}  # by the module of `numba_cpu` and of `triton_gpu` that has them
_library = torch.library.Library("distgen", "DEF")


def _register(name: str, module: str) -> None:
    def on(package: str) -> Any:
        # Imported by who decodes: numba takes 0.3 s, Triton is there on machines with a GPU alone.
        @cache
        def op() -> Any:
            return getattr(importlib.import_module(f"distgen.kernels.{package}.{module}"), name)

        return lambda *arguments: op()(*arguments)

    _library.impl(name, on("numba_cpu"), "CPU")
    _library.impl(name, on("triton_gpu"), "CUDA")


for _module, _schemas in _SCHEMAS.items():
    for _schema in _schemas:
        _library.define(_schema)
        _register(_schema.partition("(")[0], _module)


# ---- windows that leave their plane on a GPU --------------------------------------------------

_FINE = 2**63 - 1
_first_bad: dict[torch.device, Tensor] = {}


def first_bad(device: torch.device) -> Tensor:
    """int64 (1,) on a device: the lowest row of any batch since the last `check` that left its plane."""
    if device not in _first_bad:
        _first_bad[device] = torch.full((1,), _FINE, device=device)
    return _first_bad[device]


def check(device: torch.device | str) -> None:
    """Raise if a window left its plane on this device since the last check. Waits for the device; a CPU raises at once.

    Raises:
        WindowError: names the first row that did.
    """
    for known, status in _first_bad.items():
        if known.type == torch.device(device).type and (row := int(status)) != _FINE:
            status.fill_(_FINE)
            raise WindowError(
                f"window {row} of a batch since the last check read outside its plane; pass limits to pad"
            )


# ---- shapes of results, for torch.compile -----------------------------------------------------


@torch.library.register_fake("distgen::tokens")
def _(plane, starts, length, reverse, ambiguous, limits, dtype):  # type: ignore[no-untyped-def]
    return plane.new_empty((starts.shape[0], length), dtype=dtype)


@torch.library.register_fake("distgen::one_hot")
def _(plane, starts, length, reverse, ambiguous, limits, dtype, channels_last):  # type: ignore[no-untyped-def]
    shape = (starts.shape[0], length, 4) if channels_last else (starts.shape[0], 4, length)
    return plane.new_empty(shape, dtype=dtype)


@torch.library.register_fake("distgen::kmers")
def _(plane, starts, length, k, stride, reverse, ambiguous, limits, dtype):  # type: ignore[no-untyped-def]
    return plane.new_empty((starts.shape[0], torch.sym_max(length - k + stride, 0) // stride), dtype=dtype)


@torch.library.register_fake("distgen::bits")
def _(plane, starts, length, reverse, limits):  # type: ignore[no-untyped-def]
    return plane.new_empty((starts.shape[0], length), dtype=torch.bool)


@torch.library.register_fake("distgen::mask_tokens")
def _(tokens, keys, rate, mask, random, softmask, softmask_rate, span, k):  # type: ignore[no-untyped-def]
    return tokens.new_empty(tokens.shape), tokens.new_empty(tokens.shape, dtype=torch.int64)


@torch.library.register_fake("distgen::conv_stem")
def _(plane, starts, length, weight, bias, reverse, ambiguous, limits, activation, pool):  # type: ignore[no-untyped-def]
    return weight.new_empty((starts.shape[0], weight.shape[0], length // pool))


@torch.library.register_fake("distgen::conv_stem_backward")
def _(gradient, plane, starts, length, weight, *arguments):  # type: ignore[no-untyped-def]
    return weight.new_empty(weight.shape), weight.new_empty(weight.shape[:1])


@torch.library.register_fake("distgen::substitute")
def _(plane, starts, length, offsets, position, deleted, inserted_offsets, inserted, ambiguous, limits):  # type: ignore[no-untyped-def]
    rows = starts.shape[0] * ((length + 63) // 64)
    return plane.new_empty((rows * 16,)), plane.new_empty((rows * 8,))


@torch.library.register_fake("distgen::gather_bins")
def _(values, starts, bins, reverse, swap, limits, missing):  # type: ignore[no-untyped-def]
    made = values.new_empty((starts.shape[0], bins, values.shape[1]))
    return made, torch.empty_like(made, dtype=torch.bool)


# ---- gradients ----------------------------------------------------------------------------------


def _keep(ctx, inputs, output):  # type: ignore[no-untyped-def]
    plane, starts, length, weight, bias, reverse, ambiguous, limits, activation, pool = inputs
    ctx.save_for_backward(plane, starts, weight, bias, reverse, ambiguous, limits)
    ctx.options = (length, activation, pool)


def _conv_stem_gradients(ctx, gradient):  # type: ignore[no-untyped-def]
    # The activation and the pooling are computed again: to keep what went into them is what the op is there to avoid.
    plane, starts, weight, bias, reverse, ambiguous, limits = ctx.saved_tensors
    length, activation, pool = ctx.options
    to_weight, to_bias = torch.ops.distgen.conv_stem_backward(
        gradient, plane, starts, length, weight, bias, reverse, ambiguous, limits, activation, pool
    )
    return None, None, None, to_weight, (None if bias is None else to_bias), *[None] * 5


torch.library.register_autograd("distgen::conv_stem", _conv_stem_gradients, setup_context=_keep)
