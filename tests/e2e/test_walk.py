"""An epoch walked on 1, 2, 3, 5 and 8 ranks, with a checkpoint at every step: always the same samples."""

import pytest
import torch

from distgen import GenomeLoader, kernels
from distgen.errors import RemoteError
from distgen.ingest.objects import Object
from distgen.store.cache import ShardCache
from distgen.store.reader import open_store
from tests.loader.walk import go_on, two_epochs
from tests.servers import Files

WORLDS = (1, 2, 3, 5, 8)
ARGUMENTS = {
    "window": 48,
    "target_length": 40,
    "stride": 9,
    "batch_size": 17,
    "strand": "random",
    "jitter": 3,
    "seed": 11,
}


def content(batches):
    """All that the ranks' parts of one global batch say, row by row."""
    rows = [row for batch in batches for row in batch.where()]
    columns = {
        "tokens": [kernels.tokens(**batch.packed) for batch in batches],
        "genes": [batch.targets["genes"] for batch in batches],
        "mask": [batch.mask["genes"] for batch in batches],
    }
    columns |= {
        name: [getattr(batch, name) for batch in batches] for name in ("samples", "keys", "weight", "positions")
    }
    return rows, {name: torch.cat(parts) for name, parts in columns.items()}


def same(one, other):
    return one[0] == other[0] and all(torch.equal(one[1][name], other[1][name]) for name in one[1])


@pytest.fixture(params=["device", "host", "stream"])
def placed(request, pieces, tmp_path):
    """A store, and where its planes are to be; one that is streamed is behind a server, and fits into its cache."""
    if request.param != "stream":
        yield pieces, request.param
        return
    with Files(pieces.path) as server:
        yield open_store(Object(server.url, RemoteError), ShardCache(tmp_path / "cache", 1 << 20)), request.param


@pytest.mark.parametrize("last", ["drop", "pad", "wrap"])
@pytest.mark.parametrize("order", ["flat", "grouped", "sequential"])
def test_any_number_of_ranks_goes_on_from_any_step(pieces, placed, order, last):
    store, placement = placed
    arguments = ARGUMENTS | {"order": order, "last": last, "tracks": ("genes",)}
    alone = GenomeLoader(pieces, placement="host", **arguments)
    reference, states = two_epochs(alone, content)
    assert len(reference) == 2 * len(alone) > 10
    for world_size in WORLDS:
        ranks = [
            GenomeLoader(store, placement=placement, **arguments, rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
        assert len({len(rank) for rank in ranks}) == 1
        for step, expected in enumerate(reference):
            assert same(content(go_on(ranks, states, step)), expected)
