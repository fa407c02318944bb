import torch

from distgen.loader.loader import GenomeLoader
from distgen.loader.sampled import Sampled


def test_its_batches_stand_in_equal_distances_and_are_those_of_the_loader(small):
    loader = GenomeLoader(small, window=32, split="train", batch_size=4, order="sequential", last="pad")
    whole = list(loader)
    assert len(whole) == 11
    sample = Sampled(loader, 4)
    assert sample.batches == [0, 2, 5, 8]
    for _ in range(2):
        for number, batch in zip(sample.batches, sample, strict=True):
            assert torch.equal(batch.samples, whole[number].samples)
            assert torch.equal(batch.plane, whole[number].plane)
    assert len(list(Sampled(loader, 99))) == 11
