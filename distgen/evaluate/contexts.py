"""What the bases around a base say of its classes, by counting: the baseline for classes along the genome.

The share of each class is counted for the words of 1, 3, ... bases that a base stands in the middle of; a longer word falls
back on the shorter one inside it, by a Dirichlet prior centred on what that one says (MacKay and Peto 1995). Words of no base
are the prevalence alone.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distgen.genome import AMBIGUOUS, Bytes, Int64

Shares = npt.NDArray[np.float32]
WIDEST = 9
_PRIOR = 64.0  # weight of the shorter word, in observations


class Contexts:
    """Shares of classes by the word around a base.

    Args:
        windows: codes uint8 (n, L) of some windows at a time, whether each base has a class bool (n, L, C), and whether that
            is known bool (n, L).
        widest: bases of the longest words, odd; 0 for the prevalence alone.

    Attributes:
        shares: float32 (4**k + 1, C) for words of k = 0, 1, 3, ... bases; the last row is of bases whose word is not whole.
    """

    def __init__(self, windows: Iterable[tuple[Bytes, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]], widest: int):
        self._widths = [0, *range(1, widest + 1, 2)]
        counts: list[npt.NDArray[np.float64]] = []
        totals: list[npt.NDArray[np.float64]] = []
        for codes, classes, known in windows:
            if not counts:
                counts = [np.zeros((4**k + 1, classes.shape[2])) for k in self._widths]
                totals = [np.zeros(4**k + 1) for k in self._widths]
            yes = classes[known]
            for at, width in enumerate(self._widths):
                word = _words(codes, width)[known]
                totals[at] += np.bincount(word, minlength=len(totals[at]))
                for column in range(yes.shape[1]):
                    counts[at][:, column] += np.bincount(word[yes[:, column]], minlength=len(totals[at]))
        self.shares: list[Shares] = []
        for count, total in zip(counts, totals, strict=True):
            if not self.shares:
                shorter = np.full_like(count, 0.5)
            elif len(self.shares) == 1:
                shorter = np.repeat(self.shares[0][:1], len(count), 0)
            else:  # without its first and last base
                inner = np.arange(len(count) - 1) // 4 % (len(self.shares[-1]) - 1)
                shorter = self.shares[-1][np.append(inner, len(self.shares[-1]) - 1)]
            prior = _PRIOR if self.shares else 1.0
            self.shares.append(((count + prior * shorter) / (total + prior)[:, None]).astype(np.float32))

    def logits(self, codes: Bytes) -> Tensor:
        """float32 (n, C, L): of each base the logit of each class."""
        p = torch.from_numpy(self.shares[-1])[torch.from_numpy(_words(codes, self._widths[-1]))]
        return torch.logit(p, eps=1e-7).transpose(1, 2)


def _words(codes: Bytes, width: int) -> Int64:
    """The word in whose middle each base stands, int64 (n, L); 4**width where it is not whole. All bases are in the one of none."""
    words, whole = np.zeros(codes.shape, np.int64), np.ones(codes.shape, np.bool_)
    for step in range(-(width // 2), width // 2 + 1 if width else 0):
        shifted = np.full_like(codes, AMBIGUOUS)
        first, end = max(step, 0), codes.shape[1] + min(step, 0)
        shifted[:, first - step : end - step] = codes[:, first:end]
        whole &= shifted < AMBIGUOUS
        words = words * 4 + (shifted & 3)
    return np.where(whole, words, 4**width)
