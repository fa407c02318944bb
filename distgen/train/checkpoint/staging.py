"""Which worker writes what, and the copies that are written while training goes on."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from distgen.train.checkpoint.format import FILE_BYTES, Piece, header, pieces
from distgen.train.checkpoint.team import Team


class Shares:
    """What each worker writes: every piece is written once, and all write about as many bytes.

    Args:
        team: the workers.
    """

    def __init__(self, team: Team):
        self._team = team
        self._told: list[Piece] | None = None
        self._of_all: list[list[Piece]] = []

    def mine(self, tensors: dict[str, Tensor]) -> list[Piece]:
        """The pieces that this worker is to write; all workers together."""
        alike = [p for name, tensor in tensors.items() if not isinstance(tensor, DTensor) for p in pieces(name, tensor)]
        split = [p for name, tensor in tensors.items() if isinstance(tensor, DTensor) for p in pieces(name, tensor)]
        if any(isinstance(tensor, DTensor) for tensor in tensors.values()) and split != self._told:
            # Which worker holds what stays as it is at the first save: later ones wait for nobody.
            self._told, self._of_all = split, self._team.all(lambda: split)
        holders: dict[Piece, list[int]] = defaultdict(list)
        for rank, theirs in enumerate(self._of_all):
            for piece in theirs:
                holders[piece].append(rank)
        mine, load = [], [0] * self._team.size
        for piece in _largest_first(holders):
            rank = min(holders[piece], key=load.__getitem__)
            load[rank] += piece.bytes
            mine += [piece] if rank == self._team.rank else []
        heap = [(bytes_, rank) for rank, bytes_ in enumerate(load)]
        heapq.heapify(heap)
        for piece in _largest_first(alike):
            bytes_, rank = heap[0]
            heapq.heapreplace(heap, (bytes_ + piece.bytes, rank))
            mine += [piece] if rank == self._team.rank else []
        return mine


def _largest_first(found: Iterable[Piece]) -> list[Piece]:
    return sorted(found, key=lambda piece: (-piece.bytes, piece.name, piece.offsets))


@dataclass(frozen=True)
class Staged:
    """A file to be written.

    Args:
        pieces: what it holds.
        content: all of it.
    """

    pieces: list[Piece]
    content: memoryview


class Staging:
    """Copies of tensors as the files that hold them; a copy is overwritten by the next.

    Args:
        pinned: tensors are on a CUDA device, from where they are copied while this process goes on.
    """

    def __init__(self, pinned: bool):
        self._pinned = pinned
        self._buffers: list[Tensor] = []
        self._copied: torch.cuda.Event | None = None

    def stage(self, mine: list[Piece], tensors: dict[str, Tensor]) -> list[Staged]:
        """Copy pieces of tensors, that they may change; `wait` before the copies are read."""
        files = [(parts, header(parts)) for parts in _files(mine)]
        sizes = [len(head) + sum(piece.bytes for piece in parts) for parts, head in files]
        if sizes != [buffer.numel() for buffer in self._buffers]:
            self._buffers = []  # the old ones go first
            self._buffers = [torch.empty(size, dtype=torch.uint8, pin_memory=self._pinned) for size in sizes]
        for (parts, head), buffer in zip(files, self._buffers, strict=True):
            end = len(head)
            buffer[:end] = torch.frombuffer(bytearray(head), dtype=torch.uint8)
            for piece in parts:
                begin, end = end, end + piece.bytes
                place = buffer[begin:end].view(piece.dtype).view(piece.sizes)
                place.copy_(piece.of(tensors[piece.name].detach()), non_blocking=self._pinned)
        if self._pinned:
            # The next step's kernels wait for these copies in the same stream: they change nothing that is still copied.
            self._copied = torch.cuda.Event()
            self._copied.record()
        return [Staged(parts, buffer.numpy().data) for (parts, _), buffer in zip(files, self._buffers, strict=True)]

    def wait(self) -> None:
        """Return when all copies are made."""
        if self._copied is not None:
            self._copied.synchronize()


def _files(mine: list[Piece]) -> list[list[Piece]]:
    """Pieces for each file: a tensor's and its neighbours' together, so that a part of the names is read from few files."""
    files: list[list[Piece]] = []
    size = 0
    for piece in sorted(mine, key=lambda piece: (piece.name, piece.offsets)):
        if not files or size + piece.bytes > FILE_BYTES:
            files.append([])
            size = 0
        files[-1].append(piece)
        size += piece.bytes
    # Wider types first: each value is then aligned without a gap, which safetensors does not allow.
    return [sorted(parts, key=lambda piece: -piece.dtype.itemsize) for parts in files]
