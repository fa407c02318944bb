"""A loader of an export serves what a loader of its store does, and refuses what an export does not have."""

import pickle
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distgen import GenomeLoader, kernels
from distgen.config import Lengths, Personal, Pool, Regions, Windows
from distgen.errors import CheckpointError, ConfigError, SourceError
from distgen.ingest.objects import Object
from distgen.loader import plan
from distgen.loader.source import open_source
from distgen.store.cache import ShardCache
from distgen.store.exported import Export, read_export
from distgen.store.reader import Store
from distgen.store.webdataset import export
from tests.e2e.test_walk import content, same
from tests.ingest.test_remote import moto_server, s3  # noqa: F401 - fixtures
from tests.loader.walk import go_on, two_epochs

GEOMETRY = {"window": 48, "target_length": 40, "stride": 9}
ASKED = {"batch_size": 17, "seed": 11, "tracks": ("genes",), "last": "wrap"}


@pytest.fixture
def out(small, tmp_path):
    """An export of the small store in some shards."""
    return export(small, tmp_path / "out", **GEOMETRY, tracks=("genes",), shard_bytes=40_000).path


@pytest.fixture
def same_pieces(out, monkeypatch):
    """For the order "grouped", the windows of the store are read in the pieces that the shards of the export make."""
    of = plan.shards_along
    monkeypatch.setattr(plan, "shards_along", lambda source, part: of(read_export(out), part))


@pytest.mark.parametrize("strand", ["random", "both"])
@pytest.mark.parametrize("order", ["flat", "grouped", "sequential"])
def test_any_ranks_go_on_from_any_step_as_with_the_store(small, out, same_pieces, order, strand):
    asked = ASKED | {"order": order, "strand": strand}
    alone = GenomeLoader(small, **GEOMETRY, **asked, placement="host")
    assert len(read_export(out).shards) > 5
    reference, states = two_epochs(alone, content)
    for world_size in (1, 2, 3, 5):
        ranks = [GenomeLoader(out, **asked, rank=rank, world_size=world_size) for rank in range(world_size)]
        for step, expected in enumerate(reference):
            assert same(content(go_on(ranks, states, step)), expected)


def test_pieces_of_the_grouped_order_are_shards(out):
    found = read_export(out)
    for copies, strand in ((1, "forward"), (2, "both")):
        loader = GenomeLoader(found, order="grouped", strand=strand, batch_size=1)
        assert loader.plan.sampling(0).pool.walk.piece == copies * found.per_shard["train"]


@settings(max_examples=30)
@given(data=st.data())
def test_soft_mask_and_excluded_stretches_are_those_of_the_store(small, out, tmp_path, data):
    begin = data.draw(st.integers(0, 777))
    (tmp_path / "holes.bed").write_text(f"chr1\t{begin}\t{begin + data.draw(st.integers(1, 80))}\n")
    asked = ASKED | {"windows": Windows(exclude=(str(tmp_path / "holes.bed"),)), "strand": "random", "last": "pad"}
    ours, theirs = GenomeLoader(out, **asked), GenomeLoader(small, **GEOMETRY, **asked)
    assert ours.state_dict() == theirs.state_dict()
    for one, other in zip(ours, theirs, strict=True):
        assert same(content([one]), content([other]))
        soft = [kernels.bits(b.softmask, b.starts, b.length, reverse=b.reverse, limits=b.limits) for b in (one, other)]
        assert torch.equal(*soft)


def test_tracks_are_inputs_where_targets_cover_the_window(small, tmp_path):
    export(small, tmp_path / "whole", window=32, tracks=("genes",))
    asked = {"batch_size": 8, "inputs": ("genes",), "strand": "random"}
    for one, other in zip(
        GenomeLoader(tmp_path / "whole", **asked), GenomeLoader(small, window=32, **asked), strict=True
    ):
        assert torch.equal(one.inputs["genes"], other.inputs["genes"])
        assert torch.equal(one.inputs_mask["genes"], other.inputs_mask["genes"])


def test_what_is_at_a_path_is_opened(small, out, tmp_path):
    assert isinstance(open_source(out), Export)
    assert isinstance(open_source(str(small.path)), Store)
    with pytest.raises(ConfigError, match="store .*nothing does not exist"):
        open_source(tmp_path / "nothing")
    (out / "index.json").write_text("{}")
    with pytest.raises(SourceError, match="index.json has format None"):
        GenomeLoader(out)


def test_a_loader_in_another_process_opens_the_export_anew(out):
    loader = GenomeLoader(out, **ASKED)
    loader.load_state_dict(loader.state_dict() | {"position": 34})
    copied = pickle.loads(pickle.dumps(loader))
    assert same(content([next(iter(copied))]), content([next(iter(loader))]))


def test_a_state_of_an_export_of_other_windows_is_refused(small, out, tmp_path):
    state = GenomeLoader(out, **ASKED).state_dict()
    other = export(small, tmp_path / "other", **(GEOMETRY | {"stride": 10}), tracks=("genes",))
    with pytest.raises(CheckpointError, match="the loader's state has data"):
        GenomeLoader(other, **ASKED).load_state_dict(state)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"window": 50}, r"^window: 50 is not what .*/out was cut with, 48. Leave it out, or export again"),
        ({"target_length": 38}, r"^target_length: 38 is not what .* was cut with, 40"),
        ({"stride": 18}, r"^stride: 18 is not what .* was cut with, 9"),
        ({"jitter": 2}, r"^jitter: the windows of an export cannot move. Use 0, or train on the store"),
        ({"curriculum": [Lengths(epochs=1, window=24)]}, r"window: 24 is not what .* was cut with, 48"),
        ({"split": "fold-0/train"}, r'^split: .* was exported with split "default", not "fold-0"'),
        ({"split": None}, r"^split: .* is read part by part. It has: train, valid, test"),
        ({"split": "tarin"}, r'has no part "tarin". Did you mean "train"'),
        ({"tracks": ("gene",)}, r'has no track "gene". Did you mean "genes"'),
        ({"inputs": ("genes",)}, r'^inputs: "genes" was exported for the 40 bases of targets, not for 48'),
        ({"placement": "device"}, r'^placement: "device" is no placement for an export, .* Use "host"'),
        ({"windows": Windows(regions=Regions(source="a.bed"))}, r"^regions: .* a window at a region needs the store"),
        (
            {"windows": Windows(pool=(Pool(name="a", source="a.bed"),))},
            r"^pool: .* is an export, .*; a pool needs the store itself",
        ),
        ({"windows": Windows(personal=Personal(variants="a"))}, r"^personal: .* needs the store itself"),
        ({"windows": Windows(max_ambiguous=0.5)}, r"^max_ambiguous: .* needs the store itself"),
    ],
)
def test_what_an_export_does_not_have_is_refused(out, asked, message):
    with pytest.raises(ConfigError, match=message):
        next(iter(GenomeLoader(out, **({"batch_size": 1} | asked))))


# ---- elsewhere --------------------------------------------------------------------------------


@pytest.fixture
def away(out, s3):  # noqa: F811
    """The export in a bucket."""
    for path in out.iterdir():
        s3.upload_file(str(path), "genomes", f"out/{path.name}")
    return Object("s3://genomes/out")


@pytest.mark.parametrize("order", ["grouped", "sequential", "flat"])
def test_an_export_in_a_bucket_is_walked_within_a_bounded_cache(out, away, tmp_path, order):
    sizes = [entry["bytes"] for entry in read_export(out).index["shards"]]
    room = sum(sizes) if order == "flat" else 6 * max(sizes)
    asked = ASKED | {"order": order, "lanes": 1 if order == "grouped" else None, "strand": "random"}
    local = GenomeLoader(out, **asked)
    ranks = [
        GenomeLoader(away, cache=ShardCache(tmp_path / "cache", room), rank=rank, world_size=2, **asked)
        for rank in range(2)
    ]
    for expected, *taken in zip(local, *ranks, strict=True):
        assert same(content(taken), content([expected]))
    kept = [path for path in (tmp_path / "cache").iterdir() if path.name != "lock"]
    assert 0 < sum(path.stat().st_size for path in kept) <= room


def test_an_order_that_needs_all_shards_is_refused_where_the_cache_is_too_small(away, tmp_path):
    with pytest.raises(ConfigError, match='^order: "flat" reads all shards at any time'):
        GenomeLoader(away, cache=ShardCache(tmp_path / "cache", 100_000), **ASKED)


def test_shards_are_fetched_before_their_samples_are_needed(away, tmp_path, monkeypatch):
    cache = ShardCache(tmp_path / "cache", 10**9)
    asked, fetched = [], []
    monkeypatch.setattr(cache, "prefetch", lambda source, numbers: asked.extend(numbers))
    loader = GenomeLoader(away, cache=cache, order="sequential", **ASKED)
    get = cache.get
    monkeypatch.setattr(
        cache, "get", lambda source, number: fetched.append((number, number in asked)) or get(source, number)
    )
    list(loader)
    first_time = list(dict.fromkeys(asked))  # those of the next epoch may be asked for as well
    assert first_time == list(range(len(first_time)))
    assert len(first_time) > 5
    assert {number for number, _ in fetched} == set(asked)
    assert all(known for _, known in fetched)


# ---- faults -----------------------------------------------------------------------------------


def test_damage_stops_the_walk_and_names_the_shard_and_the_way_to_repair(out):
    shards = sorted(out.glob("train-*.tar"))
    loader = GenomeLoader(out, **ASKED)
    content_of = {path: path.read_bytes() for path in shards}

    def fails(message):
        with pytest.raises(SourceError, match=message):
            list(GenomeLoader(read_export(out), **ASKED))
        for path, before in content_of.items():
            path.write_bytes(before)

    damaged = bytearray(content_of[shards[1]])
    damaged[700] ^= 2
    shards[1].write_bytes(damaged)
    fails(r"train-000001.tar is damaged \(crc32c, from byte 0 on\); copy it again")
    shutil.copy(shards[2], shards[1])
    fails(r"train-000001.tar is damaged \(.*; copy it again")
    shards[2].unlink()
    with pytest.raises(SourceError, match=r"train-000002.tar cannot be read: No such file or directory; copy it again"):
        list(loader)
    fails(r"train-000002.tar is missing; copy it again")
    assert len(list(GenomeLoader(out, **ASKED))) == len(loader)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_samples_of_damaged_shards_can_be_left_out_on_all_ranks_alike(out, world_size, caplog):
    asked = ASKED | {"on_corrupt": "skip", "strand": "both"}
    whole, per_shard, number = list(GenomeLoader(out, **asked)), read_export(out).per_shard["train"], 3
    path = out / f"train-{number:06d}.tar"
    damaged = bytearray(path.read_bytes())
    damaged[1700] ^= 2
    path.write_bytes(damaged)
    first = GenomeLoader(out, order="sequential", strand="both", batch_size=1, split="train")
    lost = {w for k in range(2 * number * per_shard, 2 * (number + 1) * per_shard) for w in first.places(0, k)[1]}
    ranks = [GenomeLoader(out, **asked, rank=rank, world_size=world_size) for rank in range(world_size)]
    left_out = 0
    for expected, *taken in zip(whole, *ranks, strict=True):
        tokens, samples, weight, mask, targets = (
            torch.cat(parts)
            for parts in zip(
                *(
                    (kernels.tokens(**b.packed), b.samples, b.weight, b.mask["genes"], b.targets["genes"])
                    for b in taken
                ),
                strict=True,
            )
        )
        gone = torch.tensor([w in lost for w in expected.where()])
        left_out += int(gone.sum())
        assert torch.equal(samples, expected.samples)
        assert torch.equal(weight, torch.where(gone, 0, expected.weight))
        assert torch.equal(tokens, torch.where(gone[:, None], 4, kernels.tokens(**expected.packed)))
        assert torch.equal(mask, expected.mask["genes"] & ~gone[:, None, None])
        assert torch.equal(targets, torch.where(gone[:, None, None], 0, expected.targets["genes"]))
    assert left_out > 0
    assert sum(rank.skipped.rows for rank in ranks) == left_out
    assert {shard for rank in ranks for shard in rank.skipped.shards} == {str(path)}
    assert next(r.message for r in caplog.records if "is damaged" in r.message).endswith("that need it are left out.")
