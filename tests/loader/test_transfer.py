"""Rooms that are used again, and arrays that are shared."""

import gc

import numpy as np
import pytest
import torch

from distgen.errors import ConfigError
from distgen.loader import transfer as module
from distgen.loader.transfer import Transfer, resident
from distgen.store.format import Layout
from tests.loader.test_gather import written


def test_a_room_is_used_again_when_nothing_looks_into_it_any_more():
    transfer = Transfer(torch.device("cpu"))
    room = transfer.room((4, 16), torch.float32)
    at, part = room.data_ptr(), room[2:].view(-1).numpy()
    del room
    gc.collect()
    assert transfer.room((4, 16), torch.float32).data_ptr() != at  # `part` still does
    del part
    gc.collect()
    again = [transfer.room((256,), torch.uint8) for _ in range(2)]
    assert at in [room.data_ptr() for room in again]
    assert len({room.data_ptr() for room in again}) == 2


def test_a_room_of_nothing_has_its_shape():
    room = Transfer(torch.device("cpu")).room((0, 3), torch.float16)
    assert (room.shape, room.dtype) == ((0, 3), torch.float16)


def test_few_rooms_wait(monkeypatch):
    monkeypatch.setattr(module, "_WAITING", 2)
    transfer = Transfer(torch.device("cpu"))
    rooms = [transfer.room((8,), torch.uint8) for _ in range(5)]
    rooms.clear()
    assert [len(waiting) for waiting in transfer._waiting.values()] == [2]


def test_who_asks_for_an_array_that_is_there_shares_it_and_the_last_who_drops_it_frees_it(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (1000, 2)).astype(np.uint8)
    values[200:300] = 0
    array = written(tmp_path, values, Layout((1000, 2), np.dtype("u1"), 100, 400, "zstd"))
    cpu, before = torch.device("cpu"), len(module._resident)
    (one,), (other,) = (resident([array], cpu, what="it", key="placement") for _ in range(2))
    assert one.data_ptr() == other.data_ptr()
    assert np.array_equal(one, values)
    assert len(module._resident) == before + 1
    del one, other
    gc.collect()
    assert len(module._resident) == before


def test_what_does_not_fit_is_refused_with_both_sizes(tmp_path, monkeypatch):
    array = written(tmp_path, np.ones((1 << 20, 8), np.uint8), Layout((1 << 20, 8), np.dtype("u1"), 1 << 16, 1 << 20))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (3_000_000, 0))
    message = (
        "placement: the planes: 0.00839 GB do not fit into the 0.003 GB that are free on cuda:1; leave them on the host"
    )
    with pytest.raises(ConfigError, match=message):
        resident([array], torch.device("cuda:1"), what="the planes", key="placement")
