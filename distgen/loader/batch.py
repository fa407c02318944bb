"""What the loader hands to training."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distgen.genome import Bits, Contigs, Int64, Interval

_PER_ROW = ("starts", "limits", "reverse", "keys", "samples", "weight", "positions", "haplotypes", "source")


@dataclass(frozen=True)
class Segments:
    """Which of the samples lies where in rows that hold several, packed one after another.

    Args:
        bounds: int32 (g + 1,), where segments begin, and the last ends, among all bases of the rows on end, from 0 to B *
            length: what attention over segments takes (`cu_seqlens`). What is left of a row is a segment, too.
        owners: int64 (g,), the sample in each segment, counted from 0 in this batch; -1 for what is left of a row.
        lengths: int64 (s,), bases of each sample.
        reverse: bool (s,), True where it is read from the other strand.
    """

    bounds: Tensor
    owners: Tensor
    lengths: Tensor
    reverse: Tensor


@dataclass(frozen=True)
class Batch:
    """One rank's rows of a global batch; the fields are what the kernels take.

    Where rows hold several samples, `segments` says which lies where, `samples` and `positions` are (s,), and so are the
    first axes of `targets` and `mask`.

    Args:
        plane: uint8 (bytes,), 2 bits a base; the whole genome or the gathered rows.
        starts: int64 (B,), first base of each window in `plane`.
        limits: int64 (B, 2), the bases of `plane` that each window may read.
        length: bases per window.
        target_length: bases in the window's middle that are predicted.
        reverse: bool (B,), True where the window is read from the other strand.
        ambiguous: uint8 (bytes,) or None, 1 bit a base; None where no base is ambiguous.
        softmask: uint8 (bytes,) or None, likewise.
        keys: int64 (B,), for counter-based draws; a function of seed, epoch and sample.
        samples: int64 (B,), which sample of the epoch each row is.
        weight: float32 (B,), 0 for a row that only pads the last batch.
        targets: per track (B, bins, classes), in the window's orientation.
        mask: per track bool (B, bins, 1) or (B, bins, columns), True where the target is known.
        inputs, inputs_mask: likewise of tracks along the whole window, for the model to see.
        positions: int64 (B,), first base of each window in the assembly's flat coordinate.
        contigs: the assembly's.
        haplotypes: int64 (B,), the haplotype each window is read in: 2 * sample + 0 or 1; None where it is the assembly.
        source: int64 (B,), the row of each row's store in its collection; None where there is one store only.
        segments: the samples in rows of several; None where each row is one.
    """

    plane: Tensor
    starts: Tensor
    limits: Tensor
    length: int
    target_length: int
    reverse: Tensor
    ambiguous: Tensor | None
    softmask: Tensor | None
    keys: Tensor
    samples: Tensor
    weight: Tensor
    targets: dict[str, Tensor]
    mask: dict[str, Tensor]
    inputs: dict[str, Tensor]
    inputs_mask: dict[str, Tensor]
    positions: Tensor
    contigs: Contigs
    haplotypes: Tensor | None = None
    source: Tensor | None = None
    segments: Segments | None = None

    def __len__(self) -> int:
        return self.starts.numel()

    def __getstate__(self) -> dict[str, Any]:
        """Without the batches that were made in the same go and lie in the same memory."""
        return {entry.name: _alone(getattr(self, entry.name)) for entry in fields(self)}

    @property
    def packed(self) -> dict[str, Any]:
        """The windows as the kernels take them: `kernels.tokens(**batch.packed)`."""
        names = ("plane", "starts", "length", "reverse", "ambiguous", "limits")
        return {name: getattr(self, name) for name in names}

    def stretch(self, first: int, end: int) -> dict[str, Any]:
        """The bases [first, end) of each window, counted as it is read: `packed` of these alone."""
        begins = torch.where(self.reverse, self.length - end, first)
        return self.packed | {"starts": self.starts + begins, "length": end - first}

    def rows(self, start: int, end: int) -> Batch:
        """Some rows, without a copy; beyond the last a row that weighs nothing. Not of rows that hold several samples."""
        if start == 0 and end >= len(self):
            return self
        assert self.segments is None
        empty = start >= len(self)
        some = slice(0, 1) if empty else slice(start, end)
        cut: dict[str, Any] = {name: getattr(self, name)[some] for name in _PER_ROW if getattr(self, name) is not None}
        for name in ("targets", "mask", "inputs", "inputs_mask"):
            cut[name] = {key: tensor[some] for key, tensor in getattr(self, name).items()}
        if empty:
            cut["weight"] = torch.zeros_like(cut["weight"])
        return replace(self, **cut)

    def to(self, device: torch.device | str) -> Batch:
        """The batch with all that kernels and models take on another device."""
        # Nobody waits for what is on its way to the host: it is read there before it has come.
        there: dict[str, Any] = {"device": device, "non_blocking": torch.device(device).type != "cpu"}
        moved: dict[str, Any] = {}
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, dict):
                moved[entry.name] = {name: tensor.to(**there) for name, tensor in value.items()}
            elif isinstance(value, Tensor) and entry.name not in ("samples", "positions", "haplotypes", "source"):
                moved[entry.name] = value.to(**there)
            elif isinstance(value, Segments):
                moved[entry.name] = replace(value, bounds=value.bounds.to(**there), owners=value.owners.to(**there))
        return replace(self, **moved)

    def where(self) -> list[Interval]:
        """Contig, start, end and strand of each sample; a window that sticks out of its contig at the left starts below 0."""
        if self.segments is not None:
            lengths = self.segments.lengths.numpy()
            limits = self.positions.numpy()[:, None] + np.stack([np.zeros_like(lengths), lengths], axis=1)
            return places(self.contigs, self.positions.numpy(), limits, self.segments.reverse.numpy(), lengths)
        shift = self.positions - self.starts.cpu()  # limits are in the coordinate of `plane`, positions in the flat one
        limits = (self.limits.cpu() + shift[:, None]).numpy()
        return places(self.contigs, self.positions.numpy(), limits, self.reverse.cpu().numpy(), self.length)


def _alone(value: Any) -> Any:
    """What a field holds, each tensor without what else lies in its memory."""
    if isinstance(value, dict):
        return {name: _alone(tensor) for name, tensor in value.items()}
    if isinstance(value, Segments):
        return Segments(*(_alone(getattr(value, entry.name)) for entry in fields(value)))
    larger = isinstance(value, Tensor) and value.untyped_storage().nbytes() > value.nbytes
    return value.clone() if larger else value


def places(contigs: Contigs, positions: Int64, limits: Int64, reverse: Bits, length: int | Int64) -> list[Interval]:
    """Contig, start, end and strand of windows of `length` bases (all, or int64 (n,) each) from flat `positions` (n,) on, of
    which the bases in flat `limits` (n, 2) are read."""
    inside = np.minimum(np.maximum(positions, limits[:, 0]), limits[:, 1] - 1)
    rows = contigs.locate(inside)
    starts = positions - contigs.offsets[rows]
    columns = (rows.tolist(), starts.tolist(), (starts + length).tolist(), reverse.tolist())
    return [
        Interval(contigs.names[row], start, end, "-" if backward else "+")
        for row, start, end, backward in zip(*columns, strict=True)
    ]
