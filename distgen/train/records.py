"""What a training tells: JSON lines always, other places by configuration."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from distgen.train.run import Run
from distgen.train.sinks import Teller, open_sink


class Records:
    """DIR/metrics.jsonl, and who else is told.

    Args:
        out: the run directory.
        show: called with every record.
        run: what is trained; its `log.to` names other places, see `distgen.train.sinks`.
    """

    def __init__(self, out: Path, show: Callable[[dict[str, Any]], None], run: Run):
        self._out, self._path, self._show, self._run = out, out / "metrics.jsonl", show, run
        self._tellers: list[Teller] = []

    def begin(self, step: int) -> None:
        """Drop the records of steps that were taken but not kept (they are taken again), and a line cut short."""
        if self._path.exists():
            whole = (line for line in self._path.read_text().splitlines(keepends=True) if line.endswith("\n"))
            self._path.write_text("".join(line for line in whole if json.loads(line)["step"] <= step))
        self.end("failed")  # workers that were brought back begin once more
        run = self._run.resolved()
        self._tellers = [Teller(name, partial(open_sink, name, self._out, run, step)) for name in self._run.log.to]

    def add(self, record: dict[str, Any]) -> None:
        """Keep a record and show it."""
        with self._path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        for teller in self._tellers:
            teller.add(record)
        self._show(record)

    def end(self, status: str) -> None:
        """No more will come: the training "finished" or "failed". Waits for who is still being told, with a bound."""
        for teller in self._tellers:
            teller.close(status)
        self._tellers = []


def read_records(out: Path) -> list[dict[str, Any]]:
    """What metrics.jsonl of a run directory holds, nothing if there is none; a line that was cut short is no record."""
    path = out / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def memory(device: torch.device) -> dict[str, int]:
    """Bytes that were in use at most since the process began: of a GPU what tensors took and what PyTorch held for them, of
    the host what the process had in memory (resident)."""
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    if device.type != "cuda":
        return {"host": host}
    return {
        "host": host,
        "allocated": torch.cuda.max_memory_allocated(device),
        "reserved": torch.cuda.max_memory_reserved(device),
    }
