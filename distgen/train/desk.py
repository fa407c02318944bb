"""Between the driver of a training and its first worker. An actor imports this, and nothing heavy with it."""

from __future__ import annotations

from typing import Any


class Desk:
    """What rank 0 tells waits here for the driver, and what the driver and Ray's controller wish for rank 0."""

    def __init__(self) -> None:
        self._told: list[tuple[str, Any]] = []
        self._leaving, self._resizing, self._writer = False, False, ""

    def tell(self, kind: str, value: Any, writer: str = "") -> None:
        """Leave something for the driver. A rank 0 that was given up, but lives on where it cannot be reached, is not heard."""
        self._writer = writer if kind == "begin" else self._writer
        if not writer or writer == self._writer:
            self._told.append((kind, value))

    def take(self, leaving: bool) -> list[tuple[str, Any]]:
        """What was left since the last call; rank 0 hears whether to leave."""
        told, self._told, self._leaving = self._told, [], leaving
        return told

    def resize(self, resizing: bool) -> None:
        """Have these workers leave for more or fewer to go on, or no longer."""
        self._resizing = resizing

    def leaving(self) -> bool:
        """Whether the workers are to leave."""
        return self._leaving or self._resizing
