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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from distgen.errors import ConfigError, SourceError, suggest
from distgen.genome import Int64
from distgen.ingest.open import read_blocks

BLOCK = 1 << 22
MISSING = ("", "na", "n/a", "nan", "null")
_LONGEST = 1 << 26
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

    def refuse(self, bad: npt.ArrayLike, values: pl.Series, what: str) -> None:
        """Raise SourceError for the first row of a mask (n,), if there is one, with its value."""
        if (rows := np.flatnonzero(bad)).size:
            value = str(values[int(rows[0])])
            raise SourceError(f'{self.path}:{self.lines[rows[0]]}: "{value[:40]}" {what}')


def is_missing(values: pl.Series) -> pl.Series:
    """Where a field holds no value: empty, NA, N/A, NaN or null, in any case."""
    return values.str.to_lowercase().is_in(MISSING)


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


def read_columns(path: Path, wanted: Sequence[str | int], block: int = BLOCK) -> Iterator[Rows]:
    """Some columns of a table: by name, or by 0-based number if the file has no header.

    Raises:
        ConfigError: there is no such column, or two are called so. SourceError: as `read_table`.
    """
    for columns, rows in read_table(path, not any(isinstance(column, int) for column in wanted), block):
        found = []
        for name in map(str, wanted):
            if columns.count(name) != 1:
                what = "two columns are" if name in columns else "no column is"
                raise ConfigError(f'{path}: {what} called "{name}". {suggest(name, columns)}')
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
    for line, text in _chunks(path, block, "\n"):
        if not width and text.lstrip().startswith(">"):
            yield from _read_fasta(path, block)
            return
        kept = [(number, row) for number, row in enumerate(text.split("\n"), line) if row.strip(" \r")]
        delimiter = delimiter or _delimiter(path, kept[0][1])
        lines, fields = np.array([number for number, _ in kept], np.int64), _fields(path, kept, delimiter)
        if header and not columns:
            columns = [name.strip() for name in fields[0]]
            lines, fields = lines[1:], fields[1:]
        if not len(lines):
            continue
        if not width:
            width = len(fields[0])
            columns = columns or [str(number) for number in range(width)]
            columns = [""] * (width == len(columns) + 1) + columns
            width = len(columns)
        counts = fields.list.len().to_numpy()
        if (bad := np.flatnonzero(counts != width)).size:
            raise SourceError(f"{path}:{lines[bad[0]]}: {counts[bad[0]]} fields where the table has {width} columns")
        yield columns, Rows(path, lines, [fields])
    if not width:
        raise SourceError(f"{path}: the table holds no row")


def _fields(path: Path, rows: list[tuple[int, str]], delimiter: str) -> pl.Series:
    texts = [text.rstrip("\r") for _, text in rows]
    if not any('"' in text for text in texts):
        return pl.Series(texts, dtype=pl.String).str.split(delimiter)
    found: list[list[str]] = []
    for (line, _), text in zip(rows, texts, strict=True):
        try:
            found += csv.reader([text], delimiter=delimiter, strict=True, skipinitialspace=True)
        except csv.Error as error:
            raise SourceError(
                f"{path}:{line}: {error} (a quoted field ends in its line, a quote in it is doubled)"
            ) from None
    return pl.Series(found, dtype=pl.List(pl.String))


def _delimiter(path: Path, first: str) -> str:
    name = path.name.lower().removesuffix(".gz").removesuffix(".bgz")
    if name.endswith((".tsv", ".tab")):
        return "\t"
    return next((mark for mark in (",\t;" if name.endswith(".csv") else "\t,;") if mark in first), ",")


def _chunks(path: Path, block: int, mark: str) -> Iterator[tuple[int, str]]:
    """The text in pieces that are not blank, each with the number of its first line, cut after the line end in `mark`."""
    rest, line = b"", 1
    for data in read_blocks(path, block):
        if b"\0" in data:
            raise SourceError(f"{path}: this is no UTF-8 text (it holds zero bytes); save it as UTF-8")
        rest += data
        cut = rest.rfind(mark.encode()) + 1
        if rest[:cut].strip():
            yield line, _text(path, rest[:cut], line)
            line += rest.count(b"\n", 0, cut)
            rest = rest[cut:]
        if len(rest) > _LONGEST:
            raise SourceError(f"{path}:{line}: a row of more than 64 MiB; the table is for short sequences")
    if rest.strip():
        yield line, _text(path, rest, line)


def _text(path: Path, data: bytes, line: int) -> str:
    try:
        return (data.removeprefix(b"\xef\xbb\xbf") if line == 1 else data).decode()
    except UnicodeDecodeError as error:
        line += data.count(b"\n", 0, error.start)
        raise SourceError(
            f"{path}:{line}: this is no UTF-8 text (byte 0x{data[error.start]:02x}); save it as UTF-8"
        ) from None


def _read_fasta(path: Path, block: int) -> Iterator[tuple[list[str], Rows]]:
    columns: list[str] = []
    for line, text in _chunks(path, block, "\n>"):
        records = text.lstrip()
        line += text.count("\n", 0, len(text) - len(records))
        lines, found = [], []
        for record in records[1:].split("\n>"):
            head, _, letters = record.partition("\n")
            fields = [field.strip() for field in (head.split("|") if "|" in head else head.split())]
            columns = columns or [*_FASTA[: len(fields)], "sequence"]
            if not fields or len(fields) < len(columns) - 1:
                raise SourceError(
                    f"{path}:{line}: {len(fields)} fields in the header, {len(columns) - 1} in the first record's"
                )
            lines.append(line)
            found.append([*fields[: len(columns) - 1], "".join(letters.split())])
            line += record.count("\n") + 1
        series = [pl.Series(column, dtype=pl.String) for column in zip(*found, strict=True)]
        yield columns, Rows(path, np.array(lines, np.int64), [pl.select(pl.concat_list(series)).to_series()])
