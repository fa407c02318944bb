from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distgen import kernels
from distgen.config import Lengths, Recipe, Windows, read
from distgen.errors import CheckpointError, ConfigError, StoreError
from distgen.loader.base import Loader
from distgen.loader.mixture import MixtureLoader
from distgen.store.build import build
from distgen.store.collection import Collection, open_collection
from tests.loader.walk import go_on, two_epochs
from tests.store.conftest import index_of, tiny_store

SIZES = (40, 100, 260, 640)
ARGUMENTS = {"window": 16, "stride": 8, "split": None, "batch_size": 6, "strand": "random", "seed": 5, "jitter": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mixture")
    (folder / "stores").mkdir()
    random = np.random.default_rng(0)
    for number, size in enumerate(SIZES):
        letters = "".join("ACGT"[c] for c in random.integers(0, 4, size))
        tiny_store(folder, f"g{number}", letters, track=number % 2 == 0)
    index_of(folder, 'stores = "stores/*.zarr"\ntemperature = 0.5')
    return folder


@pytest.fixture
def collection(folder) -> Collection:
    return open_collection(folder / "all.collection")


STRICTER = {"epoch_batches": 10, "windows": Windows(max_ambiguous=0.5), "curriculum": (Lengths(epochs=1, window=8),)}


def content(batches: list) -> tuple:
    """All that the ranks' parts of one global batch say."""
    rows = [str(place) + place.strand for batch in batches for place in batch.where()]
    names = ("samples", "keys", "weight", "positions", "source")
    columns = [torch.cat([getattr(batch, name) for batch in batches]).tolist() for name in names]
    return rows, columns, torch.cat([kernels.tokens(**batch.packed) for batch in batches]).tolist()


def walk(loader: Loader, epochs: int) -> list:
    return [batch for _ in range(epochs) for batch in loader]


def test_each_store_serves_its_share_in_epochs_of_its_own(collection):
    loader = MixtureLoader(collection, **ARGUMENTS)
    sizes = [loader.loader(row).plan.batches(0) for row in range(4)]
    assert len(loader) == sum(sizes)
    batches = walk(loader, 9)
    source = np.array([batch.source[0].item() for batch in batches])
    assert all((batch.source == batch.source[0]).all() for batch in batches)
    served = np.cumsum(source[:, None] == np.arange(4), axis=0)
    share = np.arange(1, len(batches) + 1)[:, None] * collection.weights
    assert abs(served - share).max() < 1.01
    for row in range(4):
        alone = loader.loader(row)
        alone.epoch, alone.position = 0, 0
        own = walk(alone, 9 * len(loader) // sizes[row] + 1)
        mine = [batch for batch in batches if batch.source[0] == row]
        assert len(mine) == served[-1, row]
        for one, other in zip(mine, own, strict=False):
            assert one.positions.tolist() == other.positions.tolist()
            assert one.keys.tolist() == other.keys.tolist()
    passes = {f"g{row}": served[-1, row] / sizes[row] for row in range(4)}
    assert loader.own_epochs(range(4)) == pytest.approx(passes)


def test_any_number_of_ranks_goes_on_from_any_step(collection):
    alone = MixtureLoader(collection, **ARGUMENTS, epoch_batches=13)
    reference, states = two_epochs(alone, content)
    assert len(reference) == 26
    for world_size in (2, 3, 5):
        ranks = [
            MixtureLoader(collection, **ARGUMENTS, epoch_batches=13, rank=r, world_size=world_size)
            for r in range(world_size)
        ]
        for step, expected in enumerate(reference):
            assert content(go_on(ranks, states, step)) == expected


@settings(max_examples=15)
@given(st.integers(0, 2**40))
def test_any_batch_is_found_without_the_others(folder, step):
    loader = MixtureLoader(folder / "all.collection", **ARGUMENTS, epoch_batches=1000)
    epoch, position = loader.plan.at_step(step)
    assert loader.plan.steps(epoch) + position // 6 == step
    batch = loader.batch(epoch, position)
    samples, places = loader.places(epoch, position)
    assert (batch.samples.tolist(), batch.where()) == (samples, places)
    assert loader.plan.turn(epoch, [position // 6])[0] == batch.source[0]
    number = min(position // 6, 1000 - 5)
    several = loader.make(epoch, range(number, number + 5)).batches
    assert content([several[3]]) == content([loader.batch(epoch, (number + 3) * 6)])


def test_two_stores_never_draw_the_same(collection):
    loader = MixtureLoader(collection, **ARGUMENTS, epoch_batches=40)
    keys = torch.cat([batch.keys for batch in loader]).tolist()
    assert len(set(keys)) > 0.99 * len({(b.source[0].item(), s) for b in walk(loader, 1) for s in b.samples.tolist()})


def test_loaders_are_let_go_of_with_their_stores(folder):
    # A store of two contigs has so many files that three cannot stay open.
    loader = MixtureLoader(open_collection(folder / "all.collection", max_files=20), **ARGUMENTS, epoch_batches=50)
    few = [content([batch]) for batch in loader]
    assert sum(loader.collection.is_open(row) for row in range(4)) < 4
    assert set(loader._loaders) <= {row for row in range(4) if loader.collection.is_open(row)}
    many = MixtureLoader(folder / "all.collection", **ARGUMENTS, epoch_batches=50)
    assert few == [content([batch]) for batch in many]


@pytest.mark.parametrize(("workers", "context"), [(2, "fork"), (1, "spawn")])
def test_a_torch_data_loader_serves_the_same(collection, workers, context):
    loader = MixtureLoader(collection, **ARGUMENTS, epoch_batches=9)
    expected = [content([loader.batch(0, number * 6)]) for number in range(9)]
    wrapped = torch.utils.data.DataLoader(loader, batch_size=None, num_workers=workers, multiprocessing_context=context)
    assert [content([batch]) for batch in wrapped] == expected


def test_of_a_store_without_a_track_nothing_is_known(collection):
    loader = MixtureLoader(collection, **ARGUMENTS, tracks=("peaks",), epoch_batches=40)
    shapes = set()
    for batch in loader:
        assert bool(batch.mask["peaks"].any()) == (batch.source[0] % 2 == 0)
        assert not batch.targets["peaks"][~batch.mask["peaks"].expand_as(batch.targets["peaks"])].any()
        shapes.add((batch.targets["peaks"].shape, batch.targets["peaks"].dtype, batch.mask["peaks"].shape))
    assert len(shapes) == 1
    with pytest.raises(ConfigError, match='none of 4 stores has a track "summits"'):
        MixtureLoader(collection, **ARGUMENTS, tracks=("summits",))


def test_tracks_of_one_name_must_be_alike(tmp_path):
    (tmp_path / "stores").mkdir()
    for name in ("a", "b"):
        tiny_store(tmp_path, name, "ACGT" * 10, track=True)
    recipe = (tmp_path / "b.toml").read_text().replace('name = "peaks"', 'name = "peaks"\nbin_bp = 4')
    (tmp_path / "b.toml").write_text(recipe)
    build(read(tmp_path / "b.toml", Recipe), tmp_path / "stores" / "b.zarr")
    loader = MixtureLoader(index_of(tmp_path), **ARGUMENTS, tracks=("peaks",), epoch_batches=4)
    with pytest.raises(ConfigError, match='store "b" of .*"peaks" has .* at 4 bp .*another store .* at 1 bp'):
        list(loader)


def test_what_has_changed_since_it_was_indexed_is_not_served(tmp_path):
    (tmp_path / "stores").mkdir()
    for name in ("a", "b"):
        tiny_store(tmp_path, name, "ACGT" * 10)
    before = MixtureLoader(index_of(tmp_path), **ARGUMENTS, epoch_batches=4).state_dict()
    tiny_store(tmp_path, "b", "ACGT" * 10, track=True)
    with pytest.raises(StoreError, match="b.zarr has other tracks, splits or labels than when it was indexed. Run: "):
        list(MixtureLoader(tmp_path / "all.collection", **ARGUMENTS, epoch_batches=4))
    anew = MixtureLoader(index_of(tmp_path), **ARGUMENTS, epoch_batches=4)
    assert len(list(anew)) == 4
    with pytest.raises(CheckpointError, match="the loader's state has data"):
        anew.load_state_dict(before)


def test_in_sequence_every_store_is_served_whole(collection, monkeypatch):
    options = ARGUMENTS | {"strand": "forward", "jitter": 0, "order": "sequential", "last": "pad"}
    loader = MixtureLoader(collection, **options)
    expected = [
        (row, batch.positions.tolist(), batch.weight.tolist()) for row in range(4) for batch in loader.loader(row)
    ]
    for _ in range(2):
        found = [(int(batch.source[0]), batch.positions.tolist(), batch.weight.tolist()) for batch in loader]
        assert found == expected
    assert loader.source(0, 0) == "g0"
    assert loader.source(1, (len(expected) - 1) * 6) == "g3"
    monkeypatch.setattr("distgen.store.collection.OPENED", 2)
    assert {int(batch.source[0]) for batch in MixtureLoader(collection, **options)} == {0, 2}


def test_stores_without_the_part_are_left_out_of_a_sequence(tmp_path):
    (tmp_path / "stores").mkdir()
    for name in ("a", "b", "c"):
        tiny_store(tmp_path, name, "ACGT" * 10)
    recipe = (tmp_path / "b.toml").read_text() + '[split]\nvalid = ["b-1"]\n'
    (tmp_path / "b.toml").write_text(recipe)
    build(read(tmp_path / "b.toml", Recipe), tmp_path / "stores" / "b.zarr")
    options = ARGUMENTS | {"order": "sequential", "last": "pad", "split": "default/valid"}
    batches = list(MixtureLoader(index_of(tmp_path), **options))
    assert {place.contig for batch in batches for place in batch.where()} == {"b-1"}
    with pytest.raises(ConfigError, match='no store of .* has "other/valid"'):
        MixtureLoader(tmp_path / "all.collection", **(options | {"split": "other/valid"}))


def test_no_store_is_opened_before_its_turn(folder):
    collection = open_collection(folder / "all.collection")
    loader = MixtureLoader(collection, **ARGUMENTS, epoch_batches=10)
    loader.state_dict()
    assert not any(collection.is_open(row) for row in range(4))
    ((row,), _) = loader.plan.turn(0, [0])
    loader.batch(0, 0)
    assert [collection.is_open(other) for other in range(4)] == [other == row for other in range(4)]


def test_another_mixture_does_not_go_on(collection):
    state = MixtureLoader(collection, **ARGUMENTS, epoch_batches=10).state_dict()
    for changed in (
        {"epoch_batches": 11},
        {"epoch_batches": 10, "jitter": 1},
        {"epoch_batches": 10, "seed": 6},
        STRICTER,
    ):
        with pytest.raises(CheckpointError, match="the loader's state has"):
            MixtureLoader(collection, **(ARGUMENTS | changed)).load_state_dict(state)


def test_files_of_regions_are_known_by_what_is_in_them(collection, tmp_path):
    def state(name, text):
        (tmp_path / name).write_text(text)
        excluded = Windows(exclude=(str(tmp_path / name),))
        return MixtureLoader(collection, **ARGUMENTS, epoch_batches=10, windows=excluded).state_dict()

    assert state("a.bed", "g0-1\t3\t9\n") == state("b.bed", "g0-1\t3\t9\n") != state("c.bed", "g0-1\t3\t8\n")
    (tmp_path / "a.bed").unlink()
    gone = MixtureLoader(collection, **ARGUMENTS, epoch_batches=10, windows=Windows(exclude=(str(tmp_path / "a.bed"),)))
    with pytest.raises(ConfigError, match="a.bed cannot be read"):
        gone.state_dict()


def test_windows_said_as_tables_are_known_by_their_files_as_well(collection, tmp_path):
    def state(text, form):
        (tmp_path / "holes.bed").write_text(text)
        windows = form(exclude=(str(tmp_path / "holes.bed"),))
        return MixtureLoader(collection, **ARGUMENTS, epoch_batches=10, windows=windows).state_dict()

    assert state("g0-1\t3\t9\n", dict) == state("g0-1\t3\t9\n", Windows) != state("g0-1\t3\t8\n", dict)


def test_stores_served_whole_have_windows_of_one_length(collection):
    with pytest.raises(ConfigError, match="curriculum: stores that are served whole"):
        MixtureLoader(collection, **ARGUMENTS, order="sequential", curriculum=STRICTER["curriculum"])


@pytest.mark.parametrize("seed", [-1, 1.5])
def test_a_seed_of_a_mixture_is_one_as_a_loader_has_it(collection, seed):
    with pytest.raises(ConfigError, match="seed: input should be"):
        MixtureLoader(collection, **(ARGUMENTS | {"seed": seed}), epoch_batches=2)


@pytest.mark.parametrize("batches", [0, -3, 2.5])
def test_an_epoch_without_batches_is_refused(collection, batches):
    with pytest.raises(ConfigError, match=f"epoch_batches: {batches} batches make no epoch"):
        MixtureLoader(collection, **ARGUMENTS, epoch_batches=batches)


def test_a_store_that_does_not_fit_is_named(collection):
    with pytest.raises(ConfigError, match='store "g0" of .*all.collection: .*split'):
        MixtureLoader(collection, **(ARGUMENTS | {"split": "valid"}))


def test_more_stores_than_can_be_counted_need_an_epoch_of_their_own(collection, monkeypatch):
    monkeypatch.setattr("distgen.loader.mixture.OPENED", 3)
    with pytest.raises(ConfigError, match="epoch_batches: .* has 4 stores, too many to count"):
        MixtureLoader(collection, **ARGUMENTS)
    assert len(MixtureLoader(collection, **ARGUMENTS, epoch_batches=7)) == 7
