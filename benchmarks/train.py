"""What training costs beside the model: python -m benchmarks.train [overhead ray data first stall parallel]

The loop is the one that `distgen train` runs, unchanged: a loader that keeps the time stands between it and its batches. All that
happens between a batch and the next one asked for is the loop's. What is compared takes turns of some steps; a ratio is the median over
pairs of turns, and stays below the bound with 95 % confidence (bootstrap). Steps are those of masked language modelling on drawn
bases, on the CPU in float32 on one thread where nothing else is said; with a GPU, `data` measures device placement there.

overhead  the loop on one batch, encoded before, beside a loop of ten lines on the same tensors, model and loss, in one process
ray       Ray Train with one worker beside no workers: whole runs that take turns, steps of their second halves
data      the loop on the loader's batches beside the same loop on one of them; the loader's threads start and end with each turn,
          before and after its time, so that nothing is made ahead at another's expense
first     seconds from the command until the record of the first step is written: fresh processes, warm disk
stall     how much longer a step takes that keeps a checkpoint, and all steps until the next one is, with so many parameters
parallel  one flat buffer, DDP and FSDP2 on two CPU ranks of this machine, one thread each: whole runs that take turns
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from pydantic import PrivateAttr
from torch import Tensor, nn

from benchmarks.measure import bound, machine, on_ranks, table
from distgen.config import Recipe, read
from distgen.loader.batch import Batch
from distgen.loader.loader import GenomeLoader
from distgen.models import parameter_count
from distgen.objectives import Objective
from distgen.store.build import build
from distgen.train.heap import keep_heap
from distgen.train.loop import train
from distgen.train.model import build_model, schema_of
from distgen.train.parallel import Overlapped, Replicated
from distgen.train.run import Run
from distgen.train.worker import Worker

RUN = """name = "benchmark"
[data]
store = "drawn.zarr"
window = 1024
batch_size = 8
strand = "random"
jitter = 64
[model]
family = "dilated"
channels = 16
stem_width = 9
dilations = [1, 2, 4]
[objective]
kind = "masked_lm"
[train]
steps = 1_000_000
threads = 1
precision = "fp32"
[log]
every = 10
"""
QUICKSTART = ["model.channels=64", "model.dilations=[1,2,4,8,16,32,64,128,1,3]", "data.batch_size=16"]
MODELS: dict[str, tuple[list[str], int]] = {  # and how many steps a turn has
    "dilated, 16 channels, 3 blocks": ([], 100),
    "dilated, 64 channels, 10 blocks": (QUICKSTART, 10),
}
Turns = Generator[Batch, None, None]
Pairs = tuple[list[float], list[float]]  # seconds a step, of turns that stood beside each other


class DoneError(Exception):
    """Nothing is left to measure."""


class Serving:
    """A loader that serves what a benchmark wants of another one."""

    def __init__(self, inner: GenomeLoader, turns: Callable[[GenomeLoader], Turns]):
        self._inner, self._turns = inner, turns

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __iter__(self) -> Turns:
        yield from self._turns(self._inner)
        raise DoneError


class Encoded:
    """An objective whose first batch is the only one."""

    def __init__(self, inner: Objective):
        self._inner, self._kept = inner, None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def encode(self, batch: Batch, dtype: torch.dtype, *, evaluating: bool = False) -> Any:
        if self._kept is None:
            self._kept = self._inner.encode(batch, dtype)
        return self._kept


class Measured(Run):
    """A run whose training is served by a benchmark."""

    _turns: Callable[[GenomeLoader], Turns] = PrivateAttr()
    _objective: Objective | None = PrivateAttr(default=None)

    def loader(self, *arguments: Any, training: bool = False, **options: Any) -> Any:
        made = super().loader(*arguments, training=training, **options)
        return Serving(made, self._turns) if training else made

    def build_objective(self, *arguments: Any, **options: Any) -> Objective:
        return self._objective or super().build_objective(*arguments, **options)


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def genome(folder: Path, bases: int = 4_000_000) -> Path:
    """A store of drawn bases with a run beside it; the path of the run."""
    letters = np.frombuffer(b"ACGT", np.uint8)[np.random.default_rng(0).integers(0, 4, bases, np.uint8)]
    (folder / "drawn.fa").write_bytes(b">c\n" + letters.tobytes() + b"\n")
    (folder / "drawn.toml").write_text(
        'format = 1\n[assembly]\nname = "drawn"\nfasta = "drawn.fa"\n[split]\nvalid = ["c:0-20000"]\n'
    )
    build(read(folder / "drawn.toml", Recipe), folder / "drawn.zarr")
    (folder / "run.toml").write_text(RUN)
    return folder / "run.toml"


def measured(run: Measured, out: Path, turns: Callable[[GenomeLoader, Pairs], Turns]) -> Pairs:
    """Train on the batches of `turns` until it has no more; what it found."""
    found: Pairs = ([], [])
    run._turns = partial(turns, found=found)
    out.mkdir(parents=True)
    run.write(out / "run.toml")
    with suppress(DoneError):
        train(run, Worker(0, 1, device(), out))
    return found


def in_turns(
    found: Pairs, pairs: int, block: int, one: Callable[[], Turns], other: Callable[[], Turns], *, warm: int = 0
) -> Turns:
    """The batches of turns whose seconds a step are found, of `block` steps after `warm` others; the first pair warms up."""
    for pair in range(1 + pairs):
        for number, turn in enumerate((one, other)) if pair % 2 else reversed(list(enumerate((one, other)))):
            batches = turn()
            yield from itertools.islice(batches, warm)
            began = now()
            yield from itertools.islice(batches, block)
            if pair:
                found[number].append((now() - began) / block)
            batches.close()


def more(times: list[float], than: list[float]) -> tuple[str, str]:
    """By how much each of some times is more than that beside it: the median, and its bound."""
    middle, most = bound([one / other for one, other in zip(times, than, strict=True)])
    return f"{middle - 1:+.2%}", f"{most - 1:+.2%}"


# ---- the loop itself ------------------------------------------------------------------------------


class Plain:
    """What a user would write, with the same model, tensors and loss."""

    def __init__(self, run: Run, objective: Objective, encoded: tuple[Tensor, Tensor, Tensor]):
        torch.manual_seed(run.data.seed)
        self.model = build_model(run.model, schema_of(objective)).to(device())
        self.loss, self.encoded, self.clip = objective.loss, encoded, run.optimizer.clip_norm
        options = {"lr": run.optimizer.lr, "betas": run.optimizer.betas, "weight_decay": run.optimizer.weight_decay}
        self.optimizer = torch.optim.AdamW(self.model.parameters(), **options)  # type: ignore[arg-type]
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 1_000_000)

    def step(self) -> None:
        x, target, valid = self.encoded
        self.optimizer.zero_grad()
        total, count = self.loss(self.model(x), target, valid)
        (total / count).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        self.schedule.step()


def overhead(folder: Path, path: Path, pairs: int) -> None:
    rows = []
    for batch_size in (1, 2, 4, 8, 16, 32, 64):
        run = Measured.read(path, ["model.channels=32", f"data.batch_size={batch_size}"])
        run._objective = Encoded(run.build_objective(run.open_store()))  # type: ignore[assignment]
        mine, plain = measured(run, folder / f"overhead-{batch_size}", partial(beside_plain, run=run, pairs=pairs))
        step_ms = 1e3 * statistics.median(plain)
        if step_ms > 3:
            rows.append((f"{batch_size}", f"{step_ms:.1f}", *more(mine, plain)))
        if step_ms > 10:
            break
    table(("loop overhead: windows in a batch", "plain loop, ms a step", "distgen's more", "at most"), rows)


def beside_plain(inner: GenomeLoader, found: Pairs, run: Measured, pairs: int) -> Turns:
    """Ten steps of distgen's loop, ten of the plain one, and so on."""
    batch, objective = one_batch(inner), run._objective
    assert objective is not None
    other = Plain(run, objective, objective.encode(batch, torch.float32))

    def plain() -> Turns:
        for _ in range(10):
            other.step()
        yield from ()

    yield from in_turns(found, pairs, 10, lambda: (batch for _ in range(10)), plain)


def data(folder: Path, path: Path, pairs: int) -> None:
    rows = []
    on_gpu = device().type == "cuda"
    placed = ["data.placement=device", "train.precision=bf16"] if on_gpu else ["data.placement=host"]
    for number, (name, (changes, block)) in enumerate(MODELS.items()):
        run = Measured.read(path, [*placed, *changes])
        real, same = measured(run, folder / f"data-{number}", partial(beside_one_batch, block=block, pairs=pairs))
        rows.append((name, f"{1e3 * statistics.median(same):.2f}", *more(real, same)))
    where = "device placement, bf16" if on_gpu else "host placement"
    table((f"cost of data, {where}", "on one batch, ms a step", "more with the loader", "at most"), rows)


def beside_one_batch(inner: GenomeLoader, found: Pairs, block: int, pairs: int) -> Turns:
    """Some steps on the loader's batches, as many on the first one, and so on."""
    batch = one_batch(inner)

    # After a few steps as much is made ahead as there will be at the end: what is made in a turn is what the turn takes.
    warm = max(2, block // 4)
    yield from in_turns(
        found, pairs, block, lambda: endless(inner), lambda: (batch for _ in itertools.count()), warm=warm
    )


def one_batch(loader: GenomeLoader) -> Batch:
    stream = endless(loader)
    batch = next(stream)
    stream.close()
    return batch


def endless(loader: GenomeLoader) -> Turns:
    while True:
        yield from loader


def stall(folder: Path, path: Path, parameters: float, saves: int) -> None:
    every, width = 8, 1024
    blocks = max(1, round(parameters / (4 * width * width)))
    changes = [f"model.channels={width}", f"model.dilations={[1] * blocks}"]
    changes += ["data.window=128", "data.batch_size=1", "data.jitter=0"]
    changes += [f"train.checkpoint_every={every}", f"train.threads={os.cpu_count()}", "train.keep=1", "log.every=1"]

    def turns(inner: GenomeLoader, found: Pairs) -> Turns:
        batch = one_batch(inner)
        for _ in range(every * (1 + saves)):
            began = now()
            yield batch
            found[0].append(now() - began)

    run = Measured.read(path, changes)
    seconds, _ = measured(run, folder / "stall", turns)
    by_phase = [seconds[every + phase :: every] for phase in range(every)]  # without those until the first checkpoint
    plain = statistics.median(itertools.chain(*by_phase[every // 2 : every - 1]))
    saving = statistics.median(by_phase[every - 1])
    until_next = sum(statistics.median(times) - plain for times in by_phase)
    schema = schema_of(run.build_objective(run.open_store()))
    with torch.device("meta"):
        count = parameter_count(build_model(run.model, schema))
    head = (
        "checkpoint stall: parameters",
        "a step, ms",
        "more where one is kept",
        "in steps",
        "more until the next, ms",
    )
    row = (f"{count / 1e6:,.0f} M", f"{1e3 * plain:,.0f}", f"{1e3 * (saving - plain):+,.0f}")
    table(head, [(*row, f"{saving / plain - 1:+.2f}", f"{1e3 * until_next:+,.0f}")])


# ---- whole runs -----------------------------------------------------------------------------------


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "distgen.cli", *arguments]


def steady(out: Path, units: int) -> float:
    """Seconds a step, of so many bases, in the second half of a run."""
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    rates = [record["bases_per_second"] for record in records if "bases_per_second" in record]
    return units / statistics.median(rates[len(rates) // 2 :])


def compared(title: str, runs: dict[str, Callable[[int], float]], rounds: int) -> None:
    """Print the step times of runs that take turns, and their ratios to the first."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        for name, run in runs.items():
            found[name].append(run(number))
    first = next(iter(found.values()))
    rows = []
    for name, times in found.items():
        rows.append((name, f"{1e3 * statistics.median(times):.2f}", *more(times, first)))
    table((title, "ms a step", "more than the first", "at most"), rows)


def ray(folder: Path, path: Path, rounds: int) -> None:
    def whole(workers: int, number: int) -> float:
        out = folder / f"ray-{workers}-{number}"
        changes = ["train.steps=1000", "log.every=20", "model.channels=32"]
        subprocess.run(
            command("train", str(path), *changes, "--workers", str(workers), "--out", str(out)),
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=600,
        )
        return steady(out, 8 * 1024)

    runs = {"in this process": lambda n: whole(0, n), "Ray Train, 1 worker": lambda n: whole(1, n)}
    compared("Ray Train", runs, rounds)


def first(folder: Path, path: Path, times: int) -> None:
    seconds = []
    for number in range(1 + times):
        out = folder / f"first-{number}"
        began = time.perf_counter()
        process = subprocess.Popen(
            command("train", str(path), "train.steps=2", "log.every=1", "--out", str(out)), stdout=subprocess.DEVNULL
        )
        while process.poll() is None and not (
            (out / "metrics.jsonl").exists() and (out / "metrics.jsonl").stat().st_size
        ):
            time.sleep(0.002)
        seconds.append(time.perf_counter() - began)
        if process.wait(120):
            raise RuntimeError(f"the training in {out} failed")
    row = (f"{statistics.median(seconds[1:]):.2f}", f"{max(seconds[1:]):.2f}")
    table(("seconds to the first step", "the slowest"), [row])


def parallel(folder: Path, path: Path, rounds: int) -> None:
    def whole(kind: str, number: int) -> float:
        out = folder / f"parallel-{kind}-{number}"
        out.mkdir()
        shards = ["cluster.parallel=fsdp"] * (kind == "fsdp")
        run = Run.read(path, [*QUICKSTART, "train.steps=120", "log.every=10", *shards])
        run.write(out / "run.toml")
        on_ranks(2, out, partial(_trained, run=run, out=out, overlapped=kind == "ddp"))
        return steady(out, 16 * 1024)

    kinds = {"one flat buffer (what ddp is on the CPU)": "flat", "DDP": "ddp", "FSDP2": "fsdp"}
    compared("two ranks", {name: partial(whole, kind) for name, kind in kinds.items()}, rounds)


def _trained(rank: int, run: Run, out: Path, overlapped: bool) -> None:
    # On the CPU nobody gets torch's DDP: it stands in the place of what is taken there, to be measured beside it.
    with mock.patch("distgen.train.parallel.Replicated", Overlapped if overlapped else Replicated):
        train(run, Worker(rank, 2, torch.device("cpu"), out))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help="overhead ray data first stall parallel; all if none is named")
    parser.add_argument("--pairs", type=int, default=60, help="of turns")
    parser.add_argument("--rounds", type=int, default=7, help="of whole runs")
    parser.add_argument("--parameters", type=float, default=100e6, help="of the model whose checkpoints are kept")
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_heap()
    torch.set_flush_denormal(True)  # a model that knows one batch by heart has other numbers, which take other times
    print(machine(), "\n")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:  # a checkpoint may still be being written
        folder = Path(scratch)
        path = genome(folder)
        parts: dict[str, Callable[[], None]] = {
            "overhead": lambda: overhead(folder, path, given.pairs),
            "ray": lambda: ray(folder, path, given.rounds),
            "data": lambda: data(folder, path, given.pairs),
            "first": lambda: first(folder, path, given.rounds),
            "stall": lambda: stall(folder, path, given.parameters, 5),
            "parallel": lambda: parallel(folder, path, given.rounds),
        }
        for name in given.parts or parts:
            parts[name]()
            print(flush=True)


if __name__ == "__main__":
    main()
