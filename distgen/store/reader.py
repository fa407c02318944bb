"""Open a store: contigs, planes, tracks and splits, memory-mapped and checked at first touch; or in an object store, of
which only what is asked for is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from distgen.config import digest
from distgen.errors import ConfigError, StoreError, named, some, suggest
from distgen.genome import BASES, COMPLEMENT, MISSING, Bytes, Contigs, Int64, Interval
from distgen.ingest.objects import Place, locate
from distgen.ingest.packing import codes_between
from distgen.store.array import Array, rows
from distgen.store.cache import ShardCache
from distgen.store.manifest import read_manifest
from distgen.store.matrices import Matrix
from distgen.store.planes import PER_BYTE
from distgen.store.rows import words
from distgen.store.runs import set_bits
from distgen.store.splits import PARTS, intervals
from distgen.store.variants import Unphased, Variants


@dataclass(frozen=True)
class Track:
    """Values along the assembly: bins lie contig by contig, no bin crosses a contig.

    Args:
        name: as the recipe has it.
        columns: what each column says.
        bin_bp: bases per bin.
        swap: column i becomes column swap[i] when a window is read from the other strand.
        is_classes: values are 0 and 1; else they are signals, and may be missing.
        scale, power, soft_clip: how signals were transformed before they were stored.
        dtype: of the stored values.
        blocks: arrays (bins, up to 64 columns each); none where values come with the samples of an export.
        bin_offsets: int64 (C,), first bin of each contig.
    """

    name: str
    columns: tuple[str, ...]
    bin_bp: int
    swap: tuple[int, ...]
    is_classes: bool
    scale: float
    power: float
    soft_clip: float | None
    dtype: np.dtype[Any]
    blocks: tuple[Array, ...]
    bin_offsets: Int64

    @classmethod
    def of(
        cls, name: str, entry: dict[str, Any], contigs: Contigs, dtype: np.dtype[Any], blocks: tuple[Array, ...] = ()
    ) -> Track:
        """The track that a manifest's (or an export's) entry describes."""
        bins = -(-contigs.lengths // entry["bin_bp"])
        return cls(
            name,
            tuple(entry["columns"]),
            entry["bin_bp"],
            tuple(entry["swap"]),
            entry["classes"],
            entry["scale"],
            entry["power"],
            entry["soft_clip"],
            dtype,
            blocks,
            np.cumsum(bins) - bins,
        )

    @property
    def id(self) -> str:
        """What the stored values are known by."""
        return digest([block.id for block in self.blocks])

    @property
    def bins(self) -> int:
        """How many bins there are along the whole assembly."""
        return self.blocks[0].shape[0]

    @property
    def bin_bytes(self) -> int:
        """What a bin of all columns takes once decoded."""
        return self.dtype.itemsize * len(self.columns)

    def __getitem__(self, bins: slice) -> npt.NDArray[Any]:
        """Stored values (bins, columns): uint8 of classes, else the track's dtype, with NaN for no data (in uint8: 255)."""
        parts = [block[bins] for block in self.blocks]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    @cached_property
    def decoded(self) -> npt.NDArray[Any]:
        """All values (bins, columns) in memory, decoded once for every loader that serves them."""
        return self[:]

    def restore(self, stored: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Signals in the source's own unit, from what the store (or a model that was trained on it) says; the inverse
        of `scale`, `power` and `soft_clip`."""
        values = np.asarray(stored, np.float64)
        if np.asarray(stored).dtype == np.uint8 and not self.is_classes:
            values = np.where(np.asarray(stored) == MISSING, np.nan, values)
        if self.soft_clip is not None:
            clip = self.soft_clip
            values = np.where(values > clip, (values - clip + 1) ** 2 + clip - 1, values)
        if self.power != 1:
            values = np.sign(values) * np.abs(values) ** (1 / self.power)
        return (values / self.scale).astype(np.float32)


@dataclass(frozen=True)
class Labels:
    """What each sequence of a table is labelled with.

    Args:
        kind: "binary", "classes", "multilabel" or "regression".
        names: binary and classes: what each number means; otherwise what each column of `values` is.
        values: binary uint8 (n, 1) and multilabel uint8 (n, k), 0, 1 or 255 missing; classes int32 (n,), -1 missing;
            regression float32 (n, k), NaN missing. A row for each contig.
        missing: how many labels are missing.
    """

    kind: str
    names: tuple[str, ...]
    values: npt.NDArray[Any]
    missing: int


_NONE: Bytes = np.empty(0, np.uint8)


class Store:
    """One assembly, read-only. Open it with `open_store`."""

    def __init__(self, path: Place, cache: ShardCache | None = None):
        self.path, self.cache = path, cache
        self.manifest = read_manifest(path, "store", "*.zarr")
        attributes = self.manifest["group"]["attributes"]["distgen"]
        if "collection" in attributes:
            raise ConfigError(f"{path} is a collection of stores, not one: open it with open_collection")
        self.name: str = attributes["assembly"]
        self.length: int = attributes["length"]

    def array(self, key: str) -> Array:
        """One array by its key in the manifest."""
        # Contigs are read once, and whole: no reason to keep them.
        cache = None if key.startswith("contigs/") else self.cache
        return Array(self.path / key, self.manifest["arrays"][key], partial(_stretches, self.path, key), cache)

    @cached_property
    def contigs(self) -> Contigs:
        """Names, aliases, lengths and offsets of all contigs."""
        return read_contigs(self.array)

    @cached_property
    def letters(self) -> dict[str, dict[str, int]]:
        """How often each letter other than A, C, G and T stood in each contig; in the store they are N (U: T)."""
        found: dict[str, dict[str, int]] = {}
        for row, letter, count in self.array("contigs/letters").read().tolist():
            found.setdefault(self.contigs.names[row], {})[chr(letter)] = count
        return found

    @property
    def left_out(self) -> dict[str, Any] | None:
        """How many contigs of the assembly are not in the store, how many of these are `alternative` (or patches or
        decoys), and the `first` names; None where that is not known, or all of a table is there."""
        return self.manifest.get("left_out")

    def groups(self) -> dict[str, dict[str, Any]]:
        """The groups inside the store and their attributes."""
        parents = (key.split("/")[:-1] for key in self.manifest["arrays"])
        found: dict[str, dict[str, Any]] = {"/".join(p[:n]): {} for p in parents for n in range(1, len(p) + 1)}
        for entry in self.manifest["tracks"].values():
            found |= {key.rsplit("/", 1)[0]: {"bin_bp": entry["bin_bp"]} for key in entry["arrays"]}
        return found

    @cached_property
    def planes(self) -> dict[str, Array]:
        """`sequence`, `ambiguous` and `softmask`."""
        return {name: self.array(name) for name in ("sequence", "ambiguous", "softmask")}

    @cached_property
    def unknown(self) -> Int64:
        """Flat intervals (n, 2) of the ambiguous bases, sorted and disjoint."""
        return set_bits(self.planes["ambiguous"])

    @cached_property
    def tracks(self) -> dict[str, Track]:
        """All tracks by name; their values are read when asked for."""
        tracks = {}
        for name, entry in self.manifest["tracks"].items():
            arrays = tuple(self.array(key) for key in entry["arrays"])
            tracks[name] = Track.of(name, entry, self.contigs, arrays[0].layout.dtype, arrays)
        return tracks

    def track(self, name: str) -> Track:
        """One track. Raises ConfigError with the nearest name if there is none."""
        return named(self.tracks, name, f"store {self.path}", "track")

    @cached_property
    def matrices(self) -> dict[str, Matrix]:
        """All matrices by name; their values are read when asked for."""
        return {
            name: Matrix(name, tuple(entry["conditions"]), self.contigs, self._group(entry["key"]))
            for name, entry in self.manifest.get("matrices", {}).items()
        }

    def matrix(self, name: str) -> Matrix:
        """One matrix of values by region and condition. Raises ConfigError with the nearest name if there is none."""
        return named(self.matrices, name, f"store {self.path}", "matrix")

    @cached_property
    def variant_sets(self) -> dict[str, Variants]:
        """All sets of variants by name."""
        return {
            name: Variants(name, tuple(entry["samples"]), self.contigs, self._group(entry["key"]))
            for name, entry in self.manifest.get("variants", {}).items()
        }

    def variants(self, name: str) -> Variants:
        """One set of variants. Raises ConfigError with the nearest name if there is none."""
        return named(self.variant_sets, name, f"store {self.path}", "variants")

    def _group(self, key: str) -> dict[str, Array]:
        """The arrays of a group by name."""
        keys = (array for array in self.manifest["arrays"] if array.startswith(f"{key}/"))
        return {array.removeprefix(f"{key}/"): self.array(array) for array in keys}

    @property
    def is_table(self) -> bool:
        """Whether the store is made of a table of labelled sequences, each of which is a contig."""
        return bool(self.manifest.get("labels"))

    @cached_property
    def labels(self) -> Labels:
        """The labels of a store of sequences. Raises ConfigError if it is a genome's."""
        entry = self.manifest.get("labels")
        if entry is None:
            raise ConfigError(
                f"store {self.path} has no labels: it is made of an assembly, not of a table of sequences"
            )
        values = self.array(f"{entry['key']}/values").read()
        return Labels(entry["kind"], tuple(entry["names"]), values, entry["missing"])

    def parts(self, split: str = "default") -> list[str]:
        """The parts of a split that hold anything. Raises ConfigError if the store has no such split."""
        table = named(self.manifest["splits"], split, f"store {self.path}", "split")
        return [part for part in PARTS if table.get(part)]

    def has(self, part: str, split: str = "default") -> bool:
        """Whether there is such a split and its part holds anything."""
        return bool(self.manifest["splits"].get(split, {}).get(part))

    def regions(self, part: str | None, split: str = "default") -> Int64:
        """Flat intervals (n, 2) of one part of a split; all contigs if `part` is None.

        Raises:
            ConfigError: the store has no such split or part, or the part is empty.
        """
        if part is None:
            return self.contigs.whole()
        filled, table = self.parts(split), self.manifest["splits"][split]
        if part not in PARTS:
            raise ConfigError(f'split "{split}" has no part "{part}". {suggest(part, PARTS)}')
        if part not in filled:
            raise ConfigError(f'split "{split}" of store {self.path} has an empty part "{part}"; name it in the recipe')
        if "array" in table:
            of = self.array(table["array"]).read()
            return self.contigs.whole()[np.flatnonzero(of == 1 + PARTS.index(part))]
        return intervals(table[part], self.contigs)

    def identity(self, split: str, tracks: tuple[str, ...]) -> dict[str, str]:
        """Content ids of what a run uses: a checkpoint records them."""
        ids = {name: self.planes[name].id for name in ("sequence", "ambiguous", "softmask")}
        ids |= {f"track {name}": self.track(name).id for name in tracks}
        if labels := self.manifest.get("labels"):
            ids["labels"] = self.manifest["arrays"][f"{labels['key']}/values"]["id"]
        if split in self.manifest["splits"]:
            ids["split"] = self.manifest["splits"][split]["id"]
        return ids

    def codes(
        self,
        interval: Interval,
        *,
        variants: str | None = None,
        sample: str | None = None,
        haplotype: int = 0,
        unphased: Unphased = "refuse",
    ) -> Bytes:
        """Base codes uint8 of a stretch (end - start of them in the assembly), on the strand it names; ambiguous is 4.

        A stretch of a circular contig may begin before it or end after it by less than its length.

        Args:
            interval: the stretch.
            variants: a set of variants: the stretch as a sample has it, ambiguous where its genotype is not known. With
                insertions and deletions it has another length; see `store.variants` for what belongs to a stretch.
            sample: whose; None where there is one only.
            haplotype: 0 or 1.
            unphased: "listed" takes the alleles of heterozygous sites without phase in the order of the file.

        Raises:
            ConfigError: the contig is unknown or the stretch leaves it; no such variants or sample; an unphased
                heterozygous site lies in it.
        """
        row = self.contigs.index(interval.contig)
        length, start, end = int(self.contigs.lengths[row]), interval.start, interval.end
        beyond = length if self.contigs.circular[row] else 0
        if not (-beyond <= start <= end <= length + beyond and end - start <= max(length, beyond)):
            raise ConfigError(f"{interval} is no stretch of a contig with {length:,} bases")
        inside = [(-beyond, 0, beyond), (0, length, 0), (length, length + beyond, -beyond)]
        pieces = [(max(start, low) + shift, min(end, high) + shift) for low, high, shift in inside]
        found = [(first, self._decode(row, first, last)) for first, last in pieces if first < last]
        if variants is not None:
            changed = self.variants(variants)
            found = [(at, changed.substitute(codes, row, at, sample, haplotype, unphased)) for at, codes in found]
        codes = np.concatenate([codes for _, codes in found] or [_NONE])
        return COMPLEMENT[codes[::-1]] if interval.strand == "-" else codes

    def _decode(self, row: int, first: int, last: int) -> Bytes:
        start = int(self.contigs.offsets[row]) + first
        return codes_between(self.planes["sequence"], self.planes["ambiguous"], start, start + last - first)

    def sequence(self, interval: Interval) -> str:
        """The letters of a stretch in upper case, N for ambiguous bases; as `codes`."""
        return np.frombuffer(BASES.encode(), np.uint8)[self.codes(interval)].tobytes().decode()


def read_contigs(array: Callable[[str], Array]) -> Contigs:
    """The contig table, from its arrays by key."""
    column = {name: array(f"contigs/{name}") for name in ("name", "alias", "length", "offset", "circular")}
    names, aliases = (words(column[name].read()) for name in ("name", "alias"))
    return Contigs(
        names,
        column["length"].read().astype(np.int64),
        column["offset"].read().astype(np.int64),
        aliases,
        tuple(column["circular"].read().astype(bool).tolist()),
    )


def _stretches(path: Place, key: str, first: int, last: int) -> str:
    """What the rows [first, last) of an array are called where they are damaged: the stretches of contigs, if they lie
    along the assembly. An array that knew its store would keep it, and its maps, from being closed."""
    store = Store(path)
    bin_bp = store.groups().get(key.rpartition("/")[0], {}).get("bin_bp")
    if key not in PER_BYTE and bin_bp is None:
        return rows(first, last)
    per = PER_BYTE.get(key, 1)
    first, last = first * per, last * per
    try:
        contigs = store.contigs
    except StoreError:  # it is damaged as well
        return f"{'bins' if bin_bp else 'bases'} {first:,} to {last:,} of all contigs"
    if bin_bp is None:
        starts, sizes, width = contigs.offsets, contigs.lengths, 1
    else:
        sizes, width = -(-contigs.lengths // bin_bp), bin_bp
        starts = np.cumsum(sizes) - sizes
    named = []
    for row in np.flatnonzero((starts < last) & (starts + sizes > first)).tolist():
        span = np.clip([first - starts[row], last - starts[row]], 0, sizes[row]) * width
        start, end = np.minimum(span, contigs.lengths[row]).tolist()
        named.append(f"{contigs.names[row]}:{start}-{end}")
    return some(named) or "padding"


def open_store(path: str | Place, cache: ShardCache | None = None) -> Store:
    """Open the store at a path, or at `s3://bucket/key`, `gs://bucket/key` or `az://container/key`.

    Args:
        path: where it lies.
        cache: keeps whole shards of a store that lies elsewhere on the local disk, to be mapped from there.

    Raises:
        ConfigError: there is none. StoreError: its manifest is damaged, or its format is another.
        RemoteError: what holds it cannot be reached, or refuses.
    """
    return Store(locate(path), cache)
