"""Rows out of an export against those that the loader makes of the store itself, and every damage found."""

import json
import shutil
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distgen import kernels
from distgen.errors import ConfigError, SourceError
from distgen.ingest.objects import Object
from distgen.loader.exports import ExportRows, ExportTrack, lengths_of
from distgen.loader.loader import GenomeLoader
from distgen.loader.transfer import Transfer
from distgen.loader.windows import Geometry, Tiles
from distgen.store import exported_shards
from distgen.store.cache import ShardCache
from distgen.store.exported import read_export
from distgen.store.webdataset import export
from tests.ingest.test_remote import moto_server, s3  # noqa: F401 - fixtures
from tests.store.test_exported import members, original, out, rewrite, sign  # noqa: F401 - fixtures
from tests.store.test_webdataset import store  # noqa: F401 - a fixture

CPU = Transfer(torch.device("cpu"))


def windows_of(export, part):
    return Tiles(export.regions(part), Geometry(export.window, export.target_length, export.stride))


def drawn(export, part, samples):
    """Target starts, positions and limits of samples."""
    located = windows_of(export, part).locate(np.asarray(samples, np.int64))
    crop = (export.window - export.target_length) // 2
    return located.target_starts, located.target_starts - crop, located.limits


geometries = st.fixed_dictionaries(
    {
        "window": st.integers(1, 20).map(lambda n: 8 * n),
        "crop": st.integers(0, 5).map(lambda n: 8 * n),
        "stride": st.integers(1, 12).map(lambda n: 8 * n),
        "tracks": st.sets(st.sampled_from(["genes", "Signal", "levels"])).map(lambda names: tuple(sorted(names))),
        "shard_bytes": st.sampled_from([1, 8000, 1 << 20]),
    }
)


def exported(store, folder, window, crop, stride, tracks, shard_bytes):  # noqa: F811
    target = max(window - 2 * crop, 8)
    window = target + 2 * crop
    geometry = {"window": window, "target_length": target, "stride": stride}
    return export(store, folder, **geometry, tracks=tracks, shard_bytes=shard_bytes), geometry


@settings(max_examples=10)
@given(geometry=geometries)
def test_rows_targets_and_masks_are_those_of_the_store_on_both_strands(store, geometry):  # noqa: F811
    tracks = geometry["tracks"]
    with tempfile.TemporaryDirectory() as folder:
        found, lengths = exported(store, Path(folder) / "out", **geometry)
        for part in found.parts:
            rows_of = ExportRows(found, part, CPU)
            targets = {name: ExportTrack(rows_of, name, found.target_length, CPU) for name in tracks}
            loader = GenomeLoader(
                store, **lengths, split=part, tracks=tracks, strand="both", batch_size=9, last="pad", placement="host"
            )
            assert len(loader.plan.sampling(0)) == 2 * found.parts[part]
            for batch in loader:
                positions = batch.positions.numpy()
                limits = batch.limits.numpy() + (positions - batch.starts.numpy())[:, None]
                rows = rows_of.rows(positions, limits, found.window)
                packed = {"length": found.window, "reverse": batch.reverse, "limits": rows.limits}
                tokens = kernels.tokens(rows.plane, rows.starts, ambiguous=rows.ambiguous, **packed)
                assert torch.equal(tokens, kernels.tokens(**batch.packed))
                assert torch.equal(soft_of(rows, found.window), soft_of(batch, found.window))
                assert not rows.stride % 64
                assert torch.equal(rows.starts, torch.arange(9) * rows.stride)
                for name, track in targets.items():
                    starts = positions + (found.window - found.target_length) // 2
                    values, known = track.rows(starts, limits, batch.reverse.numpy())
                    assert torch.equal(known, batch.mask[name])
                    assert torch.equal(values, batch.targets[name])
                    assert not values[~known.expand(values.shape)].any()


def soft_of(rows, length):
    """Soft-masked bases (B, length) inside the limits, by numpy."""
    at = rows.starts[:, None] + torch.arange(length)
    inside = (at >= rows.limits[:, :1]) & (at < rows.limits[:, 1:])
    at = torch.where(inside, at, 0)
    return inside & ((rows.softmask[at // 8] >> (at % 8)) & 1).bool()


@settings(max_examples=10)
@given(geometry=geometries)
def test_tiles_of_the_index_lie_where_the_json_of_each_sample_says(store, geometry):  # noqa: F811
    with tempfile.TemporaryDirectory() as folder:
        found, _ = exported(store, Path(folder) / "out", **geometry)
        assert np.array_equal(found.contigs.offsets, store.contigs.offsets)
        assert found.length == store.length
        for part, samples in found.parts.items():
            said = [
                json.loads(content)
                for shard in found.shards
                if shard.part == part
                for name, content in members(found.path / shard.name)
                if name.endswith(".json")
            ]
            assert len(said) == samples == len(windows_of(found, part))
            _, positions, limits = drawn(found, part, range(samples))
            rows = found.contigs.locate(limits[:, 0])
            assert [about["contig"] for about in said] == [found.contigs.names[row] for row in rows]
            assert [about["start"] for about in said] == (positions - found.contigs.offsets[rows]).tolist()
            over = np.maximum([limits[:, 0] - positions, positions + found.window - limits[:, 1]], 0)
            assert [about["overhang"] for about in said] == over.T.tolist()
            assert sum(1 for _ in found.samples(part)) == samples


def test_the_ids_and_the_split_are_those_of_the_store(store, tmp_path):  # noqa: F811
    found = export(store, tmp_path / "out", window=64, tracks=("Signal", "levels"))
    assert found.identity("default", ("Signal",)) == store.identity("default", ("Signal",))
    # Bins of 4 would allow windows that begin between those of 8.
    assert found.identity("default", ("levels",)) != store.identity("default", ("levels",))
    assert found.track("Signal").columns == store.track("Signal").columns
    assert np.array_equal(found.track("Signal").bin_offsets, store.track("Signal").bin_offsets)
    with pytest.raises(ConfigError, match=r'has no track "signal". Did you mean "Signal"'):
        found.track("signal")
    with pytest.raises(ConfigError, match='was exported with split "default", not "fold-0"'):
        found.regions("train", "fold-0")
    with pytest.raises(ConfigError, match="is read part by part. It has: train, valid, test"):
        found.regions(None)
    with pytest.raises(ConfigError, match='"Signal" was exported for the 64 bases of targets, not for 128'):
        ExportTrack(ExportRows(found, "train", CPU), "Signal", 128, CPU)


def test_other_lengths_than_those_of_the_export_and_jitter_are_refused(out):  # noqa: F811
    found = read_export(out)
    assert lengths_of(found, None, None, None, 0) == lengths_of(found, 60, 60, 60, 0) == (60, 60, 60)
    for key in ("window", "target_length", "stride"):
        asked = dict.fromkeys(("window", "target_length", "stride")) | {key: 64}
        with pytest.raises(
            ConfigError, match=rf"{key}: 64 is not what .* was cut with, 60. Leave it out, or export again"
        ):
            lengths_of(found, **asked, jitter=0)
    with pytest.raises(ConfigError, match="jitter: the windows of an export cannot move"):
        lengths_of(found, None, None, None, 8)


# ---- shards -----------------------------------------------------------------------------------


def all_rows(rows_of):
    """The bytes of all samples of a part."""
    _, positions, limits = drawn(rows_of.export, rows_of.part, range(rows_of.export.parts[rows_of.part]))
    return rows_of.rows(positions, limits, rows_of.export.window)


def test_a_shard_is_checked_once_and_mapped_again_when_others_had_to_make_way(out, monkeypatch):  # noqa: F811
    found, checked = read_export(out), []
    check = found.check_pieces
    monkeypatch.setattr(
        found, "check_pieces", lambda shard, content: checked.append(shard.name) or check(shard, content)
    )
    expected = all_rows(ExportRows(found, "train", CPU))
    shards = [shard.name for shard in found.shards if shard.part == "train"]
    assert len(shards) > 3
    assert sorted(checked) == shards
    monkeypatch.setattr(exported_shards, "_OPEN", 1)
    few = ExportRows(found, "train", CPU)
    all_rows(few)
    del checked[: len(shards)]
    _, positions, limits = drawn(found, "train", range(found.parts["train"]))
    chance = np.random.default_rng(0)
    for _ in range(20):
        rows = chance.integers(0, len(positions), 5)
        got = few.rows(positions[rows], limits[rows], found.window)
        assert len(few._source._mapped) == 1
        whole = expected.plane.view(len(positions), -1)[torch.from_numpy(rows)]
        assert torch.equal(got.plane.view(5, -1), whole)
    assert sorted(checked) == shards


def test_many_threads_open_each_shard_once_and_get_the_same(out, monkeypatch):  # noqa: F811
    found, fetched = read_export(out), []
    check = found.check_pieces
    monkeypatch.setattr(found, "check_pieces", lambda shard, content: fetched.append(shard) or check(shard, content))
    rows_of = ExportRows(found, "train", CPU)
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: all_rows(rows_of), range(16)))
    assert all(torch.equal(rows.plane, made[0].plane) for rows in made)
    assert len(fetched) == len(set(fetched))


def flip(at):
    def change(path, other):
        content = bytearray(path.read_bytes())
        content[at] ^= 4
        path.write_bytes(content)

    return change


def cut(path, other):
    path.write_bytes(path.read_bytes()[:2000])


def swapped(path, other):
    content = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (flip(600), r"is damaged \(crc32c, from byte 0 on\); copy it again. all its members can be read"),
        (flip(3), r'is damaged \(crc32c.*first at: .*"train-\d+.seq"|the header of member'),
        (cut, r'is damaged \(2,000 bytes, the index says [\d,]+\); copy it again. first at: .* cut .*member "train-'),
        (lambda path, other: path.unlink(), r"cannot be read: No such file or directory; copy it again"),
        (swapped, r'is damaged \(.*first at: .*member "train-\d+.seq" stands where train-\d+.seq belongs'),
    ],
)
def test_a_damaged_shard_is_named_with_the_member_whenever_it_is_needed(out, change, message):  # noqa: F811
    found = read_export(out)
    path = out / "train-000001.tar"
    rows_of = ExportRows(found, "train", CPU)
    change(path, out / "train-000002.tar")
    _, positions, limits = drawn(found, "train", [0])
    rows_of.rows(positions, limits, found.window)  # of another shard
    with pytest.raises(SourceError, match=message) as caught:
        all_rows(rows_of)
    assert str(path) in str(caught.value)
    with pytest.raises(SourceError, match=message):
        all_rows(rows_of)


def test_a_shard_of_another_export_is_refused(out, store, tmp_path):  # noqa: F811
    other = export(store, tmp_path / "other", window=60, stride=30, tracks=("genes",), shard_bytes=20_000)
    shutil.copy(other.path / "train-000000.tar", out / "train-000000.tar")
    with pytest.raises(SourceError, match=r"train-000000.tar is damaged"):
        all_rows(ExportRows(read_export(out), "train", CPU))


def test_a_shard_that_holds_something_else_than_its_checksum_hides_is_refused(out):  # noqa: F811
    path = out / "train-000000.tar"
    rewrite(path, members(path)[1:])
    sign(out)
    with pytest.raises(
        SourceError, match=r'does not hold .* "train-0{12}.amb" stands where train-0{12}.seq belongs'
    ) as caught:
        all_rows(ExportRows(read_export(out), "train", CPU))
    assert str(path) in str(caught.value)


def test_planes_of_which_nothing_is_stored_are_none(tmp_path):
    from distgen.config import Recipe, read
    from distgen.store.build import build
    from distgen.store.reader import open_store

    (tmp_path / "a.fa").write_text(f">a\n{'ACGTTGCA' * 60}\n")
    (tmp_path / "a.toml").write_text('format = 1\n[assembly]\nname = "a"\nfasta = "a.fa"\n')
    build(read(tmp_path / "a.toml", Recipe), tmp_path / "a.zarr")
    found = export(open_store(tmp_path / "a.zarr"), tmp_path / "out", window=70)
    rows = all_rows(ExportRows(found, "train", CPU))
    assert rows.ambiguous is rows.softmask is None
    assert kernels.tokens(rows.plane, rows.starts, 70, limits=rows.limits)[-1].tolist()[-10:] == [4] * 10


# ---- elsewhere --------------------------------------------------------------------------------


@pytest.fixture
def away(out, s3, tmp_path):  # noqa: F811
    """The export in a bucket, and a cache of three of its shards."""
    for path in out.iterdir():
        s3.upload_file(str(path), "genomes", f"out/{path.name}")
    found = read_export(Object("s3://genomes/out"))
    return found, ShardCache(tmp_path / "cache", 3 * max(entry["bytes"] for entry in found.index["shards"]))


def test_an_export_in_a_bucket_gives_the_same_rows_within_a_bounded_cache(away, out):  # noqa: F811
    found, cache = away
    here, there = (ExportRows(e, "train", CPU, cache) for e in (read_export(out), found))
    _, positions, limits = drawn(found, "train", range(found.parts["train"]))
    tracks = [ExportTrack(rows_of, "genes", found.target_length, CPU) for rows_of in (here, there)]
    reverse = np.arange(len(positions)) % 2 == 0
    assert here.reads(positions, limits, found.window) == []
    (read,) = there.reads(positions, limits, found.window)
    names = [found.shards[row // read.shard].name for row in read.first.tolist()]
    assert names == [f"train-{sample // found.per_shard['train']:06d}.tar" for sample in range(len(positions))]
    assert (read.last == read.first + 1).all()
    for first in range(0, len(positions), 5):
        some = positions[first : first + 5], limits[first : first + 5]
        expected, got = (rows_of.rows(*some, found.window) for rows_of in (here, there))
        for one, other in zip(expected, got, strict=True):
            assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
        expected, got = (track.rows(*some, reverse[first : first + 5]) for track in tracks)
        assert all(map(torch.equal, expected, got))
    kept = [path for path in cache.folder.iterdir() if path.name != "lock"]
    assert 0 < len(kept) <= 3
    assert sum(path.stat().st_size for path in kept) <= cache.max_bytes


def test_a_cached_shard_that_the_disk_damaged_is_fetched_again(away):
    found, cache = away
    expected = all_rows(ExportRows(found, "valid", CPU, cache))
    (kept,) = (path for path in cache.folder.iterdir() if path.name != "lock")
    content = bytearray(kept.read_bytes())
    content[700] ^= 1
    kept.write_bytes(content)
    got = all_rows(ExportRows(found, "valid", CPU, ShardCache(cache.folder, cache.max_bytes)))
    assert torch.equal(expected.plane, got.plane)


def test_a_shard_that_is_damaged_or_missing_in_the_bucket_is_named(away, s3):  # noqa: F811
    found, cache = away
    body = bytearray(s3.get_object(Bucket="genomes", Key="out/valid-000000.tar")["Body"].read())
    body[600] ^= 1
    s3.put_object(Bucket="genomes", Key="out/valid-000000.tar", Body=bytes(body))
    with pytest.raises(
        SourceError, match=r"s3://genomes/out/valid-000000.tar is damaged \(crc32c, .*; remove it, and index"
    ):
        all_rows(ExportRows(found, "valid", CPU, cache))
    s3.put_object(Bucket="genomes", Key="out/valid-000000.tar", Body=bytes(body[:1024]))
    with pytest.raises(SourceError, match=r"valid-000000.tar is damaged \(1,024 bytes, the index says"):
        all_rows(ExportRows(found, "valid", CPU, cache))
    s3.delete_object(Bucket="genomes", Key="out/valid-000000.tar")
    with pytest.raises(SourceError, match=r"valid-000000.tar cannot be read: No such file"):
        all_rows(ExportRows(found, "valid", CPU, cache))
    assert [path.name for path in cache.folder.iterdir() if path.name != "lock"] == []
    with pytest.raises(ConfigError, match="is in an object store: it is read by way of a cache"):
        ExportRows(found, "valid", CPU)


def test_a_reader_that_is_killed_leaves_nothing_that_hinders_the_next(away, tmp_path):
    found, cache = away
    code = (
        "import os, signal, threading, torch, numpy as np\n"
        "from distgen.ingest.objects import Object\n"
        "from distgen.loader.exports import ExportRows\n"
        "from distgen.loader.transfer import Transfer\n"
        "from distgen.store.cache import ShardCache\n"
        "from distgen.store.exported import Export, read_export\n"
        "found = read_export(Object('s3://genomes/out'))\n"
        "from distgen.store import exported_shards\n"
        "exported_shards.CachedShards.check = lambda *given: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"rows = ExportRows(found, 'train', Transfer(torch.device('cpu')), ShardCache({str(cache.folder)!r}, {cache.max_bytes}))\n"
        "rows.find(np.array([0]), np.array([[0, 1]]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    assert any(path.name.endswith(".part") for path in cache.folder.iterdir())
    assert len(all_rows(ExportRows(found, "train", CPU, cache)).starts) == found.parts["train"]
    assert not any(path.name.endswith(".part") for path in cache.folder.iterdir())
