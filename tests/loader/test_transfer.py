"""Rooms that are used again, arrays that are shared, and what is done on which stream."""

import gc
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from distgen import GenomeLoader
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


# ---- in which order a GPU does things -----------------------------------------------------------


class Sent(Transfer):
    """On a CPU, keeps book of what on a GPU would be done on which stream."""

    def __init__(self, device):
        super().__init__(device)
        self.inside, self.there, self.received = 0, set(), set()
        self.places = []  # of storages, which must not be used again meanwhile

    @contextmanager
    def beside(self):
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    def came(self, tensor):
        self.places.append(tensor.untyped_storage())
        self.there.add(tensor.untyped_storage().data_ptr())

    def send(self, tensor):
        self.came(tensor)
        return tensor

    use = receive = lambda self, *given: self.received.update(t.untyped_storage().data_ptr() for t in given[-1])


class Order(TorchDispatchMode):
    """Which operations on what was sent are not done on the stream on which it comes."""

    def __init__(self, transfer):
        super().__init__()
        self.transfer, self.early = transfer, []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        made = operation(*args, **(kwargs or {}))
        tensors = [tensor for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, torch.Tensor)]
        if not operation.is_view:
            if self.transfer.inside:
                for tensor in tree_leaves(made):
                    self.transfer.came(tensor)
            elif any(tensor.untyped_storage().data_ptr() in self.transfer.there for tensor in tensors):
                self.early.append(str(operation))
        return made


PERSONAL = {"personal": {"variants": "people", "unphased": "drawn"}}


@pytest.mark.parametrize(
    "asked",
    [
        {"placement": "host", "tracks": ("signal",)},
        {"placement": "device", "inputs": ("signal",)},
        {"placement": "device", "windows": PERSONAL},
        {"placement": "host", "windows": PERSONAL},
        {"windows": {"regions": {"source": "matrix:expr", "at": "whole"}}, "packed": True, "last": "wrap"},
    ],
)
def test_what_was_sent_is_worked_on_where_it_comes_and_waited_for_where_it_is_used(annotated, monkeypatch, asked):
    monkeypatch.setattr("distgen.loader.loader.Transfer", Sent)
    loader = GenomeLoader(annotated, window=1024, batch_size=3, split=None, **asked)
    transfer = loader._transfer
    with Order(transfer) as order:
        batches = loader.make(0, range(2)).received()
    assert not order.early
    for batch in batches:
        tensors = {name: value for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}
        for name in tensors.keys() - {"samples", "positions", "haplotypes"}:
            place = tensors[name].untyped_storage().data_ptr()
            assert place in transfer.received, name
            assert place in transfer.there or asked.get("placement") == "device", name
