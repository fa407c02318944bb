"""Intervals to features: BED with 3 to 12 columns, ENCODE narrowPeak and broadPeak.

Specifications: BED 1.0 (GA4GH), narrowPeak and broadPeak (ENCODE, UCSC). Columns are parted by tabs or blanks; what stands
after those that are needed is left alone. A line with `start` equal to `end` marks a place between two bases and
so no base at all: it is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from distgen.errors import SourceError
from distgen.genome import Contigs
from distgen.ingest.features import Features, gather
from distgen.ingest.lines import Format, Names, read_columns, read_lines, refuse

_HEAD = 1 << 16  # bytes that tell what kind of file it is
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
        names = Names(contigs, path)
        tables = [_compact(names.locate(table)) for table in _read(path, value, summit, blocks)]
        names.known()
        skipped.update(names.skipped)
        parts += [table.with_columns(klass=pl.lit(column, pl.Int16)) for table in tables]
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
    form = _form(path, next(read_lines(path, "intervals", block=_HEAD))["text"][0])
    _refuse_absent(path, form, value, summit, blocks)
    columns = _needed(form, value, summit, blocks)
    for table in read_columns(path, Format(form, columns, more=True), "intervals"):
        start, end = pl.col("start"), pl.col("end")
        kept = ["line", "contig", "start", "end"]
        if value is not None:
            finite = pl.col(value).is_finite()
            refuse(path, table, ~finite, f"{value} (column {list(columns).index(value) + 1}) must be a finite number")
            table = table.with_columns(value=pl.col(value))
            kept.append("value")
        if summit is not None:
            outside = (pl.col("peak") < 0) | (pl.col("peak") > end - start)
            refuse(path, table, outside, "the summit (column 10) must lie in the peak; -1 means that there is none")
            table = table.with_columns(summit=start + pl.col("peak"))
            kept.append("summit")
        yield (_blocks(path, table) if blocks else table).select(kept)


def _needed(form: str, value: str | None, summit: int | None, blocks: bool) -> dict[str, Any]:
    """Name and type of the columns up to the last one that is asked for."""
    last = "blockStarts" if blocks else "peak" if summit is not None else value or "end"
    names = _COLUMNS[form][: _COLUMNS[form].index(last) + 1]
    types = {"start": pl.Int64, "end": pl.Int64, "peak": pl.Int64, "blockCount": pl.Int64, value: pl.Float32}
    return {name: types.get(name, pl.String) for name in names}


def _compact(table: pl.DataFrame) -> pl.DataFrame:
    """`table` without line numbers, positions in 32 bits where they fit: files of 10^7 intervals are common."""
    wide = table["end"].to_numpy().max(initial=0) > np.iinfo(np.int32).max
    return table.drop("line").with_columns(pl.col("start", "end").cast(pl.Int64 if wide else pl.Int32))


def _form(path: Path, line: str) -> str:
    """What kind of file it is, a key of _COLUMNS: told by the name or else by the number of columns."""
    for form in ("narrowPeak", "broadPeak"):
        if f".{form.lower()}" in path.name.lower():
            return form
    return "narrowPeak" if len(line.split("\t" if "\t" in line else None)) == 10 else "BED"


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
    sizes, starts, count = pl.col("blockSizes"), pl.col("blockStarts"), pl.col("blockCount")
    split = pl.col("blockSizes", "blockStarts").str.strip_suffix(",").str.split(",")
    table = table.with_columns(split.cast(pl.List(pl.Int64), strict=False))
    different = (sizes.list.len() != count) | (starts.list.len() != count)
    refuse(path, table, different, "blockSizes and blockStarts (columns 11 and 12) must hold blockCount integers each")
    table = table.with_columns(whole=pl.col("end")).explode("blockSizes", "blockStarts")
    table = table.with_columns(start=pl.col("start") + starts, end=pl.col("start") + starts + sizes)
    inside = (starts >= 0) & (sizes > 0) & (pl.col("end") <= pl.col("whole"))
    refuse(
        path, table, ~inside.fill_null(False), "each block must be integers, hold a base and lie in its line's stretch"
    )
    return table
