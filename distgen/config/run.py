"""`[data]` of a run; `distgen.train.run.Run` puts a run together."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from distgen.config.file import Name, Positive
from distgen.config.windows import Sample


class Data(Sample):
    """Which store is read, which of its splits, and where what is read waits.

    `store` may be the index of a collection: every batch then comes from one of its stores, which take turns by their
    weights, and an epoch has `epoch_batches` batches, or as many as an epoch of each store has together.
    `cache` is the folder that keeps what is read of a store elsewhere, at most `cache_gb` of it.
    `on_corrupt` says what becomes of samples that need a damaged or missing shard: the run stops, or they weigh nothing.
    `measured` says of a training on pools which windows of the held-out parts are measured: those of all pools in their
    shares ("pools"), all there are ("all"), or those at the regions of one pool, by its name.
    """

    store: str
    split: Name = "default"
    epoch_batches: Positive | None = None
    placement: Literal["auto", "device", "host", "stream"] = "auto"
    cache: str | None = None
    cache_gb: Annotated[float, Field(gt=0)] = 64.0
    on_corrupt: Literal["stop", "skip"] = "stop"
    measured: Name = "pools"
