"""Lines of stretches (contig, start, end, ...), block by block, each with its line number."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from distgen.errors import SourceError
from distgen.genome import Contigs, Int64
from distgen.ingest.open import BLOCK, read_blocks

_NO_RECORD = re.compile(rb"#.*|(?:track|browser)(?:\s.*)?|\s*")
_HEAD = re.compile(rb"(?:(?:#[^\n]*|(?:track|browser)(?:[ \t\r][^\n]*)?|[ \t\r]*)\n)*")
_INTEGER = re.compile(rb"-?\d{1,18}")
_FLOAT = re.compile(rb"[+-]?(?:\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?|nan|inf|infinity)", re.IGNORECASE)


def read_rows(
    path: Path, schema: dict[str, Any], what: str, *, more: bool = False, block: int = BLOCK
) -> Iterator[pl.DataFrame]:
    """The records of a text file, plain or gzip, a block at a time; parted by tabs or blanks.

    Args:
        path: the file. Lines that are blank or begin with `#`, `track` or `browser` are no records.
        schema: name and type (String, Int64 or Float32) of each column.
        what: the format's name, for messages.
        more: further columns may follow and are left out.
        block: bytes read at a time.

    Returns:
        Tables of the schema's columns and `line` (UInt32, from 1), none of them empty and without nulls.

    Raises:
        SourceError: a line is malformed, or there is no record.
    """
    line, rest, found = 1, b"", False
    for data in chain(read_blocks(path, block), (None,)):
        text = rest + (data or b"")
        end = len(text) if data is None else text.rfind(b"\n") + 1
        text, rest = text[:end], text[end:]
        if len(rest) > BLOCK:
            long = line + text.count(b"\n")
            raise SourceError(f"{path}:{long}: the line does not end; this is no {what} file")
        if not text:
            continue
        table = _quick(text, line, schema, more)
        if table is None:
            table = _careful(path, text, line, schema, what, more)
        line += text.count(b"\n")
        found = found or len(table) > 0
        if len(table):
            yield table.select(*schema, "line")
    if not found:
        raise SourceError(f"{path}: the file holds no {what} records")


def _quick(text: bytes, line: int, schema: dict[str, Any], more: bool) -> pl.DataFrame | None:
    """The records where every line is one and is well formed; None where there is any doubt."""
    match = _HEAD.match(text)
    head = match.end() if match else 0
    text, line = text[head:], line + text.count(b"\n", 0, head)
    first = text.partition(b"\n")[0]
    separator = b"\t" if b"\t" in first else b" "
    extra = {f"_{i}": pl.String for i in range(len(schema), first.count(separator) + 1)}
    if extra and not more:
        return None
    try:
        table = pl.read_csv(
            text, has_header=False, separator=separator.decode(), quote_char=None, schema={**schema, **extra}
        )
    except (pl.exceptions.PolarsError, OSError):
        return None
    if (
        len(table) != text.count(b"\n") + (not text.endswith(b"\n"))
        or table.select(*schema).null_count().sum_horizontal()[0]
    ):
        return None
    if table["contig"].str.contains("^#|^track|^browser|[ \t]").any():
        return None
    return table.with_columns(line=pl.int_range(line, line + len(table), dtype=pl.UInt32))


def _careful(path: Path, text: bytes, line: int, schema: dict[str, Any], what: str, more: bool) -> pl.DataFrame:
    """The same line by line; knows what is wrong with a line."""
    rows, lines = [], []
    for number, content in enumerate(text.split(b"\n"), line):
        if _NO_RECORD.fullmatch(content.rstrip()):
            continue
        fields = content.split()
        patterns = {pl.Int64: _INTEGER, pl.Float32: _FLOAT}
        if (len(fields) < len(schema) or (len(fields) > len(schema) and not more)) or not all(
            kind not in patterns or patterns[kind].fullmatch(field)
            for field, kind in zip(fields, schema.values(), strict=False)
        ):
            raise SourceError(
                f"{path}:{number}: this is no {what} line ({', '.join(schema)}{', ...' if more else ''}; parted by tabs, "
                f"start and end are integers): {content[:80].decode(errors='replace')!r}"
            )
        rows.append([_PARSE[kind](field) for field, kind in zip(fields, schema.values(), strict=False)])
        lines.append(number)
    table = pl.DataFrame(rows, schema=schema, orient="row")
    return table.with_columns(line=pl.Series(lines, dtype=pl.UInt32))


_PARSE: dict[Any, Any] = {pl.Int64: int, pl.Float32: float, pl.String: lambda field: field.decode(errors="replace")}


class Names:
    """Which contigs the names of a file mean, told line by line for a file that has no header."""

    def __init__(self, contigs: Contigs, path: Path):
        self._contigs, self._path = contigs, path
        self._rows: dict[str, int] = {}

    def stretches(self, table: pl.DataFrame) -> Int64:
        """The row of each line's contig, -1 where the assembly lacks it.

        Raises:
            SourceError: `start` and `end` of a line (0-based, half-open) are no stretch of its contig.
        """
        for name in table["contig"].unique(maintain_order=True).to_list():
            if name not in self._rows:
                self._rows[name] = self._row(name)
        rows = table["contig"].replace_strict(self._rows, return_dtype=pl.Int64).to_numpy()
        start, end = table["start"].to_numpy(), table["end"].to_numpy()
        bad = np.flatnonzero((start < 0) | (start >= end) | ((rows >= 0) & (end > self._contigs.lengths[rows])))
        if bad.size:
            i = int(bad[0])
            contig = f'contig "{table["contig"][i]}"'
            if rows[i] >= 0:
                contig += f", which has {self._contigs.lengths[rows[i]]:,} bases"
            raise SourceError(
                f"{self._path}:{table['line'][i]}: {start[i]}-{end[i]} (0-based, half-open) is no stretch of {contig}"
            )
        return rows

    def _row(self, name: str) -> int:
        try:
            return int(self._contigs.rows([name], str(self._path))[0])
        except SourceError:  # unknown alone; `known` says so if all of them are
            return -1

    @staticmethod
    def lacking(table: pl.DataFrame, rows: Int64, count: pl.Expr) -> Iterator[tuple[str, int]]:
        """The names of contigs that the assembly lacks (row -1) and the sum of `count` on each."""
        outside = table.filter(pl.Series(rows < 0))
        yield from outside.group_by("contig", maintain_order=True).agg(count.sum()).iter_rows()

    def known(self) -> npt.NDArray[np.bool_]:
        """bool (C,): the contigs that were named.

        Raises:
            SourceError: none was, or two names mean one contig.
        """
        rows = self._contigs.rows(list(self._rows), str(self._path))
        known = np.zeros(len(self._contigs), np.bool_)
        known[rows[rows >= 0]] = True
        return known
