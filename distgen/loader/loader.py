"""GenomeLoader: the batches of a split, in an order that is a pure function of seed, epoch and position."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal, get_args
from weakref import WeakMethod

import numpy as np
import torch
from torch import Tensor

from distgen.config import Lengths, Sample, Windows, checked
from distgen.errors import ConfigError, suggest
from distgen.genome import Interval
from distgen.ingest.objects import Object, Place
from distgen.loader.base import Loader, Made
from distgen.loader.batch import Batch
from distgen.loader.damage import Damage, Lost, Skipped
from distgen.loader.exports import place_export
from distgen.loader.gather import Read
from distgen.loader.order import VERSIONS
from distgen.loader.packed import Dealt, Packer
from distgen.loader.placement import Host, Placement, place
from distgen.loader.plan import Plan
from distgen.loader.reading import ReadAhead
from distgen.loader.regions import CONTIGS
from distgen.loader.sampling import Drawn, Last, Order, Strand
from distgen.loader.source import Source, genome, open_source
from distgen.loader.targets import Targets, label_rows, matrix_rows
from distgen.loader.transfer import Transfer
from distgen.loader.windows import Geometry
from distgen.store.cache import ShardCache
from distgen.store.exported import Export

_APART = ("self", "store", "__class__")  # not what a loader of the same kind is made with elsewhere

OnCorrupt = Literal["stop", "skip"]


class GenomeLoader(Loader):
    """The batches of one store; see `Loader` for how they are walked.

    Args:
        store: an open store, or the path of one. Or an export of a store: it serves the windows that it has, all along a
            part, without jitter, from "host" or "stream".
        window: bases per window; None: 1,024, or for a table of sequences as many as the longest has.
        target_length: bases in the window's middle that targets cover; the whole window if None.
        stride: bases from one target to the next; `target_length` if None. An export has its own lengths, also for None.
        split: a part of the store's default split, "name/part" of another, or None for everything.
        packed: windows at "whole" regions, as those of a table of sequences are, stand one after another in rows of `window`
            bases; a batch says by its `segments` which stands where. Samples are then numbered as the windows are.
        batch_size: samples per global batch, all ranks together; rows if `packed`.
        seed: of the order and of all draws.
        strand: "forward"; "region", that of the region which a window lies at (forward if it has none); "random" draws one
            for each sample; "both" serves each window twice.
        jitter: windows move by up to this many bases to either side, drawn for each sample.
        order: "flat", a new permutation each epoch; "grouped", one that reads few shards at any time; or "sequential".
        lanes: for "grouped", from how many places a batch is drawn; it divides `batch_size`. As many as workers are read with
            the least traffic. None: the largest divisor up to 8.
        rank, world_size: this rank serves rows floor(rank B / W) to floor((rank + 1) B / W).
        placement: "device": planes and tracks lie whole where batches are to be; "host": rows are copied out of memory-mapped
            shards; "stream": the same for a store elsewhere, whose shards are fetched ahead of time; "auto" says which it
            takes and why.
        cache: keeps the shards of a store elsewhere on the local disk; None: 64 GB in the user's cache folder.
        device: where batches are to be.
        tracks: names of the tracks to serve as targets.
        inputs: names of the tracks to serve along the whole window, for the model to see.
        windows: where they lie, if not all along the split: at regions, in balanced pools, without what is excluded, as the
            haplotypes of samples have them: `distgen.config.Windows`, or the same keys as in a run's [data], whose tables are
            dicts. Paths are relative to the working directory. Windows of pools have the target
            "pool", which counts them as listed; those of a table of sequences "labels", and those at `matrix:NAME` NAME.
        curriculum: lengths of windows that other epochs have before the one this says stays.
        last: "drop" an incomplete last batch, "pad" it with rows of weight 0, or "wrap": fill it with the epoch's first samples.
        on_corrupt: "stop" where a shard is damaged or missing, or "skip" the samples that need what is: they become padding,
            without bases, without known targets, of weight 0, and all others stay as they are. Pools that match refuse that.

    Raises:
        ConfigError: an argument does not fit the store or the others; names the key and what would fit.
        StoreError: what says where windows lie is damaged; and from walking, see `on_corrupt`.
    """

    plan: Plan

    def __init__(
        self,
        store: Source | str | Place,
        *,
        window: int | None = None,
        target_length: int | None = None,
        stride: int | None = None,
        split: str | None = "train",
        packed: bool = False,
        batch_size: int = 32,
        seed: int = 0,
        strand: Strand = "forward",
        jitter: int = 0,
        order: Order = "flat",
        lanes: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        placement: Literal["auto", "device", "host", "stream"] = "auto",
        cache: ShardCache | None = None,
        device: torch.device | str = "cpu",
        tracks: Sequence[str] = (),
        inputs: Sequence[str] = (),
        windows: Windows | Mapping[str, Any] | None = None,
        curriculum: Sequence[Lengths] = (),
        last: Last = "drop",
        on_corrupt: OnCorrupt = "stop",
    ):
        self._arguments = {name: value for name, value in locals().items() if name not in _APART}
        super().__init__(batch_size, torch.device(device))
        sample = {name: value for name, value in self._arguments.items() if name in Sample.model_fields}
        asked = checked(Sample, dict(checked(Windows, dict(windows or {}))) | sample)
        if on_corrupt not in get_args(OnCorrupt):
            raise ConfigError(
                f'"{on_corrupt}" is no choice. {suggest(on_corrupt, get_args(OnCorrupt))}', key="on_corrupt"
            )
        if on_corrupt == "skip" and any(pool.matches for pool in asked.pool):
            problem = 'negatives are matched by their bases, also by those that damage hides. Use "stop".'
            raise ConfigError(problem, key="on_corrupt")
        if batch_size < world_size:
            problem = f"{batch_size} leaves some of {world_size} workers without samples. Use at least {world_size}."
            raise ConfigError(problem, key="batch_size")
        if not 0 <= rank < world_size:
            raise ConfigError(f"{rank} is none of {world_size} ranks, which count from 0", key="rank")
        self.store = open_source(store, cache) if isinstance(store, (str, Path, Object)) else store
        self.plan = Plan(self.store, split, asked, tuple(tracks))
        self._identity = {"data": self.plan.id, "order": VERSIONS[order], "seed": seed}
        self._rows = np.arange(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)
        self._transfer = Transfer(self.device)
        self._damage = Damage()
        self._skips = on_corrupt == "skip"
        self._placement = self._placed(placement)
        self._sources_of, self._opening = dict[Geometry, list[tuple[str, str, Targets]]](), threading.Lock()
        # Nothing here refers to the loader: who lets go of it lets go of its files and of what lies on its device, at once.
        kept, reads = self.store.cache, WeakMethod(self._reads)
        self._ahead = None if kept is None else ReadAhead(kept, self.plan.batches, lambda *some: reads()(*some))  # type: ignore[misc]

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process opens the store anew: addresses of what is mapped here mean nothing there.
        return _opened, (self.store.path, self._arguments | {"cache": self.store.cache}, self.state_dict())

    def __iter__(self) -> Iterator[Batch]:
        """See `Loader`; shards of a store elsewhere are fetched ahead, those of the next epoch as well.

        Raises:
            StoreError, RemoteError: what is needed is damaged, or cannot be fetched.
        """
        if self._ahead is None:
            yield from super().__iter__()
            return
        self._ahead.start(self.epoch, self.position // self.batch_size)
        try:
            yield from super().__iter__()
        except BaseException:  # whoever leaves in the middle may not come back
            self._ahead.stop()
            raise

    @property
    def skipped(self) -> Skipped:
        """What was left out because it is damaged; see `on_corrupt`."""
        return self._damage.skipped

    def identity(self) -> dict[str, Any]:
        """What must be the same wherever a state is loaded; nothing in it depends on ranks."""
        return self._identity

    def batch_bytes(self, epoch: int) -> float:
        """About how many bytes a rank's rows of a batch take."""
        geometry = self.plan.sampling(epoch).geometry
        asked = [(name, geometry.target_length) for name in self.plan.tracks]
        asked += [(name, geometry.window) for name in self.plan.asked.inputs]
        tracks = [(self.store.track(name), length) for name, length in asked]
        wide = sum(track.bin_bytes * length / track.bin_bp for track, length in tracks)
        return len(self._rows) * (geometry.window / 4 + wide)

    def places(self, epoch: int, position: int) -> tuple[list[int], list[Interval]]:
        """The samples of that batch and where they lie, without reading them; see `Batch.samples` and `Batch.where`."""
        drawn = self._draw(epoch, [position // self.batch_size])
        return drawn.samples.tolist(), drawn.places(self.store.contigs, self.plan.sampling(epoch).geometry.window)

    @property
    def lengths(self) -> Sequence[Lengths]:
        """Of the windows of a curriculum; those that stay come last."""
        return self.plan.lengths

    def source(self, epoch: int, position: int) -> str:
        """The name of the assembly, which all batches come from."""
        return self.store.name

    def _draw(self, epoch: int, batches: Sequence[int]) -> Drawn | Dealt:
        """This rank's rows of some batches."""
        begins = np.array(batches, np.int64) * self.batch_size
        return self.plan.sampling(epoch).draw((begins[:, None] + self._rows).reshape(-1), epoch)

    def make(self, epoch: int, batches: Sequence[int]) -> Made:
        """This rank's rows of some global batches of an epoch, by their numbers in it."""
        if self._ahead is not None:
            self._ahead.come_to(epoch, batches)
        drawn, geometry = self._draw(epoch, batches), self.plan.sampling(epoch).geometry
        if isinstance(drawn, Dealt):
            sources = [(name, source) for _, name, source in self._sources(geometry)]
            return self._packer.make(drawn, len(batches), geometry.window, sources)
        while True:
            try:
                return self._made(drawn, geometry, len(batches))
            except Lost as lost:
                drawn = self._damage.leave_out(drawn, lost.rows)

    def _reads(self, epoch: int, batches: range) -> list[Read]:
        """What this rank's rows of some batches read out of shards."""
        drawn, geometry = self._draw(epoch, batches), self.plan.sampling(epoch).geometry
        if isinstance(drawn, Dealt):
            return self._packer.reads(drawn, len(batches))
        found = self._placement.reads(drawn.positions, drawn.limits, geometry.window)
        for kind, _, source in self._sources(geometry):
            found += source.reads(drawn.positions if kind == "inputs" else drawn.target_starts, drawn.limits)
        return found

    def _made(self, drawn: Drawn, geometry: Geometry, count: int) -> Made:
        rows = self._placement.rows(drawn.positions, drawn.limits, geometry.window, drawn.haplotypes)
        send, fill = self._transfer.send, self._transfer.fill
        columns = {name: send(fill(getattr(drawn, name))) for name in ("reverse", "keys", "weight")}
        columns |= {"samples": torch.from_numpy(drawn.samples), "positions": torch.from_numpy(drawn.positions)}
        tables: dict[str, dict[str, Tensor]] = {"targets": {}, "mask": {}, "inputs": {}, "inputs_mask": {}}
        for kind, name, source in self._sources(geometry):
            starts, before = (drawn.positions, 0) if kind == "inputs" else (drawn.target_starts, geometry.margin)
            mask, pieces = "inputs_mask" if kind == "inputs" else "mask", rows.pieces and rows.pieces.after(before)
            found = source.rows(starts, drawn.limits, drawn.reverse, drawn.rows, pieces)
            tables[kind][name], tables[mask][name] = found
        if drawn.labels is not None:
            tables["targets"]["pool"] = send(fill(drawn.labels))
            tables["mask"]["pool"] = send(fill(drawn.limits[:, 0] < drawn.limits[:, 1]))
        if drawn.haplotypes is not None:
            columns["haplotypes"] = torch.from_numpy(drawn.haplotypes)
        parts = {name: _parts(column, count) for name, column in columns.items()}
        split = {kind: {name: _parts(v, count) for name, v in table.items()} for kind, table in tables.items()}
        with self._transfer.beside():  # where they begin is still on its way
            batches = rows.split(count)
        made = [
            Batch(
                plane=here.plane,
                starts=here.starts,
                limits=here.limits,
                ambiguous=here.ambiguous,
                softmask=here.softmask,
                length=geometry.window,
                target_length=geometry.target_length,
                contigs=self.store.contigs,
                reverse=parts["reverse"][number],
                keys=parts["keys"][number],
                weight=parts["weight"][number],
                samples=parts["samples"][number],
                positions=parts["positions"][number],
                haplotypes=parts["haplotypes"][number] if "haplotypes" in parts else None,
                targets={name: part[number] for name, part in split["targets"].items()},
                mask={name: part[number] for name, part in split["mask"].items()},
                inputs={name: part[number] for name, part in split["inputs"].items()},
                inputs_mask={name: part[number] for name, part in split["inputs_mask"].items()},
            )
            for number, here in enumerate(batches)
        ]
        tensors = [*columns.values(), *chain.from_iterable(table.values() for table in tables.values())]
        tensors += [
            tensor for tensor in (*rows[:3], *batches[0][3:5]) if tensor is not None
        ]  # all of them share theirs
        return Made(made, [partial(self._transfer.receive, self._transfer.sent(), tensors)])

    def _placed(self, name: str) -> Placement:
        order, damage = self.plan.asked.order, self._damage if self._skips else None
        if isinstance(self.store, Export):
            return place_export(name, self.store, self.plan.part, self._transfer, order, damage)
        if not self.plan.asked.packed:
            return place(name, self.store, self._transfer, self.plan.haplotypes, order, damage)
        if damage is not None:
            raise ConfigError('of rows of several windows, none can be left out. Use "stop".', key="on_corrupt")
        if name == "device":
            problem = 'rows of several windows are made on the host. Use "auto", "host" or "stream".'
            raise ConfigError(problem, key="placement")
        placed = place("host" if name == "auto" else name, self.store, self._transfer, None, order)
        assert isinstance(placed, Host)
        self._packer = Packer(self.store.contigs, placed.planes, self._transfer)
        return placed

    def _sources(self, geometry: Geometry) -> list[tuple[str, str, Targets]]:
        """What is served beside the bases: where it goes, its name, and what makes its rows."""
        with self._opening:  # one thread: two would put a track on the device twice
            if geometry not in self._sources_of:
                self._sources_of[geometry] = self._open_sources(geometry)
            return self._sources_of[geometry]

    def _open_sources(self, geometry: Geometry) -> list[tuple[str, str, Targets]]:
        asked = [("targets", name, geometry.target_length) for name in self.plan.tracks]
        asked += [("inputs", name, geometry.window) for name in self.plan.asked.inputs]
        made: list[tuple[str, str, Targets]] = [
            (kind, name, self._placement.track(name, length, self.plan.holes)) for kind, name, length in asked
        ]
        if self.plan.rows_of:
            name, source = self.plan.rows_of
            store = genome(self.store, "a window of a table", "regions")
            rows = label_rows(store, self._transfer) if source == CONTIGS else matrix_rows(store, name, self._transfer)
            made.append(("targets", name, rows))
        return made


def _opened(path: Place, arguments: dict[str, Any], state: dict[str, Any]) -> GenomeLoader:
    loader = GenomeLoader(path, **arguments)
    loader.load_state_dict(state)
    return loader


def _parts(column: Tensor, count: int) -> tuple[Tensor, ...]:
    """The rows of each batch."""
    return column.view(count, -1, *column.shape[1:]).unbind(0)
