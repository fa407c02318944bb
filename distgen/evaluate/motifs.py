"""A scan with motif matrices: how well the best place of a window fits each, on either strand.

Matrices are read from JASPAR's text (counts) or MEME's (probabilities). A base scores the log2 of how much more probable a
motif makes it than the background (Stormo 2000); an ambiguous base scores 0. Compiled by numba on first use.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from distgen.compiled import compiled
from distgen.errors import ConfigError
from distgen.evaluate.kmers import Floats, Values
from distgen.genome import Bytes, Int64

_PSEUDO = 0.8  # sites that look like the background are added: what JASPAR's own tools add
_SITES = 20  # of a matrix of probabilities that does not say of how many it is; MEME's own default
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


@dataclass(frozen=True)
class Motifs:
    """Some motifs.

    Args:
        names: of each, "ID NAME" where it has both.
        scores: float64 (bases of all motifs, 4), log2 odds of A, C, G and T.
        starts: int64 (M + 1,). Motif m has the rows starts[m] to starts[m + 1].
    """

    names: tuple[str, ...]
    scores: Floats
    starts: Int64

    @classmethod
    def read(cls, path: Path) -> Motifs:
        """The motifs of a file.

        Raises:
            ConfigError: there is no such file, or it holds no motif, or one that is none; names the motif.
        """
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"motifs {path} cannot be read: {error}") from None
        found, background = (_meme if "letter-probability matrix" in text else _jaspar)(text, path)
        if not found:
            raise ConfigError(
                f"motifs {path}: there is no motif in it. JASPAR's text begins each with >ID NAME, MEME's with MOTIF ID NAME"
            )
        scores = []
        for name, (counts, sites) in found.items():
            total = counts.sum(1, keepdims=True)
            if counts.ndim != 2 or counts.shape[1] != 4 or (counts < 0).any() or (total <= 0).any():
                raise ConfigError(f"motifs {path}: {name} is no matrix of four numbers, none below 0, for each base")
            n = total if sites is None else np.full_like(total, sites)
            odds = (counts / total * n + _PSEUDO * background) / (n + _PSEUDO) / background
            scores.append(np.log2(odds))
        lengths = [len(matrix) for matrix in scores]
        return cls(tuple(found), np.concatenate(scores), np.cumsum([0, *lengths]))

    def scan(self, codes: Bytes) -> Values:
        """The best score of each motif on either strand: codes uint8 (N, L), 4 and more ambiguous; float32 (N, M).

        A window that is shorter than a motif has score 0 for it.
        """
        found = np.zeros((len(codes), len(self.names)), np.float32)
        padded = np.zeros((len(self.scores), 5))
        padded[:, :4] = self.scores
        _scan(codes, padded, self.starts, found)
        return found


Matrices = dict[str, tuple[Floats, float | None]]


def _jaspar(text: str, path: Path) -> tuple[Matrices, Floats]:
    """Counts: ">ID NAME" and a line for each of A, C, G and T."""
    found: Matrices = {}
    for part in text.split(">")[1:]:
        head, *lines = [line for line in part.splitlines() if line.strip()]
        rows = [[float(number) for number in _NUMBER.findall(line.lstrip(" ACGT\t"))] for line in lines[:4]]
        name = " ".join(head.split())
        if len(rows) < 4 or len({len(row) for row in rows}) != 1 or not rows[0]:
            raise ConfigError(f"motifs {path}: {name} has not four lines of as many counts each")
        found[name] = np.array(rows).T, None
    return found, np.full(4, 0.25)


def _meme(text: str, path: Path) -> tuple[Matrices, Floats]:
    """Probabilities: "MOTIF ID NAME", "letter-probability matrix: ... w= 10 nsites= 20" and a line for each base."""
    background = np.full(4, 0.25)
    if given := re.search(
        r"Background letter frequencies[^\n]*\n\s*A\s+(\S+)\s+C\s+(\S+)\s+G\s+(\S+)\s+T\s+(\S+)", text
    ):
        background = np.array([float(number) for number in given.groups()])
        background = background / background.sum()
    found: Matrices = {}
    for part in re.split(r"^MOTIF\s+", text, flags=re.MULTILINE)[1:]:
        name = " ".join(part.splitlines()[0].split())
        if not (head := re.search(r"letter-probability matrix:([^\n]*)\n", part)):
            raise ConfigError(f"motifs {path}: {name} has no letter-probability matrix")
        sites = re.search(r"nsites=\s*(\S+)", head[1])
        rows = []
        for line in part[head.end() :].splitlines():
            numbers = [float(number) for number in _NUMBER.findall(line)]
            if len(numbers) != 4 or re.search(r"[A-DF-Za-df-z]", line):
                break
            rows.append(numbers)
        if not rows:
            raise ConfigError(f"motifs {path}: {name} has no line of four probabilities")
        found[name] = np.array(rows), float(sites[1]) if sites else float(_SITES)
    return found, background


@compiled
def _scan(codes: Bytes, scores: Floats, starts: Int64, found: npt.NDArray[np.float32]) -> None:
    length = codes.shape[1]
    for motif in range(starts.size - 1):
        first, width = starts[motif], starts[motif + 1] - starts[motif]
        if width > length:
            continue
        for row in range(codes.shape[0]):
            best = -np.inf
            for begin in range(length - width + 1):
                forward, backward = 0.0, 0.0
                for i in range(width):
                    code = min(codes[row, begin + i], 4)
                    forward += scores[first + i, code]
                    backward += scores[first + width - 1 - i, 3 - code if code < 4 else 4]
                best = max(best, forward, backward)
            found[row, motif] = best
