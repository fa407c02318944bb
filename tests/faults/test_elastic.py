"""Two workers, then three, then one: the same samples at every step, and the same losses within rounding."""

import json
import math
import os
import socket
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from distgen.cli import run as command
from distgen.train import loop
from distgen.train.run import Run
from distgen.train.worker import Worker


class _DownError(Exception):
    """All workers are gone."""


def _rank(rank: int, world_size: int, port: int, path: Path, changes: list[str], out: Path, until: int) -> None:
    """Train, keep what samples each step saw, and be gone after step `until`."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size)
    seen, step_of = (out / f"seen-{world_size}-{rank}.jsonl").open("w"), loop.train_step

    def spied(learner, batch, step, *arguments, **options):
        if step == until:
            raise _DownError
        samples = [k for k, w in zip(batch.samples.tolist(), batch.weight.tolist(), strict=True) if w]
        print(json.dumps([step + 1, samples]), file=seen, flush=True)
        return step_of(learner, batch, step, *arguments, **options)

    loop.train_step = spied
    with suppress(_DownError):
        loop.train(Run.read(path, changes), Worker(rank, world_size, torch.device("cpu"), out))
    dist.destroy_process_group()
    # As `distgen.cli.main` leaves: native threads of the libraries have aborted such processes as they went down.
    os._exit(0)


def train(path: Path, changes: list[str], out: Path, parts: list[tuple[int, int]]):
    """Train on so many workers until they are gone after a step, and so on.

    Returns:
        The samples of each step, sorted, as the last that took it saw them; and the losses.
    """
    out.mkdir()
    Run.read(path, changes).write(out / "run.toml")
    for world_size, until in parts:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        mp.spawn(_rank, (world_size, port, path, changes, out, until), nprocs=world_size)
    seen: dict[int, list[int]] = {}
    for world_size, _ in parts:
        lines = [json.loads(line) for file in out.glob(f"seen-{world_size}-*.jsonl") for line in file.open()]
        steps: dict[int, list[int]] = {}
        for step, samples in lines:
            steps.setdefault(step, []).extend(samples)
        seen |= {step: sorted(samples) for step, samples in steps.items()}
    records = map(json.loads, (out / "metrics.jsonl").open())
    return seen, {r["step"]: r["loss"] for r in records if "loss" in r}


def check(run_file, tmp_path, capsys, steps):
    # Workers go away between two checkpoints: what came after the first of them is done again.
    third = steps // 3
    changes = [
        f"train.steps={steps}",
        "train.checkpoint_every=10",
        "train.valid_every=1000",
        "train.deterministic=true",
    ]
    parts = [(2, third + 3), (3, 2 * third + 4), (1, steps)]
    seen, losses = train(run_file, changes, tmp_path / "elastic", parts)
    one, expected = train(run_file, changes, tmp_path / "one", [(1, steps)])
    assert list(range(1, steps + 1)) == sorted(seen)
    assert seen == one
    assert all(math.isclose(losses[step], expected[step], rel_tol=1e-5) for step in range(1, steps + 1))
    for step in (1, third, third + 3, 2 * third, steps):
        assert command(["samples", str(tmp_path / "elastic"), "--step", str(step), "--json"]) == 0
        told = json.loads(capsys.readouterr().out)["samples"]
        assert sorted(row["sample"] for row in told) == seen[step]


def test_on_two_then_three_then_one_worker_all_is_as_on_one(run_file, tmp_path, capsys):
    check(run_file, tmp_path, capsys, 60)


@pytest.mark.slow
def test_over_five_hundred_steps_as_well(run_file, tmp_path, capsys):
    check(run_file, tmp_path, capsys, 500)
