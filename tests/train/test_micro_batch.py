import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distgen.errors import ConfigError, TrainError
from distgen.models.dilated import Dilated
from distgen.train.checkpoint import open_checkpoint
from distgen.train.loop import start_or_resume
from distgen.train.run import Run
from distgen.train.step import train_step
from distgen.train.worker import Worker
from tests.conftest import fit
from tests.train.ranks import on_ranks

CPU = torch.device("cpu")


def gradients(worker, file, changes, steps=2):
    """What came out of the last of some steps, and the gradient it was taken with."""
    state = start_or_resume(Run.read(file, ["train.valid_every=100", *changes]), worker)
    for batch in state.batches():
        sums = train_step(state.learner, batch, state.step, state.clock)
        state.step += 1
        if state.step == steps:
            break
    found = torch.cat([p.grad.flatten() for p in state.learner.model.parameters()])
    return state.learner.micro_batch, sums.tolist(), found.tolist()


@settings(max_examples=12)
@given(rows=st.integers(1, 9), micro_batch=st.integers(1, 10))
def test_any_micro_batch_gives_the_same_gradient(run_file, tmp_path, rows, micro_batch):
    worker, same = Worker(0, 1, CPU, tmp_path), [f"data.batch_size={rows}"]
    _, whole, expected = gradients(worker, run_file, same)
    used, sums, found = gradients(worker, run_file, [*same, f"train.micro_batch={micro_batch}"])
    assert used == min(micro_batch, rows)
    assert sums == pytest.approx(whole, rel=1e-5)
    assert found == pytest.approx(expected, rel=1e-4, abs=2e-6)


class Room:
    """A device that has no memory for more than so many bases at once."""

    def __init__(self, monkeypatch, bases):
        self.tried, forward = [], Dilated.forward

        def limited(model, x_BCL):
            bases_here = x_BCL.shape[0] * x_BCL.shape[2]
            if torch.is_grad_enabled():
                self.tried.append(tuple(x_BCL.shape[::2]))
                if bases_here > bases:
                    raise torch.OutOfMemoryError("CUDA out of memory")
            return forward(model, x_BCL)

        monkeypatch.setattr(Dilated, "forward", limited)


AUTO = ["train.micro_batch=auto"]


def test_rows_are_halved_until_they_fit(run_file, tmp_path, monkeypatch):
    _, whole, expected = gradients(Worker(0, 1, CPU, tmp_path), run_file, [])
    room = Room(monkeypatch, 64 * 3)
    used, sums, found = gradients(Worker(0, 1, CPU, tmp_path), run_file, AUTO)
    assert used == 2
    assert room.tried[:3] == [(8, 64), (4, 64), (2, 64)]
    assert sums == pytest.approx(whole, rel=1e-5)
    assert found == pytest.approx(expected, rel=1e-4, abs=2e-6)


def test_where_there_is_room_all_rows_go_at_once(run_file, tmp_path):
    assert gradients(Worker(0, 1, CPU, tmp_path), run_file, AUTO)[0] == 8


def test_the_largest_window_of_a_curriculum_is_what_has_to_fit(run_file, tmp_path, monkeypatch):
    text = run_file.read_text().replace("jitter = 5", "curriculum = [{ epochs = 1, window = 128, stride = 64 }]")
    run_file.write_text(text)
    room = Room(monkeypatch, 128 * 4)
    assert gradients(Worker(0, 1, CPU, tmp_path), run_file, AUTO)[0] == 4
    assert room.tried[:2] == [(8, 128), (4, 128)]


def test_a_window_that_does_not_fit_ends_with_what_would_help(run_file, tmp_path, monkeypatch):
    Room(monkeypatch, 63)
    with pytest.raises(TrainError, match=r"one window of 64 bases does not fit .*activation_checkpointing"):
        gradients(Worker(0, 1, CPU, tmp_path), run_file, AUTO)


def test_what_was_found_is_kept_on_as_many_workers(run_file, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        Room(patch, 64 * 2)
        fit(Run.read(run_file, [*AUTO, "train.steps=4"]), tmp_path / "out")
    state = open_checkpoint(tmp_path / "out" / "checkpoints" / "last").state
    assert (state["made"]["micro_batch"], state["made"]["world_size"]) == (2, 1)
    room = Room(monkeypatch, 1 << 20)
    fit(Run.read(run_file, [*AUTO, "train.steps=5"]), tmp_path / "out")
    assert set(room.tried) == {(2, 64)}


SEVEN = ["data.batch_size=7"]  # of which one of two workers has four, the other three


def on_each(worker, file):
    found = [(n, *gradients(worker, file, [*SEVEN, f"train.micro_batch={n}"])) for n in (1, 2, 3, 4)]
    with pytest.MonkeyPatch.context() as patch:
        Room(patch, 64 * (4 if worker.rank else 1))
        return [*found, (1, *gradients(worker, file, [*SEVEN, *AUTO]))]


def test_workers_with_fewer_rows_or_less_memory_take_as_many_at_once_as_all_and_come_to_the_same(run_file, tmp_path):
    _, whole, expected = gradients(Worker(0, 1, CPU, tmp_path), run_file, SEVEN)
    for rank in on_ranks(2, tmp_path, on_each, run_file):
        for taken, used, sums, found in rank:
            assert used == taken
            assert sums == pytest.approx(whole, rel=1e-5)
            assert found == pytest.approx(expected, rel=1e-4, abs=2e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["cluster.workers=2", "cluster.parallel=fsdp"], "train.micro_batch: it is found where each worker holds"),
        (["data.packed=true", 'data.regions={source="genes.bed", at="whole"}', "data.jitter=0"], "train.micro_batch: rows that hold"),
    ],
)  # fmt: skip
def test_where_rows_cannot_be_cut_or_tried_is_refused_by_name(run_file, tmp_path, changes, message):
    (tmp_path / "genes.bed").write_text("".join(f"chr1\t{s}\t{s + 5 + s % 40}\n" for s in range(3, 800, 17)))
    run_file.write_text(run_file.read_text().replace("stride = 32\n", ""))
    with pytest.raises(ConfigError, match=message):
        Run.read(run_file, [*AUTO, *changes, "train.valid_every=100"]).check()
