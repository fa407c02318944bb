"""The tracks of a store, in blocks of up to 64 columns and in units of one shard each."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from distgen.config import Recipe, Track, digest
from distgen.errors import SourceError
from distgen.genome import MISSING, Contigs
from distgen.store import format
from distgen.store.format import Entry, Layout, ShardWriter
from distgen.store.reader import Store
from distgen.store.rows import link_arrays
from distgen.store.work import Part, Progress, Work, link

if TYPE_CHECKING:
    from distgen.ingest.features import Features
    from distgen.ingest.signal import Signal

COLUMNS = 64  # of a block at most
PIECE = 1 << 21  # values in memory at a time
_LARGEST = {"float16": 65504.0, "float32": 3.4e38, "uint8": 254.0}

Values = npt.NDArray[Any]


class Columns(Protocol):
    """Some open sources: values of any bins, and the features that lie on contigs the assembly lacks."""

    skipped: dict[str, int]

    def bins(self, row: int, first: int, last: int) -> Values:
        """Values (last - first, columns) of bins of one contig; NaN where there is no data."""


@dataclass(frozen=True)
class Block:
    """Some columns of one track: an array of its own.

    Args:
        number: which track of the recipe.
        track: as the recipe has it.
        sources: the files of these columns.
        groups: the table of groups of cells, or None.
        columns: the names of the columns.
        inputs: an id of all that the values depend on.
        key: where the store has this array already, or None.
    """

    number: int
    track: Track
    sources: tuple[Path, ...]
    groups: Path | None
    columns: tuple[str, ...]
    inputs: str
    key: str | None

    def layout(self, contigs: Contigs) -> Layout:
        bins = int((-(-contigs.lengths // self.track.bin_bp)).sum())
        shape = (bins, len(self.columns))
        codec: format.Codec = "zstd" if self.track.compress else "raw"
        if self.track.is_classes:
            return format.rows_layout(shape, np.uint8, codec)
        fill = MISSING if self.track.dtype == "uint8" else float("nan")
        return format.rows_layout(shape, self.track.dtype, codec, fill)


def plan(recipe: Recipe, sources: dict[str, str], contigs: Contigs, built: dict[str, str]) -> list[Block]:
    """The blocks of all tracks.

    Args:
        recipe: as read from its file.
        sources: an id of the content of each source.
        contigs: the store's.
        built: the key of the array that was built from each inputs' id.
    """
    told = [list(contigs.names), list(contigs.aliases), contigs.lengths.tolist()] if recipe.track else []
    table = digest(told)
    blocks = []
    for number, track in enumerate(recipe.track):
        names = _columns(recipe, number)
        step = COLUMNS if len(track.sources) == len(names) else len(names)
        for first in range(0, len(names), step):
            columns, used = names[first : first + step], slice(first, first + step) if step == COLUMNS else slice(None)
            sums = [sources[source] for source in (*track.sources[used], *track.tables)]
            apart = {"name", "source", "columns", "swap", "groups"} | ({"compress"} if track.compress else set())
            parameters = track.model_dump(mode="json", exclude=apart)
            inputs = digest(["track/1", table, parameters, sums, columns])
            # Nothing is fetched for what is built already.
            files = () if inputs in built else track.sources[used]
            paths = tuple(recipe.resolve(source, f"track.{number}.source") for source in files)
            groups = recipe.resolve(track.groups, f"track.{number}.groups") if track.groups else None
            blocks.append(Block(number, track, paths, groups, columns, inputs, built.get(inputs)))
    return blocks


def _columns(recipe: Recipe, number: int) -> tuple[str, ...]:
    """The names of a track's columns."""
    track = recipe.track[number]
    if track.groups is None:
        return track.names
    from distgen.ingest.alignments import read_groups

    return tuple(sorted(set(read_groups(recipe.resolve(track.groups, f"track.{number}.groups")).values())))


def _unit(block: Block, shard: int) -> str:
    return f"{block.inputs}-{shard}"


def shard_path(block: Block, work: Work, shard: int) -> Path:
    """Where a finished unit has its shard."""
    return work.path(_unit(block, shard)) / "values"


def shards_of(block: Block, contigs: Contigs, work: Work, only: int | None = None) -> list[Entry]:
    """What the writers of a block's finished units said of their shards."""
    shards = range(block.layout(contigs).shards) if only is None else [only]
    return [(work.receipt(_unit(block, shard)) or {})["arrays"]["values"] for shard in shards]


def write_block(block: Block, contigs: Contigs, work: Work, progress: Progress, only: int | None = None) -> None:
    """Write the units of a block that are not finished, or one of them.

    Raises:
        SourceError: a source is malformed, or holds a value that the track's dtype cannot.
    """
    layout = block.layout(contigs)
    wanted = range(layout.shards) if only is None else [only]
    missing = [shard for shard in wanted if work.receipt(_unit(block, shard)) is None]
    if not missing:
        return
    scratch = Path(tempfile.mkdtemp(prefix="scratch-", dir=work.folder))
    try:
        part = Part(progress, block.sources, passes=2)
        with part.reading():
            columns = _open(block, contigs, scratch)
        read, done = part.share, 0
        whole = min(len(missing) * layout.shard, layout.shape[0])
        for shard in missing:
            folder = work.begin(_unit(block, shard))
            writer = ShardWriter(folder / "values", layout, sparse=True)
            for row, first, last in _pieces(block, contigs, layout, shard):
                values = columns.bins(row, first, last)
                writer.write(values if block.track.is_classes else _store(block, contigs.names[row], first, values))
                done += last - first
                part((last - first) * block.track.bin_bp)
                part.reach(read + (1 - read) * done / whole)
            receipt = {"arrays": {"values": writer.close()}, "skipped": columns.skipped}
            work.finish(_unit(block, shard), folder, receipt)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _pieces(block: Block, contigs: Contigs, layout: Layout, shard: int) -> Iterator[tuple[int, int, int]]:
    """The bins of one shard as (contig row, first bin, last bin), so many at a time as fit into memory."""
    bins = -(-contigs.lengths // block.track.bin_bp)
    offsets = np.cumsum(bins) - bins
    begin, end = shard * layout.shard, min((shard + 1) * layout.shard, layout.shape[0])
    step = max(1, PIECE // len(block.columns))
    for row in range(int(np.searchsorted(offsets, begin, side="right")) - 1, len(contigs)):
        offset = int(offsets[row])
        if offset >= end:
            return
        low, high = max(begin - offset, 0), min(end - offset, int(bins[row]))
        for first in range(low, high, step):
            yield row, first, min(first + step, high)


def _store(block: Block, contig: str, first: int, values: Values) -> Values:
    """Values as they are kept: scaled, raised, softly clipped, and in the track's dtype, with its mark for no data."""
    track = block.track
    kept = np.asarray(values, np.float64) * track.scale
    if track.power != 1:
        kept = np.sign(kept) * np.abs(kept) ** track.power
    if track.soft_clip is not None:
        over = kept > track.soft_clip
        kept[over] = track.soft_clip - 1 + np.sqrt(kept[over] - track.soft_clip + 1)
    missing = np.isnan(kept)
    low = 0.0 if track.dtype == "uint8" else -_LARGEST[track.dtype]
    bad = np.argwhere((kept > _LARGEST[track.dtype]) | (kept < low))
    if len(bad):
        bin_, column = bad[0].tolist()
        start = (first + bin_) * track.bin_bp
        raise SourceError(
            f'track "{track.name}": {block.columns[column]} has {values[bin_, column]:g} at {contig}:{start}, which '
            f"{track.dtype} cannot hold ({low:g} to {_LARGEST[track.dtype]:g}): set scale, power or soft_clip"
        )
    if track.dtype == "uint8":
        stored = np.rint(np.where(missing, MISSING, kept)).astype(np.uint8)
        return stored
    stored = kept.astype(track.dtype)
    stored[missing] = np.nan  # one bit pattern for all
    return stored


def place(
    block: Block, contigs: Contigs, work: Work, folder: Path, old: Store | None, fresh: bool
) -> tuple[str, Entry, dict[str, int]]:
    """Put a block's array under its key in `folder`; one that `old` has only if that is to be a whole new store.

    Returns:
        The key, its manifest entry and what was skipped.
    """
    if block.key is not None:
        assert old is not None
        key, entry = block.key, old.manifest["arrays"][block.key]
        skipped = old.manifest["inputs"]["tracks"][block.inputs]["skipped"]
        if fresh:
            group, name = key.rsplit("/", 1)
            link_arrays(old.path / group, folder / group, [name])
    else:
        layout = block.layout(contigs)
        entry = format.array_entry(layout, shards_of(block, contigs, work))
        skipped = (work.receipt(_unit(block, 0)) or {})["skipped"]
        key = f"tracks/{block.track.name}.{entry['id'][:8]}/values"
        units = [shard_path(block, work, shard) for shard in range(layout.shards)]
        for number, unit in enumerate(units):
            if unit.exists():
                link(unit, folder / key / layout.key(number))
        format.write_json(folder / key / "zarr.json", layout.to_json())
    if fresh or block.key is None:
        format.write_group(folder / "tracks", {})
        format.write_group((folder / key).parent, {"bin_bp": block.track.bin_bp})
    return key, entry, skipped


def describe(placed: list[tuple[Block, str, Entry, dict[str, int]]]) -> dict[str, Any]:
    """What the manifest says of each track."""
    found: dict[str, Any] = {}
    for block, key, _, skipped in placed:
        track = block.track
        entry = found.setdefault(
            track.name,
            {
                "kind": track.kind,
                "bin_bp": track.bin_bp,
                "columns": [],
                "arrays": [],
                "skipped": {},
                "classes": track.is_classes,
                "scale": track.scale,
                "power": track.power,
                "soft_clip": track.soft_clip,
            },
        )
        entry["columns"] += block.columns
        entry["arrays"].append(key)
        for contig, count in skipped.items():
            entry["skipped"][contig] = entry["skipped"].get(contig, 0) + count
    for name, entry in found.items():
        track = next(block.track for block, *_ in placed if block.track.name == name)
        entry["swap"] = list(track.permutation(tuple(entry["columns"])))
    return found


# ---- sources --------------------------------------------------------------------------------


class _Painted:
    """Annotation and intervals: features that are painted over bins."""

    def __init__(self, features: Features, block: Block):
        self._features, self._block, self.skipped = features, block, features.skipped

    def bins(self, row: int, first: int, last: int) -> Values:
        track = self._block.track
        from distgen.ingest.features import paint

        absent = 0.0 if track.absent == "zero" else np.nan
        return paint(self._features, row, first, last, len(self._block.columns), track.bin_bp, absent)


class _Signals:
    """Signals and alignments, each file one or more columns."""

    def __init__(self, signals: list[Signal], track: Track):
        self._signals, self._track = signals, track
        self.skipped: dict[str, int] = dict(sum((Counter(signal.skipped) for signal in signals), Counter()))

    def bins(self, row: int, first: int, last: int) -> Values:
        track = self._track
        columns = [
            signal.bins(
                row, first, last, track.bin_bp, track.reduce, absent=track.absent, min_covered=track.min_covered
            )
            for signal in self._signals
        ]
        return np.concatenate(columns, axis=1)


def _open(block: Block, contigs: Contigs, scratch: Path) -> Columns:
    """Open the sources of a block. The readers are imported when needed: each brings a library of its own."""
    track = block.track
    if track.kind == "annotation":
        from distgen.ingest.annotation import read_annotation

        return _Painted(read_annotation(block.sources[0], block.columns, contigs, promoter=track.promoter), block)
    if track.kind == "intervals":
        from distgen.ingest.intervals import read_intervals

        features = read_intervals(block.sources, contigs, value=track.value, summit=track.summit, blocks=track.blocks)
        return _Painted(features, block)
    if track.kind == "signal":
        from distgen.ingest.signal import open_signal

        return _Signals([open_signal(path, contigs, scratch) for path in block.sources], track)
    from distgen.ingest.alignments import open_alignments

    (path,) = block.sources
    signal = open_alignments(
        path, contigs, scratch, groups=block.groups, tn5=track.tn5, what=track.what, min_mapq=track.min_mapq
    )
    return _Signals([signal], track)
