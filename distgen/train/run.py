"""A run: everything a training needs to know, from one TOML file."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias, TypeVar

import tomli_w
import torch

from distgen import models, objectives
from distgen.config import Cluster, Data, File, Log, Name, Optimizer, Pool, Regions, Train, Windows, digest, read
from distgen.ingest.objects import Place, locate
from distgen.loader.loader import GenomeLoader
from distgen.loader.mixture import MixtureLoader
from distgen.loader.regions import CONTIGS, MATRIX
from distgen.objectives import Objective
from distgen.store.cache import ShardCache, default_folder
from distgen.store.collection import Collection, is_index, open_collection
from distgen.store.reader import Store, open_store

T = TypeVar("T", Pool, Regions)
Stores: TypeAlias = Store | Collection


class Run(File):
    """What to train, on which store, how; `distgen train` reads it."""

    name: Name
    data: Data
    model: models.ModelConfig
    objective: objectives.ObjectiveConfig
    optimizer: Optimizer = Optimizer()
    train: Train
    cluster: Cluster = Cluster()
    log: Log = Log()

    @classmethod
    def read(cls, path: str | Path, overrides: list[str] | None = None) -> Self:
        """Read a run file; see `distgen.config.read`."""
        return read(path, cls, overrides)

    def resolved(self) -> dict[str, Any]:
        """The run as plain data with an absolute store path: what DIR/run.toml holds."""
        table = self.model_dump(exclude_none=True, mode="json")
        table["data"]["store"] = str(self._store())
        return table

    def write(self, path: Path) -> None:
        """Write the resolved run as TOML."""
        draft = path.with_suffix(".writing")
        draft.write_text(tomli_w.dumps(self.resolved()))
        draft.replace(path)

    def hash(self) -> str:
        """What must stay the same on resume: everything but how long, where and how often."""
        table = self.resolved()
        for section in ("cluster", "log"):
            del table[section]
        # How it is computed stays; how long and how often may change.
        table["train"] = {key: table["train"].get(key) for key in ("precision", "threads")}
        for key in ("placement", "store", "cache", "cache_gb"):  # the store is known by its content ids
            table["data"].pop(key, None)
        return digest(table)

    def check(self) -> dict[str, Any]:
        """Find out before anything is written whether store, objective and windows fit each other.

        Returns:
            What a checkpoint to go on from must have: the hash of the run, and the content ids of what it reads.

        Raises:
            ConfigError, StoreError: the file, key and what would fit.
        """
        store = self.open_store()
        objective = self.build_objective(store)
        world_size = max(self.cluster.workers, 1)
        loader = self.loader(store, objective, "train", training=True, world_size=world_size)
        with self.at("data"):
            loader.places(0, 0)  # stores of a collection are opened in their turn: the first at least fits
        if self.has_valid(store):
            self.loader(store, objective, "valid", world_size=world_size)
        elif self.train.valid_every:
            raise self.error("train.valid_every", f'split "{self.data.split}" of {store.path} has no part "valid"')
        return {"run": self.hash(), "store": self.identity(store, objective)}

    def has_valid(self, store: Stores) -> bool:
        """Whether the run's split keeps something apart for validation, in any store."""
        return store.has("valid", self.data.split)

    def identity(self, store: Stores, objective: Objective) -> dict[str, str]:
        """What the stores are known by: of one, content ids of the arrays and the split that this run uses."""
        return store.identity(self.data.split, objective.tracks)

    def build_objective(self, store: Stores) -> Objective:
        """The objective on the tracks of the stores; see `distgen.objectives.build`."""
        with self.at("objective.track"):
            return objectives.build(self.objective, store)

    def open_store(self) -> Stores:
        """The store this run trains on, or the collection. Raises ConfigError naming the file and key if there is none."""
        with self.at("data.store"):
            place, data = self._store(), self.data
            if isinstance(place, Path):
                return open_collection(place) if is_index(place) else open_store(place)
            folder = self.resolve(data.cache, "data.cache") if data.cache else default_folder() / "shards"
            return open_store(place, ShardCache(folder, int(data.cache_gb * 1e9)))

    def _store(self) -> Place:
        store = self.expand(self.data.store, "data.store")
        return locate(store) if "://" in store else self.resolve(self.data.store, "data.store")

    def loader(
        self,
        store: Stores,
        objective: Objective,
        part: Literal["train", "valid", "test"],
        *,
        training: bool = False,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
    ) -> GenomeLoader | MixtureLoader:
        """The loader of one part: shuffled and augmented for training, else whole and along the assembly."""
        data = self.data
        last = data.last if training else "pad"
        if isinstance(store, Collection):
            made: Callable[..., GenomeLoader | MixtureLoader] = partial(
                MixtureLoader, store, epoch_batches=data.epoch_batches if training else None
            )
        elif data.epoch_batches is not None:
            raise self.error(
                "data.epoch_batches", f"{store.path} is one store, whose epochs are its windows. Leave it out."
            )
        else:
            made = partial(GenomeLoader, store)
        with self.at("data"):
            return made(
                window=data.window,
                target_length=data.target_length,
                stride=data.stride if training else None,
                split=f"{data.split}/{part}",
                batch_size=data.batch_size,
                seed=data.seed,
                strand=data.strand if training else "forward",
                jitter=data.jitter if training else 0,
                order=data.order if training else "sequential",
                lanes=data.lanes if training else None,
                rank=rank,
                world_size=world_size,
                placement=data.placement,
                device=device,
                tracks=objective.tracks,
                inputs=data.inputs,
                curriculum=data.curriculum if training else (),
                windows=self._windows(),
                **({"last": last} if last else {}),
            )

    def _windows(self) -> Windows:
        """Where windows lie, with the paths of files made absolute."""

        def found(section: T, key: str) -> T:
            source = section.source
            if source is None or source == CONTIGS or source.startswith(MATRIX):
                return section
            return section.model_copy(update={"source": str(self.resolve(source, key))})

        data = self.data
        return Windows(
            regions=data.regions and found(data.regions, "data.regions.source"),
            pool=tuple(found(pool, f"data.pool.{number}.source") for number, pool in enumerate(data.pool)),
            personal=data.personal,
            exclude=tuple(str(self.resolve(bed, "data.exclude")) for bed in data.exclude),
            max_ambiguous=data.max_ambiguous,
        )

    def precision(self, device: torch.device) -> torch.dtype:
        """bfloat16 where asked for, or by `auto` where the hardware multiplies it; else float32."""
        if self.train.precision == "auto":
            return torch.bfloat16 if _multiplies_bf16(device) else torch.float32
        return {"bf16": torch.bfloat16, "fp32": torch.float32}[self.train.precision]


def _multiplies_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
