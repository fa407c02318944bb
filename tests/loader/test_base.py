import os

import pytest
import torch

from distgen import GenomeLoader, kernels


@pytest.mark.parametrize("cores", [1, 8, 64])
def test_any_number_of_threads_makes_the_same_batches_in_the_same_order(small, monkeypatch, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(cores), raising=False)
    monkeypatch.setattr("distgen.loader.base._TOGETHER", 1)
    loader = GenomeLoader(small, window=64, stride=7, batch_size=8, strand="random", placement="host")
    expected = [loader.batch(0, position) for position in range(0, len(loader) * 8, 8)]
    for batch, other in zip(loader, expected, strict=True):
        assert torch.equal(kernels.tokens(**batch.packed), kernels.tokens(**other.packed))
