"""GenomeLoader: the batches of a split, in an order that is a pure function of seed, epoch and position."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from distgen.config import Lengths
from distgen.errors import CheckpointError, ConfigError
from distgen.genome import Interval
from distgen.loader.ahead import ahead
from distgen.loader.batch import Batch, places
from distgen.loader.order import VERSIONS
from distgen.loader.placement import TrackRows, place
from distgen.loader.plan import Plan
from distgen.loader.sampling import Drawn, Last, Order, Strand
from distgen.store.reader import Store, open_store

_THREADS = 1  # that make batches before they are asked for
_AHEAD = 2  # how many times `_TOGETHER` are made before they are asked for
_TOGETHER = 1 << 20  # bytes of batches that are made in one go: what is paid per call is paid once for many of them
_MOST = 64  # batches in one go


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
        curriculum: lengths of windows that other epochs have before the one this says stays.
        last: "drop" an incomplete last batch, "pad" it with rows of weight 0, or "wrap": fill it with the epoch's first samples.

    Raises:
        ConfigError: an argument does not fit the store or the others; names the key and what would fit.
    """

    def __init__(
        self,
        store: Store | str | Path,
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
        curriculum: Sequence[Lengths] = (),
        last: Last = "drop",
    ):
        self.store = store if isinstance(store, Store) else open_store(store)
        if batch_size < world_size:
            raise ConfigError(f"{batch_size} leaves some of {world_size} workers without samples", key="batch_size")
        # The run's own lengths come last and stay.
        lengths = [*curriculum, Lengths(epochs=1, window=window, target_length=target_length, stride=stride)]
        self.plan = Plan(self.store, lengths, split, batch_size, seed, strand, jitter, order, lanes, last, tracks)
        self.batch_size = batch_size
        self._state = {"data": self.plan.id, "order": VERSIONS[order], "seed": seed, "batch_size": batch_size}
        self._rows = np.arange(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)
        self.device = torch.device(device)
        self._placement = place(placement, self.store, self.device)
        self._tracks = {name: TrackRows(self.store, self.store.track(name)) for name in tracks}
        self.epoch, self.position = 0, 0

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
        geometry = self.plan.sampling(epoch).geometry
        bytes_ = geometry.window / 4 + sum(t.bytes_per_base * geometry.target_length for t in self._tracks.values())
        step = min(_MOST, max(1, int(_TOGETHER // (len(self._rows) * bytes_))))
        calls = (partial(self._make, epoch, mine[at : at + step]) for at in range(0, len(mine), step))
        for number, batch in zip(mine, chain.from_iterable(ahead(calls, _THREADS, _AHEAD)), strict=True):
            self.epoch, self.position = (epoch, (number + 1) * self.batch_size) if number + 1 < end else (epoch + 1, 0)
            yield batch

    def batch(self, epoch: int, position: int) -> Batch:
        """This rank's rows of the global batch whose first sample is `position` of `epoch`: past or future, always the same."""
        (batch,) = self._make(epoch, self._at(position))
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

    def _make(self, epoch: int, batches: range) -> list[Batch]:
        """Some batches of an epoch."""
        drawn, geometry, count = self._draw(epoch, batches), self.plan.sampling(epoch).geometry, len(batches)
        rows = self._placement.rows(drawn.positions, drawn.limits, geometry.window)
        targets, mask = {}, {}
        for name, track in self._tracks.items():
            values, known = track.rows(drawn.target_starts, drawn.limits, geometry.target_length, drawn.reverse)
            targets[name], mask[name] = values.to(self.device), known.to(self.device)
        columns = {
            name: torch.from_numpy(getattr(drawn, name)).to(self.device) for name in ("reverse", "keys", "weight")
        }
        columns |= {"samples": torch.from_numpy(drawn.samples), "positions": torch.from_numpy(drawn.positions)}
        parts = {name: _parts(column, count) for name, column in columns.items()}
        of_tracks = {name: (_parts(targets[name], count), _parts(mask[name], count)) for name in targets}
        return [
            Batch(
                plane=here.plane,
                starts=here.starts,
                limits=here.limits,
                ambiguous=here.ambiguous,
                softmask=here.softmask,
                length=geometry.window,
                target_length=geometry.target_length,
                targets={name: values[number] for name, (values, _) in of_tracks.items()},
                mask={name: known[number] for name, (_, known) in of_tracks.items()},
                contigs=self.store.contigs,
                **{name: part[number] for name, part in parts.items()},
            )
            for number, here in enumerate(rows.split(count))
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


def _parts(column: Tensor, count: int) -> tuple[Tensor, ...]:
    """The rows of each batch."""
    return column.view(count, -1, *column.shape[1:]).unbind(0)
