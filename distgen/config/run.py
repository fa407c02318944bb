"""The sections of a run that belong to no model and no objective; `distgen.train.run.Run` puts a run together."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from distgen.config.file import Name, NotNegative, Positive, Section
from distgen.config.windows import Sample

Rate = Annotated[float, Field(gt=0, lt=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]


class Data(Sample):
    """Which store is read, which of its splits, and where what is read waits.

    `store` may be the index of a collection: every batch then comes from one of its stores, which take turns by their
    weights, and an epoch has `epoch_batches` batches, or as many as an epoch of each store has together.
    `cache` is the folder that keeps what is read of a store elsewhere, at most `cache_gb` of it.
    `on_corrupt` says what becomes of samples that need a damaged or missing shard: the run stops, or they weigh nothing.
    """

    store: str
    split: Name = "default"
    epoch_batches: Positive | None = None
    placement: Literal["auto", "device", "host", "stream"] = "auto"
    cache: str | None = None
    cache_gb: Annotated[float, Field(gt=0)] = 64.0
    on_corrupt: Literal["stop", "skip"] = "stop"


class Optimizer(Section):
    """AdamW; the rate rises linearly for `warmup_steps`, then falls to zero along a cosine."""

    lr: Annotated[float, Field(gt=0)] = 3e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    betas: Annotated[tuple[Beta, Beta], Field(strict=False)] = (0.9, 0.98)
    warmup_steps: NotNegative = 50
    clip_norm: Annotated[float, Field(gt=0)] = 1.0


class Train(Section):
    """How long, how precisely, and what is kept. `valid_every` and `checkpoint_every` count steps; the
    last step is always validated and saved."""

    steps: Positive | None = None
    epochs: Positive | None = None
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    threads: Positive | None = None
    valid_every: Positive | None = None
    checkpoint_every: Positive | None = None
    keep: Positive = 2

    @model_validator(mode="after")
    def _check(self) -> Train:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs")
        return self


class Cluster(Section):
    """`workers = 0` trains in this process; N starts N Ray Train workers."""

    workers: NotNegative = 0
    cpus_per_worker: Positive = 1
    max_failures: NotNegative = 0


class Log(Section):
    """A record goes to metrics.jsonl `every` so many steps."""

    every: Positive = 10
