"""Speed of the kernels on random windows of 8,192 bases, beside a table lookup on bytes: python -m benchmarks.encode

An op is timed only after its result equals the reference's.
"""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.measure import machine, median_seconds, table
from distgen import kernels
from distgen.kernels import reference

BASES, WINDOW, ROWS = 1 << 27, 8192, 64


def lookup_one_hot(letters: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """What most training scripts do: slice letters, look them up in a table of one-hot rows."""
    eye = np.zeros((256, 4), np.uint8)
    eye[list(b"ACGT")] = np.eye(4, dtype=np.uint8)
    return np.stack([eye[letters[start : start + WINDOW]].T for start in starts])


def main() -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    plane = torch.randint(0, 256, (BASES // 4,), dtype=torch.uint8, generator=generator)
    starts = torch.randint(0, BASES - WINDOW, (ROWS,), generator=generator)
    reverse = torch.rand(ROWS, generator=generator) < 0.5
    letters = np.frombuffer(b"ACGT", np.uint8)[reference.tokens(plane, torch.tensor([0]), BASES // 8)[0].numpy()]
    near = (starts % (BASES // 8 - WINDOW)).numpy()
    cases = {
        "tokens uint8": lambda: kernels.tokens(plane, starts, WINDOW),
        "tokens uint8, half reversed": lambda: kernels.tokens(plane, starts, WINDOW, reverse=reverse),
        "one_hot uint8": lambda: kernels.one_hot(plane, starts, WINDOW, dtype=torch.uint8),
        "one_hot bfloat16": lambda: kernels.one_hot(plane, starts, WINDOW),
        "one_hot float32": lambda: kernels.one_hot(plane, starts, WINDOW, dtype=torch.float32),
    }
    for dtype in (torch.uint8, torch.bfloat16, torch.float32):
        expected = reference.one_hot(plane, starts, WINDOW, reverse, dtype=dtype)
        assert torch.equal(kernels.one_hot(plane, starts, WINDOW, reverse=reverse, dtype=dtype), expected)
    assert torch.equal(
        kernels.tokens(plane, starts, WINDOW, reverse=reverse), reference.tokens(plane, starts, WINDOW, reverse)
    )
    rows = []
    for name, work in cases.items():
        seconds = median_seconds(work)
        result = work()
        fill = median_seconds(lambda result=result: torch.empty_like(result).fill_(1))
        rows.append((name, f"{ROWS * WINDOW / seconds / 1e6:,.0f}", f"{fill / seconds:.0%}"))
    seconds = median_seconds(lambda: lookup_one_hot(letters, near))
    rows.append(("letters and a lookup table, one_hot uint8", f"{ROWS * WINDOW / seconds / 1e6:,.0f}", ""))
    print(machine(), "\n")
    table(("one core", "Mbases/s", "of the speed of filling a new tensor of that size"), rows)


if __name__ == "__main__":
    main()
