"""Windows of many lengths in rows of one length: several in a row, one after another, as models with a token budget take
them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch

from distgen.errors import ConfigError
from distgen.genome import ALIGNMENT, Bits, Bytes, Int64
from distgen.loader.gather import Chunks, gather
from distgen.loader.order import permute
from distgen.loader.placement import Rows
from distgen.store.planes import PER_BYTE

VERSION = "packed/1"
_OPEN = 32  # rows that a window may still go into: full to 97 % or so, where one open row gives 75 %
_PIECE = 1024  # bases that are shifted in one go; a longer window is several of them
_WORD = 8  # bytes


class Segments(NamedTuple):
    """Which windows lie where in some rows.

    Args:
        samples: int64 (s,), the windows' numbers, row by row and from left to right.
        rows: int64 (s,), from 0 on, which of the rows each is in.
        firsts: int64 (s,), its first base in its row.
        lasts: int64 (s,), its end.
    """

    samples: Int64
    rows: Int64
    firsts: Int64
    lasts: Int64

    def bounds(self, count: int, window: int) -> tuple[Int64, Int64]:
        """All segments of `count` rows of `window` bases on end, gaps as well: what attention over segments takes.

        Returns:
            Where each begins, and where the last ends: int64 (g + 1,), from 0 to count * window (`cu_seqlens`); and
            the window in each, -1 for a gap: int64 (g,).
        """
        begins, ends = self.rows * window + self.firsts, self.rows * window + self.lasts
        used = np.arange(count) * window
        np.maximum.at(used, self.rows, ends)
        gaps = used[used < np.arange(1, count + 1) * window]
        starts = np.concatenate([begins, gaps])
        order = np.argsort(starts, kind="stable")
        samples = np.concatenate([self.samples, np.full(len(gaps), -1)])[order]
        return np.append(starts[order], count * window), samples


class Plan(NamedTuple):
    """Which windows share a row.

    Args:
        samples: int64 (n,), the windows, row by row.
        bounds: int64 (rows + 1,), row r has samples[bounds[r] : bounds[r + 1]].
        ends: int64 (n,), where in its row each of them ends.
    """

    samples: Int64
    bounds: Int64
    ends: Int64

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.bounds) - 1

    def segments(self, rows: Int64) -> Segments:
        """What some rows (b,) hold."""
        counts = self.bounds[rows + 1] - self.bounds[rows]
        own = np.repeat(np.arange(len(rows)), counts)
        at = np.arange(len(own)) - np.repeat(np.cumsum(counts) - counts, counts)
        places = np.repeat(self.bounds[rows], counts) + at
        lasts = self.ends[places]
        firsts = np.where(at == 0, 0, self.ends[places - 1])
        return Segments(self.samples[places], own, firsts, lasts)


def plan(lengths: Int64, window: int, seed: int, epoch: int) -> Plan:
    """Deal windows, in the permuted order of an epoch, to rows.

    Each goes into the fullest of the rows still open that has room for it, or else opens another, for which the fullest
    is closed: a function of the arguments alone, made at once for the whole epoch. How many rows that are, differs
    from epoch to epoch by a few.

    Args:
        lengths: int64 (n,), bases of each window.
        window: bases of a row.
        seed, epoch: of the order.

    Raises:
        ConfigError: a window has no bases, or more than a row.
    """
    from distgen.loader.shifting import deal

    bad = np.flatnonzero((lengths < 1) | (lengths > window))
    if bad.size:
        length = lengths[bad[0]]
        hint = f"Use rows of {lengths.max():,} bases, or leave it out." if length > 0 else "Leave it out."
        raise ConfigError(f"sequence {bad[0]} has {length:,} bases, a row {window:,}. {hint}", key="window")
    if not len(lengths):
        return Plan(np.empty(0, np.int64), np.zeros(1, np.int64), np.empty(0, np.int64))
    order = permute(np.arange(len(lengths)), len(lengths), seed, epoch)
    return Plan(*deal(order, lengths, window, _OPEN))


def pack_rows(
    planes: Mapping[str, Chunks], starts: Int64, reverse: Bits, segments: Segments, count: int, window: int
) -> Rows:
    """Rows of bases made of windows from anywhere, each on its own strand; nothing in them is to be reversed again.

    What is left of a row lies outside its limits.

    Args:
        planes: `sequence`, and those of `ambiguous` and `softmask` that hold anything.
        starts: int64 (s,), flat, the first base of each segment's window.
        reverse: bool (s,), it is read from the other strand.
        segments: where they go.
        count: rows.
        window: bases of a row.
    """
    stride = -(-window // ALIGNMENT) * ALIGNMENT
    to = segments.rows * stride + segments.firsts
    pieces = _pieces(starts, to, segments.lasts - segments.firsts, reverse)
    made = {name: torch.from_numpy(_shifted(chunks, name, *pieces, count * stride)) for name, chunks in planes.items()}
    limits = np.repeat(np.arange(count)[:, None] * stride, 2, axis=1)
    np.maximum.at(limits[:, 1], segments.rows, segments.rows * stride + segments.lasts)
    begins = torch.from_numpy(limits[:, 0].copy())
    ambiguous, softmask = made.get("ambiguous"), made.get("softmask")
    return Rows(made["sequence"], ambiguous, softmask, begins, torch.from_numpy(limits), stride)


def _pieces(starts: Int64, to: Int64, lengths: Int64, reverse: Bits) -> tuple[Int64, Int64, Int64, Bits]:
    """Windows cut into pieces of at most `_PIECE` bases: first base, first base in the rows, bases and strand of each."""
    counts = -(-lengths // _PIECE)
    own = np.repeat(np.arange(len(starts)), counts)
    done = (np.arange(len(own)) - np.repeat(np.cumsum(counts) - counts, counts)) * _PIECE
    size = np.minimum(lengths[own] - done, _PIECE)
    first = np.where(reverse[own], starts[own] + lengths[own] - done - size, starts[own] + done)
    return first, to[own] + done, size, reverse[own]


def _shifted(chunks: Chunks, name: str, first: Int64, to: Int64, size: Int64, reverse: Bits, bases: int) -> Bytes:
    """One plane of `bases` bases with pieces (p,) at their places."""
    from distgen.loader.shifting import shift

    width = 8 // PER_BYTE[name]
    begin = first * width // 64 * _WORD
    # A word before and two behind: the words that a piece is shifted from reach over its ends.
    staged = np.empty((len(first), (_PIECE * width // 64 + 4) * _WORD), np.uint8)
    gather(chunks, begin, -(-(first + size) * width // 8), staged, np.full(len(first), _WORD))
    out = np.zeros(bases * width // 64, np.uint64)
    shift(staged.view(np.uint64), first * width - begin * 8 + 64, to * width, size * width, reverse, width, out)
    return out.view(np.uint8)
