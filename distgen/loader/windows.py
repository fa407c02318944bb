"""Which stretch of the assembly window w is: arithmetic over regions, no list of windows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from distgen.config import Lengths
from distgen.errors import ConfigError
from distgen.genome import Bits, Contigs, Int64


class Located(NamedTuple):
    """Where windows are.

    Args:
        target_starts: int64 (n,), flat: first base of each window's target.
        limits: int64 (n, 2), flat: the bases the window may read, also after jitter: a stretch of its part of the split.
        reverse: bool (n,), the region's own strand is the minus strand; None where windows have no strand.
        rows: int64 (n,), row of the table the windows come from; None for tiles.
        haplotypes: int64 (n,), which of the haplotypes the window is read in; None where there is the assembly alone.
    """

    target_starts: Int64
    limits: Int64
    reverse: Bits | None = None
    rows: Int64 | None = None
    haplotypes: Int64 | None = None


class Windows(Protocol):
    """Numbered windows of one length."""

    @property
    def window(self) -> int:
        """Bases per window."""

    @property
    def target_length(self) -> int:
        """Bases of the target in its middle."""

    def __len__(self) -> int:
        """How many there are."""

    def locate(self, windows: Int64) -> Located:
        """Where the windows of these numbers (n,) are."""


@dataclass(frozen=True)
class Tiles:
    """Windows whose targets tile regions.

    Targets of a region begin at its start and follow each other every `stride` bases until the region
    is covered. A window lies centred on its target; what sticks out of the region is outside the
    window's limits and reads as N, so that no base of another part of a split is ever seen.

    Args:
        regions: int64 (R, 2), flat, each inside one contig.
        window: bases per window.
        target_length: bases per target, at most `window`.
        stride: bases from one target to the next.
    """

    regions: Int64
    window: int
    target_length: int
    stride: int
    _ends: Int64 = field(init=False)

    def __post_init__(self) -> None:
        lengths = self.regions[:, 1] - self.regions[:, 0]
        covering = np.maximum(-(-(lengths - self.target_length) // self.stride), 0) + 1
        counts = np.minimum(covering, -(-lengths // self.stride))  # each begins inside, also where strides leave gaps
        object.__setattr__(self, "_ends", np.cumsum(counts))

    def __len__(self) -> int:
        return int(self._ends[-1])

    def locate(self, windows: Int64) -> Located:
        """Where the windows of these numbers (n,) are."""
        rows = np.searchsorted(self._ends, windows, side="right")
        number = windows - np.r_[0, self._ends][rows]
        return Located(self.regions[rows, 0] + number * self.stride, self.regions[rows])


def align(regions: Int64, contigs: Contigs, bin_bp: int) -> Int64:
    """Shrink each region to begin on a bin: the first multiple of `bin_bp` bases in its contig."""
    offsets = contigs.offsets[contigs.locate(regions[:, 0])]
    starts = offsets + -(-(regions[:, 0] - offsets) // bin_bp) * bin_bp
    aligned = np.stack([starts, regions[:, 1]], axis=1)
    return aligned[aligned[:, 0] < aligned[:, 1]]


def check_lengths(lengths: Lengths, jitter: int, bins: list[tuple[str, int]]) -> tuple[int, int, int]:
    """Window, target and stride, in bases, where none of them and no jitter goes against the others or a track.

    Args:
        lengths: as asked for.
        jitter: bases.
        bins: name and `bin_bp` of each track.

    Raises:
        ConfigError: names the key and the nearest good values.
    """
    window = lengths.window
    target_length = window if lengths.target_length is None else lengths.target_length
    stride = target_length if lengths.stride is None else lengths.stride
    if target_length > window:
        raise ConfigError(f"{target_length} is more than the window of {window}", key="target_length")
    if (window - target_length) % 2:
        raise ConfigError(
            f"{target_length} does not lie in the middle of a window of {window}. "
            f"Use {target_length - 1} or {target_length + 1}.",
            key="target_length",
        )
    for track, bin_bp in bins:
        for key, value in {"target_length": target_length, "stride": stride, "jitter": jitter}.items():
            if value % bin_bp:
                below = value // bin_bp * bin_bp
                good = f"{below} or {below + bin_bp}" if below or key == "jitter" else f"{bin_bp}"
                problem = f'{value} is no multiple of track "{track}" with bin_bp {bin_bp}. Use {good}.'
                raise ConfigError(problem, key=key)
    return window, target_length, stride
