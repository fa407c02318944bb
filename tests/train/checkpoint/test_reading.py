"""What was written by some workers is read by others, however they split it."""

import errno
import json

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from distgen.errors import CheckpointError
from distgen.train.checkpoint import Checkpoints, format, open_checkpoint, staging
from distgen.train.checkpoint.storage import Folder
from distgen.train.worker import Worker
from tests.train.ranks import on_ranks

SHAPES = {"a": (7, 5), "b": (4, 6, 3), "c": (2,), "d": (), "e": (300, 7), "f": (0, 3)}
WHOLE = {
    name: torch.randn(shape, generator=torch.Generator().manual_seed(number))
    for number, (name, shape) in enumerate(SHAPES.items())
} | {"g": torch.arange(9, dtype=torch.int32), "h": torch.arange(64).bfloat16()}
LAYOUTS = {
    "plain": None,
    "rows": ((4,), [Shard(0)]),
    "columns": ((4,), [Shard(1)]),
    "hybrid": ((2, 2), [Replicate(), Shard(0)]),
    "both": ((2, 2), [Shard(0), Shard(1)]),
}


def spread(layout, values):
    """The tensors as a parallelism has them; as there, what has no such axis stays whole."""
    if layout is None:
        return {name: value.clone() for name, value in values.items()}
    shape, placements = layout
    mesh = init_device_mesh("cpu", shape if len(shape) > 1 else (torch.distributed.get_world_size(),))
    axes = max([place.dim for place in placements if isinstance(place, Shard)]) + 1
    return {
        name: distribute_tensor(value.clone(), mesh, placements) if value.ndim >= axes else value.clone()
        for name, value in values.items()
    }


def opened(worker, folder):
    return Checkpoints(folder, worker, keep=9, keep_best=1)


def write(worker, folder):
    format.FILE_BYTES = staging.FILE_BYTES = 1000
    for number, layout in enumerate(LAYOUTS.values()):
        kept = opened(worker, folder / str(number))
        kept.newest()
        tensors = spread(layout, WHOLE)
        kept.save(tensors, {"step": 1}, 0.0)
        for tensor in tensors.values():
            (tensor.to_local() if hasattr(tensor, "to_local") else tensor).zero_()
        assert kept.wait() == str(folder / str(number) / "step-00000001")


def read(worker, folder, layouts):
    for number in range(len(LAYOUTS)):
        found = opened(worker, folder / str(number)).newest()
        for layout in layouts:
            tensors = spread(LAYOUTS[layout], {name: torch.zeros_like(value) for name, value in WHOLE.items()})
            found.load(tensors)
            for name, tensor in tensors.items():
                tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
                assert torch.equal(tensor, WHOLE[name]), (number, layout, name)


def spoiled(worker, folder):
    found = opened(worker, folder).newest()
    if worker.leads:
        for path in (folder / "step-00000001").glob("*.safetensors"):
            path.write_bytes(b"")
    torch.distributed.barrier()
    try:
        found.load(spread(LAYOUTS["rows"], WHOLE))
    except CheckpointError as error:
        return str(error)


def save_two(worker, folder):
    kept = opened(worker, folder)
    kept.newest()
    for step in (1, 2):
        kept.save(spread(LAYOUTS["rows"], WHOLE), {"step": step}, 0.0)
    kept.wait()


def full(worker, folder):
    """What a worker hears when the disk of another is full; the next save works."""
    kept, wrote = opened(worker, folder), Folder.write
    kept.newest()
    if worker.rank == 2:
        Folder.write = lambda *given: _raise(OSError(errno.ENOSPC, "No space left on device"))
    kept.save(spread(LAYOUTS["rows"], WHOLE), {"step": 1}, 0.0)
    try:
        kept.wait()
    except CheckpointError as error:
        said = str(error)
    Folder.write = wrote
    assert not list(folder.glob("step-*"))
    assert not worker.leads or not list(folder.glob(".*"))
    kept.save(spread(LAYOUTS["rows"], WHOLE), {"step": 2}, 0.0)
    assert kept.wait() == str(folder / "step-00000002")
    return said


def _raise(error):
    raise error


def on_four(worker, folder):
    write(worker, folder)
    read(worker, folder, ["hybrid", "both"])
    save_two(worker, folder / "two")
    said = [None] * 4
    torch.distributed.all_gather_object(said, full(worker, folder / "full"))
    assert len(set(said)) == 1
    assert "No space left on device" in said[0]


def on_three(worker, folder):
    read(worker, folder, ["plain", "rows", "columns"])
    newest = opened(worker, folder / "two").newest().state["step"]
    return newest, spoiled(worker, folder / "two")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """What four workers wrote."""
    folder = tmp_path_factory.mktemp("written")
    on_ranks(4, folder, on_four, folder)
    return folder


def test_every_value_is_written_once_however_many_workers_have_it(written):
    size = sum(tensor.nbytes for tensor in WHOLE.values())
    for number in range(len(LAYOUTS)):
        path = written / str(number) / "step-00000001"
        files = [name for name in open_checkpoint(path).state["files"] if name.endswith(".safetensors")]
        tables = [(path / name).read_bytes() for name in files]
        assert sum(len(table) - 8 - int.from_bytes(table[:8], "little") for table in tables) == size
        assert {name.split("-")[1] for name in files} == {f"{rank:05d}" for rank in range(4)}


def test_one_process_reads_what_others_wrote(written):
    read(Worker(0, 1, torch.device("cpu"), written), written, ["plain"])


def test_other_workers_read_it_agree_on_what_is_whole_and_fail_together(written):
    damaged = written / "two" / "step-00000002" / "shard-00002-0000.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\0")
    found = on_ranks(3, written, on_three, written)
    assert {newest for newest, _ in found} == {1}
    assert "is damaged: shard-0000" in found[0][1]
    assert len({said for _, said in found}) == 1


def test_whole_tensors_are_read_by_the_beginning_of_their_names(tmp_path):
    kept = opened(Worker(0, 1, torch.device("cpu"), tmp_path), tmp_path)
    kept.save({"model/a": torch.ones(2), "optimizer/a": torch.zeros(2)}, {"step": 1}, 0.0)
    kept.wait()
    found = open_checkpoint(tmp_path / "best")
    assert found.names() == {"model/a", "optimizer/a"}
    assert {name: value.tolist() for name, value in found.read("model/").items()} == {"a": [1, 1]}


def test_nothing_is_pickled(tmp_path):
    kept = opened(Worker(0, 1, torch.device("cpu"), tmp_path), tmp_path)
    kept.save(WHOLE, {"step": 1}, 0.0)
    path = kept.wait()
    for file in (tmp_path / path).iterdir():
        content = file.read_bytes()
        header = content[8 : 8 + int.from_bytes(content[:8], "little")] if file.suffix == ".safetensors" else content
        json.loads(header)


@pytest.mark.parametrize(
    ("tensors", "problem"),
    [({"z": torch.ones(1)}, "has no z"), ({"a": torch.ones(5, 7)}, r"a is \(7, 5\), not \(5, 7\)")],
)
def test_what_does_not_fit_is_named(tmp_path, tensors, problem):
    kept = opened(Worker(0, 1, torch.device("cpu"), tmp_path), tmp_path)
    kept.save(WHOLE, {"step": 1}, 0.0)
    kept.wait()
    with pytest.raises(CheckpointError, match=problem):
        open_checkpoint(tmp_path / "last").load(tensors)
