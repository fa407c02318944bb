"""The ops in plain Python: strings in, lists out. Nothing here knows of bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st

COMPLEMENT = {"A": "T", "C": "G", "G": "C", "T": "A", "N": "N"}


def pack(letters: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The planes `sequence` and `ambiguous` of some letters, base by base."""
    plane = torch.zeros(-(-len(letters) // 8) * 2, dtype=torch.uint8)
    ambiguous = torch.zeros(-(-len(letters) // 8), dtype=torch.uint8)
    for i, letter in enumerate(letters):
        if letter == "N":
            ambiguous[i // 8] |= 1 << (i % 8)
        else:
            plane[i // 4] |= "ACGT".index(letter) << (2 * (i % 4))
    return plane, ambiguous


def complement(letters: str) -> str:
    return "".join(COMPLEMENT[c] for c in reversed(letters))


def window(letters: str, start: int, length: int, reverse: bool, limits: tuple[int, int]) -> str:
    found = "".join(letters[i] if limits[0] <= i < limits[1] else "N" for i in range(start, start + length))
    return complement(found) if reverse else found


def hot(letters: str) -> list[list[float]]:
    """Channels A, C, G, T."""
    return [[float(c == base) for c in letters] for base in "ACGT"]


@dataclass
class Windows:
    """Windows of a text, and the arguments of the ops that read them."""

    letters: str
    length: int
    starts: list[int]
    limits: list[tuple[int, int]]
    reverse: list[bool]

    @property
    def arguments(self) -> dict[str, Any]:
        plane, ambiguous = pack(self.letters)
        return {
            "plane": plane,
            "starts": torch.tensor(self.starts, dtype=torch.int64),
            "length": self.length,
            "reverse": torch.tensor(self.reverse, dtype=torch.bool),
            "ambiguous": ambiguous,
            "limits": torch.tensor(self.limits, dtype=torch.int64).reshape(-1, 2),
        }

    @property
    def texts(self) -> list[str]:
        rows = zip(self.starts, self.reverse, self.limits, strict=True)
        return [window(self.letters, start, self.length, reverse, limits) for start, reverse, limits in rows]


@st.composite
def windows(draw: st.DrawFn, longest: int = 5000) -> Windows:
    size = draw(st.one_of(st.integers(1, 80), st.integers(80, 3000)))
    rng = draw(st.randoms(use_true_random=False))
    letters = "".join(rng.choices("ACGTN", weights=[9, 9, 9, 9, draw(st.integers(0, 9))], k=size))
    if draw(st.booleans()):
        first, last = sorted((rng.randrange(size), rng.randrange(size)))  # a run of N, as between scaffolds
        letters = letters[:first] + "N" * (last - first) + letters[last:]
    length = min(draw(st.one_of(st.integers(0, 40), st.integers(1, size + 40), st.just(longest))), longest)
    rows = draw(st.integers(0, 5))
    starts = [draw(st.integers(-50, size + 20)) for _ in range(rows)]
    limits = [tuple(sorted((draw(st.integers(0, size)), draw(st.integers(0, size))))) for _ in range(rows)]
    reverse = [draw(st.booleans()) for _ in range(rows)]
    return Windows(letters, length, starts, limits, reverse)
