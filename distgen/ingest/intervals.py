"""Intervals to features: BED with 3 to 12 columns, ENCODE narrowPeak and broadPeak.

Specifications: BED 1.0 (GA4GH), narrowPeak and broadPeak (ENCODE, UCSC). Columns are parted by tabs or blanks; what stands
after those that are needed is left alone. A line with `start` equal to `end` marks a place between two bases and
so no base at all: it is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from distgen.errors import SourceError
from distgen.genome import Contigs, Int64
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


@dataclass(frozen=True)
class Listed:
    """The intervals of one file, line by line.

    Args:
        rows: int64 (n,), which interval of the file each is, counted from 0: those on other contigs are missing.
        contig: int32 (n,), row in the contig table.
        start, end: int64 (n,), 0-based half-open positions in the contig.
        strand: int8 (n,), 1 for +, -1 for -, 0 for none.
        summit: int64 (n,), position in the contig; None where it was not asked for.
        skipped: how many intervals lie on contigs that the table lacks, by the name the file has for them.
    """

    rows: Int64
    contig: npt.NDArray[np.int32]
    start: Int64
    end: Int64
    strand: npt.NDArray[np.int8]
    summit: Int64 | None
    skipped: dict[str, int]


def read_listed(path: Path, contigs: Contigs, *, summit: bool = False) -> Listed:
    """The intervals of a BED, narrowPeak or broadPeak file in the file's order, with their strands, which all lines have
    if the first one has.

    Args:
        path: the file, as `read_intervals` takes it.
        contigs: the assembly's.
        summit: read column 10 of narrowPeak.

    Raises:
        SourceError: as `read_intervals`; a strand is none of + - and .
    """
    names, tables, first = Names(contigs, path), list[pl.DataFrame](), 0
    for table in _read(path, None, 0 if summit else None, blocks=False, strand=True):
        tables.append(names.locate(table.with_row_index("row", first)))
        first += len(table)
    names.known()
    table = pl.concat(tables)
    columns = {key: table[key].to_numpy() for key in ("row", "contig", "start", "end", "strand")}
    rows, contig, start, end, strand = columns.values()
    summits = table["summit"].to_numpy() if summit else None
    return Listed(rows.astype(np.int64), contig, start, end, strand, summits, dict(names.skipped))


def _read(
    path: Path, value: str | None, summit: int | None, blocks: bool, strand: bool = False
) -> Iterator[pl.DataFrame]:
    """Blocks of checked intervals: line, contig, start, end, and `value`, `summit` and `strand` where asked for."""
    head = next(read_lines(path, "intervals", block=_HEAD))["text"][0]
    form = _form(path, head)
    _refuse_absent(path, form, value, summit, blocks)
    stranded = strand and len(_fields(head)) >= _BED.index("strand") + 1
    columns = _needed(form, value, summit, blocks, stranded)
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
        if strand:
            table = table if stranded else table.with_columns(strand=pl.lit("."))
            refuse(path, table, ~pl.col("strand").is_in(["+", "-", "."]), "the strand (column 6) must be + - or .")
            table = table.with_columns(pl.col("strand").replace_strict({"+": 1, "-": -1, ".": 0}, return_dtype=pl.Int8))
            kept.append("strand")
        yield (_blocks(path, table) if blocks else table).select(kept)


def _needed(form: str, value: str | None, summit: int | None, blocks: bool, stranded: bool) -> dict[str, Any]:
    """Name and type of the columns up to the last one that is asked for."""
    last = "blockStarts" if blocks else "peak" if summit is not None else value or ("strand" if stranded else "end")
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
    return "narrowPeak" if len(_fields(line)) == 10 else "BED"


def _fields(line: str) -> list[str]:
    return line.split("\t" if "\t" in line else None)


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
