import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distgen.errors import TrainError
from distgen.train.reproducible import seed_draws, settle
from distgen.train.run import Run
from tests.conftest import fit, fit_until, weights


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """What is settled for a whole process is put back."""
    threads = torch.get_num_threads()
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False
    torch.set_num_threads(threads)


_seeds = st.integers(0, 2**63 - 1)


@given(seed=_seeds, other=_seeds, rank=st.integers(0, 4), step=st.integers(0, 5))
def test_what_is_drawn_depends_on_seed_rank_and_step_alone(seed, other, rank, step):
    def drawn(*numbers):
        seed_draws(*numbers, torch.device("cpu"))
        return torch.rand(4).tolist()

    first = drawn(seed, rank, step)
    torch.rand(17)
    assert drawn(seed, rank, step) == first
    different = {(other, rank, step), (seed, rank + 1, step), (seed, rank, step + 1), (seed, step, rank)}
    for numbers in different - {(seed, rank, step)}:
        assert drawn(*numbers) != first


def test_a_run_with_dropout_goes_on_as_if_it_had_not_been_stopped(run_file, tmp_path):
    made, text = [], run_file.read_text()
    begins, ends = text.index("[model]"), text.index("[objective]")
    sizes = "channels = 8\npool = 4\ndim = 8\ndepth = 1\nheads = 2\ndropout = 0.2\n"
    run_file.write_text(f'{text[:begins]}[model]\nfamily = "transformer"\n{sizes}{text[ends:]}')
    for name, changes in (("whole", []), ("parted", []), ("seeded", ["data.seed=5"])):
        run = Run.read(run_file, changes)
        if name == "parted":
            with pytest.raises(KeyboardInterrupt):
                fit_until(run, tmp_path / name, 7)
            torch.manual_seed(99)
        fit(run, tmp_path / name)
        made.append(weights(tmp_path / name))
    whole, parted, seeded = made
    assert all(torch.equal(whole[name], parted[name]) for name in whole)
    assert not torch.equal(whole["head.weight"], seeded["head.weight"])


def test_a_deterministic_run_fixes_what_sums_depend_on_and_ends_bit_for_bit_alike(run_file, tmp_path):
    text = run_file.read_text().replace("threads = 1\n", "")
    run_file.write_text(text)
    run = Run.read(run_file, ["train.deterministic=true", "train.steps=4"])
    for name in ("one", "two"):
        torch.set_num_threads(2)
        fit(run, tmp_path / name)
        assert torch.get_num_threads() == 1  # cluster.cpus_per_worker
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert all(torch.equal(one[name], two[name]) for name in one)
    settle(Run.read(run_file))
    assert not torch.are_deterministic_algorithms_enabled()


def test_an_environment_that_makes_sums_differ_is_refused(run_file, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    with pytest.raises(TrainError, match="CUBLAS_WORKSPACE_CONFIG"):
        settle(Run.read(run_file, ["train.deterministic=true"]))
