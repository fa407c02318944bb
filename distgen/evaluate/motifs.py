"""A scan with motif matrices: how well the best place of a window fits each, on either strand.

A base scores the log2 of how much more probable a motif makes it than the background (Stormo 2000); an ambiguous base scores
0. Compiled by numba on first use.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from distgen.compiled import compiled
from distgen.evaluate.kmers import Floats, Values
from distgen.evaluate.meme import read_motifs
from distgen.genome import Bytes, Int64

_PSEUDO = 0.8  # sites that look like the background are added: what JASPAR's own tools add
_SITES = 20  # of a matrix that does not say of how many it is, or 0; MEME's own default


@dataclass(frozen=True)
class Motifs:
    """Some motifs.

    Args:
        names: of each, "ID_NAME" where it has both.
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
            ConfigError: see `distgen.evaluate.meme.read_motifs`.
        """
        motifs, background_4 = read_motifs(path)
        scores = []
        for motif in motifs:
            n = motif.sites or _SITES
            odds_W4 = (motif.frequency * n + _PSEUDO * background_4) / (n + _PSEUDO) / background_4
            scores.append(np.log2(odds_W4))
        lengths = [len(matrix) for matrix in scores]
        return cls(tuple(motif.name for motif in motifs), np.concatenate(scores), np.cumsum([0, *lengths]))

    def scan(self, codes: Bytes) -> Values:
        """The best score of each motif on either strand: codes uint8 (N, L), 4 and more ambiguous; float32 (N, M).

        A window that is shorter than a motif has score 0 for it.
        """
        found = np.zeros((len(codes), len(self.names)), np.float32)
        padded = np.zeros((len(self.scores), 5))
        padded[:, :4] = self.scores
        _scan(codes, padded, self.starts, found)
        return found


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
