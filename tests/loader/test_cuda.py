"""Batches on a GPU against those on the CPU; on machines that have one."""

import pytest
import torch

from distgen import GenomeLoader, kernels
from distgen.config import Regions, Windows

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
ARGUMENTS = {"window": 64, "target_length": 48, "stride": 5, "batch_size": 16, "strand": "random", "jitter": 3}


@pytest.mark.parametrize("placement", ["device", "host"])
def test_batches_on_a_gpu_are_those_on_the_cpu(small, placement):
    served = {"tracks": ("genes",), "inputs": ("genes",), "last": "pad"}
    here = GenomeLoader(small, placement="host", **served, **ARGUMENTS)
    there = GenomeLoader(small, placement=placement, device="cuda", **served, **ARGUMENTS)
    for epoch in range(2):
        for one, other in zip(here, there, strict=True):
            assert {t.device.type for t in (other.plane, other.starts, other.keys, other.targets["genes"])} == {"cuda"}
            assert torch.equal(kernels.tokens(**one.packed), kernels.tokens(**other.packed).cpu())
            for kind in ("targets", "mask", "inputs", "inputs_mask"):
                assert torch.equal(getattr(one, kind)["genes"], getattr(other, kind)["genes"].cpu())
            assert one.where() == other.where()
        assert there.epoch == epoch + 1


def test_what_was_sent_to_a_gpu_is_whole_when_another_stream_reads_it(ecoli):
    loader = GenomeLoader(ecoli, window=8192, batch_size=64, placement="host", device="cuda")
    with torch.cuda.stream(torch.cuda.Stream()):
        sums = [kernels.tokens(**batch.packed).sum() for batch in loader]
    other = GenomeLoader(ecoli, window=8192, batch_size=64, placement="host")
    assert [int(s) for s in sums] == [int(kernels.tokens(**batch.packed).sum()) for batch in other]


def test_rows_of_several_windows_are_the_same_on_a_gpu(small):
    options = {"windows": Windows(regions=Regions(source="contigs", at="whole")), "split": None, "strand": "random"}
    options |= {"window": 2000, "packed": True, "batch_size": 2, "last": "pad"}
    here, there = GenomeLoader(small, **options), GenomeLoader(small, device="cuda", **options)
    for one, other in zip(here, there, strict=True):
        tensors = (other.plane, other.keys, other.weight, other.reverse, other.segments.bounds, other.segments.owners)
        assert {tensor.device.type for tensor in tensors} == {"cuda"}
        assert torch.equal(kernels.tokens(**one.packed), kernels.tokens(**other.packed).cpu())
        assert torch.equal(one.segments.bounds, other.segments.bounds.cpu())
        assert torch.equal(one.segments.owners, other.segments.owners.cpu())
        assert one.where() == other.where()
