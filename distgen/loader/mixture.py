"""MixtureLoader: batches of many stores, each store in its share, in an order that is a pure function as well."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from blake3 import blake3
from pydantic import BaseModel
from torch import Tensor

from distgen.config import Lengths, Sample, Windows, checked, digest
from distgen.errors import ConfigError, some
from distgen.genome import Int64, Interval
from distgen.loader.base import Loader, Made
from distgen.loader.batch import Batch
from distgen.loader.loader import GenomeLoader
from distgen.loader.order import VERSIONS
from distgen.loader.plan import named_split
from distgen.loader.regions import is_stored
from distgen.loader.schedule import VERSION, InTurn, Schedule, own_seed
from distgen.loader.targets import dtype_of
from distgen.store.collection import OPENED, Collection, open_collection
from distgen.store.reader import Store, Track

log = logging.getLogger("distgen")


@dataclass(frozen=True)
class Turns:
    """Which store serves which global batch.

    Args:
        schedule: deals batches to stores.
        epoch: batches of an epoch of the mixture.
        batch_size: samples of a batch.
    """

    schedule: Schedule | InTurn
    epoch: int
    batch_size: int

    def batches(self, epoch: int) -> int:
        """How many global batches an epoch of the mixture has."""
        return self.epoch

    def at_step(self, step: int) -> tuple[int, int]:
        """The epoch, and its first sample, of the global batch that comes after `step` others since the very first."""
        epoch, number = divmod(step, self.epoch)
        return epoch, number * self.batch_size

    def steps(self, epochs: int) -> int:
        """How many global batches so many epochs have."""
        return epochs * self.epoch

    def turn(self, epoch: int, batches: Sequence[int]) -> tuple[Int64, Int64]:
        """The rows of the stores that serve batches (n,) of an epoch, by their numbers in it, and how many batches
        each of them has served before."""
        return self.schedule.at(epoch * self.epoch + np.array(batches, np.int64))


class MixtureLoader(Loader):
    """The batches of a collection: every global batch comes from one store, on all ranks from the same.

    Batch k of epoch e is slot e n + k of a `Schedule` with the collection's weights, which says whose turn it is and
    how many batches that store has served before: these are its own epochs, one after another, and go on across the
    mixture's. Stores are opened when it is their turn, and let go of as the collection says.

    With `order="sequential"` an epoch is instead all stores one after another, each whole and without weights: what a
    mixture is measured on. Those whose split lacks the part are left out; of more than 1,000 stores, as many are taken
    at equal distances.

    Args:
        collection: an open collection, or the path of one.
        epoch_batches: of an epoch of the mixture; None: as many as an epoch of each store has together (for which all
            are opened: at most 1,000).
        batch_size, seed, rank, world_size, device: as a `GenomeLoader` has them.
        tracks: names of tracks; of a store that lacks one, nothing is known of it: its mask says so.
        last: what becomes of the last batch of a store's own epoch: "wrap", or as a `GenomeLoader` has it.
        options: whatever else a `GenomeLoader` takes, for all stores alike.

    Attributes:
        members: rows of the stores that are served; of more than 1,000 as many at equal distances.

    Raises:
        ConfigError: a store does not fit (when its turn comes; it names the store), or there are too many to count.
        StoreError: a store has changed since it was indexed (likewise).
    """

    plan: Turns
    members: list[int]

    def __init__(
        self,
        collection: Collection | str | Path,
        *,
        epoch_batches: int | None = None,
        batch_size: int = 32,
        seed: int = 0,
        tracks: tuple[str, ...] = (),
        **options: Any,
    ):
        super().__init__(batch_size, torch.device(options.get("device", "cpu")))
        self.collection = collection if isinstance(collection, Collection) else open_collection(collection)
        self.seed = checked(Sample, {"seed": seed}).seed
        if epoch_batches is not None and (not isinstance(epoch_batches, int) or epoch_batches < 1):
            raise ConfigError(f"{epoch_batches} batches make no epoch. Use at least 1.", key="epoch_batches")
        self._options = {"last": "wrap", "split": "train", **options, "batch_size": batch_size}
        if windows := options.get("windows"):
            self._options["windows"] = checked(Windows, dict(windows))  # from any form, known by the same
        self._loaders: dict[int, GenomeLoader] = {}
        self._lock = threading.Lock()
        self._tracks = {name: _Served.of(self.collection.track(name)) for name in tracks}
        if options.get("order") == "sequential":
            if options.get("curriculum"):
                raise ConfigError(
                    "stores that are served whole have windows of one length. Leave it out.", key="curriculum"
                )
            counts = self._counts()
            self.members = np.flatnonzero(counts).tolist()
            self.plan = Turns(InTurn(counts), epoch_batches or int(counts.sum()), batch_size)
        else:
            if epoch_batches is None and len(self.collection) > OPENED:
                raise ConfigError(
                    f"collection {self.collection.path} has {len(self.collection):,} stores, too many to count the "
                    "batches of all: say how many an epoch of the mixture has",
                    key="epoch_batches",
                )
            self.members = self.collection.few()
            schedule = Schedule(self.collection.weights, names=self.collection.names)
            epoch = epoch_batches or sum(self.loader(row).plan.batches(0) for row in range(len(self.collection)))
            self.plan = Turns(schedule, epoch, batch_size)

    def _counts(self) -> Int64:
        """How many batches an epoch of each store has: int64 (stores,), 0 for those left out where all are served whole."""
        name, part = self.split
        counts = np.zeros(len(self.collection), np.int64)
        asked = self.collection.few()
        for row in asked:
            if part is None or self.collection.store(row).has(part, name):
                counts[row] = self.loader(row).plan.batches(0)
        if not counts.any():
            raise ConfigError(f'no store of {self.collection.path} has "{self._options["split"]}"', key="split")
        if len(asked) < len(counts):
            log.info("%s: %s of %s stores are served, at equal distances", part, f"{len(asked):,}", f"{len(counts):,}")
        return counts

    def __getstate__(self) -> dict[str, Any]:
        """Another process opens the stores anew, in their turn."""
        kept = {name: value for name, value in self.__dict__.items() if name != "_nothing"}
        return kept | {"_loaders": {}, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state | {"_lock": threading.Lock()})

    def loader(self, row: int) -> GenomeLoader:
        """The loader of one store, by its row in the collection.

        Raises:
            ConfigError: the options don't fit the store. StoreError: it is missing, damaged, or not what was indexed.
        """
        with self._lock:
            store = self.collection.store(row)
            if row not in self._loaders:
                store = self.collection.unchanged(row)
            for other in [other for other in self._loaders if not self.collection.is_open(other)]:
                del self._loaders[other]
            if row not in self._loaders or self._loaders[row].store is not store:
                name = self.collection.names[row]
                found = self._found(store, name)
                seed = own_seed(self.seed, name)
                try:
                    self._loaders[row] = GenomeLoader(store, seed=seed, tracks=found, **self._options)
                except ConfigError as error:
                    raise ConfigError(f'store "{name}" of {self.collection.path}: {error}') from None
            return self._loaders[row]

    def _found(self, store: Store, name: str) -> tuple[str, ...]:
        """Those of the tracks that a store has."""
        found = tuple(track for track in self._tracks if track in store.tracks)
        for track in found:
            here, elsewhere = _Served.of(store.track(track)), self._tracks[track]
            if here != elsewhere:
                raise ConfigError(
                    f'store "{name}" of {self.collection.path}: its track "{track}" has {here}, '
                    f"that of another store {elsewhere}. Build them alike.",
                    key="tracks",
                )
        return found

    def make(self, epoch: int, batches: Sequence[int]) -> Made:
        """This rank's rows of some global batches of an epoch, by their numbers in it."""
        which, ordinals = self.plan.turn(epoch, batches)
        made: dict[int, Batch] = {}
        receive: list[Callable[[], None]] = []
        for row in np.unique(which).tolist():
            loader = self.loader(row)
            groups: dict[int, dict[int, int]] = {}  # by the store's own epoch: number of the batch there by place
            for place in np.flatnonzero(which == row).tolist():
                own, position = loader.plan.at_step(int(ordinals[place]))
                groups.setdefault(own, {})[place] = position // self.batch_size
            for own, numbers in groups.items():
                some = loader.make(own, list(numbers.values()))
                receive += some.receive
                for place, batch in zip(numbers, some.batches, strict=True):
                    made[place] = replace(self._masked(batch), source=torch.full((len(batch),), row))
        return Made([made[place] for place in range(len(made))], receive)

    def places(self, epoch: int, position: int) -> tuple[list[int], list[Interval]]:
        """The samples of a batch, of its store's own epoch, and where they lie there; see `Turns` for whose they are."""
        loader, ordinal = self._turn(epoch, position // self.batch_size)
        return loader.places(*loader.plan.at_step(ordinal))

    @property
    def lengths(self) -> Sequence[Lengths]:
        """Of the windows of a curriculum, those that stay last, in the store whose turn comes first."""
        loader, _ = self._turn(0, 0)
        return loader.lengths

    def source(self, epoch: int, position: int) -> str:
        """The name of the store that the rows of a batch come from."""
        which, _ = self.plan.turn(epoch, [position // self.batch_size])
        return self.collection.names[int(which[0])]

    def _masked(self, batch: Batch) -> Batch:
        """The batch with what its store lacks, of which nothing is known."""
        targets, mask = dict(batch.targets), dict(batch.mask)
        for name in self._tracks.keys() - targets.keys():
            track = self._tracks[name]
            shape = (len(batch), batch.target_length // track.bin_bp, len(track.columns))
            value, known = self._nothing[track.dtype]
            targets[name] = value.expand(shape)
            mask[name] = known.expand(*shape[:2], 1 if track.is_classes else shape[2])
        return replace(batch, targets=targets, mask=mask)

    @cached_property
    def _nothing(self) -> dict[torch.dtype, tuple[Tensor, Tensor]]:
        """A value of each type and the mask for it, on the device. Copied there, not made there: a copy out of plain memory
        is waited for, so that any stream may read it."""
        dtypes = {track.dtype for track in self._tracks.values()}
        zeros = {dtype: (torch.zeros((), dtype=dtype), torch.zeros((), dtype=torch.bool)) for dtype in dtypes}
        return {dtype: (value.to(self.device), known.to(self.device)) for dtype, (value, known) in zeros.items()}

    def batch_bytes(self, epoch: int) -> float:
        """About how many bytes a rank's rows of a batch take."""
        loader, ordinal = self._turn(epoch, 0)
        return loader.batch_bytes(loader.plan.at_step(ordinal)[0])

    def _turn(self, epoch: int, number: int) -> tuple[GenomeLoader, int]:
        which, ordinal = self.plan.turn(epoch, [number])
        return self.loader(int(which[0])), int(ordinal[0])

    def own_epochs(self, rows: Sequence[int]) -> dict[str, float]:
        """How often stores, by their rows, have been served whole before the next batch, by name; opens them."""
        had = self.plan.schedule.before(self.plan.steps(self.epoch) + self.position // self.batch_size)
        found = {}
        for row in rows:
            loader = self.loader(row)
            own, position = loader.plan.at_step(int(had[row]))
            found[self.collection.names[row]] = own + position / self.batch_size / loader.plan.batches(own)
        return found

    def identity(self) -> dict[str, Any]:
        """What must be the same wherever a state is loaded; nothing in it depends on ranks."""
        order = VERSIONS[self._options.get("order", "flat")]
        return {"data": self._data, "order": f"{VERSION} {order}", "seed": self.seed}

    @cached_property
    def _data(self) -> str:
        options = self._options
        given = {name: value for name, value in options.items() if name in Sample.model_fields}
        asked = _plain(checked(Sample, dict(options.get("windows") or Windows()) | given))
        name, part = self.split
        known = {
            "stores": self.collection.identity(name, tuple(self._tracks)),
            "weights": self.collection.weights.tolist(),
            "epoch_batches": self.plan.epoch,
            "tracks": list(self._tracks),
            "split": [name if part else "", part],
            "sample": {key: value for key, value in asked.items() if key not in ("batch_size", "order", "seed")},
        }
        return digest(known)

    @property
    def split(self) -> tuple[str, str | None]:
        """Name and part."""
        return named_split(self._options["split"])


class _Served(NamedTuple):
    """What all stores that have a track must agree on."""

    columns: tuple[str, ...]
    bin_bp: int
    is_classes: bool
    dtype: torch.dtype

    @classmethod
    def of(cls, track: Track) -> _Served:
        columns = track.columns if len(track.columns) > 1 else (track.name,)  # one alone is called after its file
        return cls(columns, track.bin_bp, track.is_classes, dtype_of(track))

    def __str__(self) -> str:
        kind = "classes" if self.is_classes else str(self.dtype).removeprefix("torch.")
        return f"{some(list(self.columns))} at {self.bin_bp} bp ({kind})"


def _plain(value: Any) -> Any:
    """Sections of a run as plain data, alone or in a list; files of regions by what is in them, wherever they lie."""
    if isinstance(value, BaseModel):
        plain = {name: _plain(getattr(value, name)) for name in type(value).model_fields}
        files = {"source": plain.get("source"), "exclude": plain.get("exclude")}
        return plain | {name: _content(found) for name, found in files.items() if found}
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value


def _content(source: str | list[str]) -> Any:
    if isinstance(source, list):
        return [_content(one) for one in source]
    if is_stored(source):
        return source
    try:
        return blake3(Path(source).read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(f"{source} cannot be read ({error.strerror})", key="windows") from None
