"""Intervals to features: BED with 3 to 12 columns, ENCODE narrowPeak and broadPeak.

Specifications: BED 1.0 (GA4GH), narrowPeak and broadPeak (ENCODE, UCSC). Columns are parted by tabs; what stands
after those that are needed is left alone. A line with `start` equal to `end` marks a place between two bases and
so no base at all: it is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from distgen.errors import SourceError
from distgen.genome import Contigs
from distgen.ingest.features import Features, Sightings, gather, read_lines, refuse, split_columns

_BED = ("contig", "start", "end", "name", "score", "strand")
_COLUMNS = {
    "BED": (*_BED, "thickStart", "thickEnd", "itemRgb", "blockCount", "blockSizes", "blockStarts"),
    "narrowPeak": (*_BED, "signalValue", "pValue", "qValue", "peak"),
    "broadPeak": (*_BED, "signalValue", "pValue", "qValue"),
}


def read_intervals(
    paths: Sequence[Path],
    contigs: Contigs,
    *,
    value: Literal["score", "signalValue"] | None = None,
    summit: int | None = None,
    blocks: bool = False,
) -> Features:
    """The intervals of several BED, narrowPeak or broadPeak files: column k holds those of file k.

    A file is narrowPeak or broadPeak if its name says so or, for narrowPeak, if it has ten columns; otherwise BED.
    Plain, gzip and bgzip files are read; lines of "#", "track" and "browser" are left out.

    Args:
        paths: the files, with 0-based half-open positions.
        contigs: the assembly's. `Features.skipped` counts the intervals on other contigs, of all files.
        value: the column that becomes `Features.value`: "score" (column 5), or "signalValue" of peaks (column 7).
        summit: stretches are the peaks' summits (column 10 of narrowPeak) and so many bases on both sides, 2n + 1 in
            all, as far as they lie in the contig. A summit at the peak's end, as SPP writes some, counts.
        blocks: stretches are the blocks of each line (columns 10 to 12 of BED) rather than the whole.

    Raises:
        SourceError: a file has no intervals or lacks a column that is asked for; a line is malformed, holds no
            base or leaves its contig; no contig is known.
    """
    parts, skipped = [], Counter[str]()
    for column, path in enumerate(paths):
        sightings = Sightings(path)
        tables = [_compact(sightings.number(table)) for table in _read(path, value, summit, blocks)]
        if not tables:
            raise SourceError(f"{path}: the file holds no intervals")
        rows, elsewhere = sightings.rows(contigs)
        skipped.update(elsewhere)
        table = pl.concat(tables, how="vertical_relaxed")
        table = table.with_columns(pl.Series("contig", rows[table["contig"].to_numpy()], pl.Int32))
        table = table.filter(pl.col("contig") >= 0) if elsewhere else table
        parts.append(table.with_columns(klass=pl.lit(column, pl.Int16)))
    table = pl.concat(parts, how="vertical_relaxed")
    if summit is not None:
        length = pl.Series(contigs.lengths).gather(table["contig"])
        middle = pl.col("summit")
        table = table.with_columns(start=(middle - summit).clip(0), end=pl.min_horizontal(middle + summit + 1, length))
    contig, start, end, klass = (table[key].to_numpy() for key in ("contig", "start", "end", "klass"))
    values = None if value is None else table["value"].to_numpy()
    return gather(contig, start, end, klass, dict(skipped), value=values)


def _read(path: Path, value: str | None, summit: int | None, blocks: bool) -> Iterator[pl.DataFrame]:
    """Blocks of checked intervals: line, contig, start, end, and `value` and `summit` where asked for."""
    form = None
    for lines in read_lines(path):
        lines = lines.filter(~pl.col("text").str.contains(r"^(#|track\b|browser\b)"))
        if lines.is_empty():
            continue
        if form is None:
            form = _form(path, lines["text"][0])
            _refuse_absent(path, form, value, summit, blocks)
        table = split_columns(lines, (*_COLUMNS[form], "more"))
        refuse(path, table, pl.col("end").is_null(), f"a line of {form} has three columns or more, parted by tabs")
        start, end = pl.col("start"), pl.col("end")
        table = table.with_columns(pl.col("start", "end").cast(pl.Int64, strict=False))
        refuse(path, table, start.is_null() | end.is_null(), "start and end (columns 2 and 3) must be integers")
        refuse(path, table, (start < 0) | (end <= start), "start is at least 0 and below end, which is not included")
        columns = ["line", "contig", "start", "end"]
        if value is not None:
            number = _COLUMNS[form].index(value) + 1
            table = table.with_columns(value=pl.col(value).cast(pl.Float32, strict=False))
            infinite = ~pl.col("value").is_finite().fill_null(False)
            refuse(path, table, infinite, f"{value} (column {number}) must be a number")
            columns.append("value")
        if summit is not None:
            offset = pl.col("peak").cast(pl.Int64, strict=False).fill_null(-1)
            outside = (offset < 0) | (offset > end - start)
            refuse(path, table, outside, "the summit (column 10) must lie in the peak; -1 means that there is none")
            table = table.with_columns(summit=start + offset)
            columns.append("summit")
        yield (_blocks(path, table) if blocks else table).select(columns)


def _compact(table: pl.DataFrame) -> pl.DataFrame:
    """`table` without line numbers, positions in 32 bits where they fit: files of 10^7 intervals are common."""
    wide = table["end"].to_numpy().max() > np.iinfo(np.int32).max
    return table.drop("line").with_columns(pl.col("start", "end").cast(pl.Int64 if wide else pl.Int32))


def _form(path: Path, line: str) -> str:
    """What kind of file it is, a key of _COLUMNS: told by the name or else by the number of columns."""
    for form in ("narrowPeak", "broadPeak"):
        if f".{form.lower()}" in path.name.lower():
            return form
    return "narrowPeak" if line.count("\t") == 9 else "BED"


def _refuse_absent(path: Path, form: str, value: str | None, summit: int | None, blocks: bool) -> None:
    told = "by the name .narrowPeak or .broadPeak, or by ten columns"
    if value is not None and value not in _COLUMNS[form]:
        raise SourceError(f"{path}: {form} has no {value}: narrowPeak and broadPeak do, told {told}")
    if summit is not None and form != "narrowPeak":
        raise SourceError(f"{path}: {form} has no summits: narrowPeak does, told {told}")
    if blocks and form != "BED":
        raise SourceError(f"{path}: {form} has no blocks: BED with twelve columns does")


def _blocks(path: Path, table: pl.DataFrame) -> pl.DataFrame:
    """A row for each block of BED lines with twelve columns."""
    sizes, starts = pl.col("blockSizes"), pl.col("blockStarts")
    refuse(path, table, starts.is_null(), "blocks are in columns 10 to 12, which this line lacks")
    split = pl.col("blockSizes", "blockStarts").str.strip_suffix(",").str.split(",")
    count = pl.col("blockCount").cast(pl.Int64, strict=False)
    table = table.with_columns(split.cast(pl.List(pl.Int64), strict=False), blockCount=count)
    different = pl.col("blockCount").is_null() | (sizes.list.len() != pl.col("blockCount"))
    different |= starts.list.len() != pl.col("blockCount")
    refuse(path, table, different, "blockSizes and blockStarts (columns 11 and 12) must hold blockCount integers each")
    table = table.with_columns(whole=pl.col("end")).explode("blockSizes", "blockStarts")
    table = table.with_columns(start=pl.col("start") + starts, end=pl.col("start") + starts + sizes)
    inside = (starts >= 0) & (sizes > 0) & (pl.col("end") <= pl.col("whole"))
    refuse(
        path, table, ~inside.fill_null(False), "each block must be integers, hold a base and lie in its line's stretch"
    )
    return table
