"""Data blocks of a bigWig, decoded here: faster than any reader at hand, since bins need records, not bases.

A bigWig is a 64-byte header, a tree of contig names and lengths, data blocks (each a zlib stream of up to some thousand
records of one contig), and a tree over the blocks. It follows doi:10.1093/bioinformatics/btq351, supplement.
"""

from __future__ import annotations

import os
import struct
import weakref
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from distgen.errors import SourceError
from distgen.genome import Contigs
from distgen.ingest.open import INFLATE_ERROR
from distgen.ingest.signal import Section, Signal, column_name

_MAGIC, _NAMES_MAGIC, _INDEX_MAGIC = 0x888FFC26, 0x78CA8C91, 0x2468ACE0
_LEAF = np.dtype(
    [("id", "<u4"), ("start", "<u4"), ("last_id", "<u4"), ("end", "<u4"), ("offset", "<u8"), ("bytes", "<u8")]
)
_BRANCH = np.dtype([("id", "<u4"), ("start", "<u4"), ("last_id", "<u4"), ("end", "<u4"), ("offset", "<u8")])


Blocks = npt.NDArray[np.void]


class BigWig(Signal):
    """One bigWig file. `skipped` has the length of each other contig on which there is data, since its index says no more."""

    def __init__(self, path: Path, contigs: Contigs):
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)
        self.path, self._size = path, os.fstat(self._file).st_size
        magic, _, _, names, _, self._index, *_, inflated, _ = struct.unpack("<IHHQQQHHQQIQ", self._read(0, 64))
        if magic != _MAGIC:
            raise SourceError(f"{path}: this bigWig is big-endian, which is not read; write it again, little-endian")
        self._zipped = inflated > 0
        table = self._names(names)
        rows = contigs.rows(list(table), str(path), [length for _, length in table.values()])
        self._ids = {int(row): id for row, (id, _) in zip(rows, table.values(), strict=True) if row >= 0}
        # Reading the whole index now tells a truncated file at once.
        filled = {id for leaf in self._leaves(None) for id in np.unique(leaf["id"]).tolist()}
        skipped = {
            name: length
            for row, (name, (id, length)) in zip(rows, table.items(), strict=True)
            if row < 0 and id in filled
        }
        known = np.zeros(len(contigs), np.bool_)
        known[list(self._ids)] = True
        super().__init__(path, (column_name(path),), contigs, known, skipped)
        self._blocks = lru_cache(maxsize=2)(self._contig_blocks)

    def sections(self, column: int, row: int, low: int, high: int) -> Iterator[Section]:
        blocks = self._blocks(self._ids[row])
        first = int(np.searchsorted(blocks["end"], np.uint32(low), side="right"))
        last = int(np.searchsorted(blocks["start"], np.uint32(high), side="left"))
        for block in blocks[first:last].tolist():
            yield self._decode(*block)

    def _decode(self, id: int, start: int, last_id: int, end: int, offset: int, size: int) -> Section:
        data = self._read(offset, size)
        try:
            data = isal_zlib.decompress(data) if self._zipped else data
            found, at, _, step, span, kind, _, count = struct.unpack_from("<IIIIIBBH", data)
        except (INFLATE_ERROR, struct.error) as error:
            raise self._damage(f"a data block at byte {offset:,}", str(error)) from None
        if found != id or kind not in (1, 2, 3) or len(data) < 24 + count * 4 * (4 - kind):
            raise self._damage(f"a data block at byte {offset:,}", f"kind {kind}, {count} records, {len(data)} bytes")
        return Section(np.frombuffer(data, "<u4", count * (4 - kind), 24), kind, at, step, span)

    def _contig_blocks(self, id: int) -> Blocks:
        blocks = np.concatenate([leaf[leaf["id"] == id] for leaf in self._leaves(id)] or [np.empty(0, _LEAF)])
        blocks = blocks[np.argsort(blocks["start"], kind="stable")]
        # Some writers let a block's entry end past its records: what matters is that the ends can be searched.
        blocks["end"] = np.maximum.accumulate(blocks["end"])
        return blocks

    def _leaves(self, id: int | None) -> Iterator[Blocks]:
        """The index, leaf by leaf, of all contigs or of one; every block lies in the file."""
        if not self._index:  # a file without data
            return
        if struct.unpack("<I", self._read(self._index, 4))[0] != _INDEX_MAGIC:
            raise self._damage("the index", "its magic number is wrong")

        def wanted(items: bytes, dtype: np.dtype[np.void]) -> Blocks:
            entries = np.frombuffer(items, dtype)
            return entries if id is None else entries[(entries["id"] <= id) & (id <= entries["last_id"])]

        root, children = self._index + 48, lambda items: wanted(items, _BRANCH)["offset"].tolist()
        for items in self._leaf_items("the index", root, _LEAF.itemsize, _BRANCH.itemsize, children):
            blocks = wanted(items, _LEAF)
            if (blocks["id"] != blocks["last_id"]).any():
                raise self._damage("the index", "a data block spans two contigs")
            # Compared in float64, which cannot wrap around where a damaged entry is near 2^64.
            if (blocks["offset"].astype(np.float64) + blocks["bytes"] > self._size).any():
                raise self._cut_short()
            yield blocks

    def _names(self, offset: int) -> dict[str, tuple[int, int]]:
        """Number and length of each contig by name."""
        part = "the list of contigs"
        magic, _, key_bytes, _, _, _ = struct.unpack("<IIIIQQ", self._read(offset, 32))
        if magic != _NAMES_MAGIC or not 0 < key_bytes < 1 << 16:
            raise self._damage(part, "its magic number is wrong")
        item = struct.Struct(f"<{key_bytes}sQ")  # a name and the next node, or a name, its number and its length
        table: dict[str, tuple[int, int]] = {}
        for items in self._leaf_items(
            part, offset + 32, item.size, item.size, lambda items: [node for _, node in item.iter_unpack(items)]
        ):
            for name, value in item.iter_unpack(items):
                table[name.rstrip(b"\0").decode(errors="replace")] = value & 0xFFFFFFFF, value >> 32
        if not table:
            raise self._damage(part, "it is empty")
        return table

    def _leaf_items(
        self, part: str, root: int, leaf_bytes: int, branch_bytes: int, children: Callable[[bytes], list[int]]
    ) -> Iterator[bytes]:
        """The items of each leaf of a tree, in order; both trees have nodes of the same make."""
        nodes, seen = [root], set()
        while nodes:
            node = nodes.pop()
            if node in seen:
                raise self._damage(part, "it runs in a circle")
            seen.add(node)
            is_leaf, _, count = struct.unpack("<BBH", self._read(node, 4))
            items = self._read(node + 4, count * (leaf_bytes if is_leaf else branch_bytes))
            if is_leaf:
                yield items
            else:
                nodes += children(items)[::-1]

    def _read(self, offset: int, size: int) -> bytes:
        if offset + size > self._size:
            raise self._cut_short()
        return os.pread(self._file, size, offset)

    def _cut_short(self) -> SourceError:
        return SourceError(f"{self.path}: the file is cut short: data lies past its end; fetch the file again")

    def _damage(self, part: str, why: str) -> SourceError:
        return SourceError(f"{self.path}: {part} is damaged ({why}); fetch the file again")
