"""Tables of rows in a store: a group of arrays with one content id, made by one unit of a build.

`matrices` and `variants` say what the arrays of their groups are; here is how they are written, found again by
what they were made of, and put under their key, KIND/NAME.ID8/ARRAY.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from distgen.config import digest
from distgen.ingest.objects import Place
from distgen.store import format
from distgen.store.format import Codec, Entry, Layout, ShardWriter
from distgen.store.work import Part, Progress, Work, link

if TYPE_CHECKING:
    from distgen.store.reader import Store


_STEP = 1 << 16  # words decoded at a time


class Column:
    """An array that grows by rows whose number is known at its end only; in memory is one chunk of it.

    Args:
        folder: the array's.
        layout: of the array; how many rows it says does not matter.
        sparse: chunks that hold the fill value alone are left out.
    """

    def __init__(self, folder: Path, layout: Layout, *, sparse: bool = False):
        self._folder, self._layout, self._sparse = folder, layout, sparse
        self._row_bytes = layout.chunk_bytes // layout.chunk
        self._writer: ShardWriter | None = None
        self._shards: list[Entry] = []
        self.rows = 0

    @classmethod
    def of(cls, folder: Path, dtype: npt.DTypeLike, *rest: int, codec: Codec = "zstd") -> Column:
        """A column of rows with the shape `rest`, in shards of full size."""
        return cls(folder, format.rows_layout((1 << 60, *rest), dtype, codec))

    def write(self, values: npt.NDArray[Any]) -> None:
        """Append rows (n, ...), which are cast to the column's dtype."""
        self.rows += len(values)
        flat = np.ascontiguousarray(values, self._layout.dtype).reshape(-1).view(np.uint8)
        while len(flat):
            if self._writer is None:
                path = self._folder / self._layout.key(len(self._shards))
                self._writer = ShardWriter(path, self._layout, sparse=self._sparse)
            room = self._writer.room
            self._writer.write(flat[:room])
            flat = flat[room:]
            if not self._writer.room:
                self._close_shard()

    def close(self) -> Entry:
        """Finish the array; returns its manifest entry."""
        self._close_shard()
        layout = replace(self._layout, shape=(self.rows, *self._layout.shape[1:]))
        return format.finish_array(self._folder, layout, self._shards)

    def _close_shard(self) -> None:
        if self._writer is not None:
            self._shards.append(self._writer.close())
            self._writer = None


def text(words: Sequence[str]) -> npt.NDArray[np.uint8]:
    """Words (n,) as UTF-8 rows (n, width), padded with zeros: an array that any Zarr reader understands."""
    fixed = np.array([word.encode() for word in words], np.bytes_)
    width = max(fixed.dtype.itemsize, 1)
    return np.frombuffer(fixed.astype(f"S{width}").tobytes(), np.uint8).reshape(len(words), width)


class Words(Sequence[str]):
    """The words of `text`, each decoded when it is asked for: a tuple of 10^7 strings is a gigabyte."""

    def __init__(self, rows: npt.NDArray[np.uint8]):
        self._rows = np.ascontiguousarray(rows).view(f"S{rows.shape[1]}").reshape(-1)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(word.decode() for word in self._rows[index].tolist())
        return bytes(self._rows[index]).decode()

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), _STEP):
            yield from self[first : first + _STEP]


def words(rows: npt.NDArray[np.uint8]) -> Sequence[str]:
    """The words of `text`."""
    found = Words(rows)
    return found if len(found) > _STEP else found[:]


Made = tuple[dict[str, Entry], dict[str, Any]]


@dataclass(frozen=True)
class Table:
    """One table of a recipe: a group of arrays.

    Args:
        kind: the folder of all its kind: "matrices" or "variants".
        name: as the recipe has it.
        inputs: an id of all that the rows depend on.
        fill: writes the arrays into a folder; returns their manifest entries, and what the manifest says of the table.
            None where the store has them already.
        sources: the files it is made of.
        passes: how often they are read.
    """

    kind: str
    name: str
    inputs: str
    fill: Callable[[Path, Part], Made] | None
    sources: tuple[Path, ...] = ()
    passes: int = 1


def write(table: Table, work: Work, progress: Progress) -> None:
    """Write the unit of a table unless it is finished.

    Raises:
        ConfigError, SourceError: whatever `fill` finds wrong.
    """
    if work.receipt(table.inputs) is None:
        assert table.fill is not None
        folder, part = work.begin(table.inputs), Part(progress, table.sources, table.passes)
        with part.reading():
            arrays, about = table.fill(folder, part)
        part.reach(1)
        work.finish(table.inputs, folder, {"arrays": arrays, "about": about})


def place(
    table: Table, work: Work, folder: Path, old: Store | None, fresh: bool
) -> tuple[dict[str, Entry], dict[str, Any]]:
    """Put a table's arrays under their keys in `folder`, from its unit; those that `old` has only if that is to be a whole
    new store.

    Returns:
        The manifest entry of each array by its key, and what the manifest says of the table.
    """
    known = standing(old).get(table.inputs)
    source: Place | None
    if known is None:
        receipt = work.receipt(table.inputs) or {}
        entries = receipt["arrays"]
        key = f"{table.kind}/{table.name}.{digest([entries[name]['id'] for name in sorted(entries)])[:8]}"
        known = receipt["about"] | {"key": key}
        arrays, source = {f"{key}/{name}": entry for name, entry in entries.items()}, work.path(table.inputs)
    else:
        assert old is not None
        key, source = known["key"], old.path / known["key"] if fresh else None
        arrays = {name: entry for name, entry in old.manifest["arrays"].items() if name.startswith(f"{key}/")}
    if source is not None:
        link_arrays(source, folder / key, [name.rsplit("/", 1)[1] for name in arrays])
        for group in (folder / table.kind, folder / key):
            format.write_group(group, {})
    return arrays, known


def standing(old: Store | None) -> dict[str, dict[str, Any]]:
    """What the manifest of a store says of its tables, by what they were made of."""
    found: dict[str, dict[str, Any]] = old.manifest["inputs"].get("tables", {}) if old else {}
    return found


def link_arrays(source: Place, target: Path, names: list[str]) -> None:
    """Give all files of some arrays in `source` another name, below `target`."""
    assert isinstance(source, Path), "what is elsewhere stays there"
    for name in names:
        for file in (source / name).rglob("*"):
            if file.is_file():
                link(file, target / file.relative_to(source))
