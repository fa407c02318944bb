"""What k-mers a window has, without where: the features of the baseline for questions about whole windows.

Words of 1 to `longest` bases are counted where no base is ambiguous. Each length of word has its own block of columns, whose counts
are scaled to unit length: so a long window weighs as a short one, and the few short words as the many long ones. Compiled by
numba on first use.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from distgen.compiled import compiled
from distgen.genome import Bytes, Int64

Floats = npt.NDArray[np.float64]
Columns = npt.NDArray[np.uint16]
Values = npt.NDArray[np.float32]
LONGEST = 6


@dataclass(frozen=True)
class Sparse:
    """Rows of which most columns are 0.

    Args:
        starts: int64 (N + 1,). Row n has the entries starts[n] to starts[n + 1].
        columns: uint16 (entries,), each once in a row.
        values: float32 (entries,).
        width: how many columns there are.
    """

    starts: Int64
    columns: Columns
    values: Values
    width: int

    @classmethod
    def of(cls, rows: Floats | Values) -> Sparse:
        """Rows (N, width) that are not sparse."""
        count, width = rows.shape
        columns = np.tile(np.arange(width, dtype=np.uint16), count)
        return cls(np.arange(count + 1) * width, columns, rows.astype(np.float32).reshape(-1), width)

    @classmethod
    def joined(cls, parts: list[Sparse]) -> Sparse:
        """The rows of all parts, one after another."""
        sizes = np.concatenate([[0], *(np.diff(part.starts) for part in parts)])
        columns, values = (np.concatenate([getattr(part, name) for part in parts]) for name in ("columns", "values"))
        return cls(np.cumsum(sizes, dtype=np.int64), columns, values, parts[0].width)

    def __len__(self) -> int:
        return len(self.starts) - 1

    @cached_property
    def _full(self) -> Values | None:
        """float32 (N, width), where half of all there can be is there: products of all of it are then faster."""
        if 2 * len(self.values) < len(self) * self.width:
            return None
        full = np.zeros((len(self), self.width), np.float32)
        full[np.repeat(np.arange(len(self)), np.diff(self.starts)), self.columns] = self.values
        return full

    def deviations(self) -> Floats:
        """The standard deviation of each column; 1 of one that is all alike."""
        ones = np.ones((len(self), 1))
        squares = Sparse(self.starts, self.columns, self.values**2, self.width)
        mean, square = (rows.transposed_times(ones)[:, 0] / max(len(self), 1) for rows in (self, squares))
        variance = square - mean**2
        return np.where(variance > 1e-6 * square, np.sqrt(np.maximum(variance, 1e-12)), 1.0)

    def over(self, scale: Floats) -> Sparse:
        """Each column divided by its own number."""
        return Sparse(self.starts, self.columns, self.values / scale.astype(np.float32)[self.columns], self.width)

    def times(self, weights: Floats) -> Floats:
        """The product (N, O) with weights (width, O)."""
        if self._full is not None:
            return (self._full @ weights.astype(np.float32)).astype(np.float64)
        product = np.zeros((len(self), weights.shape[1]))
        _times(self.starts, self.columns, self.values, np.ascontiguousarray(weights), product)
        return product

    def transposed_times(self, rows: Floats) -> Floats:
        """The product (width, O) of the transpose with `rows` (N, O)."""
        if self._full is not None:
            return (self._full.T @ rows.astype(np.float32)).astype(np.float64)
        product = np.zeros((self.width, rows.shape[1]))
        _transposed_times(self.starts, self.columns, self.values, np.ascontiguousarray(rows), product)
        return product


@compiled
def _times(starts: Int64, columns: Columns, values: Values, weights: Floats, product: Floats) -> None:
    for output in range(weights.shape[1]):
        weight = weights[:, output].copy()
        for row in range(starts.size - 1):
            total = 0.0
            for at in range(starts[row], starts[row + 1]):
                total += values[at] * weight[columns[at]]
            product[row, output] = total


@compiled
def _transposed_times(starts: Int64, columns: Columns, values: Values, rows: Floats, product: Floats) -> None:
    for output in range(rows.shape[1]):
        totals = np.zeros(product.shape[0])
        for row in range(starts.size - 1):
            value = rows[row, output]
            if value != 0:
                for at in range(starts[row], starts[row + 1]):
                    totals[columns[at]] += values[at] * value
        product[:, output] = totals


@dataclass(frozen=True)
class Words:
    """Which column counts a word.

    Args:
        longest: bases of the longest words.
        columns: uint16, of all words of 1 base, then of 2, ...; a word's number has its first base as its first digit to the
            base 4.
        blocks: int64 (longest + 1,), where the columns of each length begin, and their end.
    """

    longest: int
    columns: Columns
    blocks: Int64

    @classmethod
    def of(cls, longest: int, *, both_strands: bool) -> Words:
        """All words, each with its reverse complement as one where strands are not told apart."""
        return _words(longest, both_strands)

    @property
    def width(self) -> int:
        """How many columns there are."""
        return int(self.blocks[-1])

    def entries(self, length: int) -> int:
        """How many columns of a window of so many bases are not 0, at most."""
        return min(self.longest * length, self.width)

    def count(self, codes: Bytes) -> Sparse:
        """Counts of windows: codes uint8 (N, L), 4 and more ambiguous; each block scaled to unit length."""
        most = self.entries(codes.shape[1])
        starts = np.zeros(len(codes) + 1, np.int64)
        columns, values = np.empty(len(codes) * most, np.uint16), np.empty(len(codes) * most, np.float32)
        end = _count(codes, self.columns, self.blocks, starts, columns, values)
        return Sparse(starts, columns[:end].copy(), values[:end].copy(), self.width)


@cache
def _words(longest: int, both_strands: bool) -> Words:
    columns, blocks = [], [0]
    for k in range(1, longest + 1):
        forward = np.arange(4**k)
        digits = forward[:, None] // 4 ** np.arange(k) % 4  # last base first: read so, the other strand begins with it
        other = ((3 - digits) * 4 ** np.arange(k - 1, -1, -1)).sum(1)
        first = np.minimum(forward, other) if both_strands else forward
        distinct, column = np.unique(first, return_inverse=True)
        columns.append(blocks[-1] + column.reshape(-1))
        blocks.append(blocks[-1] + len(distinct))
    return Words(longest, np.concatenate(columns).astype(np.uint16), np.array(blocks))


@compiled
def _count(codes: Bytes, table: Any, blocks: Int64, starts: Int64, columns: Any, values: Any) -> int:
    """Fills starts, columns and values; returns how many entries there are."""
    counts = np.zeros(blocks[-1], np.int64)
    end = 0
    for row in range(codes.shape[0]):
        first = 0  # of the words of k bases, in the table
        for k in range(1, blocks.size):
            begin, word, run = end, 0, 0
            for i in range(codes.shape[1]):
                code = codes[row, i]
                run = run + 1 if code < 4 else 0
                word = ((word << 2) | (code & 3)) & ((1 << (2 * k)) - 1)
                if run >= k:
                    column = table[first + word]
                    if counts[column] == 0:
                        columns[end] = column
                        end += 1
                    counts[column] += 1
            squares = 0
            for at in range(begin, end):
                squares += counts[columns[at]] ** 2
            scale = 1 / np.sqrt(max(squares, 1))
            for at in range(begin, end):
                values[at] = counts[columns[at]] * scale
                counts[columns[at]] = 0
            first += 1 << (2 * k)
        starts[row + 1] = end
    return end
