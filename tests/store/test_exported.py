"""Exports read back; whatever is wrong with one is found and named."""

import base64
import hashlib
import io
import json
import random
import shutil
import tarfile

import numpy as np
import pytest

from distgen.config import Recipe, digest, read
from distgen.errors import ConfigError, SourceError
from distgen.store.build import build
from distgen.store.exported import pieces, read_export
from distgen.store.format import json_bytes
from distgen.store.reader import open_store
from distgen.store.tar import END, tar_header
from distgen.store.webdataset import export
from tests.conftest import GTF, LETTERS, RECIPE


def read_all(folder):
    found = read_export(folder)
    return [sample for part in found.parts for sample in found.samples(part)]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """An export of some shards."""
    folder = tmp_path_factory.mktemp("original")
    (folder / "small.fa").write_text("".join(f">{name}\n{letters}\n" for name, letters in LETTERS.items()))
    (folder / "small.gtf").write_text(GTF)
    (folder / "small.toml").write_text(RECIPE)
    build(read(folder / "small.toml", Recipe), folder / "small.zarr")
    store = open_store(folder / "small.zarr")
    return export(store, folder / "out", window=60, tracks=("genes",), shard_bytes=20_000).path


@pytest.fixture
def out(original, tmp_path):
    """A copy of it to damage."""
    return shutil.copytree(original, tmp_path / "out")


def sign(folder, change=lambda index: None):
    """Make the index fit the shards as they are, after some change of it."""
    index = json.loads((folder / "index.json").read_bytes())
    del index["checksum"]
    for entry in index["shards"]:
        content = (folder / entry["name"]).read_bytes()
        crc = base64.b64encode(pieces(np.frombuffer(content, np.uint8))).decode()
        entry |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), "crc32c": crc}
    change(index)
    (folder / "index.json").write_bytes(json_bytes(index | {"checksum": digest(index)}))


def members(path):
    with tarfile.open(path) as tar:
        return [(info.name, tar.extractfile(info).read()) for info in tar]


def rewrite(path, found):
    path.write_bytes(b"".join(tar_header(n, len(c)) + c + bytes(-len(c) % 512) for n, c in found) + END)


# ---- faults ---------------------------------------------------------------------------------


def test_a_hundred_random_faults_are_found_and_named(out):
    chance = random.Random(0)
    whole = {path: path.read_bytes() for path in sorted(out.iterdir())}
    shards = [path for path in whole if path.suffix == ".tar"]
    assert len(shards) > 4
    for number in range(120):
        path = chance.choice(list(whole))
        content = bytearray(whole[path])
        fault = ("flip", "cut", "delete", "swap", "grow", "blank")[number % 6]
        named = {path.name}
        if fault == "flip":
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        elif fault == "cut":
            del content[chance.randrange(len(content)) :]
        elif fault == "grow":
            content += chance.choice((b"\n", bytes(512), bytes(1024)))
        elif fault == "blank":
            at = chance.randrange(len(content) // 512) * 512
            content[at : at + 512] = b"\xff" * 512
        path.write_bytes(content)
        if fault == "delete":
            path.unlink()
        elif fault == "swap":
            one, other = chance.sample(shards, 2)
            path.write_bytes(whole[path])
            one.write_bytes(whole[other])
            other.write_bytes(whole[one])
            named = {one.name, other.name}
        with pytest.raises(SourceError) as caught:
            read_all(out)
        assert any(name in str(caught.value) for name in named), (fault, str(caught.value))
        for file, before in whole.items():
            file.write_bytes(before)
    assert len(read_all(out)) == sum(read_export(out).parts.values())


def test_a_cut_shard_says_in_which_member(out):
    path = out / "train-000001.tar"
    whole = path.read_bytes()
    path.write_bytes(whole[:700])
    first = members_key(whole)
    with pytest.raises(SourceError) as caught:
        read_all(out)
    assert f"{path} is damaged (700 bytes, the index says {len(whole):,}); copy it again" in str(caught.value)
    assert f'is cut in member "{first}.seq"' in str(caught.value)


def members_key(content):
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return tar.getnames()[0].split(".")[0]


def test_a_changed_payload_says_that_members_can_be_read(out):
    path = out / "valid-000000.tar"
    content = bytearray(path.read_bytes())
    content[512] ^= 1
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r"valid-000000.tar is damaged \(sha256 .*all its members can be read"):
        read_all(out)


def test_a_damaged_shard_gives_no_sample(out):
    path = out / "train-000000.tar"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(SourceError, match="damaged"):
        next(read_export(out).samples("train"))
    assert next(read_export(out).samples("test")).part == "test"


# ---- what another writer might have put there -----------------------------------------------


def replaced(suffix, content):
    def change(found):
        return [(name, content if name == f"train-000000000000.{suffix}" else old) for name, old in found]

    return change


def renamed(old, new):
    return lambda found: [(new if name == old else name, content) for name, content in found]


def about(**changed):
    base = {"contig": "chr1", "start": 0, "end": 60, "strand": "+", "length": 60, "part": "train", "overhang": [0, 0]}
    return replaced("json", json.dumps(base | changed).encode())


KEY = "train-000000000000"


def pickled():
    file = io.BytesIO()
    np.save(file, np.array([{}] * 8), allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: found[1:], f'member "{KEY}.amb" stands where {KEY}.seq belongs'),
        (lambda found: [], f"the file ends where {KEY}.seq belongs"),
        (lambda found: found[:-1], r"the file ends where train-\d+.json belongs"),
        (lambda found: [*found, found[-1]], r'member "train-\d+.json" stands where the end after \d+ samples belongs'),
        (lambda found: [found[0], *found], f'member "{KEY}.seq" stands where {KEY}.genes.npy belongs'),
        (lambda found: [found[1], found[0], *found[2:]], f'member "{KEY}.amb" stands where {KEY}.seq belongs'),
        (lambda found: found[5:], f'member "train-000000000001.seq" stands where {KEY}.seq belongs'),
        (renamed(f"{KEY}.json", "../../x.json"), r'member "../../x.json" would leave the folder'),
        (renamed(f"{KEY}.json", f"{KEY}.py"), f'member "{KEY}.py" stands where {KEY}.json belongs'),
        (replaced("seq", b"x" * 14), f'member "{KEY}.seq" has 14 bytes; the geometry in index.json makes it 15'),
        (replaced("amb", b"x" * 9), f'member "{KEY}.amb" has 9 bytes; .* makes it 8'),
        (replaced("genes.npy", b"x" * 248), f'"{KEY}.genes.npy" has 248 bytes or another header; .* makes it 248'),
        (replaced("genes.npy", pickled()), f'"{KEY}.genes.npy" has .* bytes or another header'),
        (replaced("json", b" " * 70000), f'"{KEY}.json" has 70,000 bytes, more than any can have'),
        (
            replaced("json", b"{"),
            f'"{KEY}.json" says {{, index.json makes it {{"contig": "chr1", "start": 0, "end": 60',
        ),
        (replaced("json", b"\xff"), f'"{KEY}.json" says \ufffd, index.json makes it'),
        (replaced("json", b"[" * 60000), f'"{KEY}.json" says \\[{{200,260}}, index.json makes it'),
        (about(more=1), f'"{KEY}.json" says .*"more": 1}}, index.json makes it'),
        (about(start=1, end=61), f'"{KEY}.json" says .*"start": 1, .* makes it .*"start": 0, '),
        (about(overhang=[0, 1]), f'"{KEY}.json" says .*"overhang": .0, 1.*"overhang": .0, 0'),
    ],
)
def test_a_shard_that_does_not_hold_what_it_should_is_refused_by_file_and_member(out, change, message):
    path = out / "train-000000.tar"
    rewrite(path, change(members(path)))
    sign(out)
    with pytest.raises(SourceError, match=message) as caught:
        read_all(out)
    assert str(path) in str(caught.value)


def put(*path, value):
    def change(index):
        *parents, last = path
        for key in parents:
            index = index[key]
        index[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("format", value=1), "has format 1, this version reads 2: export again"),
        (put("geometry", value={}), "window"),
        (put("geometry", "window", value=60.0), "whole numbers above 0"),
        (put("geometry", "stride", value=0), "whole numbers above 0"),
        (put("shards", 0, "samples", value=0), "whole numbers above 0"),
        (put("shards", 0, "samples", value=1), "train-000001.tar has 4 samples, another number than those before"),
        (put("shards", -1, "samples", value=2), "its shards hold"),
        (put("shards", 0, "name", value="../x.tar"), 'shard "../x.tar" stands where train-000000.tar belongs'),
        (put("shards", 0, "part", value="x"), "train-000000.tar"),
        (put("shards", value=None), "damaged, or no index"),
        (put("parts", value={"train": 1}), "damaged, or no index"),
        (put("tracks", "genes", "dtype", value="object"), 'track "genes" has dtype object'),
        (put("tracks", "genes", "shape", value=[60, 3]), 'track "genes" has dtype uint8 and shape \\[60, 3\\]'),
        (put("contigs", "length", value=[1]), "damaged, or no index"),
        (
            put("contigs", value={"name": [], "length": [], "circular": []}),
            r'"train" has \d+ samples, its regions make \[\]',
        ),
        (put("regions", value={}), "damaged, or no index"),
        (put("regions", "test", value=[]), r'part "test" has \d+ samples, its regions make \[\]'),
        (put("regions", "train", value=[[0, 60]]), r'part "train" has \d+ samples, its regions make \[1\]'),
        (put("regions", "valid", value=[[64, 104], [0, 64]]), 'part "valid" has'),
    ],
)
def test_an_index_that_nobody_would_write_is_refused(out, change, message):
    sign(out, change)
    with pytest.raises(SourceError, match=message) as caught:
        read_export(out)
    assert str(out / "index.json") in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"null", b"\xff\xfe", b'{"format": 1}', b"[" * 100_000])
def test_an_index_that_is_none_is_refused(out, content):
    (out / "index.json").write_bytes(content)
    with pytest.raises(SourceError, match=r"index.json (is damaged, or no index|has format)"):
        read_export(out)


def test_a_missing_shard_is_named_before_any_sample_is_read(out):
    (out / "valid-000000.tar").unlink()
    with pytest.raises(SourceError, match=r"valid-000000.tar is missing; copy it again"):
        read_export(out)


def test_a_folder_without_index_and_one_with_a_stray_shard_are_refused(out, tmp_path):
    with pytest.raises(SourceError, match="nowhere has no index.json: it is no export"):
        read_export(tmp_path / "nowhere")
    (out / "train-000099.tar").write_bytes(END)
    with pytest.raises(SourceError, match=r"train-000099.tar is not named in index.json"):
        read_export(out)


def test_an_unknown_part_suggests_the_nearest(out):
    with pytest.raises(ConfigError, match='no part "trian". Did you mean "train"'):
        next(read_export(out).samples("trian"))
