"""Windows that several workers share: each has a slice, and takes what it needs of the others'."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

Interval = tuple[int, int]


@dataclass(frozen=True)
class Context:
    """One of `size` workers that share each window; the one of `rank` has its slice number `rank`.

    Everything a model does at each position is done on slices as it is on windows. What looks at other positions asks for
    them here: one all-to-all that sends each worker what it needs and no more, forward, and its gradient back. So the
    output and every gradient, summed over the workers, are those of the whole window, whatever a layer's reach: halos may
    be wider than a slice. (Other ways: decode each slice with all of a network's receptive field, which is computed twice;
    ring attention, Liu et al. 2023, which saves memory where keys and values of a whole window don't fit. Families here
    attend to pooled positions, of which a million bases have a few thousand.)

    Args:
        group: the process group of these workers, in the order of their ranks.
        rank, size: in that group.
    """

    group: dist.ProcessGroup
    rank: int
    size: int

    def part(self, length: int) -> Interval:
        """The bases [first, end) of a window of so many that are this worker's."""
        return self.rank * length // self.size, (self.rank + 1) * length // self.size

    def widen(self, x_BLD: Tensor, left: int, right: int) -> Tensor:
        """A slice with so many positions more on both sides, those of its neighbours; zeros beyond the window's ends.

        Args:
            x_BLD: (B, slice, D), on all workers of the same shape; called by all of them.

        Returns:
            (B, left + slice + right, D).
        """
        own, window = x_BLD.shape[1], x_BLD.shape[1] * self.size
        wide = self._gather(x_BLD, lambda rank: (max(rank * own - left, 0), min((rank + 1) * own + right, window)))
        before, after = max(left - self.rank * own, 0), max((self.rank + 1) * own + right - window, 0)
        return torch.nn.functional.pad(wide, (0, 0, before, after)) if before or after else wide

    def whole(self, x_BLD: Tensor) -> Tensor:
        """The whole window (B, size * slice, D) of which each worker has a slice (B, slice, D); called by all of them."""
        return self._gather(x_BLD, lambda rank: (0, x_BLD.shape[1] * self.size))

    def _gather(self, x_BLD: Tensor, needed: Callable[[int], Interval]) -> Tensor:
        """The positions of the window that each rank needs, its own among them."""
        B, own, D = x_BLD.shape

        def common(owner: int, rank: int) -> Interval:
            """What a rank needs of the owner's slice, counted in that."""
            first, end = needed(rank)
            begin = min(max(first - owner * own, 0), own)
            return begin, max(min(end - owner * own, own), begin)

        ranks = range(self.size)
        others = [(0, 0) if rank == self.rank else common(self.rank, rank) for rank in ranks]
        taken = [0 if rank == self.rank else B * D * _size(common(rank, self.rank)) for rank in ranks]
        sent = torch.cat([x_BLD[:, begin:end].reshape(-1) for begin, end in others])
        given = [B * D * _size(interval) for interval in others]
        received: Tensor = _Exchange.apply(sent, taken, given, self.group)  # type: ignore[no-untyped-call]
        # Parts of no length stay: a worker that received nothing takes part in the way back, too.
        parts = [part.view(B, part.numel() // (B * D), D) for part in received.split(taken)]
        parts[self.rank] = x_BLD
        return torch.cat(parts, dim=1)


class _Exchange(torch.autograd.Function):
    """Each rank's part of a flat tensor to that rank; the gradient goes back the same way."""

    @staticmethod
    def forward(ctx: Any, sent: Tensor, taken: list[int], given: list[int], group: dist.ProcessGroup) -> Tensor:
        ctx.taken, ctx.given, ctx.group = taken, given, group
        received = sent.new_empty(sum(taken))
        dist.all_to_all_single(received, sent, taken, given, group=group)
        return received

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        returned = gradient.new_empty(sum(ctx.given))
        dist.all_to_all_single(returned, gradient.contiguous(), ctx.given, ctx.taken, group=ctx.group)
        return returned, None, None, None


def _size(interval: Interval) -> int:
    return interval[1] - interval[0]


def dealt(count: int) -> tuple[int, int, int]:
    """Of so many things that all workers deal among them, those [first, end) that are this one's; and how many workers
    there are."""
    rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    return rank * count // size, (rank + 1) * count // size, size
