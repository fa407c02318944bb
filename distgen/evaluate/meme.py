"""Motifs as matrices of frequencies: the minimal MEME format (Bailey et al. 2009) that other tools read, and JASPAR's counts."""

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


def read_motifs(path: Path) -> tuple[list[Matrix], NDArray[np.float64]]:
    """The motifs of a file, as databases have them: MEME's frequencies, or JASPAR's counts.

    Returns:
        Them, and the frequencies of A, C, G and T that the file says they were found among; even ones if it does not.

    Raises:
        ConfigError: there are none, or a line is no row of frequencies; names the line.
    """
    if not path.is_file():
        raise ConfigError(f"there is no file {path}")
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"motifs {path} cannot be read: {error}") from None
    first = re.search(r"^(?:MOTIF|>)", text, re.MULTILINE)
    counts = first is not None and first[0] == ">"
    found = _jaspar(path, text) if counts else _meme(path, text)
    if not found:
        problem = (
            "there is no motif in it. MEME's format has MOTIF ID NAME and letter-probability matrix, JASPAR's >ID NAME"
        )
        raise ConfigError(f"motifs {path}: {problem}")
    return found, np.full(4, 0.25) if counts else _background(path, text)


def _meme(path: Path, text: str) -> list[Matrix]:
    found: list[Matrix] = []
    name, rows, left, sites, waits = "", [], 0, 0, False
    for number, line in enumerate(text.splitlines(), 1):
        if left:
            if not line.strip():
                continue
            rows.append(_row(path, number, line))
            left -= 1
            if not left:
                found.append(Matrix(name, np.array(rows), sites))
        elif line.startswith("MOTIF"):
            if waits:
                raise ConfigError(f"{path}, line {number}: motif {name} has no letter-probability matrix before it")
            name, waits = "_".join(line.split()[1:3]), True
        elif line.startswith("letter-probability matrix"):
            said = dict(re.findall(r"(\w+)=\s*(\d+)", line))
            rows, left, sites, waits = [], int(said.get("w", 0)), int(said.get("nsites", 0)), False
            if not left or said.get("alength", "4") != "4":
                raise ConfigError(f"{path}, line {number}: no matrix of 4 letters and w= positions: {line}")
    if left:
        raise ConfigError(f"{path} ends {left} rows before motif {name} does")
    if waits:
        raise ConfigError(f"{path} ends before the letter-probability matrix of motif {name}")
    return found


def _background(path: Path, text: str) -> NDArray[np.float64]:
    said = re.search(r"Background letter frequencies[^\n]*\n\s*A\s+(\S+)\s+C\s+(\S+)\s+G\s+(\S+)\s+T\s+(\S+)", text)
    if said is None:
        return np.full(4, 0.25)
    try:
        shares = np.array([float(word) for word in said.groups()])
    except ValueError:
        shares = np.zeros(4)
    if (shares <= 0).any():
        raise ConfigError(f"{path}: background frequencies are four numbers above 0, not {' '.join(said.groups())}")
    background: NDArray[np.float64] = shares / shares.sum()
    return background


def _jaspar(path: Path, text: str) -> list[Matrix]:
    """Counts: ">ID NAME" and a line for each of A, C, G and T."""
    found = []
    for part in text.split(">")[1:]:
        head, *lines = [line for line in part.splitlines() if line.strip()] or [""]
        name = "_".join(head.split()[:2])
        try:
            rows = [[float(word) for word in line.strip(" \tACGT[]").split()] for line in lines]
        except ValueError:
            rows = []
        if len(rows) != 4 or len({len(row) for row in rows}) != 1 or not rows[0]:
            raise ConfigError(f"motifs {path}: {name} has not four lines of as many counts each")
        counts_W4 = np.array(rows).T
        total_W1 = counts_W4.sum(1, keepdims=True)
        if (counts_W4 < 0).any() or (total_W1 <= 0).any():
            raise ConfigError(f"motifs {path}: {name} has a base without counts, or with one below 0")
        found.append(Matrix(name, counts_W4 / total_W1, round(float(total_W1.max()))))
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
