"""GenomeLoader: the batches of a split, in an order that is a pure function of seed, epoch and position."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from queue import Empty, Full, Queue
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from distgen.config import TIMEOUTS, digest
from distgen.errors import CheckpointError, ConfigError, TrainError
from distgen.genome import Int64
from distgen.kernels import SAMPLE, philox
from distgen.loader.batch import Batch
from distgen.loader.order import VERSIONS, permute
from distgen.loader.placement import place
from distgen.loader.targets import HostTrack
from distgen.loader.transfer import Transfer
from distgen.loader.windows import Tiles, align, check_geometry
from distgen.store.reader import Store, open_store

_AHEAD = 3  # batches made before they are asked for
_BLOCK = 256  # batches drawn at once


class Drawn(NamedTuple):
    """What chance and order say of this rank's rows of some batches; see `Batch` for the fields."""

    samples: Int64
    weight: npt.NDArray[np.float32]
    keys: Int64
    reverse: npt.NDArray[np.bool_]
    target_starts: Int64
    positions: Int64
    limits: Int64

    def batch(self, number: int) -> Drawn:
        """The rows of one of the `_BLOCK` batches."""
        rows = len(self.samples) // _BLOCK
        return Drawn._make(column[number * rows : (number + 1) * rows] for column in self)


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
        last: "drop" an incomplete last batch, or "pad" it with rows of weight 0.

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
        strand: Literal["forward", "random", "both"] = "forward",
        jitter: int = 0,
        order: Literal["flat", "sequential"] = "flat",
        rank: int = 0,
        world_size: int = 1,
        placement: Literal["auto", "device", "host"] = "auto",
        device: torch.device | str = "cpu",
        tracks: tuple[str, ...] = (),
        last: Literal["drop", "pad"] = "drop",
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
        self._unit = math.lcm(*(track.bin_bp for track in found))
        name, _, part = split.rpartition("/") if split else ("", "", None)
        regions = align(self.store.regions(part, name or "default"), self.store.contigs, self._unit)
        if not len(regions):
            raise ConfigError(f'"{split}" has no stretch as long as a bin of {self._unit} bases', key="split")
        self.windows = Tiles(regions, window, target_length, stride)
        self.window, self.target_length, self.batch_size = window, target_length, batch_size
        self.seed, self.strand, self.jitter, self.order, self.last = seed, strand, jitter, order, last
        self.samples = len(self.windows) * (2 if strand == "both" else 1)
        if last == "drop" and self.samples < batch_size:
            raise ConfigError(f"{batch_size} is more than the {self.samples} samples of an epoch", key="batch_size")
        self._rows = slice(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)
        self.device = torch.device(device)
        transfer = Transfer(self.device)
        self._placement = place(placement, self.store, transfer)
        self._tracks = {track.name: HostTrack(self.store, track, target_length, transfer) for track in found}
        self._data = digest(
            {
                "store": self.store.identity(name or "default", tracks),
                "split": split,
                "geometry": [window, target_length, stride, jitter],
                "strand": strand,
            }
        )
        self._drawn = lru_cache(maxsize=2)(self._draw)
        self.epoch, self.position = 0, 0

    def __len__(self) -> int:
        """Batches per epoch."""
        whole, rest = divmod(self.samples, self.batch_size)
        return whole + (rest > 0 and self.last == "pad")

    def __iter__(self) -> Iterator[Batch]:
        """The rest of the current epoch. `state_dict` always speaks of the batch that comes next.

        Raises:
            TrainError: no batch came within `TIMEOUTS["next_batch"]` seconds.
        """
        epoch, positions = self.epoch, range(self.position, len(self) * self.batch_size, self.batch_size)
        ahead: Queue[Batch | BaseException] = Queue(_AHEAD)
        stop = threading.Event()

        def make() -> None:
            for position in positions:
                try:
                    made: Batch | BaseException = self.batch(epoch, position)
                except BaseException as error:  # whatever it is belongs to whoever asks for the batch
                    made = error
                while not stop.is_set():
                    with suppress(Full):
                        ahead.put(made, timeout=0.02)
                        break
                if stop.is_set() or isinstance(made, BaseException):
                    return

        # A daemon: a read that hangs for ever must not keep the process from telling so and ending.
        thread = threading.Thread(target=make, name="distgen-loader", daemon=True)
        thread.start()
        try:
            for position in positions:
                made = self._take(ahead)
                following = position + self.batch_size
                self.epoch, self.position = (epoch, following) if following < positions.stop else (epoch + 1, 0)
                yield made
        finally:
            # A thread that still computes while the interpreter goes down aborts the process.
            stop.set()
            thread.join(timeout=5)

    @staticmethod
    def _take(ahead: Queue[Batch | BaseException]) -> Batch:
        try:
            made = ahead.get(timeout=TIMEOUTS["next_batch"])
        except Empty:
            raise TrainError(f"no batch came within {TIMEOUTS['next_batch']:.0f} s; is the storage alive?") from None
        if isinstance(made, BaseException):
            raise made
        return made

    def batch(self, epoch: int, position: int) -> Batch:
        """This rank's rows of the global batch whose first sample is `position` of `epoch`: past or future, always the same."""
        block, number = divmod(position // self.batch_size, _BLOCK)
        drawn = self._drawn(epoch, block).batch(number)
        rows = self._placement.rows(drawn.positions, drawn.limits, self.window)
        targets, mask = {}, {}
        for name, track in self._tracks.items():
            values, known = track.rows(drawn.target_starts, drawn.limits, drawn.reverse)
            targets[name], mask[name] = values.to(self.device), known.to(self.device)
        return Batch(
            plane=rows.plane,
            starts=rows.starts,
            limits=rows.limits,
            length=self.window,
            target_length=self.target_length,
            reverse=torch.from_numpy(drawn.reverse).to(self.device),
            ambiguous=rows.ambiguous,
            softmask=rows.softmask,
            keys=torch.from_numpy(drawn.keys).to(self.device),
            samples=torch.from_numpy(drawn.samples),
            weight=torch.from_numpy(drawn.weight).to(self.device),
            targets=targets,
            mask=mask,
            positions=torch.from_numpy(drawn.positions),
            contigs=self.store.contigs,
        )

    def _draw(self, epoch: int, block: int) -> Drawn:
        """Order, strand and jitter of this rank's rows of `_BLOCK` global batches at once: per batch it would cost a millisecond."""
        firsts = (block * _BLOCK + np.arange(_BLOCK, dtype=np.int64)) * self.batch_size
        index = (firsts[:, None] + np.arange(self.batch_size)[self._rows]).reshape(-1)
        samples = np.minimum(index, self.samples - 1)
        windows = permute(samples, self.samples, self.seed, epoch) if self.order == "flat" else samples
        counter = torch.from_numpy(samples)
        low, high, strand, jitter = philox(counter, torch.full_like(counter, self.seed), tag=SAMPLE, epoch=epoch)
        if self.strand == "both":
            windows, reverse = windows // 2, windows % 2 == 1
        else:
            reverse = (strand.numpy() < 2**31) & (self.strand == "random")
        target_starts, limits = self.windows.locate(windows)
        target_starts = self._move(target_starts, limits, jitter.numpy())
        return Drawn(
            samples,
            (index < self.samples).astype(np.float32),
            (low | (high << 32)).numpy(),
            reverse,
            target_starts,
            self.windows.window_start(target_starts),
            limits,
        )

    def _move(self, target_starts: Int64, limits: Int64, draw: Int64) -> Int64:
        """Jitter in whole bins; no target leaves its region further than its tile does."""
        steps = self.jitter // self._unit
        moved = target_starts + self._unit * (((draw * (2 * steps + 1)) >> 32) - steps)
        room = (limits[:, 1] - self.target_length - limits[:, 0]) // self._unit * self._unit
        return np.clip(moved, limits[:, 0], np.maximum(target_starts, limits[:, 0] + room))

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
