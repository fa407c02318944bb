"""Every Triton kernel compiled for GPUs that need not be there, and what it takes of them.

    python -m tests.kernels.compiled 80 90 100

The ops run on tensors without memory and compile what they would launch, so what is looked at is what a GPU runs.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from distgen.kernels.triton_gpu import bins, masking, stem, substitution, windows

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
ROWS, LENGTH, ODD = 64, 131072, 131071  # a length that 16 divides is compiled apart: its stores are 16 bytes wide


def meta(*shape: int, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


longs, bools = partial(meta, dtype=torch.int64), partial(meta, dtype=torch.bool)
PLAIN = {"plane": meta(2**30), "starts": longs(ROWS)}
ALL = PLAIN | {"reverse": bools(ROWS), "ambiguous": meta(2**29), "limits": longs(ROWS, 2)}


def cases() -> Iterator[tuple[str, Callable[[], object]]]:
    """The ops as models call them. A new kernel is added here."""
    for length, given, name in ((LENGTH, PLAIN, ""), (LENGTH, ALL, " all"), (ODD, ALL, " all odd")):
        window = given | {"length": length}
        for dtype in (torch.uint8, torch.int32, torch.int64):
            yield f"tokens {dtype}{name}", partial(windows.tokens, **window, dtype=dtype)
        for dtype in (torch.uint8, torch.bfloat16, torch.float32):
            yield f"one_hot {dtype}{name}", partial(windows.one_hot, **window, dtype=dtype)
            yield f"one_hot last {dtype}{name}", partial(windows.one_hot, **window, dtype=dtype, channels_last=True)
        yield f"kmers 6 by 1{name}", partial(windows.kmers, **window, k=6)
        yield f"kmers 12 by 12{name}", partial(windows.kmers, **window, k=12, stride=12)
    yield "bits", partial(windows.bits, meta(2**29), longs(ROWS), LENGTH, bools(ROWS), longs(ROWS, 2))
    for span in (1, 6):
        tokens, soft = meta(ROWS, LENGTH), bools(ROWS, LENGTH)
        yield f"mask_tokens span {span}", partial(masking.mask_tokens, tokens, longs(ROWS), 0.15, span=span)
        options = {"softmask": soft, "softmask_rate": 0.05, "span": span}
        yield f"mask_tokens span {span} softmask", partial(masking.mask_tokens, tokens, longs(ROWS), 0.15, **options)
    changes = (longs(ROWS + 1), longs(1000), longs(1000), longs(1001), meta(5000))
    yield "substitute", partial(substitution.substitute, meta(2**30), longs(ROWS), LENGTH, *changes)
    yield (
        "substitute all",
        partial(substitution.substitute, meta(2**30), longs(ROWS), LENGTH, *changes, meta(2**29), longs(ROWS, 2)),
    )
    for dtype, features, kernel, options in (
        (torch.bfloat16, 256, 15, {}),
        (torch.bfloat16, 768, 15, {"activation": "gelu", "pool": 8}),
        (torch.bfloat16, 64, 21, {"activation": "relu", "pool": 3}),
        (torch.bfloat16, 64, 33, {"activation": "gelu", "pool": 8}),
        (torch.float32, 256, 15, {"activation": "gelu"}),
    ):
        weight, bias = meta(features, 4, kernel, dtype=dtype), meta(features, dtype=dtype)
        window, name = ALL | {"length": LENGTH} | options, f"conv_stem {dtype} {features} {options}"
        gradient = meta(ROWS, features, LENGTH // options.get("pool", 1), dtype=dtype)
        yield name, partial(stem.conv_stem, **window, weight=weight, bias=bias)
        yield f"{name} backward", partial(stem.conv_stem_backward, gradient, **window, weight=weight, bias=bias)
    for dtype in (torch.uint8, torch.bfloat16, torch.float32):
        values = meta(2**20, 12, dtype=dtype)
        yield f"gather_bins {dtype}", partial(bins.gather_bins, values, longs(ROWS), 1024)
        yield (
            f"gather_bins {dtype} all",
            partial(bins.gather_bins, values, longs(ROWS), 1024, bools(ROWS), longs(12), longs(ROWS, 2), 0.0),
        )


def compile_for(capabilities: list[int]) -> Iterator[tuple[int, str, Any]]:
    """For each GPU and each case what Triton compiled: a GPU's name, the case, the kernel."""
    made: list[Any] = []
    run = JITFunction.run
    JITFunction.run = lambda self, *arguments, grid, warmup, **named: made.append(
        run(self, *arguments, grid=grid, warmup=True, **named)
    )
    for capability in capabilities:
        driver.set_active(
            SimpleNamespace(
                get_current_device=lambda c=capability: c,  # Triton keeps what it compiled by device
                get_current_stream=lambda device: 0,
                get_current_target=lambda c=capability: GPUTarget("cuda", c, 32),
            )
        )
        for name, call in cases():
            made.clear()
            call()
            yield from ((capability, name, kernel) for kernel in made)


def resources(cubin: bytes) -> dict[str, int]:
    """What the assembler says: registers (REG), bytes of stack that spills take (STACK), of shared memory (SHARED)."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        said = subprocess.run(
            [CUOBJDUMP, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    return {key: int(value) for key, value in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", said)}


def main() -> None:
    for capability, name, kernel in compile_for([int(c) for c in sys.argv[1:]]):
        found = resources(kernel.asm["cubin"])
        threads = kernel.metadata.num_warps * 32
        stores = sorted(set(re.findall(r"st\.global[\w.:]*", kernel.asm["ptx"])))
        print(json.dumps({"capability": capability, "case": name, "kernel": kernel.metadata.name, "threads": threads, "stores": stores, **found}), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
