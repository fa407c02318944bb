"""How training scales, predicted to 1,024 devices and checked on this machine: python -m benchmarks.scaling

A step takes what its rows take to compute, and what of the gradients' all-reduce is not hidden behind the backward pass:

    step(n) = fixed + per_row * rows + max(0, reduce(n) - overlap * backward)

All-reduce of S bytes over n devices, each sending at most `bandwidth` bytes a second, `latency` seconds a message (the alpha-beta model
of Hockney 1994), is the faster of

    ring    2 (n - 1) latency + 2 (n - 1) / n S / bandwidth          Patarasuk and Yuan 2009
    trees   2 log2(n) latency + 2 S / bandwidth                      two binary trees, pipelined: Sanders, Speck and Träff 2009

and over nodes of several devices in three steps (Thakur, Rabenseifner and Gropp 2005): reduce-scatter inside nodes, all-reduce of the
parts between nodes, all their devices at the same time over the node's one link, and all-gather inside nodes.

Assumed: devices are alike and none is late; links between nodes are not blocked by others; nobody waits for data (the loader reads
the same bytes on any number of workers); sums of losses and checkpoints cost nothing; a step's fixed part does not depend on n.
So what is predicted is what the gradients' traffic alone allows: an upper bound of the real efficiency.

Checked: rows and fixed part are fitted to steps of one process, latency and bandwidth to gloo's all-reduce of several sizes on two
ranks; then steps of 1, 2 and 4 workers are predicted and measured, in deterministic mode (one flat buffer, no overlap), one thread
each. Workers beyond the cores share them: what computing takes is then measured with so many workers that don't speak.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from benchmarks.measure import machine, on_ranks, table
from benchmarks.train import QUICKSTART, genome
from distgen.models import parameter_count
from distgen.train.loop import train
from distgen.train.model import build_model, schema_of
from distgen.train.run import Run
from distgen.train.worker import Worker

SIZES = [1 << power for power in range(12, 25, 2)]  # bytes that are reduced
WORKERS, ROWS, STEPS = (1, 2, 4), 8, 40


@dataclass(frozen=True)
class Link:
    """Seconds a message, bytes a second each way."""

    latency: float
    bandwidth: float

    def scatter(self, devices: int, size: float) -> float:
        """Seconds of a reduce-scatter, or of an all-gather, by a ring."""
        return (devices - 1) * self.latency + (devices - 1) / devices * size / self.bandwidth

    def reduce(self, devices: int, size: float) -> float:
        """Seconds of an all-reduce, by a ring or by trees."""
        if devices == 1:
            return 0.0
        trees = 2 * math.ceil(math.log2(devices)) * self.latency + 2 * size / self.bandwidth
        return min(2 * self.scatter(devices, size), trees)


@dataclass(frozen=True)
class Step:
    """What a step takes.

    Args:
        fixed, per_row: seconds to compute it.
        gradients: bytes.
        overlap: the share of the backward pass behind which the all-reduce can hide.
        backward: the share of computing that is the backward pass.
    """

    fixed: float
    per_row: float
    gradients: float
    overlap: float = 0.0
    backward: float = 2 / 3

    def seconds(self, rows: float, reduce: float) -> float:
        computing = self.fixed + self.per_row * rows
        return computing + max(0.0, reduce - self.overlap * self.backward * computing)


@dataclass(frozen=True)
class Network:
    """Devices in nodes of `per_node`, and the links inside a node and from a node to the others."""

    per_node: int
    inside: Link
    between: Link

    def reduce(self, devices: int, size: float) -> float:
        """Seconds of an all-reduce."""
        here = min(devices, self.per_node)
        nodes = -(-devices // self.per_node)
        if nodes == 1:
            return self.inside.reduce(here, size)
        return 2 * self.inside.scatter(here, size) + self.between.reduce(nodes, size)


def predict(step: Step, network: Network, rows: int, most: int = 1024) -> None:
    """Print weak scaling (`rows` on each device) and strong scaling (`rows` on each of the first node, and no more in all)."""
    batch, lines = rows * network.per_node, []
    one = step.seconds(rows, 0)
    alone = step.fixed + step.per_row * batch
    for devices in [2**power for power in range(int(math.log2(most)) + 1)]:
        reduce = network.reduce(devices, step.gradients)
        weak, mine = step.seconds(rows, reduce), -(-batch // devices)
        strong = step.seconds(mine, reduce)
        line = [f"{devices:,}", f"{1e3 * reduce:.2f}", f"{1e3 * weak:.1f}", f"{one / weak:.1%}"]
        fits = devices <= batch
        lines.append(
            (*line, *([f"{1e3 * strong:.1f}", f"{alone / strong:,.1f}"] if fits else ["fewer rows than devices", ""]))
        )
    head = ("devices", "all-reduce, ms", f"weak ({rows} rows each): ms a step", "efficiency")
    table((*head, f"strong ({batch} rows in all): ms a step", "times as fast as one"), lines)


# ---- what this machine does ------------------------------------------------------------------------


def reduce_times(rank: int) -> list[float]:
    """The median seconds of an all-reduce of each of SIZES."""
    found = []
    for size in SIZES:
        buffer, seconds = torch.zeros(size // 4), []
        for _ in range(25):
            dist.barrier()
            began = time.perf_counter()
            dist.all_reduce(buffer)
            seconds.append(time.perf_counter() - began)
        found.append(statistics.median(seconds[5:]))
    return found


def step_time(rank: int, path: Path, out: Path, rows: int, workers: int, together: bool) -> float:
    """The median seconds of a step of a real training, in its second half: one of `workers`, or each alone."""
    out = out if together else out / str(rank)
    out.mkdir(parents=True, exist_ok=True)
    changes = [
        f"data.batch_size={rows}",
        f"train.steps={STEPS}",
        "train.deterministic=true",
        "log.every=5",
        "log.gap_batches=0",
    ]
    run = Run.read(path, [*QUICKSTART[:2], *changes])
    if rank == 0 or not together:
        run.write(out / "run.toml")
    train(run, Worker(rank, workers, torch.device("cpu"), out) if together else Worker(0, 1, torch.device("cpu"), out))
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    rates = [record["bases_per_second"] for record in records if "bases_per_second" in record]
    assert run.data.window
    return rows * run.data.window / statistics.median(rates[len(rates) // 2 :])


def fitted(x: list[float], seconds: list[float]) -> tuple[float, float]:
    """The line that times follow, with the least relative errors: at nothing, and per unit; neither is negative."""
    weights = 1 / np.asarray(seconds)
    terms = np.stack([np.ones(len(x)), np.asarray(x)], 1)
    fixed, slope = np.linalg.lstsq(terms * weights[:, None], np.ones(len(x)), rcond=None)[0]
    return max(float(fixed), 0.0), max(float(slope), 1e-15)


def measure_link(folder: Path) -> Link:
    """Latency and bandwidth of gloo between two ranks; prints the line beside what it was fitted to, and beside four ranks."""
    times = {workers: on_ranks(workers, folder, reduce_times)[0] for workers in (2, 4)}
    fixed, slope = fitted([float(size) for size in SIZES], times[2])
    link = Link(fixed / 2, 1 / slope)  # two ranks: two messages, and all bytes once
    rows = []
    for number, size in enumerate(SIZES):
        cells = [f"{1e6 * times[n][number]:,.0f} ({1e6 * link.reduce(n, size):,.0f})" for n in (2, 4)]
        rows.append((f"{size / 1024:,.0f}", *cells))
    table(("gloo all-reduce, KiB", "2 ranks: us (fitted)", f"4 ranks on {os.cpu_count()} cores: us (predicted)"), rows)
    print(f"\na message {1e6 * link.latency:,.0f} us, {link.bandwidth / 1e9:.2f} GB/s\n")
    return link


def check(folder: Path, path: Path, link: Link) -> Step:
    """Print what is predicted for 1, 2 and 4 workers of this machine beside what they do; what a step takes."""
    run = Run.read(path, QUICKSTART[:2])
    with torch.device("meta"):
        model = build_model(run.model, schema_of(run.build_objective(run.open_store())))

    def computing(workers: int) -> Step:
        rows = [float(rows) for rows in (2, 4, 8, 16)]
        seconds = []
        for count in rows:
            out = folder / f"alone-{workers}-{count:.0f}"
            work = partial(step_time, path=path, out=out, rows=int(count), workers=workers, together=False)
            seconds.append(statistics.median(on_ranks(workers, folder, work, together=False)))
        return Step(*fitted(rows, seconds), gradients=4.0 * parameter_count(model))

    steps = {workers: computing(workers) for workers in WORKERS}
    lines = []
    for kind in ("weak", "strong"):
        for workers in WORKERS:
            batch = ROWS * workers if kind == "weak" else ROWS * max(WORKERS) // 2
            predicted = steps[workers].seconds(batch / workers, link.reduce(workers, steps[workers].gradients))
            out = folder / f"{kind}-{workers}"
            work = partial(step_time, path=path, out=out, rows=batch, workers=workers, together=True)
            measured = statistics.median(on_ranks(workers, folder, work))
            crowd = " (on shared cores)" if workers > (os.cpu_count() or 1) else ""
            cells = (f"{1e3 * predicted:.1f}", f"{1e3 * measured:.1f}", f"{predicted / measured:.2f}")
            lines.append((f"{kind}, {workers} workers{crowd}", f"{batch}", *cells))
    table(("deterministic mode", "rows in all", "predicted, ms a step", "measured", "predicted / measured"), lines)
    one = steps[1]
    print(f"\na step of one worker {1e3 * one.fixed:.1f} ms + {1e3 * one.per_row:.2f} ms a row")
    print(f"gradients {one.gradients / 1e6:.2f} MB, link as measured\n")
    return one


def parsed(text: str) -> Link:
    """From "microseconds,GB/s"."""
    latency, bandwidth = map(float, text.split(","))
    return Link(latency / 1e6, bandwidth * 1e9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--step", help="instead of this machine's: fixed ms, ms a row, MB of gradients, such as 5,1.5,400"
    )
    parser.add_argument("--rows", type=int, default=ROWS, help="on each device")
    parser.add_argument("--per-node", type=int, default=8, help="devices")
    parser.add_argument("--inside", type=parsed, help="a node: microseconds, GB/s. [default: as measured here]")
    parser.add_argument(
        "--between", type=parsed, default="20,12.5", help="nodes, likewise: an assumption, not a measurement"
    )
    parser.add_argument(
        "--overlap", type=float, default=0.8, help="share of the backward pass; 0 in deterministic mode"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(machine(), "\n")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        inside = given.inside if given.inside and given.step else measure_link(folder)
        if given.step:
            fixed, per_row, megabytes = map(float, given.step.split(","))
            step = Step(fixed / 1e3, per_row / 1e3, megabytes * 1e6)
        else:
            step = check(folder, genome(folder), inside)
    step = Step(step.fixed, step.per_row, step.gradients, given.overlap)
    print(
        f"predicted: nodes of {given.per_node}, between them {1e6 * given.between.latency:.0f} us a message and ",
        end="",
    )
    print(
        f"{given.between.bandwidth / 1e9:.1f} GB/s a node, {given.overlap:.0%} of the backward pass hides the all-reduce\n"
    )
    predict(step, Network(given.per_node, given.inside or inside, given.between), given.rows)


if __name__ == "__main__":
    main()
