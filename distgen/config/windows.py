"""What a sample is: where windows lie, how long they are, and which one comes when."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Literal

from pydantic import Field, model_validator

from distgen.config.file import Name, NotNegative, Positive, Section, Share, Strings, TableError
from distgen.errors import ConfigError

At = Literal["middle", "summit", "start", "end", "exon", "whole", "tile"]


class Regions(Section):
    """Windows at regions instead of all along the split.

    `source` is a BED or narrowPeak file, or a GTF or GFF3 file or SpliceAI's table of transcripts (.tsv) for its genes,
    relative to the run; `matrix:NAME`, the regions of a matrix of the store; `track:NAME`, the stretches of bins that have any
    class of a track; or `contigs`, whole contigs, as the sequences of a table are. Windows are centred on each region
    (`at = "middle"`), its summit, each of its exons ("exon": of genes), its 5' end ("start": of genes, where transcription
    starts) or its 3' end; hold it from its first base on ("whole") and N around it; or tile it ("tile") with `pad` bases more
    on either side.
    """

    source: str
    at: At = "middle"
    pad: NotNegative = 0

    @model_validator(mode="after")
    def _check(self) -> Regions:
        if self.pad and self.at != "tile":
            raise ValueError(f'pad widens what is tiled: it goes with at = "tile", not "{self.at}"')
        return self


class Pool(Section):
    """Windows that are drawn from in proportion to `share`: classes that are to be balanced.

    A pool has windows at regions (`source`, `at` and `pad` as in `[data.regions]`); or it has for each window of the pool
    that it `matches` one whose GC and N content differ by at most `tolerance`, drawn anew each time that pool is
    through (`drawn = "fixed"`: once); or, with neither, all windows that are elsewhere. The last two keep `distance`
    bases away from the regions of every pool.
    """

    name: Name
    share: Annotated[float, Field(gt=0)] = 1.0
    source: str | None = None
    at: At = "middle"
    pad: NotNegative = 0
    matches: Name | None = None
    distance: NotNegative = 0
    tolerance: Share = 0.02
    drawn: Literal["epoch", "fixed"] = "epoch"

    @property
    def regions(self) -> Regions | None:
        """Where its windows lie, if they lie at regions."""
        return None if self.source is None else Regions(source=self.source, at=self.at, pad=self.pad)

    @model_validator(mode="after")
    def _check(self) -> Pool:
        if self.source is not None and self.matches is not None:
            raise ValueError("a pool has a source or matches another one, not both")
        others = ("distance", "tolerance", "drawn") if self.source else ("at", "pad")
        # What a run directory keeps has every key: those as they are by default ask for nothing.
        asked = [key for key in others if getattr(self, key) != type(self).model_fields[key].default]
        if asked:
            raise ValueError(f"{', '.join(asked)}: not of a pool {'with' if self.source else 'without'} a source")
        _ = self.regions
        return self


class Personal(Section):
    """Windows as the haplotypes of samples have them, each haplotype once an epoch.

    `variants` is a set of the store; `samples` are all of it if left out. Heterozygous genotypes without phase are refused,
    taken as they are "listed", or "drawn". Insertions and deletions are served if the set keeps them.
    """

    variants: str
    samples: Annotated[tuple[str, ...], Field(strict=False)] | None = None
    unphased: Literal["refuse", "listed", "drawn"] = "refuse"


class Windows(Section):
    """Which windows there are.

    Samples come from the windows of `pool`s in their shares, else from those at `regions`, else from all of the split.

    A window is left out if more than `max_ambiguous` of its bases are N, or if stretches of the BED files `exclude`
    hold all of its target. Where they hold a part of it, the bins of tracks that touch them are masked. Bases stay what
    they are, seen and predicted: what is wrong with such a stretch is what was measured there, not its sequence.
    """

    regions: Regions | None = None
    pool: Annotated[tuple[Pool, ...], Field(strict=False)] = ()
    personal: Personal | None = None
    exclude: Strings = ()
    max_ambiguous: Share = 1.0

    @model_validator(mode="after")
    def _fit(self) -> Windows:
        if self.pool and self.regions:
            raise ValueError("pools have regions of their own: leave out [data.regions]")
        placed = [pool.name for pool in self.pool if pool.source is not None]
        names = [pool.name for pool in self.pool]
        if len(set(names)) < len(names):
            raise ValueError("pools need different names")
        for number, pool in enumerate(self.pool):
            if pool.matches is not None and pool.matches not in placed:
                raise TableError(f'there is no pool "{pool.matches}" with a source', "pool", number, "matches")
        if self.pool and not placed:
            raise ValueError("at least one pool needs a source")
        return self


class Lengths(Section):
    """What `epochs` epochs have: bases per window, of which the `target_length` in the middle are predicted (all of them
    if that is left out), and from one target to the next (`target_length` if that is left out)."""

    epochs: Positive
    window: Positive
    target_length: Positive | None = None
    stride: Positive | None = None


class Sample(Windows):
    """What a sample is, and which one comes when; lengths in bases.

    `window` is 1,024 if it is left out, and for a table of sequences as long as the longest. The lengths of `curriculum`,
    one table for so many epochs, come first; those of the sample itself come after and stay. `batch_size` is global: all
    workers together.

    `packed`: regions at "whole", or the sequences of a table, stand one after another in rows of `window` bases, as many
    as have room; `batch_size` counts rows.
    """

    window: Positive | None = None
    target_length: Positive | None = None
    stride: Positive | None = None
    curriculum: Annotated[tuple[Lengths, ...], Field(strict=False)] = ()
    packed: bool = False
    batch_size: Positive = 32
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    strand: Literal["forward", "region", "random", "both"] = "forward"
    jitter: NotNegative = 0
    inputs: Strings = ()
    order: Literal["flat", "grouped", "sequential"] = "flat"
    lanes: Positive | None = None
    last: Literal["drop", "pad", "wrap"] = "drop"


def check_lengths(
    lengths: Lengths, jitter: int, bins: list[tuple[str, int]], along: Collection[str] = ()
) -> tuple[int, int, int]:
    """Window, target and stride, in bases, where none of them and no jitter goes against the others or a track.

    Args:
        lengths: as asked for.
        jitter: bases.
        bins: name and `bin_bp` of each track.
        along: those of them that are served along the whole window.

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
        if track in along and (window - target_length) // 2 % bin_bp:
            below = target_length + (window - target_length) // (2 * bin_bp) * 2 * bin_bp
            problem = f'{window} does not begin on a bin of the input track "{track}" with bin_bp {bin_bp}'
            raise ConfigError(f"{problem}. Use {below} or {below + 2 * bin_bp}.", key="window")
    return window, target_length, stride
