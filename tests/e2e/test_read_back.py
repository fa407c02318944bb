"""Stores of real genomes and of a draft, read back base by base by zarr-python and by tensorstore, with nothing of distgen."""

import gzip

import numpy as np
import pytest
import tensorstore
import zarr

from distgen.config import Recipe, read
from distgen.store.build import build
from distgen.store.reader import open_store
from distgen.store.verify import verify
from tests.conftest import ROOT


def by_zarr(path):
    group = zarr.open_group(str(path), mode="r")
    return lambda key: group[key][...]


def by_tensorstore(path):
    def opened(key):
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path}/{key}/"}}
        return tensorstore.open(spec, read=True).result().read().result()

    return opened


def letters_of(read_array, row):
    """The letters of one contig, lower case where it is soft-masked, from the arrays that the format names."""
    offset, length = int(read_array("contigs/offset")[row]), int(read_array("contigs/length")[row])
    end = offset + length
    packed = read_array("sequence")[offset // 4 : -(-end // 4)]
    codes = ((packed[:, None] >> np.array([0, 2, 4, 6], np.uint8)) & 3).reshape(-1)[:length]
    letters = np.frombuffer(b"ACGT", np.uint8)[codes]
    ambiguous, soft = (
        np.unpackbits(read_array(plane)[offset // 8 : -(-end // 8)], bitorder="little")[:length].astype(bool)
        for plane in ("ambiguous", "softmask")
    )
    letters = np.where(ambiguous, np.uint8(ord("N")), letters)
    return np.where(soft, letters | 0x20, letters).tobytes().decode()


def contigs_of(path):
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    records = (record.split("\n", 1) for record in text.split(">")[1:])
    return {header.split()[0]: letters.replace("\n", "") for header, letters in records}


def assert_read_back(store, path):
    """Every base, name and length of a FASTA file, through two readers that know nothing of distgen."""
    assert not verify(store).damage
    contigs = contigs_of(path)
    for reader in (by_zarr, by_tensorstore):
        cached = _remember(reader(store.path))
        names = [bytes(row).rstrip(b"\0").decode() for row in cached("contigs/name")]
        assert names == list(contigs)
        table = str.maketrans("RYSWKMBDHVryswkmbdhv", "NNNNNNNNNNnnnnnnnnnn")
        for row, letters in enumerate(contigs.values()):
            assert letters_of(cached, row) == letters.translate(table)


def _remember(read_array):
    arrays = {}

    def cached(key):
        if key not in arrays:
            arrays[key] = read_array(key)
        return arrays[key]

    return cached


def test_a_draft_of_100_000_contigs(tmp_path):
    rng = np.random.default_rng(0)
    letters = np.frombuffer(b"ACGTacgtNn", np.uint8)[rng.integers(0, 10, 12_000_000)].tobytes().decode()
    ends = np.cumsum(rng.integers(1, 200, 100_000))
    starts = np.r_[0, ends[:-1]]
    with (tmp_path / "draft.fa").open("w") as file:
        for number, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
            file.write(f">scaffold_{number}\n{letters[start:end]}\n")
    (tmp_path / "draft.toml").write_text('format = 1\n[assembly]\nname = "draft"\nfasta = "draft.fa"\n')
    build(read(tmp_path / "draft.toml", Recipe), tmp_path / "draft.zarr")
    assert_read_back(open_store(tmp_path / "draft.zarr"), tmp_path / "draft.fa")


@pytest.mark.data
@pytest.mark.parametrize(
    ("recipe", "fasta"), [("sacCer3", "sacCer3/sacCer3.fa.gz"), ("human-chr20", "human_b37_chr20/20.fa.gz")]
)
def test_a_real_genome_with_its_tracks(data, tmp_path, recipe, fasta):
    build(read(ROOT / f"shards/recipes/{recipe}.toml", Recipe), tmp_path / "a.zarr")
    store = open_store(tmp_path / "a.zarr")
    assert_read_back(store, data / fasta)
    for track in store.tracks.values():
        for block in track.blocks:
            key = str(block.folder.relative_to(store.path))
            for read_array in (by_zarr(store.path), by_tensorstore(store.path)):
                assert np.array_equal(read_array(key), block.read(), equal_nan=True)
