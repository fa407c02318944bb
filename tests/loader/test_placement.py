"""Rows of any placement against the whole genome, decoded by the reference kernels."""

import logging

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distgen import kernels
from distgen.config import Recipe, read
from distgen.errors import ConfigError
from distgen.loader.placement import Device, Host, place
from distgen.loader.transfer import Transfer
from distgen.store import planes
from distgen.store.array import Array
from distgen.store.build import build
from distgen.store.reader import open_store

LETTERS = {"a": "ACGTN" * 700 + "acgt" * 300 + "N" * 900, "b": "GATTACA", "c": "T" * 3000 + "n" * 40 + "ACG" * 333}
CPU = Transfer(torch.device("cpu"))


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """A store whose planes are cut into chunks of 64 bytes and shards of 1,024 bases; some chunks are absent."""
    folder = tmp_path_factory.mktemp("pieces")
    (folder / "p.fa").write_text("".join(f">{name}\n{letters}\n" for name, letters in LETTERS.items()))
    (folder / "p.toml").write_text('format = 1\n[assembly]\nname = "p"\nfasta = "p.fa"\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planes, "CHUNK_BYTES", 64)
        patch.setattr(planes, "UNIT", 1024)
        build(read(folder / "p.toml", Recipe), folder / "p.zarr")
    store = open_store(folder / "p.zarr")
    assert store.planes["sequence"].layout.shards > 5
    assert store.planes["softmask"].absent.any()
    return store


def flat(store):
    """Codes and soft mask along the whole flat coordinate."""
    codes, soft = np.full(store.length, 4, np.uint8), np.zeros(store.length, bool)
    for name, offset in zip(store.contigs.names, store.contigs.offsets.tolist(), strict=True):
        letters = LETTERS[name]
        codes[offset : offset + len(letters)] = ["ACGT".find(c) % 5 for c in letters.upper()]
        soft[offset : offset + len(letters)] = [c.islower() for c in letters]
    return codes, soft


@given(data=st.data())
@pytest.mark.parametrize("kind", [Host, Device])
def test_rows_of_many_batches_are_the_windows_that_were_asked_for(pieces, kind, data):
    batches, size = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    length = data.draw(st.integers(1, 900))
    positions, limits = [], []
    for _ in range(batches * size):
        low, high = pieces.contigs.whole()[data.draw(st.integers(0, 2))].tolist()
        low = data.draw(st.integers(low, high - 1))
        high = data.draw(st.integers(low + 1, high))
        positions.append(data.draw(st.integers(low - 200, high + 200)))
        limits.append((low, high))
    codes, soft = flat(pieces)
    made = kind(pieces, CPU).rows(np.array(positions), np.array(limits), length)
    rows = [(batch, row) for batch in made.split(batches) for row in range(size)]
    for (batch, row), position, (low, high) in zip(rows, positions, limits, strict=True):
        one = {"starts": batch.starts[row : row + 1], "length": length, "limits": batch.limits[row : row + 1]}
        found = kernels.tokens(batch.plane, ambiguous=batch.ambiguous, **one)[0]
        masked = kernels.bits(batch.softmask, **one)[0]
        there = [low <= p < high for p in range(position, position + length)]
        assert found.tolist() == [codes[p] if ok else 4 for p, ok in enumerate(there, position)]
        assert masked.tolist() == [bool(soft[p]) if ok else False for p, ok in enumerate(there, position)]


def test_a_batch_of_a_host_has_planes_of_its_own(pieces):
    made = Host(pieces, CPU).rows(np.arange(12) * 64, np.tile([[0, 5000]], (12, 1)), 100)
    assert [len(batch.plane) for batch in made.split(3)] == [4 * made.stride // 4] * 3
    assert made.split(3)[1].plane.untyped_storage().data_ptr() == made.plane.untyped_storage().data_ptr()


def test_the_same_rows_have_the_same_bytes_whatever_room_they_lie_in(pieces):
    host = Host(pieces, Transfer(torch.device("cpu")))
    asked = np.array([-30, 100, 5000]), np.array([[0, 90], [100, 4000], [0, 3]]), 70
    first = host.rows(*asked).plane.clone()
    host.rows(np.array([1000, 2000, 3000]), np.tile([[0, 5000]], (3, 1)), 70)
    assert torch.equal(host.rows(*asked).plane, first)


def test_a_plane_of_which_nothing_is_stored_is_none(tmp_path):
    (tmp_path / "p.fa").write_text(">a\nACGT\n")
    (tmp_path / "p.toml").write_text('format = 1\n[assembly]\nname = "p"\nfasta = "p.fa"\n')
    build(read(tmp_path / "p.toml", Recipe), tmp_path / "p.zarr")
    for kind in (Host, Device):
        rows = kind(open_store(tmp_path / "p.zarr"), CPU).rows(np.array([0]), np.array([[0, 4]]), 4)
        assert rows.ambiguous is None
        assert rows.softmask is None


def test_loaders_of_one_store_share_its_planes(pieces):
    one, other = (Device(open_store(pieces.path), CPU) for _ in range(2))
    planes = [d.rows(np.array([0]), np.array([[0, 4]]), 4).plane.data_ptr() for d in (one, other)]
    assert planes[0] == planes[1]


def test_on_a_cpu_auto_takes_whole_planes_only_where_they_are_mapped(pieces, small, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("distgen"), "propagate", True)
    with caplog.at_level(logging.INFO, "distgen"):
        assert isinstance(place("auto", pieces, CPU), Host)
        assert isinstance(place("auto", small, CPU), Device)
    host, device = (record.getMessage() for record in caplog.records)
    assert "host (planes 0.000 GB, rows are copied out of their shards, which are read as needed)" in host
    assert "device (planes 0.000 GB, each one small map)" in device
    with pytest.raises(ConfigError, match='placement: there is no placement "gpu"'):
        place("gpu", small, CPU)


def test_a_host_checks_only_what_it_reads(pieces, monkeypatch):
    read, check = [], Array.check
    monkeypatch.setattr(Array, "check", lambda self, number, *found: (read.append(number), check(self, number, *found)))
    host = Host(open_store(pieces.path), CPU)
    for _ in range(2):
        host.rows(np.array([0]), np.array([[0, 5000]]), 100)
    assert read == [0, 0]  # of the bases and of what is ambiguous; the soft mask has no such chunk
