import math

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from distgen.train.checkpoint import format, staging
from distgen.train.checkpoint.format import _DTYPES
from distgen.train.checkpoint.staging import Shares, Staging
from distgen.train.checkpoint.team import Team

SMALL = 256  # bytes of a file


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    monkeypatch.setattr(format, "FILE_BYTES", SMALL)
    monkeypatch.setattr(staging, "FILE_BYTES", SMALL)


def team(rank, size):
    made = Team()
    made.rank, made.size = rank, size
    return made


@st.composite
def tensors(draw):
    """Any types and shapes: scalars, empty ones, views that are not contiguous, larger than a file."""
    made = {}
    for number in range(draw(st.integers(0, 6))):
        shape = draw(st.lists(st.integers(0, 12), max_size=3))
        values = torch.arange(math.prod(shape)).reshape(shape) % 120
        made[f"t{number}"] = values.to(draw(st.sampled_from(list(_DTYPES.values())))).transpose(0, -1 if shape else 0)
    return made


def bits(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8).tolist()


def box(piece):
    return tuple(slice(begin, begin + size) for begin, size in zip(piece.offsets, piece.sizes, strict=True))


@given(tensors(), st.integers(1, 5))
def test_every_value_is_written_by_one_worker(tensors, size):
    counts = {name: torch.zeros(tensor.shape, dtype=torch.int64) for name, tensor in tensors.items()}
    written, names = [], set()
    for rank in range(size):
        mine = Shares(team(rank, size)).mine(tensors)
        written.append(sum(piece.bytes for piece in mine))
        for piece in mine:
            counts[piece.name][box(piece)] += 1
            names.add(piece.name)
    assert all((count == 1).all() for count in counts.values())
    assert names == set(tensors)
    rows = [t[0].nbytes for t in tensors.values() if t.ndim and len(t)]
    assert max(written) - min(written) <= max([SMALL, *rows])  # the largest piece


@given(tensors())
def test_staged_files_are_safetensors_of_the_pieces(tensors):
    mine = Shares(Team()).mine(tensors)
    files = Staging(pinned=False).stage(mine, tensors)
    assert sorted(map(repr, mine)) == sorted(repr(piece) for file in files for piece in file.pieces)
    for file in files:
        assert len(file.pieces) == 1 or sum(piece.bytes for piece in file.pieces) <= SMALL
        there = safetensors.torch.load(bytes(file.content))
        assert there.keys() == {piece.key for piece in file.pieces}
        for piece in file.pieces:
            assert there[piece.key].dtype == piece.dtype
            assert there[piece.key].shape == piece.sizes
            assert bits(there[piece.key]) == bits(tensors[piece.name][box(piece)])


def test_a_copy_stays_as_it_is_when_the_tensor_changes_and_its_memory_serves_the_next():
    kept, tensors = Staging(pinned=False), {"weight": torch.zeros(100)}
    mine = Shares(Team()).mine(tensors)
    first = kept.stage(mine, tensors)
    before = [bytes(file.content) for file in first]
    tensors["weight"] += 1
    assert [bytes(file.content) for file in first] == before
    second = kept.stage(mine, tensors)
    assert [bytes(file.content) for file in second] != before
    assert [bytes(file.content) for file in second] == [bytes(file.content) for file in first]
