"""Windows of many lengths in rows of one length: several in a row, one after another, as models with a token budget take
them.

Windows are dealt to rows once; what is permuted in each epoch are the rows. So all epochs have as many, and any step is
found at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distgen.errors import ConfigError
from distgen.genome import ALIGNMENT, Bits, Bytes, Contigs, Int64, Interval
from distgen.kernels import SAMPLE
from distgen.loader.base import Made
from distgen.loader.batch import Batch, Segments, places
from distgen.loader.gather import Chunks, Read, gather
from distgen.loader.order import draws, permute
from distgen.loader.placement import Rows
from distgen.loader.sampling import Last, Strand, Walk, turned
from distgen.loader.schedule import own_seed
from distgen.loader.targets import Targets
from distgen.loader.transfer import Transfer
from distgen.loader.windows import Geometry, Numbered
from distgen.store.planes import PER_BYTE

VERSION = "packed/1"
_OPEN = 32  # rows that a window may still go into: full to 97 % or so, where one open row gives 75 %
_PIECE = 1024  # bases that are shifted in one go; a longer window is several of them
_WORD = 8  # bytes
_LOCATED = 1 << 20  # windows whose lengths are asked for in one go


class Filled(NamedTuple):
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

    def bounds(self, count: int, window: int) -> tuple[npt.NDArray[np.int32], Int64]:
        """All segments of `count` rows of `window` bases on end, gaps as well: what attention over segments takes.

        Returns:
            Where each begins, and where the last ends: int32 (g + 1,), from 0 to count * window (`cu_seqlens`); and
            the window in each, -1 for a gap: int64 (g,).
        """
        begins, ends = self.rows * window + self.firsts, self.rows * window + self.lasts
        used = np.arange(count) * window
        np.maximum.at(used, self.rows, ends)
        gaps = used[used < np.arange(1, count + 1) * window]
        starts = np.concatenate([begins, gaps])
        order = np.argsort(starts, kind="stable")
        samples = np.concatenate([self.samples, np.full(len(gaps), -1)])[order]
        return np.append(starts[order], count * window).astype(np.int32), samples


class Plan(NamedTuple):
    """Which windows share a row.

    Args:
        samples: int32 (n,), the windows, row by row.
        bounds: int64 (rows + 1,), row r has samples[bounds[r] : bounds[r + 1]].
        ends: int32 (n,), where in its row each of them ends.
    """

    samples: npt.NDArray[np.int32]
    bounds: Int64
    ends: npt.NDArray[np.int32]

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.bounds) - 1

    def filled(self, rows: Int64) -> Filled:
        """What some rows (b,) hold."""
        counts = self.bounds[rows + 1] - self.bounds[rows]
        own = np.repeat(np.arange(len(rows)), counts)
        at = np.arange(len(own)) - np.repeat(np.cumsum(counts) - counts, counts)
        places = np.repeat(self.bounds[rows], counts) + at
        lasts = self.ends[places].astype(np.int64)
        firsts = np.where(at == 0, 0, self.ends[places - 1])
        return Filled(self.samples[places].astype(np.int64), own, firsts, lasts)


def plan(lengths: Int64, window: int, seed: int | None) -> Plan:
    """Deal windows to rows.

    Each goes into the fullest of the rows still open that has room for it, or else opens another, for which the fullest
    is closed: a function of the arguments alone.

    Args:
        lengths: int64 (n,), bases of each window.
        window: bases of a row.
        seed: of the permutation in which they are dealt; None: as they come.

    Raises:
        ConfigError: a window has no bases, or more than a row, or there are 2^31.
    """
    from distgen.loader.shifting import deal

    bad = np.flatnonzero((lengths < 1) | (lengths > window))
    if bad.size:
        length = lengths[bad[0]]
        hint = f"Use rows of {lengths.max():,} bases, or leave it out." if length > 0 else "Leave it out."
        raise ConfigError(f"sequence {bad[0]} has {length:,} bases, a row {window:,}. {hint}", key="window")
    if not len(lengths):
        return Plan(np.empty(0, np.int32), np.zeros(1, np.int64), np.empty(0, np.int32))
    if max(len(lengths), window) >= 2**31:
        raise ConfigError(f"{len(lengths):,} sequences in rows of {window:,} bases are too many to deal", key="packed")
    order = np.arange(len(lengths))
    if seed is not None:
        order = permute(order, len(order), seed, 0)
    return Plan(*deal(order, lengths, window, _OPEN))


class Dealt(NamedTuple):
    """What order and chance say of some rows (b,) and of the windows in them (s,); see `Batch`."""

    keys: Int64
    weight: npt.NDArray[np.float32]
    filled: Filled
    limits: Int64
    reverse: Bits
    rows: Int64 | None

    @property
    def samples(self) -> Int64:
        """int64 (s,), the windows' numbers."""
        return self.filled.samples

    def places(self, contigs: Contigs, length: int) -> list[Interval]:
        """Where the windows lie."""
        return places(contigs, self.limits[:, 0], self.limits, self.reverse, np.diff(self.limits, axis=1)[:, 0])


@dataclass(frozen=True)
class Packed:
    """The rows of an epoch, as `Sampling` has windows; every window is in one of them.

    A window is known by its number, whatever the epoch. A row that only pads the last batch holds none.

    Args:
        windows: each as long as its limits, and at most as long as a row.
        geometry: of a row.
        walk: in which order so many rows come.
        seed: of all draws.
        strand: of each window, as `Sampling` has it.
        last: likewise.
    """

    windows: Numbered
    geometry: Geometry
    walk: Callable[[int], Walk]
    seed: int
    strand: Strand
    last: Last

    def __len__(self) -> int:
        return len(self._plan)

    @property
    def identity(self) -> Any:
        """What else than the order's name and the seed says which row is which, as plain data."""
        return [VERSION, self.windows.identity, self._walk.identity]

    @cached_property
    def _plan(self) -> Plan:
        count = len(self.windows)
        chunks = (np.arange(first, min(first + _LOCATED, count)) for first in range(0, count, _LOCATED))
        lengths = np.concatenate([np.diff(self.windows.locate(some).limits, axis=1)[:, 0] for some in chunks])
        # What lies together in the assembly shares rows where it is to be read together.
        seed = own_seed(self.seed, "rows") if self.walk(1).order == "flat" else None
        return plan(lengths, self.geometry.window, seed)

    @cached_property
    def _walk(self) -> Walk:
        return self.walk(len(self))

    def draw(self, index: Int64, epoch: int) -> Dealt:
        """The rows at these places (b,) of an epoch; those beyond its rows as `last` says."""
        count = len(self)
        places = index % count if self.last == "wrap" else np.minimum(index, count - 1)
        served = np.flatnonzero((index < count) | (self.last == "wrap"))
        filled = self._plan.filled(self._walk.at(places[served], count, epoch))
        filled = filled._replace(rows=served[filled.rows])
        located = self.windows.locate(filled.samples)
        low, high, _, _ = draws(places, self.seed, epoch, SAMPLE)
        _, _, strand, _ = draws(filled.samples, self.seed, epoch, SAMPLE)  # of these, rows don't use this word
        weight = np.zeros(len(index), np.float32)
        weight[served] = 1
        reverse = turned(self.strand, located.reverse, strand)
        return Dealt(low | (high << 32), weight, filled, located.limits, reverse, located.rows)


class Packer:
    """Makes batches of rows of several windows.

    Args:
        contigs: of the store.
        planes: as `pack_rows` takes them.
        transfer: to where batches are to be.
    """

    def __init__(self, contigs: Contigs, planes: Mapping[str, Chunks], transfer: Transfer):
        self._contigs, self._planes, self._transfer = contigs, planes, transfer

    def make(self, dealt: Dealt, count: int, window: int, sources: Sequence[tuple[str, Targets]]) -> Made:
        """So many batches out of their rows, with targets by name, a row of them for each window."""
        filled, starts, size = dealt.filled, dealt.limits[:, 0], len(dealt.keys) // count
        rows = pack_rows(self._planes, starts, dealt.reverse, filled, len(dealt.keys), window)
        rows = rows._replace(**{name: self._sent(getattr(rows, name)) for name in rows._fields[:5]})
        keys, weight = (self._sent(torch.from_numpy(column)).view(count, size) for column in (dealt.keys, dealt.weight))
        with self._transfer.beside():  # where rows begin is still on its way
            reverse = torch.zeros(size, dtype=torch.bool, device=self._transfer.device)
            pieces = rows.split(count)
        tables = [source.rows(starts, dealt.limits, dealt.reverse, dealt.rows) for _, source in sources]
        ends = np.searchsorted(filled.rows, np.arange(count + 1) * size)
        made, tensors = [], [keys, weight, reverse, *pieces[0][3:5], *chain.from_iterable(tables)]
        tensors += [plane for plane in rows[:3] if plane is not None]
        for number, here in enumerate(pieces):
            mine = slice(*ends[number : number + 2])
            own = Filled(*(column[mine] for column in filled))
            own = own._replace(samples=np.arange(len(own.rows)), rows=own.rows - number * size)
            bounds, owners = (self._sent(torch.from_numpy(column)) for column in own.bounds(size, window))
            tensors += [bounds, owners]
            made.append(
                Batch(
                    plane=here.plane,
                    starts=here.starts,
                    limits=here.limits,
                    ambiguous=here.ambiguous,
                    softmask=here.softmask,
                    length=window,
                    target_length=window,
                    contigs=self._contigs,
                    reverse=reverse,
                    keys=keys[number],
                    weight=weight[number],
                    samples=torch.from_numpy(filled.samples[mine]),
                    positions=torch.from_numpy(starts[mine].copy()),
                    targets={name: values[mine] for (name, _), (values, _) in zip(sources, tables, strict=True)},
                    mask={name: known[mine] for (name, _), (_, known) in zip(sources, tables, strict=True)},
                    inputs={},
                    inputs_mask={},
                    segments=Segments(
                        bounds,
                        owners,
                        torch.from_numpy(own.lasts - own.firsts),
                        torch.from_numpy(dealt.reverse[mine]),
                    ),
                )
            )
        return Made(made, [partial(self._transfer.receive, self._transfer.sent(), tensors)])

    def reads(self, dealt: Dealt, count: int) -> list[Read]:
        """What so many batches read out of shards: as many stretches for each, of which those beyond its windows are empty."""
        batch = dealt.filled.rows // (len(dealt.keys) // count)
        most = int(np.bincount(batch, minlength=1).max())
        at = batch * most + np.arange(len(batch)) - np.searchsorted(batch, batch)
        found = []
        for name, chunks in self._planes.items():
            per, stretch = PER_BYTE[name], np.zeros((2, count * most), np.int64)
            stretch[:, at] = dealt.limits[:, 0] // per, -(-dealt.limits[:, 1] // per)
            found.append(Read(chunks.array, chunks.array.layout.shard, *stretch))
        return found

    def _sent(self, tensor: Tensor | None) -> Any:
        return None if tensor is None else self._transfer.send(self._transfer.fill(tensor.numpy()))


def pack_rows(
    planes: Mapping[str, Chunks], starts: Int64, reverse: Bits, filled: Filled, count: int, window: int
) -> Rows:
    """Rows of bases made of windows from anywhere, each on its own strand; nothing in them is to be reversed again.

    What is left of a row lies outside its limits.

    Args:
        planes: `sequence`, and those of `ambiguous` and `softmask` that hold anything.
        starts: int64 (s,), flat, the first base of each segment's window.
        reverse: bool (s,), it is read from the other strand.
        filled: where they go.
        count: rows.
        window: bases of a row.
    """
    stride = -(-window // ALIGNMENT) * ALIGNMENT
    to = filled.rows * stride + filled.firsts
    pieces = _pieces(starts, to, filled.lasts - filled.firsts, reverse)
    made = {name: torch.from_numpy(_shifted(chunks, name, *pieces, count * stride)) for name, chunks in planes.items()}
    limits = np.repeat(np.arange(count)[:, None] * stride, 2, axis=1)
    np.maximum.at(limits[:, 1], filled.rows, filled.rows * stride + filled.lasts)
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
