"""Contigs, intervals and base codes: the one place that knows the coordinate rule.

Coordinates are 0-based and half-open. Contigs lie one after another in one *flat* coordinate; each
starts at a multiple of `ALIGNMENT` bases. Codes are A 0, C 1, G 2, T 3 (the complement of c is
3 - c); an ambiguous base is code 4 once decoded.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from distgen.errors import ConfigError, SourceError, some, suggest

ALIGNMENT = 64
AMBIGUOUS = 4
BASES = "ACGTN"
COMPLEMENT: npt.NDArray[np.uint8] = np.array([3, 2, 1, 0, AMBIGUOUS], np.uint8)

MISSING = 255  # among uint8 labels and signals: there is no value

Int64 = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
Bits = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Interval:
    """A stretch of one contig: 0-based `start`, half-open `end`, strand "+", "-" or "."."""

    contig: str
    start: int
    end: int
    strand: str = "."

    def __str__(self) -> str:
        return f"{self.contig}:{self.start}-{self.end}"


@dataclass(frozen=True)
class Contigs:
    """The contig table of one assembly.

    Args:
        names: contig names, unique.
        lengths: int64 (C,), bases.
        offsets: int64 (C,), first base of each contig in the flat coordinate.
        aliases: other names of each contig, parted by blanks, or "" (such as the whole first word of an NCBI header).
        circular: whether the first base follows the last.
    """

    names: Sequence[str]
    lengths: Int64
    offsets: Int64
    aliases: Sequence[str] = field(default=())
    circular: tuple[bool, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def _index(self) -> dict[str, int]:
        index = {alias: i for i, aliases in enumerate(self.aliases) for alias in aliases.split()}
        index.update({name: i for i, name in enumerate(self.names)})
        return index

    def index(self, name: str) -> int:
        """The row of a contig by name or alias. Raises ConfigError with the nearest name."""
        found = self._index.get(name)
        if found is None:
            raise ConfigError(f'no contig "{name}". {suggest(name, self.names)}')
        return found

    def __contains__(self, name: str) -> bool:
        return name in self._index

    def rows(self, names: Sequence[str], where: str, lengths: Sequence[int] | None = None) -> Int64:
        """The row of each contig that a file names, -1 for those the assembly lacks.

        A name counts as it stands, as an alias, or with the plain prefix "chr" put on or taken off; a name
        that only fits by its prefix must have the assembly's length where the file declares one (chrM is
        not always M).

        Args:
            names: the contigs of a file, each once.
            where: the file, for messages.
            lengths: their lengths if the file declares them.

        Raises:
            SourceError: no name is known, two names mean one contig, or a contig of the same name has another length.
        """
        rows = np.full(len(names), -1, np.int64)
        first: dict[int, str] = {}
        for i, name in enumerate(names):
            row = self._index.get(name)
            if row is None:
                row = self._index.get(name[3:] if name.startswith("chr") else f"chr{name}")
                if row is None or (lengths is not None and lengths[i] != self.lengths[row]):
                    continue
            elif lengths is not None and lengths[i] != self.lengths[row]:
                raise SourceError(
                    f'{where}: contig "{name}" has {lengths[i]:,} bases here and {self.lengths[row]:,} in the assembly: '
                    f"the file is of another assembly, or the contig should be left out ([contigs] exclude)"
                )
            if row in first:
                raise SourceError(f'{where}: "{first[row]}" and "{name}" both mean contig "{self.names[row]}"')
            first[row], rows[i] = name, row
        if len(names) and not first:
            raise SourceError(
                f"{where}: none of its contigs ({some(names)}) is one of the assembly's ({some(self.names)}); "
                "an alias table ([contigs] aliases) can say which is which"
            )
        return rows

    def locate(self, flat: npt.ArrayLike) -> Int64:
        """The row of the contig that each flat position belongs to (padding counts to the contig before)."""
        rows = np.searchsorted(self.offsets, np.asarray(flat, np.int64), side="right") - 1
        return np.maximum(rows, 0).astype(np.int64)

    def regions(self, patterns: Iterable[str]) -> Int64:
        """Flat (n, 2) intervals, as `join` makes them, of contigs and parts of contigs.

        Each pattern is a contig, a glob over contigs, or `contig:start-end` with 0-based half-open
        positions or percentages ("chr1:90%-100%").

        Raises:
            ConfigError: no contig matches, or a part leaves its contig.
        """
        found: list[tuple[int, int]] = []
        for pattern in patterns:
            exact = pattern in self
            part = None if exact else re.fullmatch(r"(.+):([\d,]+%?)-([\d,]+%?)", pattern)
            if part:
                row = self.index(part[1])
                start, end = (self._position(row, text) for text in part.groups()[1:])
                if not 0 <= start < end <= self.lengths[row]:
                    raise ConfigError(f'"{pattern}" is no stretch of {part[1]}, which has {self.lengths[row]:,} bases')
                found.append((int(self.offsets[row]) + start, int(self.offsets[row]) + end))
                continue
            rows = [self.index(pattern)] if exact else match(pattern, self.names)
            if not rows:
                raise ConfigError(f'no contig matches "{pattern}". {suggest(pattern, self.names)}')
            found += [(int(self.offsets[r]), int(self.offsets[r] + self.lengths[r])) for r in rows]
        return self.join(np.array(found, np.int64).reshape(-1, 2))

    def _position(self, row: int, text: str) -> int:
        digits = text.replace(",", "")
        if digits.endswith("%"):
            return int(self.lengths[row]) * int(digits[:-1]) // 100
        return int(digits)

    def whole(self) -> Int64:
        """Flat (C, 2) intervals of all contigs."""
        return np.stack([self.offsets, self.offsets + self.lengths], axis=1)

    def join(self, intervals: Int64) -> Int64:
        """Sorted disjoint intervals of any flat ones (n, 2) that lie inside contigs. Those of one contig that overlap
        or touch become one, so that a window may lie across the seam; none ever crosses a contig."""
        return union(intervals, self.locate(intervals[:, 0]))

    def align(self, intervals: Int64, bin_bp: int) -> Int64:
        """Flat intervals (n, 2), each shrunk to begin at a multiple of `bin_bp` bases of its contig, less those of which
        nothing is left."""
        offsets = self.offsets[self.locate(intervals[:, 0])]
        starts = offsets + -(-(intervals[:, 0] - offsets) // bin_bp) * bin_bp
        return np.stack([starts, intervals[:, 1]], axis=1)[starts < intervals[:, 1]]


def match(pattern: str, names: Sequence[str]) -> list[int]:
    """Rows of the names that a case-sensitive glob matches; a pattern that is a name (scaffold[1], HLA*01:01) is no glob."""
    exact = [i for i, name in enumerate(names) if name == pattern]
    return exact or [i for i, name in enumerate(names) if fnmatch.fnmatchcase(name, pattern)]


def union(intervals: Int64, rows: Int64 | None = None) -> Int64:
    """Sorted disjoint intervals of any (n, 2): those that overlap or touch become one, unless their `rows` (n,), which
    ascend with them, differ."""
    if not len(intervals):
        return intervals
    order = np.argsort(intervals[:, 0], kind="stable")
    intervals = intervals[order]
    reach = np.maximum.accumulate(intervals[:, 1])
    apart = intervals[1:, 0] > reach[:-1]
    if rows is not None:
        apart |= np.diff(rows[order]) != 0
    first = np.flatnonzero(np.r_[True, apart])
    return np.stack([intervals[first, 0], np.maximum.reduceat(intervals[:, 1], first)], axis=1)


def pairs(left: Int64, right: Int64) -> tuple[Int64, Int64]:
    """The rows (k,) and (k,) of all pairs that overlap, in order: of any intervals (n, 2) and of sorted disjoint ones (m, 2)."""
    first = np.searchsorted(right[:, 1], left[:, 0], side="right")
    count = np.maximum(np.searchsorted(right[:, 0], left[:, 1], side="left") - first, 0)
    mine = np.repeat(np.arange(len(left)), count)
    return mine, np.arange(len(mine)) - np.repeat(np.cumsum(count) - count, count) + first[mine]


def bases_in(intervals: Int64) -> int:
    """How many bases intervals (n, 2) have together."""
    return int((intervals[:, 1] - intervals[:, 0]).sum())


def intersect(left: Int64, right: Int64) -> Int64:
    """What two tables (n, 2) and (m, 2) of sorted disjoint intervals share."""
    mine, theirs = pairs(left, right)
    starts = np.maximum(left[mine, 0], right[theirs, 0])
    return np.stack([starts, np.minimum(left[mine, 1], right[theirs, 1])], axis=1)


def subtract(intervals: Int64, holes: Int64) -> Int64:
    """What is left of sorted disjoint `intervals` (n, 2) outside sorted disjoint `holes` (m, 2)."""
    limits = np.iinfo(np.int64)
    gaps = np.stack([np.r_[limits.min, holes[:, 1]], np.r_[holes[:, 0], limits.max]], axis=1)
    return intersect(intervals, gaps[gaps[:, 0] < gaps[:, 1]])


def tiles(regions: Int64, target_length: int, stride: int) -> Int64:
    """How many targets cover each region (n, 2): the first begins with it, the others every `stride` bases until it is
    covered."""
    lengths = regions[:, 1] - regions[:, 0]
    covering = np.maximum(-(-(lengths - target_length) // stride), 0) + 1
    counts: Int64 = np.minimum(covering, -(-lengths // stride))  # each begins inside, also where strides leave gaps
    return counts
