"""A run: everything a training needs to know, from one TOML file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias, TypeVar, cast

import tomli_w
import torch

from distgen import models, objectives
from distgen.config import (
    Cluster,
    Data,
    File,
    Finetune,
    Log,
    Name,
    Optimizer,
    Pool,
    Regions,
    Sample,
    Train,
    Windows,
    digest,
    fitting_shards,
    read,
)
from distgen.errors import ConfigError, suggest
from distgen.ingest.objects import Place, locate
from distgen.loader.batch import Batch
from distgen.loader.loader import GenomeLoader
from distgen.loader.mixture import MixtureLoader
from distgen.loader.regions import is_stored
from distgen.loader.source import Source, open_source, parts
from distgen.models.context import Context
from distgen.objectives import Objective
from distgen.store.cache import ShardCache, default_folder
from distgen.store.collection import Collection, is_index, open_collection
from distgen.store.splits import PARTS
from distgen.train import prepare
from distgen.train.context import check_windows, check_workers
from distgen.train.fits import check_model
from distgen.train.model import schema_of
from distgen.train.precision import multiplied
from distgen.train.sinks import missing

Part = Literal["train", "valid", "test"]
T = TypeVar("T", Pool, Regions)
Stores: TypeAlias = Source | Collection
_PLAIN = {"jitter": 0, "order": "sequential", "lanes": None, "curriculum": (), "last": "pad"}


def named_part(name: str) -> Part:
    """A part of a split by its name. Raises ConfigError: there is none."""
    if name not in PARTS:
        raise ConfigError(f'there is no part "{name}" of a split. {suggest(name, PARTS)}')
    return cast(Part, name)


class Run(File):
    """What to train, on which store, how; `distgen train` reads it."""

    name: Name
    data: Data
    model: models.ModelConfig
    objective: objectives.ObjectiveConfig
    optimizer: Optimizer = Optimizer()
    train: Train
    finetune: Finetune = Finetune()
    cluster: Cluster = Cluster()
    log: Log = Log()

    @classmethod
    def read(cls, path: str | Path, overrides: list[str] | None = None) -> Self:
        """Read a run file; see `distgen.config.read`."""
        return read(path, cls, overrides)

    @classmethod
    def find(cls, path: Path) -> Self:
        """Read a run file, or that of a run directory."""
        if path.is_dir() and not (path / "run.toml").is_file():
            raise ConfigError(f"{path} is no run directory: it has no run.toml")
        return cls.read(path / "run.toml" if path.is_dir() else path)

    def resolved(self) -> dict[str, Any]:
        """The run as plain data with absolute paths: what DIR/run.toml holds."""
        table = self.model_dump(exclude_none=True, mode="json")
        table["data"] = self._data().model_dump(exclude_none=True, mode="json")
        for key in ("init_from", "motifs"):
            if value := getattr(self.finetune, key):
                table["finetune"][key] = str(self.resolve(value, f"finetune.{key}"))
        if self.train.checkpoints:
            table["train"]["checkpoints"] = str(self._place(self.train.checkpoints, "train.checkpoints"))
        return table

    def write(self, path: Path) -> None:
        """Write the resolved run as TOML."""
        draft = path.with_suffix(".writing")
        draft.write_text(tomli_w.dumps(self.resolved()))
        draft.replace(path)

    def checkpoints(self, out: Path) -> Place:
        """Where the checkpoints of a run directory are.

        Raises:
            ConfigError: `train.checkpoints` names no place.
        """
        given = self.train.checkpoints
        with self.at("train.checkpoints"):
            return locate(self._place(given, "train.checkpoints")) if given else out / "checkpoints"

    def hash(self) -> str:
        """What the run is known by on resume."""
        return digest(self._kept())

    def differences(self, earlier: Path) -> list[str]:
        """What a run file has otherwise of all that must stay the same on resume: "data.seed 0, now 1"."""
        now, before = _flat(self._kept()), _flat(Run.read(earlier)._kept())
        differ = (key for key in before | now if before.get(key) != now.get(key))
        return [f"{key} {before.get(key, 'not given')}, now {now.get(key, 'not given')}" for key in differ]

    def _kept(self) -> dict[str, Any]:
        """What must stay the same on resume: everything but how long, where and how often."""
        table = self.resolved()
        for section in ("cluster", "log"):
            del table[section]
        # How it is computed stays; how long and how often may change.
        table["train"] = {key: table["train"].get(key) for key in ("precision", "threads")}
        # The store is known by its content ids, and files of regions by the windows of which the loader's state speaks.
        data = table["data"]
        for key in ("placement", "store", "cache", "cache_gb", "exclude", "on_corrupt"):
            data.pop(key, None)
        for section in (data.get("regions", {}), *data["pool"]):
            section.pop("source", None)
        return table

    def check(
        self, workers: int | None = None, device: torch.device | None = None, *, begins: bool = True
    ) -> dict[str, Any]:
        """Find out before anything is written whether store, objective, model, windows, workers and device fit each other.

        Args:
            workers: that there are; None: as many as `[cluster]` says.
            device: where it will be trained, if that is known.
            begins: there is no checkpoint to go on from: what the training begins with must be there.

        Returns:
            What a checkpoint to go on from must have: the hash of the run, and the content ids of what it reads.

        Raises:
            ConfigError, StoreError: the file, key and what would fit.
        """
        if absent := missing(self.log.to):
            raise self.error("log.to", absent)
        store = self.open_store()
        objective = self.build_objective(store)
        fewest = workers or self.cluster.fewest
        self._check_shards(fewest, workers or self.cluster.most)
        with self.at("cluster"):
            world_size = check_workers(self.cluster, workers)
        prepare.check(self, objective, fewest // self.cluster.context, device)
        loader = self.loader(store, objective, "train", training=True, world_size=world_size)
        with self.at("data"):
            loader.places(0, 0)  # stores of a collection are opened in their turn: the first at least fits
            # Where a window has one answer, models pad it.
            multiple = self.model.multiple if objective.window is None else 1
            check_windows(loader.lengths, multiple, objective.bin_bp, self.cluster.context)
        with self.at(""):
            check_model(self.model, self.objective, objective, loader.lengths)
        self._check_answers(store, objective, "train")
        steps = self.train.steps or loader.plan.steps(self.train.epochs or 0)
        if self.log.profile and self.log.profile[1] > steps:
            raise self.error("log.profile", f"there is no step {self.log.profile[1]:,} to trace: the last is {steps:,}")
        if self.has("valid", store):
            for part in ("valid", "train") if self.log.gap_batches else ("valid",):
                self.loader(store, objective, part, world_size=world_size)
            self._check_answers(store, objective, "valid")
        elif self.train.valid_every:
            raise self.error("train.valid_every", f'split "{self.data.split}" of {store.path} has no part "valid"')
        if self.finetune != Finetune():
            from distgen.train.finetune import check  # which reads runs

            check(self, schema_of(objective), begins=begins)
        return {"run": self.hash(), "store": self.identity(store, objective)}

    def _check_answers(self, store: Stores, objective: Objective, part: Part) -> None:
        """Raise ConfigError: of a part not enough is known to learn from it, or to measure by it."""
        if isinstance(objective, objectives.Answered) and (
            problem := objective.lacks(self.loader(store, objective, part, training=part == "train", plain=True))
        ):
            raise self.error("data.split", f'part "{part}" of "{self.data.split}" is of no use: {problem}')

    def _check_shards(self, fewest: int, most: int) -> None:
        """Raise ConfigError: some number of workers makes no groups of `cluster.shards`."""
        shards = self.cluster.shards
        if shards is None:
            return
        if self.cluster.parallel != "hybrid":
            raise self.error("cluster.shards", f'is of parallel = "hybrid" only, not of "{self.cluster.parallel}"')
        if fewest < most:
            raise self.error(
                "cluster.shards",
                f"{fewest} to {most} workers make no groups of {shards} each time: give one number of workers that "
                f"{shards} divides, or leave cluster.shards out",
            )
        if most % shards:
            raise self.error(
                "cluster.shards",
                f"{most} workers make no groups of {shards}: use {' or '.join(map(str, fitting_shards(most)))} shards, "
                f"or {' or '.join(str(n * shards) for n in (most // shards, most // shards + 1) if n)} workers",
            )

    def has(self, part: Part, store: Stores) -> bool:
        """Whether the run's split keeps something for a part, in any store; each store of a collection is to have something
        to train on. Raises ConfigError: a store has no such split."""
        with self.at("data.split"):
            if isinstance(store, Collection):
                return part == "train" or store.has(part, self.data.split)
            return part in parts(store, self.data.split)

    def identity(self, store: Stores, objective: Objective) -> dict[str, str]:
        """What the stores are known by: of one, content ids of the arrays and the split that this run uses."""
        return store.identity(self.data.split, objective.tracks)

    def build_objective(self, store: Stores, context: Context | None = None) -> Objective:
        """The objective on the tracks of the stores; see `distgen.objectives.build`."""
        if self.data.inputs:
            problem = "a GenomeLoader serves them, but no model that a run can name takes any. Leave them out."
            raise self.error("data.inputs", problem)
        # Where bases wait says nothing about windows.
        run = self.model_copy(update={"data": self.data.model_copy(update={"placement": "host"})})

        def served(objective: Objective, part: str) -> Iterable[Batch]:
            if not self.has(cast(Part, part), store):
                raise self.error("data.split", f'"{self.data.split}" of {store.path} has no part "{part}"')
            return run.loader(store, objective, cast(Part, part), training=part == "train", plain=True)

        with self.at(""):  # it names whole keys, of several tables
            objective = objectives.build(self.objective, store, self.data, served, context)
        if self.cluster.context > 1 and objective.window is not None:
            problem = "windows that have one answer are not shared by workers: leave it out"
            raise self.error("cluster.context", problem)
        asks: str | None = getattr(objective, "family", None)
        if asks and self.model.family != asks:
            problem = f'objective "{self.objective.kind}" is of family "{asks}" alone, not of "{self.model.family}"'
            raise self.error("model.family", problem)
        return objective

    def open_store(self) -> Stores:
        """The store this run trains on, the export of one, or a collection.

        Raises:
            ConfigError: there is none; names the file and key.
        """
        with self.at("data.store"):
            data = self._data()
            place = locate(data.store)
            if isinstance(place, Path):
                return open_collection(place) if is_index(place) else open_source(place)
            folder = Path(data.cache) if data.cache else default_folder() / "shards"
            return open_source(place, ShardCache(folder, int(data.cache_gb * 1e9)))

    def _place(self, given: str, key: str) -> str:
        """A URI, or a path made absolute."""
        place = self.expand(given, key)
        return place if "://" in place else str(self.resolve(given, key))

    def _data(self) -> Data:
        """[data] with the paths of all files made absolute."""

        def found(section: T, key: str) -> T:
            source = section.source
            if source is None or is_stored(source):
                return section
            return section.model_copy(update={"source": str(self.resolve(source, key))})

        data = self.data
        absolute = {
            "store": self._place(data.store, "data.store"),
            "cache": data.cache and str(self.resolve(data.cache, "data.cache")),
            "regions": data.regions and found(data.regions, "data.regions.source"),
            "pool": tuple(found(pool, f"data.pool.{number}.source") for number, pool in enumerate(data.pool)),
            "exclude": tuple(str(self.resolve(bed, "data.exclude")) for bed in data.exclude),
        }
        return data.model_copy(update=absolute)

    def loader(
        self,
        store: Stores,
        objective: Objective,
        part: Part,
        *,
        training: bool = False,
        plain: bool = False,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
    ) -> GenomeLoader | MixtureLoader:
        """The loader of one part: shuffled and augmented for training, else whole and along the assembly; of an export, the
        windows that it has. Those of a training that are `plain` are as it draws them in an epoch, but in order, neither moved
        nor turned: for what is counted."""
        data = self._data()
        sample = {key: getattr(data, key) for key in Sample.model_fields.keys() - Windows.model_fields.keys()}
        windows = {key: getattr(data, key) for key in Windows.model_fields}
        regions = self._measured(data)
        if not training and data.measured != "pools":
            windows |= {"pool": (), "regions": regions}
        if not training:
            sample["stride"] = None
        if plain or not training:
            sample |= _PLAIN | {"strand": "region" if data.strand == "region" else "forward"}
        if isinstance(store, Collection):
            epoch = data.epoch_batches if training and not plain else None
            made: Callable[..., GenomeLoader | MixtureLoader] = partial(MixtureLoader, store, epoch_batches=epoch)
        elif data.epoch_batches is not None:
            raise self.error(
                "data.epoch_batches", f"{store.path} is one store: its windows make an epoch. Leave it out."
            )
        else:
            made = partial(GenomeLoader, store)
        with self.at("data"):
            return made(
                split=f"{data.split}/{part}",
                rank=rank,
                world_size=world_size,
                placement=data.placement,
                device=device,
                tracks=objective.tracks,
                windows=Windows(**windows),
                on_corrupt=data.on_corrupt,
                **sample,
            )

    def _measured(self, data: Data) -> Regions | None:
        """Where the windows lie that are measured, if that is other than in training. Raises ConfigError: they are none."""
        if data.measured == "pools":
            return None
        placed = {pool.name: pool.regions for pool in data.pool if pool.regions}
        if not placed:
            raise self.error("data.measured", "without [[data.pool]] all windows are measured. Leave it out")
        if getattr(self.objective, "target", None) == "pool":
            raise self.error("data.measured", 'windows of no pool have no answer to "pool". Use "pools"')
        if data.measured != "all" and data.measured not in placed:
            raise self.error("data.measured", suggest(data.measured, ("pools", "all", *placed)))
        return placed.get(data.measured)

    def loaders(self, store: Stores) -> dict[str, GenomeLoader | MixtureLoader | ConfigError]:
        """What serves each part of the split that holds anything, for who asks which windows there are; of a held-out part
        without a window, why it has none.

        Raises:
            ConfigError: the run does not fit the store, or there is no window to train on.
        """
        # Where bases wait says nothing about windows, and takes time on a device.
        run = self.model_copy(update={"data": self.data.model_copy(update={"placement": "host"})})
        objective = self.build_objective(store)
        found: dict[str, GenomeLoader | MixtureLoader | ConfigError] = {}
        part: Part
        for part in ("train", "valid", "test"):
            if not self.has(part, store):
                continue
            try:
                found[part] = run.loader(store, objective, part, training=part == "train")
            except ConfigError as error:
                if part == "train":
                    raise
                found[part] = error
        return found

    def precision(self, device: torch.device) -> torch.dtype:
        """What goes through the model: as asked for, or by `auto` bfloat16 where the hardware multiplies it, else float32."""
        if self.train.precision == "auto":
            return torch.bfloat16 if "bf16" in multiplied(device) else torch.float32
        named = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "fp8": torch.bfloat16}
        return named[self.train.precision]


def _flat(table: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Values by their whole keys."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= _flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return found
