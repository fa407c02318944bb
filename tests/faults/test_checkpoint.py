"""Whoever writes a checkpoint dies at any moment: there is always a whole one, and nothing that was published is lost."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from distgen.errors import CheckpointError
from distgen.train.checkpoint import Checkpoints, format, newest, open_checkpoint, staging
from distgen.train.checkpoint.storage import Folder
from distgen.train.worker import Worker

KIND = {"keep": 1, "keep_best": 1}


def tensors(step):
    return {f"w{number}": torch.full((300, 100), float(step)) for number in range(8)}


def opened(folder):
    format.FILE_BYTES = staging.FILE_BYTES = 200_000  # several files
    return Checkpoints(folder, Worker(0, 1, torch.device("cpu"), folder), **KIND)


def write_for_ever(folder, told):
    """Keep one checkpoint after the other; tell of each step that is published."""
    kept = opened(folder)
    found = kept.newest()
    step = found.state["step"] if found else 0
    os.write(told, b"began\n")
    while True:
        step += 1
        # Some are better than all before: what is best and what goes changes.
        kept.save(tensors(step), {"step": step}, -step if step % 3 == 0 else 0.0)
        kept.wait()
        os.write(told, f"{step}\n".encode())


def check(folder, published):
    """What a user finds who comes then."""
    found = newest(folder)
    assert found is not None or not published
    if found is None:
        return
    assert found.state["step"] >= published, (found, published)
    for path in (found.path, folder / "last", folder / "best"):
        if path.exists() or path.is_symlink() or published:
            here = open_checkpoint(path)
            assert {float(value.min()) for value in here.read().values()} == {here.state["step"]}
            assert {float(value.max()) for value in here.read().values()} == {here.state["step"]}


def kill_again_and_again(folder, times):
    """Run by a process that has no threads, which forks what it kills: starting anew would take seconds each time."""
    draw, published = random.Random(7), 0
    for _ in range(times):
        read, told = os.pipe()
        writer = os.fork()
        if writer == 0:
            write_for_ever(folder, told)
        os.close(told)
        with os.fdopen(read) as lines:
            assert lines.readline() == "began\n"
            seen = [lines.readline() for _ in range(draw.randrange(3))]
            time.sleep(draw.uniform(0, 0.1))
            os.kill(writer, signal.SIGKILL)
            os.waitpid(writer, 0)
            published = max([published, *(int(line) for line in [*seen, *lines] if line.endswith("\n"))])
        checker = os.fork()
        if checker == 0:
            status = 1
            try:
                check(folder, published)
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(checker, 0)[1] == 0
    assert published > 3


def _killed(folder, times):
    code = f"import pathlib; from tests.faults.test_checkpoint import *; kill_again_and_again(pathlib.Path({str(folder)!r}), {times})"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=280)
    assert done.returncode == 0


def test_a_writer_that_is_killed_at_many_moments_leaves_a_whole_newest(tmp_path):
    _killed(tmp_path, 15)


@pytest.mark.slow
def test_a_writer_that_is_killed_at_two_hundred_moments_leaves_a_whole_newest(tmp_path):
    _killed(tmp_path, 200)


# ---- one of several ----------------------------------------------------------------------------


def _one_of_two(rank, port, folder):
    limit = timedelta(seconds=60)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2, timeout=limit)
    kept = Checkpoints(folder, Worker(rank, 2, torch.device("cpu"), folder), **KIND)
    kept.newest()
    kept.save(tensors(1), {"step": 1}, 0.0)
    kept.wait()
    if rank == 1:
        Folder.write = lambda *given: os.kill(os.getpid(), signal.SIGKILL)
    kept.save(tensors(2), {"step": 2}, 0.0)
    try:
        kept.wait()
    except CheckpointError as error:
        (folder / "said").write_text(str(error))
    os._exit(0)  # the group is broken


def test_a_worker_that_dies_while_all_write_is_noticed_and_what_was_before_stays(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = mp.get_context("spawn")
    workers = [context.Process(target=_one_of_two, args=(rank, port, tmp_path)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(200)
    assert [worker.exitcode for worker in workers] == [0, -signal.SIGKILL]
    assert "a checkpoint could not be written" in (tmp_path / "said").read_text()
    assert newest(tmp_path).state["step"] == 1
    kept = opened(tmp_path)
    assert kept.newest().state["step"] == 1
    kept.save(tensors(2), {"step": 2}, 0.0)
    assert kept.wait() == str(tmp_path / "step-00000002")
    assert sorted(Path(tmp_path).glob(".*")) == []
