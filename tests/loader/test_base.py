import os

import pytest
import torch
from torch.utils.data import DataLoader

from distgen import GenomeLoader, kernels
from distgen.loader.base import _growing


@pytest.mark.parametrize("cores", [1, 8, 64])
def test_any_number_of_threads_makes_the_same_batches_in_the_same_order(small, monkeypatch, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(cores), raising=False)
    monkeypatch.setattr("distgen.loader.base._TOGETHER", 1)
    loader = GenomeLoader(small, window=64, stride=7, batch_size=8, strand="random", placement="host")
    expected = [loader.batch(0, position) for position in range(0, len(loader) * 8, 8)]
    for batch, other in zip(loader, expected, strict=True):
        assert torch.equal(kernels.tokens(**batch.packed), kernels.tokens(**other.packed))


@pytest.mark.parametrize(("first", "workers"), [(0, 2), (5, 2), (10, 2)])
def test_persistent_workers_of_a_torch_data_loader_go_on_with_the_next_epoch(small, first, workers):
    loader = GenomeLoader(small, window=64, stride=40, batch_size=3, strand="random")
    assert len(loader) == 11
    loader.position = first * 3
    expected = [
        [loader.batch(epoch, 3 * n).samples.tolist() for n in range(0 if epoch else first, 11)] for epoch in range(3)
    ]
    keys = [loader.batch(epoch, 0).keys[0] for epoch in range(3)]
    served = DataLoader(
        loader, batch_size=None, num_workers=workers, persistent_workers=True, multiprocessing_context="fork"
    )
    for epoch in range(3):
        batches = list(served)
        assert [batch.samples.tolist() for batch in batches] == expected[epoch]
        assert not epoch or batches[0].keys[0] == keys[epoch]


@pytest.mark.parametrize(("count", "most"), [(0, 4), (1, 1), (5, 1), (7, 4), (100, 64), (64, 3)])
def test_the_first_batch_is_made_alone_and_all_are_made_once(count, most):
    goes = [list(range(count)[some]) for some in _growing(count, most)]
    assert sum(goes, []) == list(range(count))  # noqa: RUF017
    assert not goes or len(goes[0]) == 1
    assert max(map(len, goes), default=0) <= most
