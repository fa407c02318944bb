import pytest
import torch

from distgen.train.loop import start_or_resume
from distgen.train.run import Run
from distgen.train.step import train_step
from distgen.train.worker import Worker
from tests.train.ranks import on_ranks

KINDS = {
    "flat": ["train.deterministic=true"],
    "ddp": [],
    "fsdp": ["cluster.parallel=fsdp"],
    "hybrid": ["cluster.parallel=hybrid", "cluster.shards=2"],
    "copies": ["cluster.parallel=hybrid", "cluster.shards=1"],
}
DATA = {"alike": [], "ragged": ["data.batch_size=7", "train.micro_batch=1"]}  # 7 rows: some ranks have fewer


def steps(worker: Worker, run: Run) -> tuple[list[list[float]], dict[str, list[float]]]:
    """What came out of every step of a run, and the weights it ends with."""
    state = start_or_resume(run, worker)
    seen = []
    for batch in state.batches():
        seen.append(train_step(state.learner, batch, state.step, state.clock).tolist())
        state.step += 1
    entries = state.learner.model.state_dict()
    return seen, {name: whole(entry).flatten().tolist() for name, entry in entries.items()}


def whole(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def each(worker: Worker, file, kinds):
    return {
        (kind, data): steps(worker, Run.read(file, ["train.steps=20", *KINDS[kind], *DATA[data]]))
        for kind, data in kinds
    }


@pytest.mark.parametrize("world_size", [2, 4])
def test_every_kind_on_any_number_of_workers_trains_as_one_process(run_file, tmp_path, world_size):
    kinds = [(kind, data) for kind in KINDS for data in DATA]
    found = on_ranks(world_size, tmp_path, each, run_file, kinds)
    one = {data: each(Worker(0, 1, torch.device("cpu"), tmp_path), run_file, [("ddp", data)]) for data in DATA}
    for kind, data in kinds:
        seen, weights = one[data]["ddp", data]
        for rank in range(world_size):
            seen_here, weights_here = found[rank][kind, data]
            assert seen_here == found[0][kind, data][0], kind
            for step, expected in zip(seen_here, seen, strict=True):
                assert step == pytest.approx(expected, rel=1e-5), kind
            assert weights_here.keys() == weights.keys(), kind
            for name, values in weights.items():
                assert weights_here[name] == pytest.approx(values, abs=2e-4), (kind, name)
