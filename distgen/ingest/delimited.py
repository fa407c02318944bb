"""Text tables in blocks of rows: CSV, TSV, and FASTA as if it were one.

CSV and TSV are plain or gzip, in UTF-8, with RFC 4180 quotes but no line end inside them. The delimiter is told by the
suffix .tsv or .tab, otherwise by the first line (comma in .csv; tab, comma or semicolon). Blanks around a field are no
part of it, blank lines are no rows. Every row has as many fields as the header, or one more where the header has no name
for the first column (R's write.table).

In FASTA the fields of a header, parted by "|" or else by blanks, are the columns `id`, `label` and `split` (as many as
the first record has), the letters are the column `sequence`.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from distgen.errors import ConfigError, SourceError, suggest
from distgen.genome import Int64
from distgen.ingest.lines import LONGEST, read_lines

BLOCK = 1 << 22
_NOTHING = ("", "na", "n/a", "nan", "null")
_FASTA = ("id", "label", "split")


@dataclass(frozen=True)
class Rows:
    """Some rows of a table.

    Args:
        path: the file.
        lines: int64 (n,), the line of each row, 1-based.
        columns: strings (n,) without blanks around them, or one series of lists: all fields of each row.
    """

    path: Path
    lines: Int64
    columns: list[pl.Series]

    def where(self, row: int) -> str:
        """Where a row stands, for messages."""
        return f"{self.path}:{self.lines[row]}"

    def refuse(self, bad: npt.ArrayLike, values: pl.Series, what: str) -> None:
        """Raise SourceError for the first row of a mask (n,), if there is one, with its value."""
        if (rows := np.flatnonzero(bad)).size:
            value = str(values[int(rows[0])])
            raise SourceError(f'{self.where(rows[0])}: "{value[:40]}" {what}')


def is_missing(values: pl.Series) -> pl.Series:
    """Where a field holds no value: empty, NA, N/A, NaN or null, in any case."""
    return values.str.to_lowercase().is_in(_NOTHING)


def numbers(rows: Rows, values: pl.Series) -> npt.NDArray[np.float32]:
    """The numbers of a column of `rows`, NaN where missing.

    Raises:
        SourceError: a field is neither missing nor a number that float32 holds.
    """
    missing = is_missing(values).to_numpy()
    with np.errstate(over="ignore"):
        found = values.cast(pl.Float64, strict=False).fill_null(np.nan).to_numpy().astype(np.float32)
    rows.refuse(~np.isfinite(found) & ~missing, values, "is no number that float32 holds")
    return found


def read_named(path: Path, wanted: Sequence[str | int], block: int = BLOCK) -> Iterator[Rows]:
    """Some columns of a table: by name, or by 0-based number if the file has no header.

    Raises:
        ConfigError: there is no such column, or two are called so. SourceError: as `read_table`.
    """
    for columns, rows in read_table(path, not any(isinstance(column, int) for column in wanted), block):
        found = []
        for name in map(str, wanted):
            if name not in columns:
                raise ConfigError(f'{path}: no column is called "{name}". {suggest(name, columns)}')
            if columns.count(name) > 1:
                raise ConfigError(f'{path}: {columns.count(name)} columns are called "{name}"')
            found.append(rows.columns[0].list.get(columns.index(name)).str.strip_chars())
        yield Rows(path, rows.lines, found)


def read_table(path: Path, header: bool, block: int = BLOCK) -> Iterator[tuple[list[str], Rows]]:
    """The columns' names (their numbers without a header), and the rows as one series of lists of fields.

    Args:
        path: the file.
        header: the first line names the columns.
        block: bytes of text at a time.

    Raises:
        SourceError: a row is ragged or badly quoted, a line is endless, the file holds no row or is no UTF-8 text.
    """
    columns: list[str] = []
    delimiter, width = "", 0
    blocks = read_lines(path, "rows", comments=False, strict=True, block=block)
    for lines in blocks:
        first = lines["text"][0]
        if not delimiter and first.lstrip().startswith(">"):
            yield from _read_fasta(path, chain((lines,), blocks, (lines.clear(),)))
            return
        delimiter = delimiter or _delimiter(path, first)
        numbers, fields = lines["line"].to_numpy().astype(np.int64), _fields(path, lines, delimiter)
        if header and not columns:
            columns = [name.strip() for name in fields[0]]
            numbers, fields = numbers[1:], fields[1:]
        if not len(numbers):
            continue
        if not width:
            width = len(fields[0])
            columns = columns or [str(number) for number in range(width)]
            columns = [""] * (width == len(columns) + 1) + columns
            width = len(columns)
        counts = fields.list.len().to_numpy()
        if (bad := np.flatnonzero(counts != width)).size:
            raise SourceError(f"{path}:{numbers[bad[0]]}: {counts[bad[0]]} fields where the table has {width} columns")
        yield columns, Rows(path, numbers, [fields])
    if not width:
        raise SourceError(f"{path}: the file holds no rows below its header")


def _fields(path: Path, lines: pl.DataFrame, delimiter: str) -> pl.Series:
    text = lines["text"]
    if not text.str.contains('"', literal=True).any():
        return text.str.split(delimiter)
    # Quotes around whole fields that hold neither quotes nor delimiters say nothing: such rows need no parser.
    field = f'(?: *"[^"{delimiter}]*"|[^"{delimiter}]*)'
    simple = text.str.contains(f"^{field}(?:{delimiter}{field})*$")
    rows = lines.filter(simple).select("line", fields=pl.col("text").str.replace_all('"', "").str.split(delimiter))
    parsed: list[list[str]] = []
    for line, row in lines.filter(~simple).iter_rows():
        try:
            parsed += csv.reader([row], delimiter=delimiter, strict=True, skipinitialspace=True)
        except csv.Error as error:
            raise SourceError(
                f"{path}:{line}: {error} (a quoted field ends in its line, a quote in it is doubled)"
            ) from None
    others = lines.filter(~simple).select("line", fields=pl.Series(parsed, dtype=pl.List(pl.String)))
    return pl.concat([rows, others]).sort("line")["fields"]


def _delimiter(path: Path, first: str) -> str:
    name = path.name.lower().removesuffix(".gz").removesuffix(".bgz")
    if name.endswith((".tsv", ".tab")):
        return "\t"
    return next((mark for mark in (",\t;" if name.endswith(".csv") else "\t,;") if mark in first), ",")


def _read_fasta(path: Path, blocks: Iterable[pl.DataFrame]) -> Iterator[tuple[list[str], Rows]]:
    """The records of blocks of lines, of which the last one is empty."""
    columns: list[str] = []
    rest: list[pl.DataFrame] = []
    for lines in blocks:
        table = pl.concat([*rest, lines])
        begins = table["text"].str.starts_with(">")
        begins[0] = True  # blanks before the first
        last = int(begins.arg_true()[-1]) if len(lines) else len(table)
        rest = [table[last:]]
        if rest[0]["text"].str.len_bytes().sum() > LONGEST:
            raise SourceError(
                f"{path}:{rest[0]['line'][0]}: a record of more than 64 MiB; tables are of short sequences"
            )
        if not last:
            continue
        records = table[:last].group_by(begins[:last].cum_sum().alias("record"), maintain_order=True)
        whole = records.agg(
            pl.col("line").first(),
            head=pl.col("text").first(),
            letters=pl.col("text").slice(1).str.join("").str.replace_all(r"\s", ""),
        )
        heads = []
        for line, head in whole.select("line", "head").iter_rows():
            name = head.strip().removeprefix(">")
            fields = [field.strip() for field in (name.split("|") if "|" in name else name.split())]
            columns = columns or [*_FASTA[: len(fields)], "sequence"]
            if not fields:
                raise SourceError(f"{path}:{line}: a header without a name; write >id|label")
            if len(fields) < len(columns) - 1:
                raise SourceError(
                    f"{path}:{line}: {len(fields)} fields in the header, {len(columns) - 1} in the first record's"
                )
            heads.append(fields[: len(columns) - 1])
        series = [pl.Series(column, dtype=pl.String) for column in zip(*heads, strict=True)]
        rows = pl.select(pl.concat_list([*series, whole["letters"]])).to_series()
        yield columns, Rows(path, whole["line"].to_numpy().astype(np.int64), [rows])
