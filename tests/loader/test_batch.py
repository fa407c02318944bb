"""Pieces of a batch are the rows that they say."""

import pytest
import torch

from distgen import GenomeLoader, kernels


@pytest.fixture
def batch(annotated):
    loader = GenomeLoader(annotated, window=32, batch_size=5, strand="random", tracks=("genes",), seed=3)
    return loader.batch(0, 0)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
def test_rows_of_a_batch_on_end_are_the_batch(batch, size):
    parts = [batch.rows(start, start + size) for start in range(0, len(batch), size)]
    assert torch.equal(torch.cat([kernels.tokens(**part.packed) for part in parts]), kernels.tokens(**batch.packed))
    for name in ("keys", "samples", "weight", "positions"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name))
    for name in ("targets", "mask"):
        for key, whole in getattr(batch, name).items():
            assert torch.equal(torch.cat([getattr(part, name)[key] for part in parts]), whole)
    assert [w for part in parts for w in part.where()] == batch.where()


def test_rows_beyond_the_last_are_one_that_weighs_nothing(batch):
    beyond = batch.rows(6, 9)
    assert len(beyond) == 1
    assert beyond.weight.tolist() == [0]
    assert batch.weight.tolist() == [1] * 5
