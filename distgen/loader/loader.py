"""GenomeLoader: the batches of a split, in an order that is a pure function of seed, epoch and position."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache, partial
from itertools import chain
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from distgen.config import Lengths
from distgen.errors import CheckpointError, ConfigError
from distgen.genome import Interval
from distgen.ingest.objects import Place
from distgen.loader.ahead import ahead
from distgen.loader.batch import Batch, places
from distgen.loader.order import VERSIONS
from distgen.loader.placement import place
from distgen.loader.plan import Plan
from distgen.loader.sampling import Drawn, Last, Order, Strand
from distgen.loader.targets import HostTrack, Targets
from distgen.loader.transfer import Transfer
from distgen.loader.windows import Geometry
from distgen.store.reader import Store, open_store

_THREADS = 1  # that make batches before they are asked for
_AHEAD = 2  # how many times `_TOGETHER` are made before they are asked for
_TOGETHER = 1 << 20  # bytes of batches that are made in one go: what is paid per call is paid once for many of them
_MOST = 64  # batches in one go


class Made(NamedTuple):
    """Batches, and all their tensors, which on a GPU may still be on their way."""

    batches: list[Batch]
    sent: torch.cuda.Event | None
    tensors: list[Tensor]


class GenomeLoader(IterableDataset[Batch]):
    """Iterates over one epoch of one rank's batches at a time; the next iteration is the next epoch.

    It is its own data loader, with threads that work ahead. Inside a `torch.utils.data.DataLoader(loader, batch_size=None)`
    each of its worker processes makes every so many-th batch, so that they come in the same order.

    Args:
        store: an open store, or the path of one.
        window: bases per window.
        target_length: bases in the window's middle that targets cover; the whole window if None.
        stride: bases from one target to the next; `target_length` if None.
        split: a part of the store's default split, "name/part" of another, or None for everything.
        batch_size: samples per global batch, all ranks together.
        seed: of the order and of all draws.
        strand: "forward"; "random" draws one for each sample; "both" serves each window twice.
        jitter: windows move by up to this many bases to either side, drawn for each sample.
        order: "flat", a new permutation each epoch; "grouped", one that reads few shards at any time; or "sequential".
        lanes: for "grouped", from how many places a batch is drawn; it divides `batch_size`. As many as workers are read with
            the least traffic. None: the largest divisor up to 8.
        rank, world_size: this rank serves rows floor(rank B / W) to floor((rank + 1) B / W).
        placement: "device", "host" or "auto".
        device: where batches are to be.
        tracks: names of the tracks to serve as targets.
        inputs: names of the tracks to serve along the whole window, for the model to see.
        curriculum: lengths of windows that other epochs have before the one this says stays.
        last: "drop" an incomplete last batch, "pad" it with rows of weight 0, or "wrap": fill it with the epoch's first samples.

    Raises:
        ConfigError: an argument does not fit the store or the others; names the key and what would fit.
    """

    def __init__(
        self,
        store: Store | str | Place,
        *,
        window: int = 1024,
        target_length: int | None = None,
        stride: int | None = None,
        split: str | None = "train",
        batch_size: int = 32,
        seed: int = 0,
        strand: Strand = "forward",
        jitter: int = 0,
        order: Order = "flat",
        lanes: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        placement: Literal["auto", "device", "host"] = "auto",
        device: torch.device | str = "cpu",
        tracks: tuple[str, ...] = (),
        inputs: tuple[str, ...] = (),
        curriculum: Sequence[Lengths] = (),
        last: Last = "drop",
    ):
        self._arguments = {
            name: value for name, value in locals().items() if name not in ("self", "store", "__class__")
        }
        self.store = store if isinstance(store, Store) else open_store(store)
        if batch_size < world_size:
            raise ConfigError(f"{batch_size} leaves some of {world_size} workers without samples", key="batch_size")
        # The run's own lengths come last and stay.
        lengths = [*curriculum, Lengths(epochs=1, window=window, target_length=target_length, stride=stride)]
        self.plan = Plan(
            self.store, lengths, split, batch_size, seed, strand, jitter, order, lanes, last, tracks, inputs
        )
        self.batch_size = batch_size
        self._state = {"data": self.plan.id, "order": VERSIONS[order], "seed": seed, "batch_size": batch_size}
        self._rows = np.arange(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)
        self.device = torch.device(device)
        self._transfer = Transfer(self.device)
        self._placement = place(placement, self.store, self._transfer)
        self._tracks, self._inputs = tracks, inputs
        self._sources = cache(self._open_sources)
        self.epoch, self.position = 0, 0

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process opens the store anew: addresses of what is mapped here mean nothing there.
        return _opened, (self.store.path, self._arguments, self.state_dict())

    def __len__(self) -> int:
        """How many global batches the current epoch has, those already served as well."""
        return self.plan.batches(self.epoch)

    def __iter__(self) -> Iterator[Batch]:
        """The rest of the current epoch. `state_dict` always speaks of the batch that comes next.

        Raises:
            TrainError: no batch came within `TIMEOUTS["next_batch"]` seconds.
        """
        epoch, first, end = self.epoch, self.position // self.batch_size, len(self)
        worker = get_worker_info()
        mine = range(first, end) if worker is None else range(first + worker.id, end, worker.num_workers)
        step = min(_MOST, max(1, int(_TOGETHER // (len(self._rows) * self._row_bytes(epoch)))))
        calls = (partial(self._make, epoch, mine[at : at + step]) for at in range(0, len(mine), step))
        batches = chain.from_iterable(map(self._received, ahead(calls, _THREADS, _AHEAD)))
        for number, batch in zip(mine, batches, strict=True):
            self.epoch, self.position = (epoch, (number + 1) * self.batch_size) if number + 1 < end else (epoch + 1, 0)
            yield batch

    def _row_bytes(self, epoch: int) -> float:
        """About how much is read for a row."""
        geometry = self.plan.sampling(epoch).geometry
        of_tracks = ((name, geometry.target_length) for name in self._tracks)
        of_inputs = ((name, geometry.window) for name in self._inputs)
        wide = sum(
            self.store.track(name).bin_bytes * length / self.store.track(name).bin_bp
            for name, length in (*of_tracks, *of_inputs)
        )
        return geometry.window / 4 + wide

    def batch(self, epoch: int, position: int) -> Batch:
        """This rank's rows of the global batch whose first sample is `position` of `epoch`: past or future, always the same."""
        (batch,) = self._received(self._make(epoch, self._at(position)))
        return batch

    def places(self, epoch: int, position: int) -> tuple[list[int], list[Interval]]:
        """The samples of that batch and where they lie, without reading them; see `Batch.samples` and `Batch.where`."""
        drawn = self._draw(epoch, self._at(position))
        length = self.plan.sampling(epoch).geometry.window
        found = places(self.store.contigs, drawn.positions, drawn.limits, drawn.reverse, length)
        return drawn.samples.tolist(), found

    def _at(self, position: int) -> range:
        number = position // self.batch_size
        return range(number, number + 1)

    def _draw(self, epoch: int, batches: range) -> Drawn:
        """This rank's rows of some batches."""
        begins = np.array(batches, np.int64) * self.batch_size
        return self.plan.sampling(epoch).draw((begins[:, None] + self._rows).reshape(-1), epoch)

    def _make(self, epoch: int, batches: range) -> Made:
        """Some batches of an epoch."""
        drawn, geometry, count = self._draw(epoch, batches), self.plan.sampling(epoch).geometry, len(batches)
        rows = self._placement.rows(drawn.positions, drawn.limits, geometry.window)
        send, fill = self._transfer.send, self._transfer.fill
        columns = {name: send(fill(getattr(drawn, name))) for name in ("reverse", "keys", "weight")}
        columns |= {"samples": torch.from_numpy(drawn.samples), "positions": torch.from_numpy(drawn.positions)}
        tables: dict[str, dict[str, Tensor]] = {"targets": {}, "mask": {}, "inputs": {}, "inputs_mask": {}}
        for kind, name, source in self._sources(geometry):
            starts = drawn.positions if kind == "inputs" else drawn.target_starts
            mask = "inputs_mask" if kind == "inputs" else "mask"
            tables[kind][name], tables[mask][name] = source.rows(starts, drawn.limits, drawn.reverse, drawn.rows)
        parts = {name: _parts(column, count) for name, column in columns.items()}
        split = {kind: {name: _parts(v, count) for name, v in table.items()} for kind, table in tables.items()}
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
                targets={name: part[number] for name, part in split["targets"].items()},
                mask={name: part[number] for name, part in split["mask"].items()},
                inputs={name: part[number] for name, part in split["inputs"].items()},
                inputs_mask={name: part[number] for name, part in split["inputs_mask"].items()},
            )
            for number, here in enumerate(rows.split(count))
        ]
        tensors = [*columns.values(), *chain.from_iterable(table.values() for table in tables.values())]
        tensors += [tensor for tensor in rows[:5] if tensor is not None]
        return Made(made, self._transfer.sent(), tensors)

    def _received(self, made: Made) -> list[Batch]:
        """The batches, for use on the current stream."""
        self._transfer.receive(made.sent, made.tensors)
        return made.batches

    def _open_sources(self, geometry: Geometry) -> list[tuple[str, str, Targets]]:
        """What is served beside the bases: where it goes, its name, and what makes its rows."""
        asked = [("targets", name, geometry.target_length) for name in self._tracks]
        asked += [("inputs", name, geometry.window) for name in self._inputs]
        return [
            (kind, name, HostTrack(self.store, self.store.track(name), length, self._transfer))
            for kind, name, length in asked
        ]

    def state_dict(self) -> dict[str, Any]:
        """Where the next batch stands; the same on every rank, without a world size in it."""
        return self._state | {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where another loader of the same data was, on any number of ranks.

        Raises:
            CheckpointError: the state belongs to other data, another order, seed or batch size.
        """
        for key, value in self._state.items():
            if state.get(key) != value:
                raise CheckpointError(f"the loader's state has {key} {state.get(key)!r}, this loader {value!r}")
        self.epoch, self.position = int(state["epoch"]), int(state["position"])


def _opened(path: Place, arguments: dict[str, Any], state: dict[str, Any]) -> GenomeLoader:
    loader = GenomeLoader(path, **arguments)
    loader.load_state_dict(state)
    return loader


def _parts(column: Tensor, count: int) -> tuple[Tensor, ...]:
    """The rows of each batch."""
    return column.view(count, -1, *column.shape[1:]).unbind(0)
