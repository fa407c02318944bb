"""Speed of the kernels on one core, on random windows of 8,192 bases, beside what others do: python -m benchmarks.encode

An op is timed only after its result equals the reference's. The measure is the filling of new tensors of the result's
size: no op that writes its result can be quicker. With seqpro installed, it is timed in the same run.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import in_turn, machine, median_seconds, table
from distgen import kernels
from distgen.kernels import reference

try:
    import seqpro
except ImportError:
    seqpro = None

BASES, WINDOW, ROWS = 1 << 27, 8192, 64


def cases(generator: torch.Generator) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """What is timed, and the reference's result."""
    plane = torch.randint(0, 256, (BASES // 4,), dtype=torch.uint8, generator=generator)
    ambiguous = torch.zeros(BASES // 8, dtype=torch.uint8)
    ambiguous[:: 1 << 13] = 255  # a short run of N in every eighth window
    starts = torch.randint(0, BASES - WINDOW, (ROWS,), generator=generator)
    turned = {"reverse": torch.rand(ROWS, generator=generator) < 0.5, "ambiguous": ambiguous}
    made: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {}

    def add(name: str, op: str, *arguments: Any, **options: Any) -> None:
        made[name] = (
            partial(getattr(kernels, op), *arguments, **options),
            partial(getattr(reference, op), *arguments, **options),
        )

    where = (plane, starts, WINDOW)
    add("tokens uint8", "tokens", *where)
    add("tokens uint8, half reversed, some N", "tokens", *where, **turned)
    add("tokens int64", "tokens", *where, dtype=torch.int64)
    for dtype in (torch.uint8, torch.bfloat16, torch.float32):
        name = str(dtype).removeprefix("torch.")
        add(f"one_hot {name}", "one_hot", *where, dtype=dtype)
        add(f"one_hot {name}, channels last", "one_hot", *where, dtype=dtype, channels_last=True)
    add("one_hot bfloat16, half reversed, some N", "one_hot", *where, **turned)
    for k, stride in ((6, 1), (6, 6), (12, 1)):
        add(f"kmers of {k}, every {stride}, int64", "kmers", *where, k, stride)
    add("bits", "bits", *where)
    codes, six = kernels.tokens(*where), kernels.kmers(*where, 6, dtype=torch.int32)
    soft = kernels.bits(*where)
    add("mask_tokens", "mask_tokens", codes, starts, 0.15)
    add("mask_tokens, soft-masked", "mask_tokens", codes, starts, 0.15, softmask=soft, softmask_rate=0.05)
    add("mask_tokens, spans of 5", "mask_tokens", codes, starts, 0.15, span=5)
    add("mask_tokens, k-mers of 6", "mask_tokens", six, starts, 0.15, k=6, span=6)
    variants = kernels.Replacements.of([[(at + 100 * i, 1, [i % 4]) for i in range(80)] for at in starts.tolist()])
    made["substitute, 80 variants a window"] = (
        lambda: tuple(kernels.substitute(*where, variants))[::3],
        lambda: reference.substitute(*where, *variants),
    )
    tracks = torch.rand(BASES // 128, 4, generator=generator)
    first_bins = torch.randint(0, len(tracks) - WINDOW // 4, (ROWS,), generator=generator)
    bins = (tracks, first_bins, WINDOW // 4)
    add("gather_bins, 4 tracks float32, bins of 4 bases", "gather_bins", *bins)
    swap = torch.tensor([1, 0, 3, 2])
    add("gather_bins, the same, half reversed", "gather_bins", *bins, reverse=turned["reverse"], swap=swap)
    return made


def results(found: Any) -> tuple[Tensor, ...]:
    return found if isinstance(found, tuple) else (found,)


def peers(generator: torch.Generator) -> dict[str, Callable[[], Any]]:
    """What most training scripts do with text: slice letters, look them up in a table of one-hot rows; and seqpro."""
    letters = np.frombuffer(b"ACGT", np.uint8)[torch.randint(0, 4, (BASES // 8,), generator=generator).numpy()]
    starts = torch.randint(0, BASES // 8 - WINDOW, (ROWS,), generator=generator).tolist()
    eye = np.zeros((256, 4), np.uint8)
    eye[list(b"ACGT")] = np.eye(4, dtype=np.uint8)
    found: dict[str, Callable[[], Any]] = {
        "letters and a lookup table, one_hot uint8": lambda: np.stack([eye[letters[s : s + WINDOW]].T for s in starts])
    }
    if seqpro is not None:
        text = letters.view("S1")
        found[f"seqpro {seqpro.__version__} ohe, uint8, channels last"] = lambda: seqpro.ohe(
            np.stack([text[s : s + WINDOW] for s in starts]), seqpro.DNA
        )
    return found


def main() -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    rows = []
    for name, (work, expected) in cases(generator).items():
        made = results(work())
        if not all(torch.equal(*pair) for pair in zip(made, results(expected()), strict=True)):
            raise SystemExit(f"{name} differs from the reference: not timed")
        seconds, fill = in_turn(work, lambda made=made: [torch.empty_like(m).fill_(1) for m in made])
        rows.append((name, f"{ROWS * WINDOW / seconds / 1e6:,.0f}", f"{fill / seconds:.0%}"))
    for name, work in peers(generator).items():
        rows.append((name, f"{ROWS * WINDOW / median_seconds(work) / 1e6:,.0f}", ""))
    print(machine(), "\n")
    table(("one core", "Mbases/s", "of the speed of filling new tensors of that size"), rows)


if __name__ == "__main__":
    main()
