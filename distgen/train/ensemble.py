"""Several trained models as one: their predictions are averaged (Lakshminarayanan et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import tomli_w
import torch
from pydantic import Field
from torch import Tensor, nn

from distgen.config import File, read
from distgen.errors import ConfigError
from distgen.objectives import Objective

FILE = "ensemble.toml"


class Ensemble(File):
    """DIR/ensemble.toml: the run directories, or the checkpoints in them, whose predictions are averaged."""

    members: Annotated[tuple[str, ...], Field(strict=False, min_length=2)]

    @classmethod
    def find(cls, folder: Path) -> Self:
        """Read that of a folder."""
        return read(folder / FILE, cls)

    def paths(self) -> list[Path]:
        """Where the members are."""
        return [self.resolve(member, "members") for member in self.members]


def write(members: Sequence[Path], folder: Path) -> None:
    """Make a folder an ensemble of some run directories or checkpoints, which stay where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text(tomli_w.dumps({"members": [str(member.resolve()) for member in members]}))


def refuse_twice(members: Sequence[Path]) -> None:
    """Raise ConfigError: the same member is there twice, or is an ensemble itself."""
    places = [member.resolve() for member in members]
    for member, place in zip(members, places, strict=True):
        if places.count(place) > 1:
            raise ConfigError(f"{member} is named twice")
        if (place / FILE).is_file():
            raise ConfigError(f"{member} is an ensemble: name its members")


class Averaged(nn.Module):
    """Models that are asked all, and answer with the mean of what they predict.

    Args:
        models: of the same input and output.
        objective: says what the mean of predictions is.
    """

    def __init__(self, models: Sequence[nn.Module], objective: Objective):
        super().__init__()
        self.models, self._objective = nn.ModuleList(models), objective

    def forward(self, x_BCL: Tensor) -> Tensor:
        return self._objective.average(torch.stack([model(x_BCL).float() for model in self.models]))


def refuse_unlike(first: Path, asked: dict[str, Any], other: Path, also: dict[str, Any]) -> None:
    """Refuse to average two models that were not asked the same.

    Args:
        asked, also: what must be the same of each, by name.

    Raises:
        ConfigError: what differs, and why it may not.
    """
    for key, value in asked.items():
        if also[key] != value:
            raise ConfigError(
                f"{other} cannot be averaged with {first}: its {key} is {also[key]}, not {value}. {_WHY.get(key, '')}".strip()
            )


_WHY = {"data.split": "What tests one model has trained the other, so nothing could test them together."}
