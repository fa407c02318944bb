"""What is known of windows beside their bases: tracks, rows of a matrix, labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distgen.genome import MISSING, Bits, Contigs, Int64
from distgen.loader.damage import Damage, Lost
from distgen.loader.exclusions import NONE
from distgen.loader.gather import Chunks, Read
from distgen.loader.transfer import Transfer, resident
from distgen.store.reader import Store, Track

if TYPE_CHECKING:
    from distgen.loader.indels import Pieces


class Targets(Protocol):
    """Values of windows, in their orientation, and where they are known."""

    def rows(
        self, starts: Int64, limits: Int64, reverse: Bits, rows: Int64 | None, pieces: Pieces | None = None
    ) -> tuple[Tensor, Tensor]:
        """Values and mask of windows of any number of batches; a mask broadcasts against the values, which are 0 where
        it says that nothing is known.

        Args:
            starts: int64 (n,), flat, first base of what values are asked of.
            limits: int64 (n, 2), flat, the bases each window may read.
            reverse: bool (n,), the window is read from the other strand.
            rows: int64 (n,), row of the table that the windows come from; None where they come from none.
            pieces: what the windows are put together of, by places from `starts` on; None where each is one stretch.
        """

    def reads(self, starts: Int64, limits: Int64) -> list[Read]:
        """What these rows read out of shards."""


def dtype_of(track: Track) -> torch.dtype:
    """The type of a track's values in batches."""
    return torch.from_numpy(np.empty(0, track.dtype)).dtype


class Spans(NamedTuple):
    """Windows as bins of a track: a stretch of it for each, or several.

    Args:
        rows: int64 (n,), the window of each stretch, sorted.
        first: int64 (n,), the window's bin 0 among all of the track; not always one of its contig's.
        begin, stop: int64 (n,), the bins [begin, stop) of the window that are known: all their bases lie inside the
            limits. A contig's last bin may be short.
        bases: int64 (n,), the flat position of the first base of bin 0.
    """

    rows: Int64
    first: Int64
    begin: Int64
    stop: Int64
    bases: Int64

    @property
    def known(self) -> tuple[Int64, Int64]:
        """The first of the bins that are known and the one behind the last, counted as `first` is."""
        return self.first + self.begin, self.first + self.stop


class Bins:
    """The bins of a track that windows have.

    Args:
        contigs: of the assembly.
        track: which.
        length: bases that values are asked of, whole bins.
        holes: int64 (m, 2), flat sorted disjoint intervals; bins that touch one are unknown.

    Attributes:
        track, holes: as given.
        count: bins per window.
    """

    def __init__(self, contigs: Contigs, track: Track, length: int, holes: Int64):
        self.track, self.holes, self.count = track, holes, length // track.bin_bp
        self._contigs = contigs

    def spans(self, starts: Int64, limits: Int64, pieces: Pieces | None = None) -> Spans:
        """Where the bins lie of windows that begin at flat `starts` (n,) and may read the bases `limits` (n, 2) of a contig.

        A window that does not begin where a bin does begins with the bin in which it does. Of one that is put together of
        pieces, a bin is known if it lies in one piece: it has the value of the track's bin that its middle base comes from.
        """
        from distgen.loader.copying import span

        rows, bin_bp, contigs = np.arange(len(starts)), self.track.bin_bp, self._contigs
        if pieces is not None:
            rows = pieces.rows
            starts, limits = starts[rows] + (pieces.shifts + bin_bp // 2) // bin_bp * bin_bp, limits[rows]
        out = np.empty((4, len(starts)), np.int64)
        asked = np.ascontiguousarray(starts), np.ascontiguousarray(limits)  # other layouts would be compiled for anew
        span(contigs.offsets, contigs.lengths, self.track.bin_offsets, bin_bp, *asked, self.count, out)
        found = Spans(rows, *out)
        if pieces is None:
            return found
        # What a window has before its limits and after them is as it is of other windows: there is no piece that says so.
        low = np.where((pieces.sites < 0) & (pieces.shifts == 0), 0, pieces.out)
        high = np.where(np.diff(rows, append=-1) != 0, self.count * bin_bp, pieces.out + pieces.sizes)
        stop = np.minimum(found.stop, np.clip(high // bin_bp, 0, self.count))
        begin = np.minimum(np.maximum(found.begin, -(-low // bin_bp)), stop)
        return found._replace(begin=begin, stop=stop)

    def hide(self, found: Spans, reverse: Bits, values: Any, known: Any) -> None:
        """What holes touch becomes 0 and unknown: `values` (n, bins, any) as bits, `known` bool (n, bins, any)."""
        from distgen.loader.copying import cut

        cut(self.holes, found.bases, self.track.bin_bp, found.rows, found.begin, found.stop, reverse, values, known)


class Stored(NamedTuple):
    """Some of the bins that windows are made of, in memory; see `copying.keep_rows` for the first three.

    Args:
        order, slots, addresses: of stretches.
        chunk: bins of each chunk.
        first: int64 (n,), each window's bin 0, counted as the chunks are.
        block: which of the blocks of columns.
    """

    order: Int64
    slots: Int64
    addresses: Int64
    chunk: int
    first: Int64
    block: int


class Filling:
    """Makes rows of a track's values out of where these lie in memory: reversed, swapped, masked.

    Args:
        bins: of the track, whose columns lie in blocks.
        widths: columns of each block.
        transfer: to where batches go.
    """

    def __init__(self, bins: Bins, widths: Sequence[int], transfer: Transfer):
        from distgen.kernels.numba_cpu.bins import INFINITY, missing_bits

        self._bins, self._transfer, track = bins, transfer, bins.track
        self._dtype = dtype_of(track)
        mark = MISSING if self._dtype == torch.uint8 else None
        self._meaning = INFINITY[self._dtype], missing_bits(mark, self._dtype)
        back = np.argsort(track.swap)
        self._blocks = []
        for width, end in zip(widths, np.cumsum(widths).tolist(), strict=True):
            mine = np.arange(end - width, end)
            columns = np.stack([mine, back[mine]])
            up, down = ((np.diff(columns) == step).all(axis=1) for step in (1, -1))
            # A single column does both: forward it goes up, and back to front all of a row does.
            self._blocks.append((columns, np.array([1, -1 if down[1] else int(up[1])])))

    def rows(self, found: Spans, count: int, reverse: Bits, stored: Iterable[Stored]) -> tuple[Tensor, Tensor]:
        """Values (count, bins, columns) and the mask, (count, bins, 1) of classes, else as the values; sent on their way."""
        from distgen.kernels.numba_cpu.decode import bits_of
        from distgen.loader.copying import frame, keep_rows

        track = self._bins.track
        classes, shape = track.is_classes, (count, self._bins.count, len(track.columns))
        values = self._transfer.room(shape, self._dtype)
        known = self._transfer.room((*shape[:2], 1) if classes else shape, torch.bool)
        bits, flags = bits_of(values), known.numpy()
        reverse = np.ascontiguousarray(reverse)
        stretches = found.rows, found.begin, found.stop, reverse
        frame(*stretches, bits, flags, classes)
        for some in stored:
            keep_rows(
                *some[:4], found.rows, some.first, *stretches[1:],
                *self._blocks[some.block], *self._meaning, not classes, bits, flags,
            )  # fmt: skip
        if len(self._bins.holes):
            self._bins.hide(found, reverse, bits, flags)
        return self._transfer.send(values), self._transfer.send(known)


class HostTrack:
    """A track whose values are read out of its chunks: mapped, or decoded when they are needed.

    Args:
        store: that has the track.
        track: which.
        length: bases that values are asked of, whole bins.
        transfer: to where batches go.
        holes: int64 (m, 2), flat sorted disjoint intervals; bins that touch one are unknown.
        damage: counts what is left out because chunks are damaged; if None, these are an error.
    """

    def __init__(
        self,
        store: Store,
        track: Track,
        length: int,
        transfer: Transfer,
        holes: Int64 = NONE,
        damage: Damage | None = None,
    ):
        self._bins = Bins(store.contigs, track, length, holes)
        self._chunks = [Chunks(block, damage) for block in track.blocks]
        self._filling = Filling(self._bins, [block.shape[1] for block in track.blocks], transfer)

    def rows(
        self, starts: Int64, limits: Int64, reverse: Bits, rows: Int64 | None = None, pieces: Pieces | None = None
    ) -> tuple[Tensor, Tensor]:
        """Values (n, bins, columns) as the store has them; the mask is (n, bins, 1) of classes, else as the values."""
        found = self._bins.spans(starts, limits, pieces)
        stored = (
            Stored(*part[:3], chunks.array.layout.chunk, found.first, number)
            for number, chunks in enumerate(self._chunks)
            for part in chunks.parts(*found.known)
        )
        try:
            return self._filling.rows(found, len(starts), reverse, stored)
        except Lost as lost:
            raise Lost(np.isin(np.arange(len(starts)), found.rows[lost.rows])) from None

    def reads(self, starts: Int64, limits: Int64) -> list[Read]:
        known = self._bins.spans(starts, limits).known
        return [Read(chunks.array, chunks.array.layout.shard, *known) for chunks in self._chunks]


class DeviceTrack:
    """A track that is on the device whole: only starts travel. The arguments and the rows are those of `HostTrack`.

    Raises:
        ConfigError: its values don't fit into what is free on the device.
    """

    def __init__(self, store: Store, track: Track, length: int, transfer: Transfer, holes: Int64 = NONE):
        self._bins, self._transfer = Bins(store.contigs, track, length, holes), transfer
        self._blocks = resident(list(track.blocks), transfer.device, what=f'track "{track.name}"', key="tracks")
        transfer.use(self._blocks)
        plain = track.swap == tuple(range(len(track.columns)))
        self._swap = None if plain else torch.tensor(track.swap, device=transfer.device)

    def rows(
        self, starts: Int64, limits: Int64, reverse: Bits, rows: Int64 | None = None, pieces: Pieces | None = None
    ) -> tuple[Tensor, Tensor]:
        from distgen.kernels import gather_bins

        assert pieces is None, "windows with insertions and deletions are made on the host"
        track = self._bins.track
        found, reverse = self._bins.spans(starts, limits), np.ascontiguousarray(reverse)
        allowed = np.stack(found.known, axis=1)
        mark = None if track.is_classes or self._blocks[0].dtype != torch.uint8 else MISSING
        first, inside, backward = (self._transfer.send(self._transfer.fill(a)) for a in (found.first, allowed, reverse))
        with self._transfer.beside():
            made = [
                gather_bins(block, first, self._bins.count, reverse=backward, limits=inside, missing=mark)
                for block in self._blocks
            ]
            values, known = (part[0] if len(part) == 1 else torch.cat(part, dim=2) for part in zip(*made, strict=True))
            if self._swap is not None:  # across blocks, which is why `gather_bins` is not asked to
                turned = backward[:, None, None]
                values, known = (torch.where(turned, part[..., self._swap], part) for part in (values, known))
            if track.is_classes:
                known = known[..., :1]
            if len(self._bins.holes):
                known &= self._transfer.send(self._whole(found, reverse))
                values *= known
        return values, known

    def reads(self, starts: Int64, limits: Int64) -> list[Read]:
        return []

    def _whole(self, found: Spans, reverse: Bits) -> Tensor:
        """bool (n, bins, 1): which bins no hole touches."""
        whole = self._transfer.room((len(reverse), self._bins.count, 1), torch.bool).fill_(True)
        bits = whole.numpy()
        self._bins.hide(found, reverse, bits.view(np.uint8), bits)
        return whole


class TableRows:
    """Values of the table's row that a window comes from, whichever its strand.

    Args:
        values: (rows, ...), of the whole table.
        known: bool (m, ...), for the values (m, ...) of some rows.
        transfer: to where batches go.
        contigs: of a table of sequences, whose rows are the contigs; None where windows say their row.
    """

    def __init__(
        self,
        values: npt.NDArray[Any],
        known: Callable[[npt.NDArray[Any]], Bits],
        transfer: Transfer,
        contigs: Contigs | None = None,
    ):
        self._values, self._known, self._transfer, self._contigs = values, known, transfer, contigs

    def rows(
        self, starts: Int64, limits: Int64, reverse: Bits, rows: Int64 | None, pieces: Pieces | None = None
    ) -> tuple[Tensor, Tensor]:
        """Values (n, ...) and a mask of the same shape."""
        if self._contigs is not None:
            rows = self._contigs.locate(np.maximum(starts, limits[:, 0]))
        assert rows is not None, "windows of no table have no row of one"
        values = self._values[rows]
        known = self._known(values)
        known[limits[:, 0] >= limits[:, 1]] = False  # of windows that are left out nothing is known
        values[~known] = 0
        return tuple(self._transfer.send(self._transfer.fill(part)) for part in (values, known))  # type: ignore[return-value]

    def reads(self, starts: Int64, limits: Int64) -> list[Read]:
        return []


def matrix_rows(store: Store, name: str, transfer: Transfer) -> TableRows:
    """float32 (n, conditions) of a matrix; the windows are its regions.

    Raises:
        ConfigError: the store has no such matrix.
    """
    return TableRows(store.matrix(name).values, _KNOWN["regression"], transfer)


def label_rows(store: Store, transfer: Transfer) -> TableRows:
    """The labels of a table of sequences: binary uint8 (n, 1), multilabel uint8 (n, k), regression float32 (n, k),
    classes int64 (n,).

    Raises:
        ConfigError: the store is none of sequences.
    """
    labels = store.labels
    values = labels.values.astype(np.int64) if labels.kind == "classes" else labels.values
    return TableRows(values, _KNOWN[labels.kind], transfer, store.contigs)


_KNOWN: dict[str, Callable[[npt.NDArray[Any]], Bits]] = {
    "binary": lambda values: values != MISSING,
    "multilabel": lambda values: values != MISSING,
    "classes": lambda values: values >= 0,
    "regression": lambda values: ~np.isnan(values),
}
