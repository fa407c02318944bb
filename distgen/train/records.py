"""What a training tells: JSON lines always, other places by configuration."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol


class Told(Protocol):
    """Where a training's records go."""

    def begin(self, step: int) -> None:
        """A training goes on at a step: later ones are taken again."""

    def add(self, record: dict[str, Any]) -> None:
        """Keep a record."""


class Records:
    """DIR/metrics.jsonl, and who else is told.

    Args:
        out: the run directory.
        show: called with every record.
    """

    def __init__(self, out: Path, show: Callable[[dict[str, Any]], None]):
        self._path, self._show = out / "metrics.jsonl", show

    def begin(self, step: int) -> None:
        """Drop the records of steps that were taken but not kept (they are taken again), and a line cut short."""
        if self._path.exists():
            whole = (line for line in self._path.read_text().splitlines(keepends=True) if line.endswith("\n"))
            self._path.write_text("".join(line for line in whole if json.loads(line)["step"] <= step))

    def add(self, record: dict[str, Any]) -> None:
        """Keep a record and show it."""
        with self._path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        self._show(record)
