"""What a homology search reads: the bases of a store, and which of them are masked.

Masked are soft-masked bases, and those under a seed that stands in the assembly more than `copies` times beyond what
chance makes. That is found out once, by tasks, and kept as a bit for each base in a file: memory holds pieces of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from distgen.genome import AMBIGUOUS, Bits, Bytes, Contigs, Int64
from distgen.ingest.objects import Place
from distgen.ingest.packing import codes_between, flags_between
from distgen.store.array import Array
from distgen.store.assembly import flat_length
from distgen.store.format import Entry
from distgen.store.homology import seeds
from distgen.store.planes import PER_BYTE
from distgen.store.reader import Store
from distgen.store.work import Execute, Progress, silent

PIECE = 1 << 20  # bases read at a time
_COUNTERS = 25  # at most 2 x 2**25 counters of seeds: 128 MiB


@dataclass(frozen=True)
class Text:
    """The bases of a store, in its flat coordinate; a task takes it along to another process.

    Args:
        folder: where the planes lie.
        entries: their manifest entries.
        contigs: the contig table.
        mask: a file with base i in bit i % 8 of byte i // 8, set where it is masked; None: no base is.
    """

    folder: Place
    entries: dict[str, Entry]
    contigs: Contigs
    mask: Path | None = None

    @classmethod
    def of(cls, store: Store | Text) -> Text:
        """The bases of a store, none masked."""
        if isinstance(store, Text):
            return store
        return cls(store.path, {plane: store.manifest["arrays"][plane] for plane in PER_BYTE}, store.contigs)

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # without what is mapped

    @property
    def length(self) -> int:
        """Bases of the flat coordinate, padding and all."""
        return flat_length(self.contigs)

    @cached_property
    def _planes(self) -> dict[str, Array]:
        return {plane: Array(self.folder / plane, self.entries[plane]) for plane in PER_BYTE}

    @cached_property
    def _mask(self) -> Bytes:
        return np.empty(0, np.uint8) if self.mask is None else np.memmap(self.mask, np.uint8, "r")

    def codes(self, start: int, end: int) -> Bytes:
        """Codes (end - start,); ambiguous bases, and padding between contigs, are 4."""
        codes = codes_between(self._planes["sequence"], self._planes["ambiguous"], start, end)
        first, last = self.contigs.locate([start, max(end - 1, start)]).tolist()
        for contig_end, padded in zip(self._ends[first : last + 1], self._starts[first + 1 : last + 2], strict=True):
            codes[max(contig_end - start, 0) : max(padded - start, 0)] = AMBIGUOUS
        return codes

    @cached_property
    def _ends(self) -> list[int]:
        return (self.contigs.offsets + self.contigs.lengths).tolist()  # type: ignore[no-any-return]

    @cached_property
    def _starts(self) -> list[int]:
        return [*self.contigs.offsets.tolist(), self.length]

    def flags(self, plane: str, start: int, end: int) -> Bits:
        """The bits (end - start,) of a plane."""
        return flags_between(self._planes[plane], start, end)

    def read(self, start: int, end: int) -> tuple[Bytes, Bits]:
        """Codes and masked flags, both (end - start,)."""
        masked = np.zeros(end - start, bool) if self.mask is None else flags_between(self._mask, start, end)
        return self.codes(start, end), masked

    def masked(self, part: Int64) -> int:
        """Bases of a part that are masked or ambiguous."""
        pieces = (self.read(start, end) for start, end in cut(part))
        return sum(int((masked | (codes == AMBIGUOUS)).sum()) for codes, masked in pieces)


@dataclass(frozen=True)
class Codes:
    """Bases in memory, none masked.

    Args:
        flat: uint8 (bases,), the codes.
    """

    flat: Bytes

    def codes(self, start: int, end: int) -> Bytes:
        """Codes (end - start,), ambiguous is 4."""
        return self.flat[start:end]

    def read(self, start: int, end: int) -> tuple[Bytes, Bits]:
        """Codes and masked flags, both (end - start,)."""
        return self.codes(start, end), np.zeros(end - start, bool)


def cut(intervals: Int64, overlap: int = 0) -> Iterator[tuple[int, int]]:
    """Intervals in pieces of `PIECE` bases, and `overlap` more where the next piece goes on."""
    for start, end in intervals.tolist():
        for first in range(start, end, PIECE):
            yield first, min(first + PIECE + overlap, end)


# ---- the mask -------------------------------------------------------------------------------


def with_mask(text: Text, shape: str, copies: int, folder: Path, execute: Execute, parallel: int) -> Text:
    """The same text with what repeats masked.

    Args:
        text: an assembly.
        shape: the seed's pattern.
        copies: seeds that stand more often are repeats.
        folder: where the mask is written, `mask`; every worker sees it.
        execute, parallel: carries out tasks, about so many at the same time.
    """
    counts = [folder / f"counts-{number}" for number in range(parallel)]
    tasks = [partial(_count, text, shape, n, parallel, path) for n, path in enumerate(counts)]
    total = sum(execute(tasks, silent))
    merged = np.memmap(counts[0], np.uint16, "r+")
    for path in counts[1:]:
        merged += np.minimum(np.memmap(path, np.uint16, "r"), 65535 - merged)
        path.unlink()
    merged.flush()
    values = min(_cells(text), 4 ** shape.count("1") // 2)
    mask = folder / "mask"
    with mask.open("wb") as file:
        file.truncate(-(-text.length // 8))
    most = copies + 4 * total // values
    execute([partial(_mark, text, shape, n, parallel, counts[0], most, mask) for n in range(parallel)], silent)
    counts[0].unlink()
    return Text(text.folder, text.entries, text.contigs, mask)


def _cells(text: Text) -> int:
    return 1 << min(text.length.bit_length() + 1, _COUNTERS)


def _pieces(text: Text, number: int, of: int) -> Iterator[tuple[int, int]]:
    """Every `of`-th piece of the flat coordinate, from piece `number` on."""
    for first in range(number * PIECE, text.length, of * PIECE):
        yield first, min(first + PIECE, text.length)


def _count(text: Text, shape: str, number: int, of: int, path: Path, progress: Progress) -> int:
    counts, total = np.zeros((2, _cells(text)), np.uint16), 0
    for start, end in _pieces(text, number, of):
        words = seeds.words(text.codes(start, min(end + len(shape) - 1, text.length)), shape)
        seeds.count(words, _cells(text).bit_length() - 1, counts)
        total += end - start
    counts.tofile(path)
    return total


def _mark(text: Text, shape: str, number: int, of: int, path: Path, most: int, mask: Path, progress: Progress) -> None:
    bits, span = _cells(text).bit_length() - 1, len(shape)
    counts = np.fromfile(path, np.uint16).reshape(2, -1)
    with mask.open("r+b") as file:
        for start, end in _pieces(text, number, of):
            first, last = max(start - span, 0), min(end + span, text.length)
            masked = text.flags("softmask", first, last)
            seeds.mark(seeds.words(text.codes(first, last), shape), bits, counts, most, span, masked)
            file.seek(start // 8)
            file.write(np.packbits(masked[start - first : end - first], bitorder="little").tobytes())
