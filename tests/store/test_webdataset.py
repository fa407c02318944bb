"""Windows that leave a store are those that the loader serves, and webdataset reads them without distgen."""

import errno
import json
import os
import pickle
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distgen import kernels
from distgen.config import Recipe, read
from distgen.errors import ConfigError, SourceError, StoreError
from distgen.genome import BASES
from distgen.loader.loader import GenomeLoader
from distgen.store import cutting, webdataset
from distgen.store.build import build
from distgen.store.exported import read_export
from distgen.store.reader import open_store
from distgen.store.webdataset import export
from tests.conftest import LETTERS
from tests.test_cli import distgen

TRACKS = """[[track]]
name = "Signal"
source = "signal.bedgraph"
bin_bp = 8
reduce = "mean"
absent = "missing"
[[track]]
name = "levels"
source = "signal.bedgraph"
bin_bp = 4
reduce = "max"
dtype = "uint8"
scale = 10.0
absent = "missing"
[split]"""
PLAIN = """
import json, sys
import numpy as np, webdataset

found = {}
for sample in webdataset.WebDataset(sys.argv[2:], shardshuffle=False):
    about = json.loads(sample["json"])
    bases = np.arange(about["length"])
    codes = (np.frombuffer(sample["seq"], np.uint8)[bases // 4] >> (2 * (bases % 4))) & 3
    flags = {}
    for name in ("amb", "soft"):
        bits = np.frombuffer(sample[name], np.uint8) if name in sample else np.zeros(-(-len(bases) // 8), np.uint8)
        flags[name] = (bits[bases // 8] >> (bases % 8)) & 1
    codes[flags["amb"] == 1] = 4
    letters = "".join("ACGTN"[c].lower() if low else "ACGTN"[c] for c, low in zip(codes, flags["soft"]))
    with open(sys.argv[1] + "/npy", "wb") as file:
        file.write(sample["signal.npy"])
    signal = np.load(sys.argv[1] + "/npy", allow_pickle=False)
    found[sample["__key__"]] = [about, letters, str(signal.dtype), np.where(np.isnan(signal), -1, signal).tolist()]
assert not any(name.split(".")[0] == "distgen" for name in sys.modules)
print(json.dumps(found))
"""


@pytest.fixture
def store(small_recipe):
    """The small store with two signals, which say nothing of most of it."""
    lines = [f"chr1\t{start}\t{start + 10}\t{start / 100}\n" for start in range(0, 500, 20)]
    (small_recipe.parent / "signal.bedgraph").write_text("".join(lines) + "chr2\t850\t900\t2.5\n")
    small_recipe.write_text(small_recipe.read_text().replace("[split]", TRACKS))
    build(read(small_recipe, Recipe), small_recipe.parent / "s.zarr")
    return open_store(small_recipe.parent / "s.zarr")


def tree(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def letters_of(sample):
    """What the FASTA says of a sample, N where it hangs over its part's region."""
    left, right = sample.overhang
    inside = LETTERS[sample.where.contig][sample.where.start + left : sample.where.end - right]
    inside = "".join(c if c in "ACGTacgt" else "nN"[c.isupper()] for c in inside)
    return "N" * left + inside + "N" * right


@settings(max_examples=100)
@given(
    units=st.integers(1, 12),
    overlap=st.integers(0, 40),
    stride=st.integers(2, 30),
    part=st.sampled_from(["train", "valid", "test"]),
    tracks=st.sets(st.sampled_from(["genes", "Signal", "levels"])),
    shard_bytes=st.sampled_from([40_000, 10**9]),
    memory=st.sampled_from([1, 2000, 1 << 24]),
)
def test_samples_are_the_windows_of_the_loader(
    store, tmp_path_factory, units, overlap, stride, part, tracks, shard_bytes, memory
):
    bin_bp = 8 if "Signal" in tracks else 4 if "levels" in tracks else 1
    target, stride = units * bin_bp, stride * bin_bp
    geometry = {"window": target + 2 * overlap, "target_length": target, "stride": stride}
    out = tmp_path_factory.mktemp("x") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cutting, "_IN_MEMORY", memory)
        found = export(store, out, **geometry, parts=(part,), tracks=tuple(tracks), shard_bytes=shard_bytes)
    samples = list(found.samples(part))
    names = tuple(sorted(tracks))
    loader = GenomeLoader(
        store, **geometry, split=part, tracks=names, order="sequential", batch_size=len(samples), last="pad"
    )
    (batch,) = iter(loader)
    assert [str(sample.where) for sample in samples] == [str(where) for where in batch.where()]
    assert np.array_equal(np.stack([sample.codes for sample in samples]), kernels.tokens(**batch.packed))
    assert ["".join(map(chr, sample.letters)) for sample in samples] == [letters_of(sample) for sample in samples]
    for name in names:
        stored = np.stack([sample.targets[name] for sample in samples])
        values = batch.targets[name].numpy()
        known = np.broadcast_to(batch.mask[name].numpy(), values.shape)
        assert np.array_equal(stored[known], values[known], equal_nan=stored.dtype != np.uint8)
        unknown = stored[~known]
        assert ((unknown == 255) if stored.dtype == np.uint8 else np.isnan(unknown)).all()


def test_webdataset_and_numpy_read_the_shards_without_distgen(store, tmp_path):
    found = export(store, tmp_path / "out", window=70, target_length=64, tracks=("Signal", "genes"), shard_bytes=9000)
    shards = sorted(map(str, (tmp_path / "out").glob("train-*.tar")))
    assert len(shards) > 2
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, str(tmp_path), *shards],
        cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)
    samples = list(found.samples("train"))
    assert list(read) == [sample.key for sample in samples] == sorted(read)
    for sample in samples:
        about, letters, dtype, signal = read[sample.key]
        assert letters == letters_of(sample)
        assert about == {
            "contig": sample.where.contig,
            "start": sample.where.start,
            "end": sample.where.end,
            "strand": "+",
            "length": 70,
            "part": "train",
            "overhang": list(sample.overhang),
        }
        assert dtype == "float32"
        assert np.array_equal(np.nan_to_num(sample.targets["Signal"], nan=-1), signal)


def test_the_same_store_gives_the_same_bytes_whatever_order_tracks_are_named_in(store, tmp_path):
    for out, tracks in (("a", ("Signal", "genes")), ("b", ("genes", "Signal"))):
        export(store, tmp_path / out, window=64, tracks=tracks)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_members_stand_only_where_they_say_something_and_have_no_owner(store, tmp_path):
    export(store, tmp_path / "out", window=100, parts=("train",))
    with tarfile.open(tmp_path / "out/train-000000.tar") as tar:
        infos = tar.getmembers()
    assert {(i.mtime, i.uid, i.gid, i.uname, i.gname, i.mode) for i in infos} == {(0, 0, 0, "", "", 0o644)}
    suffixes = {}
    for info in infos:
        key, suffix = info.name.split(".", 1)
        suffixes.setdefault(key, []).append(suffix)
    assert suffixes["train-000000000000"] == ["seq", "amb", "soft", "json"]  # chr1: all of them
    assert suffixes["train-000000000009"] == ["seq", "json"]  # chr2: poly-T


@pytest.mark.parametrize("shard_bytes", [10_000, 50_000, 10**9])
def test_shards_are_about_as_large_as_asked(store, tmp_path, shard_bytes):
    found = export(store, tmp_path / "out", window=16, stride=2, parts=("train",), shard_bytes=shard_bytes)
    *whole, last = [entry["bytes"] for entry in found.index["shards"]]
    assert all(0.6 * shard_bytes < size < 1.4 * shard_bytes for size in whole)
    assert last < 1.4 * shard_bytes
    assert (
        sum(shard.samples for shard in found.shards) == found.parts["train"] == sum(1 for _ in found.samples("train"))
    )


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_export_goes_on_with_the_shards_that_are_missing(store, tmp_path, monkeypatch, failure):
    arguments = {"window": 64, "shard_bytes": 8000}
    whole = tree(export(store, tmp_path / "whole", **arguments).path)
    write, written = webdataset._write, []

    def failing(path, samples, progress):
        if len(written) == 3:
            path.write_bytes(b"half")
            raise failure
        written.append(path.name)
        return write(path, samples, progress)

    monkeypatch.setattr(webdataset, "_write", failing)
    with pytest.raises((StoreError, KeyboardInterrupt)) as caught:
        export(store, tmp_path / "out", **arguments)
    if caught.type is StoreError:
        assert "No space left on device" in str(caught.value)
        assert "the same command goes on from here" in str(caught.value)
    assert not (tmp_path / "out").exists()
    first = list(written)

    def counting(path, samples, progress):
        written.append(path.name)
        return write(path, samples, progress)

    monkeypatch.setattr(webdataset, "_write", counting)
    export(store, tmp_path / "out", **arguments)
    assert sorted(written) == sorted(name for name in whole if name.endswith(".tar"))
    assert written[: len(first)] == first
    assert tree(tmp_path / "out") == whole
    assert not list(tmp_path.glob(".*"))


def test_shards_written_elsewhere_in_any_order_are_the_same_and_progress_counts_every_window(store, tmp_path):
    arguments = {"window": 64, "stride": 32, "tracks": ("genes",), "shard_bytes": 8000}
    whole = tree(export(store, tmp_path / "whole", **arguments).path)
    told: list[int] = []

    def elsewhere(tasks, progress):
        return [pickle.loads(pickle.dumps(task))(progress) for task in reversed(tasks)]

    made = export(
        store,
        tmp_path / "out",
        **arguments,
        execute=elsewhere,
        progress=lambda windows, read=0: told.append(windows),
        expect=lambda windows: told.append(-windows),
    )
    assert tree(made.path) == whole
    assert len(made.shards) > 3
    assert sum(told) == 0


def test_what_was_made_for_another_geometry_is_not_taken(store, tmp_path, monkeypatch):
    wanted = tree(export(store, tmp_path / "wanted", window=32, shard_bytes=8000).path)
    with monkeypatch.context() as patch:
        patch.setattr(webdataset, "link", lambda *paths: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
        with pytest.raises(StoreError, match="broken"):
            export(store, tmp_path / "out", window=64, shard_bytes=8000)
    assert tree(export(store, tmp_path / "out", window=32, shard_bytes=8000).path) == wanted


def test_an_export_that_is_there_is_checked_and_left(store, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()  # an empty folder is no hindrance
    export(store, tmp_path / "out", window=64)
    monkeypatch.setattr(webdataset, "_write", None)
    assert export(store, tmp_path / "out", window=64).parts == {"train": 22, "valid": 4, "test": 5}
    for other, message in (
        ({"window": 32}, "holds another export (parts differs)"),
        ({"window": 64, "tracks": ("genes",)}, "holds another export (identity differs)"),
        ({"window": 64, "shard_bytes": 5000}, "in shards of another size"),
    ):
        with pytest.raises(ConfigError) as caught:
            export(store, tmp_path / "out", **other)
        assert message in str(caught.value)
    path = tmp_path / "out/valid-000000.tar"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(SourceError, match=r"valid-000000\.tar is damaged"):
        export(store, tmp_path / "out", window=64)


def test_a_folder_of_something_else_is_left_alone(store, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"out exists and is no export; give another --out"):
        export(store, tmp_path / "out")
    assert tree(tmp_path / "out") == {"thesis.txt": b"mine"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window": 0}, "window: 0 is not above 0"),
        ({"stride": -1}, "stride: -1 is not above 0"),
        ({"shard_bytes": 0}, "shard_bytes: 0 is not above 0"),
        ({"window": 64, "target_length": 65}, "target_length: 65 is more than the window of 64"),
        ({"window": 64, "target_length": 33}, "target_length: 33 does not lie in the middle of a window of 64"),
        (
            {"window": 60, "tracks": ("Signal",)},
            'target_length: 60 is no multiple of track "Signal" with bin_bp 8. Use 56',
        ),
        (
            {"window": 64, "stride": 4, "tracks": ("Signal",)},
            'stride: 4 is no multiple of track "Signal" with bin_bp 8. Use 8.',
        ),
        ({"tracks": ("gene",)}, 'has no track "gene". Did you mean "genes"'),
        ({"tracks": ("genes", "genes")}, "two have the same name in lower case"),
        ({"split": "fold"}, 'has no split "fold"'),
        ({"parts": ("tset",)}, 'split "default" has no part "tset". Did you mean "test"'),
    ],
)
def test_what_cannot_be_exported_is_refused_and_nothing_written(store, tmp_path, arguments, message):
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(ConfigError) as caught:
        export(store, tmp_path / "out", **arguments)
    assert message in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_damage_of_the_store_is_not_exported(store, tmp_path):
    shard = store.path / "sequence/c/0"
    content = bytearray(shard.read_bytes())
    content[3] ^= 1
    shard.write_bytes(content)
    with pytest.raises(StoreError, match="sequence/c/0 is damaged"):
        export(open_store(store.path), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command(store, tmp_path):
    shown = distgen(
        "export",
        "s.zarr",
        "--out",
        "o",
        "--window",
        64,
        "--part",
        "train,test",
        "--tracks",
        "genes,Signal",
        cwd=tmp_path,
    )
    assert shown.startswith("o: train 22, test 5 windows in 2 shards, ")
    found = read_export(tmp_path / "o")
    assert list(found.tracks) == ["Signal", "genes"]
    assert "outlandish" in distgen("export", "s.zarr", "--out", "p", "--format", "outlandish", cwd=tmp_path, expect=2)
    message = distgen("export", "s.zarr", "--out", "o", "--window", 32, cwd=tmp_path, expect=2)
    assert message.startswith("error: o holds another export")


@pytest.mark.data
def test_lambda_tiles_back_to_its_source(data, tmp_path):
    import gzip

    source = data / "lambda/lambda_virus.fa.gz"
    (tmp_path / "l.toml").write_text(f'format = 1\n[assembly]\nname = "lambda"\nfasta = "{source}"\n')
    build(read(tmp_path / "l.toml", Recipe), tmp_path / "l.zarr")
    found = export(open_store(tmp_path / "l.zarr"), tmp_path / "out", window=1000)
    letters = b"".join(sample.letters.tobytes() for sample in found.samples("train"))
    expected = "".join(gzip.decompress(source.read_bytes()).decode().split("\n")[1:])
    assert letters.decode() == expected + "N" * (len(letters) - len(expected))
    assert len(letters) - len(expected) < 1000
    assert set(letters.decode()) <= set(BASES)
