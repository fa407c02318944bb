"""GenomeLoader: the batches of a split, in an order that is a pure function of seed, epoch and position."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from distgen.config import digest
from distgen.errors import CheckpointError, ConfigError
from distgen.genome import Interval
from distgen.loader.ahead import ahead
from distgen.loader.batch import Batch, places
from distgen.loader.order import VERSIONS
from distgen.loader.placement import TrackRows, place
from distgen.loader.sampling import Drawn, Last, Sampling, Strand
from distgen.loader.windows import Tiles, align, check_geometry
from distgen.store.reader import Store, open_store

_THREADS = 1  # that make batches before they are asked for
_AHEAD = 2  # how many times `_TOGETHER` are made before they are asked for
_TOGETHER = 1 << 20  # bytes of batches that are made in one go: what is paid per call is paid once for many of them
_MOST = 64  # batches in one go


class GenomeLoader:
    """Iterates over one epoch of one rank's batches at a time; the next iteration is the next epoch.

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
        order: "flat", a new permutation each epoch, or "sequential", along the assembly.
        rank, world_size: this rank serves rows floor(rank B / W) to floor((rank + 1) B / W).
        placement: "device", "host" or "auto".
        device: where batches are to be.
        tracks: names of the tracks to serve as targets.
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
        order: Literal["flat", "sequential"] = "flat",
        rank: int = 0,
        world_size: int = 1,
        placement: Literal["auto", "device", "host"] = "auto",
        device: torch.device | str = "cpu",
        tracks: tuple[str, ...] = (),
        last: Last = "drop",
    ):
        self.store = store if isinstance(store, Store) else open_store(store)
        target_length = window if target_length is None else target_length
        stride = target_length if stride is None else stride
        if target_length > window:
            raise ConfigError(f"{target_length} is more than the window of {window}", key="target_length")
        if (window - target_length) % 2:
            raise ConfigError(
                f"{target_length} does not lie in the middle of a window of {window}. "
                f"Use {target_length - 1} or {target_length + 1}.",
                key="target_length",
            )
        if batch_size < world_size:
            raise ConfigError(f"{batch_size} leaves some of {world_size} workers without samples", key="batch_size")
        found = [self.store.track(name) for name in tracks]
        geometry = {"target_length": target_length, "stride": stride, "jitter": jitter}
        for track in found:
            check_geometry(geometry, track.bin_bp, track.name)
        unit = math.lcm(*(track.bin_bp for track in found))
        name, _, part = split.rpartition("/") if split else ("", "", None)
        regions = align(self.store.regions(part, name or "default"), self.store.contigs, unit)
        if not len(regions):
            raise ConfigError(f'"{split}" has no stretch as long as a bin of {unit} bases', key="split")
        self.windows = Tiles(regions, window, target_length, stride)
        self.window, self.target_length, self.batch_size = window, target_length, batch_size
        self.seed, self.order, self.last = seed, order, last
        self.sampling = Sampling(self.windows, order, seed, strand, jitter, unit, last)
        self.samples = len(self.sampling)
        if last == "drop" and self.samples < batch_size:
            raise ConfigError(f"{batch_size} is more than the {self.samples} samples of an epoch", key="batch_size")
        self._rows = np.arange(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)
        self.device = torch.device(device)
        self._placement = place(placement, self.store, self.device)
        self._tracks = {track.name: TrackRows(self.store, track) for track in found}
        self._data = digest(
            {
                "store": self.store.identity(name or "default", tracks),
                "split": split,
                "geometry": [window, target_length, stride, jitter],
                "strand": strand,
            }
        )
        self.epoch, self.position = 0, 0

    def __len__(self) -> int:
        """Batches per epoch."""
        whole, rest = divmod(self.samples, self.batch_size)
        return whole + (rest > 0 and self.last != "drop")

    def __iter__(self) -> Iterator[Batch]:
        """The rest of the current epoch. `state_dict` always speaks of the batch that comes next.

        Raises:
            TrainError: no batch came within `TIMEOUTS["next_batch"]` seconds.
        """
        epoch, first, end = self.epoch, self.position // self.batch_size, len(self)
        step = min(_MOST, max(1, int(_TOGETHER // (len(self._rows) * self._row_bytes))))
        calls = (partial(self._make, epoch, at, min(step, end - at)) for at in range(first, end, step))
        for batches in ahead(calls, _THREADS, _AHEAD):
            for batch in batches:
                first += 1
                self.epoch, self.position = (epoch, first * self.batch_size) if first < end else (epoch + 1, 0)
                yield batch

    @property
    def _row_bytes(self) -> float:
        """About how many bytes are read for a row."""
        return self.window / 4 + sum(track.bytes_per_base * self.target_length for track in self._tracks.values())

    def batch(self, epoch: int, position: int) -> Batch:
        """This rank's rows of the global batch whose first sample is `position` of `epoch`: past or future, always the same."""
        (batch,) = self._make(epoch, position // self.batch_size, 1)
        return batch

    def places(self, epoch: int, position: int) -> list[Interval]:
        """Where the samples of that batch lie, without reading them; see `Batch.where`."""
        drawn = self._draw(epoch, position // self.batch_size, 1)
        return places(self.store.contigs, drawn.positions, drawn.limits, drawn.reverse, self.window)

    def _draw(self, epoch: int, first: int, count: int) -> Drawn:
        """This rank's rows of the batches [first, first + count)."""
        begins = (first + np.arange(count, dtype=np.int64)) * self.batch_size
        return self.sampling.draw((begins[:, None] + self._rows).reshape(-1), epoch)

    def _make(self, epoch: int, first: int, count: int) -> list[Batch]:
        """The batches [first, first + count) of an epoch."""
        drawn = self._draw(epoch, first, count)
        rows = self._placement.rows(drawn.positions, drawn.limits, self.window)
        targets, mask = {}, {}
        for name, track in self._tracks.items():
            values, known = track.rows(drawn.target_starts, drawn.limits, self.target_length, drawn.reverse)
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
                length=self.window,
                target_length=self.target_length,
                targets={name: values[number] for name, (values, _) in of_tracks.items()},
                mask={name: known[number] for name, (_, known) in of_tracks.items()},
                contigs=self.store.contigs,
                **{name: part[number] for name, part in parts.items()},
            )
            for number, here in enumerate(rows.split(count))
        ]

    def state_dict(self) -> dict[str, Any]:
        """Where the next batch stands; the same on every rank, without a world size in it."""
        return {
            "data": self._data,
            "order": VERSIONS[self.order],
            "seed": self.seed,
            "epoch": self.epoch,
            "position": self.position,
            "batch_size": self.batch_size,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where another loader of the same data was, on any number of ranks.

        Raises:
            CheckpointError: the state belongs to other data, another order, seed or batch size.
        """
        for key, value in self.state_dict().items():
            if key not in ("epoch", "position") and state.get(key) != value:
                raise CheckpointError(f"the loader's state has {key} {state.get(key)!r}, this loader {value!r}")
        self.epoch, self.position = int(state["epoch"]), int(state["position"])


def _parts(column: Tensor, count: int) -> tuple[Tensor, ...]:
    """The rows of each batch."""
    return column.view(count, -1, *column.shape[1:]).unbind(0)
