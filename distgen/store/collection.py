"""Many stores used as one: an index of them, and stores opened when asked for.

The index is a folder like a store: Zarr v3 arrays with a row for each store, and a manifest that makes it whole. The
names of contigs stay in the stores. Nothing in it depends on when or where it was built.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from distgen.config import digest
from distgen.errors import ConfigError, StoreError, named
from distgen.genome import Int64
from distgen.store import format
from distgen.store.array import Array
from distgen.store.format import MANIFEST
from distgen.store.manifest import read_manifest
from distgen.store.planes import PER_BYTE
from distgen.store.reader import Store, Track

MAX_FILES = 512  # half of what most systems let a process hold open
OPENED = 1000  # stores that are opened, at most, to find out something about all of them
_ID_BYTES = 16


@dataclass(frozen=True, slots=True)
class Member:
    """What an index says of one store, besides its weight.

    Args:
        path: where it lies: absolute, or relative to the folder that holds the index.
        name: of the assembly.
        length: bases of its flat coordinate, padding and all.
        bases: of all contigs together.
        contigs: how many there are.
        id: 16 bytes, what its sequence is known by: see `sequence_id`.
        fingerprint: 16 bytes, BLAKE3 of its manifest file as the index was built.
    """

    path: str
    name: str
    length: int
    bases: int
    contigs: int
    id: bytes
    fingerprint: bytes


def sequence_id(store: Store) -> bytes:
    """What a store's sequence is known by: a hash, 16 bytes, of the content ids of its planes and its contig table.

    Tracks, splits and whatever else a recipe may gain change nothing in it.
    """
    arrays = store.manifest["arrays"]
    ids = {key: arrays[key]["id"] for key in arrays if key in PER_BYTE or key.startswith("contigs/")}
    return bytes.fromhex(digest(ids))


def fingerprint(path: Path) -> bytes:
    """What all that a store has is known by: 16 bytes, BLAKE3 of its manifest file. Raises OSError if it cannot be read."""
    return blake3((path / MANIFEST).read_bytes()).digest(_ID_BYTES)


class Collection:
    """Many stores, read-only. Open it with `open_collection`.

    Its stores lie one after another in one flat coordinate, as contigs do in a store.

    Args:
        path: of the index.
        max_files: of how many shards the stores that stay open may consist, so that what is mapped stays within what
            the system allows; one store stays open however large it is.
    """

    def __init__(self, path: Path, max_files: int = MAX_FILES):
        self.path = path
        self.manifest = read_manifest(path, "collection", "*.collection")
        attributes = self.manifest["group"]["attributes"]["distgen"]
        if "collection" not in attributes:
            raise ConfigError(f"{path} is the store of one assembly, no collection: open it with open_store")
        self.name: str = attributes["collection"]
        # All is read now, so that an index that takes this one's place never mixes with it.
        self._columns = {key: self._read(key) for key in self.manifest["arrays"]}
        self._folder = path.resolve().parent
        self._max_files, self._files = max_files, 0
        self._open: OrderedDict[int, tuple[Store, int]] = OrderedDict()
        self._lock = threading.Lock()

    def _read(self, key: str) -> npt.NDArray[Any]:
        try:
            return Array(self.path / key, self.manifest["arrays"][key]).read()
        except StoreError as error:
            problem = f"collection {self.path}: its array {key} is damaged. Run: distgen build COLLECTION.toml"
            raise StoreError(problem) from error

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens the collection, and its stores, anew."""
        return Collection, (self.path, self._max_files)

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def weights(self) -> npt.NDArray[np.float64]:
        """Each store's share of the samples: float64 (n,), summing to 1."""
        return self._columns["weight"]

    @property
    def bases(self) -> Int64:
        """Bases of each store's contigs: int64 (n,)."""
        return np.diff(self._columns["base_offset"])

    @property
    def contigs(self) -> Int64:
        """How many contigs each store has: int64 (n,)."""
        return np.diff(self._columns["contig_offset"])

    @property
    def offsets(self) -> Int64:
        """Where each store begins in the collection's flat coordinate, and where the last ends: int64 (n + 1,)."""
        return self._columns["flat_offset"]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The stores' names, which all differ."""
        return tuple(self._text("name", 0, len(self)))

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.names)}

    def index(self, name: str) -> int:
        """The row of a store by its name. Raises ConfigError with the nearest name."""
        return named(self._rows, name, f"collection {self.path}", "store")

    def member(self, row: int) -> Member:
        """What the index says of a store. Raises ConfigError if there is no such row."""
        if not 0 <= row < len(self):
            raise ConfigError(f"collection {self.path} has {len(self):,} stores, no store {row}")
        (found,) = self.members(row, row + 1)
        return found

    def members(self, first: int, last: int) -> Iterator[Member]:
        """What the index says of the stores [first, last)."""
        ends = (self._columns[f"{key}_offset"][first : last + 1] for key in ("flat", "base", "contig"))
        sizes = (np.diff(end).tolist() for end in ends)
        marks = ((bytes(row) for row in self._columns[key][first:last]) for key in ("id", "fingerprint"))
        return map(Member, self._text("path", first, last), self._text("name", first, last), *sizes, *marks)

    def locate(self, flat: npt.ArrayLike) -> tuple[Int64, Int64]:
        """The row of the store that each position of the collection's flat coordinate belongs to, and the position in
        that store's own flat coordinate; 0-based.

        Raises:
            ConfigError: a position lies outside of the collection.
        """
        positions = np.asarray(flat, np.int64)
        outside = positions[(positions < 0) | (positions >= self.offsets[-1])]
        if outside.size:
            raise ConfigError(f"collection {self.path} has {self.offsets[-1]:,} flat bases, no base {outside[0]:,}")
        rows = np.searchsorted(self.offsets, positions, side="right") - 1
        return rows, positions - self.offsets[rows]

    def store(self, row: int) -> Store:
        """One store, opened if it isn't; those not used for longest are let go of (and stay open for who holds them).

        Raises:
            ConfigError: there is no such row. StoreError: the store is missing, damaged, or no longer what was indexed.
        """
        with self._lock:
            if row in self._open:
                self._open.move_to_end(row)
                return self._open[row][0]
            store = self._checked(row)
            files = _shards(store)
            while self._open and self._files + files > self._max_files:
                _, (_, freed) = self._open.popitem(last=False)
                self._files -= freed
            self._open[row] = store, files
            self._files += files
            return store

    def is_open(self, row: int) -> bool:
        """Whether a store is one of those that stay open: who holds what is large of others should let go of it."""
        return row in self._open

    def track(self, name: str) -> Track:
        """A track as the first of few stores that has it has it. Raises ConfigError if none of them does."""
        for row in self.few():
            if name in (tracks := self.store(row).tracks):
                return tracks[name]
        raise ConfigError(f'collection {self.path}: none of {len(self.few()):,} stores has a track "{name}"')

    def has(self, part: str, split: str = "default") -> bool:
        """Whether any of few stores has a split of that name with such a part."""
        return any(self.store(row).has(part, split) for row in self.few())

    def few(self) -> list[int]:
        """Rows of the stores that may be opened to find out something about all: at most 1,000, at equal distances."""
        return sorted({number * len(self) // OPENED for number in range(OPENED)})

    def identity(self, split: str, tracks: tuple[str, ...]) -> dict[str, str]:
        """What all stores are known by, with whatever they have: as the index has seen them, so that none is opened.

        A split or a track cannot be told from the others then: one more in one store, and all is known by another name.
        """
        return {"stores": digest([[member.name, member.fingerprint.hex()] for member in self.members(0, len(self))])}

    def unchanged(self, row: int) -> Store:
        """One store, of which nothing has changed since it was indexed, tracks and splits included.

        Raises:
            StoreError: it has, or as `store` does.
        """
        store, seen = self.store(row), self.member(row).fingerprint
        if fingerprint(self._folder / self.member(row).path) != seen:
            raise StoreError(
                f"collection {self.path}: store {store.path} has other tracks, splits or labels than when it was indexed. "
                "Run: distgen build COLLECTION.toml"
            )
        return store

    def _checked(self, row: int) -> Store:
        member = self.member(row)
        try:
            store = open_member(self._folder / member.path)
        except StoreError as error:
            raise StoreError(f"collection {self.path}: {error}") from None
        if sequence_id(store) != member.id:
            raise StoreError(
                f"collection {self.path}: store {store.path} is not what was indexed: it has another sequence or other "
                "contigs now. Run: distgen build COLLECTION.toml"
            )
        return store

    def _text(self, key: str, first: int, last: int) -> list[str]:
        ends = self._columns[f"{key}_offset"][first : last + 1].tolist()
        text = self._columns[key][ends[0] : ends[-1]].tobytes()
        return [os.fsdecode(text[start - ends[0] : end - ends[0]]) for start, end in itertools.pairwise(ends)]


def open_collection(path: str | Path, max_files: int = MAX_FILES) -> Collection:
    """Open the index at a path; no store is touched until it is asked for. See `Collection`.

    Raises:
        ConfigError: there is none. StoreError: it is damaged, or its format is another.
    """
    return Collection(Path(path), max_files)


def is_index(path: Path) -> bool:
    """Whether a folder says that it is the index of a collection."""
    try:
        return "collection" in format.read_json(path / "zarr.json")["attributes"]["distgen"]
    except (StoreError, KeyError, TypeError):
        return False


def describe(collection: Collection) -> dict[str, Any]:
    """What `distgen info` shows of a collection."""
    members = collection.members(0, len(collection))
    return {
        "collection": str(collection.path),
        "name": collection.name,
        "bases": int(collection.bases.sum()),
        "contigs": int(collection.contigs.sum()),
        "stores": {
            member.name: {"path": member.path, "bases": member.bases, "contigs": member.contigs, "weight": weight}
            for member, weight in zip(members, collection.weights.tolist(), strict=True)
        },
    }


def open_member(path: Path) -> Store:
    """Open one store of many. Raises StoreError if it is missing, unfinished, damaged or no store."""
    # Asked first, because `open_store` looks for the nearest of its neighbours, which may be 100,000.
    if not (path / MANIFEST).is_file():
        what = "has no manifest: it is no whole store" if path.exists() else "does not exist"
        raise StoreError(f"store {path} {what}")
    try:
        return Store(path)
    except ConfigError as error:
        raise StoreError(str(error)) from None


def _shards(store: Store) -> int:
    """Of how many files, at most, a store maps something once all of it has been touched."""
    metadata = (entry["metadata"] for entry in store.manifest["arrays"].values())
    return sum(-(-m["shape"][0] // m["chunk_grid"]["configuration"]["chunk_shape"][0]) for m in metadata)
