"""Which windows a run takes, apart from their lengths."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from distgen.config.file import NotNegative, Section, Share, Strings

At = Literal["middle", "summit", "start", "end", "first", "tile"]


class Regions(Section):
    """Windows at regions instead of all along the split.

    `source` is a BED or narrowPeak file, relative to the run; `matrix:NAME`, the regions of a matrix of the store; or
    `contigs`, whole contigs, as the sequences of a table are. Windows are centred on each region (`at = "middle"`), its
    summit, its 5' end ("start": of transcripts, where transcription starts) or its 3' end; begin where it begins
    ("first"); or tile it ("tile") with `pad` bases more on either side.
    """

    source: str
    at: At = "middle"
    pad: NotNegative = 0

    @model_validator(mode="after")
    def _check(self) -> Regions:
        if self.pad and self.at != "tile":
            raise ValueError(f'pad widens what is tiled: it goes with at = "tile", not "{self.at}"')
        if self.at == "summit" and (self.source == "contigs" or self.source.startswith("matrix:")):
            raise ValueError(f'{self.source} has no summits: narrowPeak files do. Use at = "middle"')
        return self


class Windows(Section):
    """Which windows there are.

    A window is left out if more than `max_ambiguous` of its bases are N, or if stretches of the BED files `exclude`
    hold all of its target.
    """

    regions: Regions | None = None
    exclude: Strings = ()
    max_ambiguous: Share = 1.0
