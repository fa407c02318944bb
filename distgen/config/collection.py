"""What a collection of stores is made of."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from distgen.config.file import File, Name, Section, Share


class Mixture(Section):
    """Which stores make a collection, unless `[[store]]` tables name them, and how often each is drawn from.

    `stores` is a glob, or a file that lists one path a line (blank lines and lines with # say nothing); every path is
    relative to the collection's file. A store's share of the samples is proportional to its bases (`weights = "bases"`),
    the same for all ("equal"), or proportional to bases ** temperature.
    """

    name: Name
    stores: str | None = None
    weights: Literal["equal", "bases"] = "bases"
    temperature: Share | None = None

    @model_validator(mode="after")
    def _check(self) -> Mixture:
        if self.temperature is not None and "weights" in self.model_fields_set:
            raise ValueError("weights and temperature say the same: give one of them")
        return self

    @property
    def exponent(self) -> float:
        """A store's share is proportional to its bases to this power."""
        if self.temperature is not None:
            return self.temperature
        return 1.0 if self.weights == "bases" else 0.0


class Weighted(Section):
    """One store of a collection; its share of the samples is its `weight` among all weights."""

    path: str
    weight: Annotated[float, Field(ge=1e-12, le=1e12)] | None = None


class Collection(File):
    """Stores used as one; `distgen build` writes an index of them."""

    format: Literal[1]
    collection: Mixture
    store: Annotated[tuple[Weighted, ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _check(self) -> Collection:
        if bool(self.store) == (self.collection.stores is not None):
            raise ValueError("name the stores either by collection.stores or by [[store]] tables")
        weighed = [member.weight is not None for member in self.store]
        if any(weighed) and not all(weighed):
            raise ValueError(f"store[{weighed.index(False)}] has no weight: give every store one, or none")
        if any(weighed) and self.collection.model_fields_set & {"weights", "temperature"}:
            raise ValueError("every [[store]] has a weight: leave out collection.weights and temperature")
        return self


def is_collection(path: str | Path) -> bool:
    """Whether a TOML file describes a collection; one that cannot be read does not, and whoever reads it says why."""
    try:
        return "collection" in tomllib.loads(Path(path).read_bytes().decode("utf-8-sig"))
    except (OSError, ValueError):
        return False
