"""Motifs as matrices of frequencies, and the minimal MEME format (Bailey et al. 2009) that other tools read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distgen.errors import ConfigError

_IUPAC = {"AG": "R", "CT": "Y", "CG": "S", "AT": "W", "GT": "K", "AC": "M"}


@dataclass(frozen=True)
class Matrix:
    """A motif.

    Args:
        name: without blanks.
        frequency: float64 (W, 4), of A, C, G and T at each position; rows add up to 1.
        sites: that it was counted from; 0 if nobody knows.
    """

    name: str
    frequency: NDArray[np.float64]
    sites: int = 0

    @property
    def consensus(self) -> str:
        """A letter where one base has more than half and twice as much as the next, else that of two bases which have
        three quarters together, else N (Cavener 1987)."""
        return "".join(map(_letter, self.frequency))

    @property
    def bits(self) -> float:
        """Information of all positions against equal frequencies (Schneider and Stephens 1990)."""
        known = np.where(self.frequency > 0, self.frequency, 1.0)
        return float((2 + (known * np.log2(known)).sum(1)).sum())


def _letter(frequency_4: NDArray[np.float64]) -> str:
    order = np.argsort(-frequency_4, kind="stable")
    first, second = frequency_4[order[:2]]
    if first > 0.5 and first > 2 * second:
        return "ACGT"[order[0]]
    return _IUPAC["".join(sorted("ACGT"[i] for i in order[:2]))] if first + second > 0.75 else "N"


def write_meme(path: Path, motifs: Iterable[Matrix], background_4: NDArray[np.float64]) -> None:
    """Write motifs of both strands.

    Args:
        background_4: the frequencies of A, C, G and T where they were found.
    """
    text = "MEME version 4\n\nALPHABET= ACGT\n\nstrands: + -\n\nBackground letter frequencies\n"
    text += " ".join(f"{base} {share:.5f}" for base, share in zip("ACGT", background_4, strict=True)) + "\n"
    for motif in motifs:
        text += f"\nMOTIF {motif.name} {motif.consensus}\n"
        text += f"letter-probability matrix: alength= 4 w= {len(motif.frequency)} nsites= {motif.sites} E= 0\n"
        text += "".join(" ".join(f"{share:.6f}" for share in row) + "\n" for row in motif.frequency)
    draft = path.with_name(f".{path.name}.writing")
    draft.write_text(text)
    draft.replace(path)


def read_meme(path: Path) -> list[Matrix]:
    """The motifs of a file, as databases have them.

    Raises:
        ConfigError: there are none, or a line is no row of frequencies; names the line.
    """
    if not path.is_file():
        raise ConfigError(f"there is no file {path}")
    found: list[Matrix] = []
    name, rows, left, sites = "", [], 0, 0
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if left:
            if not line.strip():
                continue
            rows.append(_row(path, number, line))
            left -= 1
            if not left:
                found.append(Matrix(name, np.array(rows), sites))
        elif line.startswith("MOTIF"):
            name = "_".join(line.split()[1:3])
        elif line.startswith("letter-probability matrix"):
            said = dict(re.findall(r"(\w+)=\s*(\d+)", line))
            rows, left, sites = [], int(said.get("w", 0)), int(said.get("nsites", 0))
            if not left or said.get("alength", "4") != "4":
                raise ConfigError(f"{path}, line {number}: no matrix of 4 letters and w= positions: {line}")
    if left:
        raise ConfigError(f"{path} ends {left} rows before motif {name} does")
    if not found:
        raise ConfigError(f"{path} has no motif in MEME format (MOTIF and letter-probability matrix)")
    return found


def _row(path: Path, number: int, line: str) -> NDArray[np.float64]:
    try:
        row = np.array([float(word) for word in line.split()])
    except ValueError:
        row = np.zeros(0)
    if len(row) != 4 or (row < 0).any() or not 0.9 < row.sum() < 1.1:
        raise ConfigError(f"{path}, line {number}: not four frequencies that add up to 1: {line}")
    frequencies: NDArray[np.float64] = row / row.sum()
    return frequencies
