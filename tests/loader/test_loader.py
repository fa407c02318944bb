"""Batches against the obvious: cut windows out of the whole genome, one by one."""

import gc
import pickle
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from distgen import GenomeLoader, kernels
from distgen.config import TIMEOUTS, Lengths, Recipe, read
from distgen.errors import CheckpointError, ConfigError, TrainError
from distgen.store.build import build
from distgen.store.reader import open_store
from tests.conftest import flat_codes


def tokens(batch):
    return kernels.tokens(
        batch.plane, batch.starts, batch.length, reverse=batch.reverse, ambiguous=batch.ambiguous, limits=batch.limits
    )


def windows_of(loader, epoch=0):
    loader.epoch, loader.position = epoch, 0
    return [(str(w), w.strand) for batch in loader for w in batch.where()]


@given(
    window=st.integers(1, 300),
    target=st.integers(1, 300),
    stride=st.integers(1, 200),
    jitter=st.integers(0, 50),
    strand=st.sampled_from(["forward", "random", "both"]),
    placement=st.sampled_from(["device", "host"]),
    split=st.sampled_from([None, "train", "valid", "test"]),
)
def test_every_row_is_the_window_it_says_it_is(small, window, target, stride, jitter, strand, placement, split):
    target = min(window, target)
    target -= (window - target) % 2
    if not target:
        return
    loader = GenomeLoader(
        small,
        window=window,
        target_length=target,
        stride=stride,
        jitter=jitter,
        strand=strand,
        placement=placement,
        split=split,
        batch_size=7,
        tracks=("genes",),
        last="pad",
    )
    genome, regions = flat_codes(small), small.regions(split)
    genes = small.track("genes").decoded
    crop = (window - target) // 2
    for batch in loader:
        for row, (codes, place) in enumerate(zip(tokens(batch).tolist(), batch.where(), strict=True)):
            contig = small.contigs.index(place.contig)
            start = int(small.contigs.offsets[contig]) + place.start
            allowed = next(r for r in regions.tolist() if r[0] <= start + crop < r[1])
            inside = [allowed[0] <= p < allowed[1] for p in range(start, start + window)]
            expected = [int(genome[p]) if ok else 4 for p, ok in zip(range(start, start + window), inside, strict=True)]
            known = inside[crop : crop + target]
            bins = int(small.track("genes").bin_offsets[contig]) + place.start + crop
            labels = [genes[bins + i].tolist() if ok else [0, 0] for i, ok in enumerate(known)]
            if place.strand == "-":
                expected = [3 - c if c < 4 else 4 for c in reversed(expected)]
                labels, known = [label[::-1] for label in reversed(labels)], known[::-1]
            assert codes == expected
            assert batch.mask["genes"][row, :, 0].tolist() == known
            assert batch.targets["genes"][row].tolist() == labels


def test_an_epoch_serves_every_window_exactly_once(small):
    loader = GenomeLoader(small, window=64, stride=10, batch_size=8, last="pad")
    served = [w for batch in loader for w, weight in zip(batch.where(), batch.weight.tolist(), strict=True) if weight]
    assert len(served) == len(set(served)) == len(loader.plan.sampling(0))
    assert loader.epoch == 1


def test_bins_that_do_not_nest_are_all_met(tmp_path):
    """Jittered windows begin where bins of 4 and bins of 6 do, and have the values of both."""
    (tmp_path / "a.fa").write_text(f">a\n{'ACGTTGCA' * 60}\n")
    lines = (f"a\t{first}\t{first + 2}\t{first}\n" for first in range(0, 480, 2))
    (tmp_path / "a.bedGraph").write_text("".join(lines))
    tracks = (f'[[track]]\nname = "of{n}"\nsource = "a.bedGraph"\nbin_bp = {n}\nreduce = "max"\n' for n in (4, 6))
    (tmp_path / "a.toml").write_text('format = 1\n[assembly]\nname = "a"\nfasta = "a.fa"\n' + "".join(tracks))
    build(read(tmp_path / "a.toml", Recipe), tmp_path / "a.zarr")
    geometry = {"window": 24, "stride": 12, "jitter": 12, "split": None, "batch_size": 7}
    loader = GenomeLoader(tmp_path / "a.zarr", tracks=("of4", "of6"), last="pad", **geometry)
    for batch in loader:
        for row, place in enumerate(batch.where()):
            for n in (4, 6):
                expected = [first + n - 2 for first in range(place.start, place.end, n)]
                assert batch.targets[f"of{n}"][row].flatten().tolist() == expected


def test_dropping_the_last_batch_leaves_whole_ones(small):
    loader = GenomeLoader(small, window=64, stride=10, batch_size=8)
    assert [len(batch) for batch in loader] == [8] * (len(loader.plan.sampling(0)) // 8)


@given(batch_size=st.integers(1, 40), world_size=st.integers(1, 9))
def test_ranks_share_every_batch_without_gap_or_overlap(small, batch_size, world_size):
    if batch_size < world_size:
        with pytest.raises(ConfigError, match="leaves some of"):
            GenomeLoader(small, window=8, batch_size=batch_size, world_size=world_size)
        return
    ranks = [
        GenomeLoader(small, window=8, batch_size=batch_size, rank=r, world_size=world_size, strand="random")
        for r in range(world_size)
    ]
    alone = GenomeLoader(small, window=8, batch_size=batch_size, strand="random")
    for whole, *parts in zip(alone, *ranks, strict=True):
        assert torch.equal(tokens(whole), torch.cat([tokens(part) for part in parts]))
        assert torch.equal(whole.keys, torch.cat([part.keys for part in parts]))


def test_both_strands_are_served_as_two_samples(small):
    loader = GenomeLoader(small, window=50, strand="both", batch_size=1)
    served = windows_of(loader)
    assert len(served) == len(loader.plan.sampling(0)) == 2 * len({w for w, _ in served})
    assert {w for w, s in served if s == "+"} == {w for w, s in served if s == "-"}


def test_random_strands_and_jitter_are_drawn_evenly_and_anew_each_epoch(small):
    loader = GenomeLoader(small, window=10, stride=1, strand="random", jitter=2, batch_size=50)
    drawn = windows_of(loader)
    minus = sum(strand == "-" for _, strand in drawn) / len(drawn)
    assert abs(minus - 0.5) < 5 * 0.5 / len(drawn) ** 0.5
    batch = loader.batch(0, 0)
    again = loader.batch(1, 0)
    assert not torch.equal(batch.keys, again.keys)
    moved = np.concatenate([(b.positions - p).numpy() for b, p in jittered(loader)])
    counts = np.bincount(moved + 2, minlength=5)
    assert len(counts) == 5
    assert (abs(counts - len(moved) / 5) < 5 * (len(moved) * 0.16) ** 0.5).all()


def jittered(loader):
    """Batches, and where their windows would begin without jitter."""
    from distgen.loader.order import permute

    for position in range(0, len(loader) * loader.batch_size, loader.batch_size):
        index = np.arange(position, position + loader.batch_size)
        starts = (
            loader.plan.sampling(0)
            .pool.windows.locate(permute(index, len(loader.plan.sampling(0)), 0, 0))
            .target_starts
        )
        yield loader.batch(0, position), torch.from_numpy(starts)


@given(st.integers(0, 60), st.integers(1, 4))
def test_a_loader_goes_on_anywhere_on_any_number_of_ranks(small, taken, world_size):
    arguments = {"window": 32, "stride": 7, "batch_size": 12, "strand": "random", "jitter": 3, "seed": 5}
    loader = GenomeLoader(small, **arguments)

    def forever(loader):
        while True:
            yield from loader

    batches = forever(loader)
    for _ in range(taken):
        next(batches)
    state = loader.state_dict()
    assert "world_size" not in state
    ranks = [GenomeLoader(small, **arguments, rank=r, world_size=world_size) for r in range(world_size)]
    for rank in ranks:
        rank.load_state_dict(state)
    following = [forever(rank) for rank in ranks]
    for _ in range(4):
        whole, parts = next(batches), [next(f) for f in following]
        assert torch.equal(tokens(whole), torch.cat([tokens(part) for part in parts]))
        assert torch.equal(whole.samples, torch.cat([part.samples for part in parts]))


def test_a_read_that_fails_or_hangs_ends_the_iteration_with_its_reason(small, monkeypatch):
    loader = GenomeLoader(small, window=32, batch_size=5)

    def fail(*_):
        raise OSError("the disk is gone")

    monkeypatch.setattr(loader._placement, "rows", fail)
    with pytest.raises(OSError, match="the disk is gone"):
        next(iter(loader))
    monkeypatch.setattr(loader._placement, "rows", lambda *_: time.sleep(60))
    monkeypatch.setitem(TIMEOUTS, "next_batch", 0.2)
    with pytest.raises(TrainError, match="no batch came within"):
        next(iter(loader))


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"position": 3}, "no batch of epoch 0 begins at 3: they begin at multiples of 8 to "),
        ({"position": 8_000_000}, "no batch of epoch 0 begins at 8000000"),
        ({"position": -8}, "begins at -8"),
        ({"position": 4.5}, "are no numbers"),
        ({"epoch": -1}, "are no numbers from 0 on"),
        ({"epoch": None}, "epoch None"),
    ],
)
def test_a_place_where_no_batch_begins_is_refused(small, wrong, problem):
    loader = GenomeLoader(small, window=64, batch_size=8)
    with pytest.raises(CheckpointError, match=problem):
        loader.load_state_dict(loader.state_dict() | wrong)
    with pytest.raises(ConfigError, match=problem):
        loader.batch(**({"epoch": 0, "position": 0} | wrong))


@pytest.mark.parametrize("other", [{"seed": 1}, {"batch_size": 4}, {"window": 33}, {"split": "valid"}, {"jitter": 1}])
def test_a_state_of_other_data_is_refused(small, other):
    arguments = {"window": 32, "batch_size": 5}
    state = GenomeLoader(small, **arguments).state_dict()
    with pytest.raises(CheckpointError, match="the loader's state has"):
        GenomeLoader(small, **(arguments | other)).load_state_dict(state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window": 10, "target_length": 11}, r"target_length: 11 is more than the window of 10"),
        (
            {"window": 10, "target_length": 7},
            r"target_length: 7 does not lie in the middle of a window of 10. Use 6 or 8",
        ),
        ({"batch_size": 10_000}, r"batch_size: 10000 is more than the .* samples"),
        ({"split": "tarin"}, 'no part "tarin"'),
        ({"split": ""}, 'no part ""'),
        ({"windows": {"window": 4}}, 'there is no key "window" here'),
        ({"on_corrupt": "Skip"}, 'on_corrupt: "Skip" is no choice. .*skip'),
        ({"placement": "gpu"}, 'no placement "gpu"'),
        ({"tracks": ("gene",)}, 'no track "gene"'),
    ],
)
def test_arguments_that_do_not_fit_are_refused(small, arguments, message):
    with pytest.raises(ConfigError, match=message):
        GenomeLoader(small, **({"batch_size": 1} | arguments))


def test_a_curriculum_gives_each_epoch_its_lengths_and_any_step_its_batch(small):
    curriculum = [Lengths(epochs=2, window=16), Lengths(epochs=1, window=40, target_length=20, stride=10)]
    loader = GenomeLoader(small, window=64, batch_size=6, curriculum=curriculum, last="wrap")
    assert [loader.plan.sampling(epoch).geometry.window for epoch in range(6)] == [16, 16, 40, 64, 64, 64]
    served, state = [], []
    for epoch in range(5):
        assert loader.epoch == epoch
        assert loader.plan.steps(epoch) == len(served)
        for batch in loader:
            state.append(loader.state_dict())
            served.append(batch)
    for step, batch in enumerate(served):
        epoch, position = loader.plan.at_step(step)
        assert torch.equal(loader.batch(epoch, position).keys, batch.keys)
        assert loader.places(epoch, position) == (batch.samples.tolist(), batch.where())
        assert step == 0 or (state[step - 1]["epoch"], state[step - 1]["position"]) == (epoch, position)


def test_wrapping_fills_the_last_batch_with_the_first_samples(small):
    loader = GenomeLoader(small, window=64, batch_size=7, last="wrap")
    *_, last = loader
    n = len(loader.plan.sampling(0))
    assert n % 7
    assert last.weight.tolist() == [1] * 7
    assert last.samples.tolist() == [*range(n - n % 7, n), *range(7 - n % 7)]
    again = loader.batch(0, 0)
    assert torch.equal(last.positions[n % 7 :], again.positions[: 7 - n % 7])


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_torch_data_loader_serves_the_same_batches_in_the_same_order(small, workers):
    arguments = {"window": 64, "stride": 10, "batch_size": 8, "strand": "random", "placement": "host", "seed": 3}
    loader = GenomeLoader(small, **arguments)
    loader.load_state_dict(loader.state_dict() | {"epoch": 1, "position": 16})
    expected = [tokens(loader.batch(1, position)) for position in range(16, len(loader) * 8, 8)]
    context = "spawn" if workers == 1 else "fork" if workers else None
    wrapped = torch.utils.data.DataLoader(loader, batch_size=None, num_workers=workers, multiprocessing_context=context)
    served = [tokens(batch) for batch in wrapped]
    assert len(served) == len(expected) > 3
    assert all(map(torch.equal, served, expected))


def test_worker_processes_that_stay_go_on_with_the_next_epoch_together(small):
    loader = GenomeLoader(small, window=64, stride=40, batch_size=6, placement="host", jitter=3)
    steps = loader.plan.steps(1)
    assert steps % 2, "one of two workers does not see the last batch"
    wrapped = torch.utils.data.DataLoader(
        loader, batch_size=None, num_workers=2, persistent_workers=True, multiprocessing_context="fork"
    )
    for epoch in range(3):
        served = [batch.keys.tolist() for batch in wrapped]
        assert served == [loader.batch(epoch, step * 6).keys.tolist() for step in range(steps)]


def test_worker_processes_are_told_their_epoch_by_the_loader_they_copy(small):
    loader = GenomeLoader(small, window=64, stride=40, batch_size=4, placement="host")
    for epoch in range(2):
        loader.epoch = epoch
        wrapped = torch.utils.data.DataLoader(loader, batch_size=None, num_workers=2, multiprocessing_context="fork")
        assert [b.keys.tolist() for b in wrapped] == [
            loader.batch(epoch, k * 4).keys.tolist() for k in range(len(loader))
        ]


def test_a_batch_moves_to_another_device(small):
    batch = GenomeLoader(small, window=64, batch_size=8, tracks=("genes",)).batch(0, 0)
    moved = batch.to("meta")
    assert {t.device.type for t in (moved.plane, moved.starts, moved.targets["genes"], moved.weight)} == {"meta"}
    assert moved.positions.device.type == "cpu"
    assert moved.length == batch.length


def test_what_moves_to_the_host_is_waited_for(small):
    class Copies(TorchDispatchMode):
        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
            waits.append(not (kwargs or {}).get("non_blocking"))
            return args[0]

    waits, moved = [], GenomeLoader(small, window=64, batch_size=8, tracks=("genes",)).batch(0, 0).to("meta")
    with Copies():
        moved.to("cpu")
    assert len(waits) > 5
    assert all(waits)


@pytest.mark.parametrize("placement", ["device", "host"])
def test_a_loader_that_is_let_go_of_takes_its_files_along(small, placement):
    loader = GenomeLoader(open_store(small.path), window=64, batch_size=8, tracks=("genes",), placement=placement)
    list(loader)
    seen = weakref.ref(loader), weakref.ref(loader.store)
    gc.disable()
    try:
        del loader
        assert not any(ref() for ref in seen)
    finally:
        gc.enable()


def test_tracks_are_opened_once_however_many_threads_need_them(small, monkeypatch):
    loader, opened = GenomeLoader(small, window=64, batch_size=8, tracks=("genes",)), []
    track = loader._placement.track
    slow = lambda *asked: (time.sleep(0.05), opened.append(asked), track(*asked))[-1]  # noqa: E731
    monkeypatch.setattr(loader._placement, "track", slow)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: loader.make(0, [number]), range(4)))
    assert len(opened) == 1


def test_a_batch_that_is_pickled_takes_no_others_along(small):
    loader = GenomeLoader(small, window=64, stride=4, batch_size=4, tracks=("genes",), placement="host")
    made = loader.make(0, range(50)).batches
    sizes = [len(pickle.dumps(loader.make(0, range(count)).batches[0])) for count in (1, 50)]
    assert sizes[0] * 0.9 < sizes[1] < sizes[0] * 1.1
    for batch, again in zip(made, pickle.loads(pickle.dumps(made)), strict=True):
        assert torch.equal(tokens(batch), tokens(again))
        assert torch.equal(batch.targets["genes"], again.targets["genes"])
        assert batch.where() == again.where()


def test_where_rows_begin_and_where_windows_lie_are_apart(small):
    batch = GenomeLoader(small, window=64, batch_size=4, placement="device").batch(0, 0)
    positions = batch.positions.clone()
    batch.starts.add_(1)
    assert torch.equal(batch.positions, positions)
