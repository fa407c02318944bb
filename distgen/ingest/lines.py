"""Text files as blocks of numbered lines, their typed columns, and the contigs that they name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from distgen.errors import SourceError
from distgen.genome import Contigs
from distgen.ingest.open import BLOCK, read_blocks

LONGEST = 1 << 26  # bytes of a line or of a record: what is longer is no text, or would fill the memory
_NO_TEXT = {
    b"\r": "a carriage return inside a line; lines must end in LF or CRLF",
    b"\0": "this is no text (it holds zero bytes); a text file is saved as UTF-8",
}
_KINDS = {pl.Int64: "an integer", pl.Float32: "a number"}
_BLANK = r"^\s*$"
_DOUBTFUL = r"\s|^(?:#|track$|browser$)"
_NO_RECORD = r"^(?:\s*$|#|(?:track|browser)(?:\s|$))"


def read_lines(
    path: Path, what: str, *, comments: bool = True, strict: bool = False, block: int = BLOCK
) -> Iterator[pl.DataFrame]:
    """The lines of a text file, plain, gzip or bgzip, block by block; blank ones are left out.

    Args:
        path: the file.
        what: what its lines are, for messages ("intervals").
        comments: lines of "#", "track" and "browser" are left out, too.
        strict: other bytes than UTF-8 are refused; otherwise they are read as the replacement character.
        block: bytes read at a time.

    Returns:
        Tables of `line` (counts from 1) and `text`, none of them empty.

    Raises:
        SourceError: the file cannot be read, is no text, has a line of more than 64 MiB, or holds no lines.
    """
    left_out, found = _NO_RECORD if comments else _BLANK, False
    for number, data in _blocks(path, what, block):
        lines = _lines(path, number, data, strict).filter(~pl.col("text").str.contains(left_out))
        if len(lines):
            found = True
            yield lines
    if not found:
        raise _nothing(path, what)


def _nothing(path: Path, what: str) -> SourceError:
    lines = sum(data.count(b"\n") for _, data in _blocks(path, what, BLOCK))
    return SourceError(f"{path}: the file holds no {what}" + (f" (lines: {lines:,})" if lines else ": it is empty"))


def _blocks(path: Path, what: str, block: int) -> Iterator[tuple[int, bytes]]:
    """The number of the first of some whole lines, and these lines; they end in LF."""
    number, rest = 1, b""
    for data in chain(read_blocks(path, block), (b"",)):
        data = data or b"\n" * bool(rest)  # the last line may lack its end
        end = data.rfind(b"\n") + 1
        lines, rest = (rest + data[:end], data[end:]) if end else (b"", rest + data)
        if number == 1:
            lines = lines.removeprefix(b"\xef\xbb\xbf")
        if b"\r" in lines:
            lines = lines.replace(b"\r\n", b"\n")
        for byte, problem in _NO_TEXT.items():
            if (at := lines.find(byte)) >= 0:
                line = number + lines.count(b"\n", 0, at)
                raise SourceError(f"{path}:{line}: {problem}")
        if lines:
            yield number, lines
        number += lines.count(b"\n")
        if len(rest) > LONGEST:
            raise SourceError(f"{path}:{number}: the line has more than {LONGEST >> 20} MiB: this is no file of {what}")


def _lines(path: Path, number: int, data: bytes, strict: bool) -> pl.DataFrame:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        if strict:
            line = number + data.count(b"\n", 0, error.start)
            raise SourceError(
                f"{path}:{line}: this is no UTF-8 text (byte 0x{data[error.start]:02x}); save it as UTF-8"
            ) from None
        text = data.decode(errors="replace")
    return pl.Series("text", [text]).str.split("\n").explode().to_frame().with_row_index("line", number)


# ---- columns --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Format:
    """What the lines of a kind of file look like.

    Args:
        name: for messages.
        columns: name and type (String, Int64 or Float32) of the columns that every line must have.
        more: further columns may follow, and are left out.
        bed: columns may be parted by blanks, and `start` and `end` are 0-based and half-open: a line like BED's.
        stop: a regular expression; the first line that it matches, and what follows, are left out.
    """

    name: str
    columns: Mapping[str, Any]
    more: bool = False
    bed: bool = True
    stop: str | None = None


def read_columns(path: Path, form: Format, what: str, block: int = BLOCK) -> Iterator[pl.DataFrame]:
    """The lines of a text file in typed columns, block by block; blank lines and comments are left out.

    Args:
        path: plain, gzip or bgzip.
        form: what its lines look like.
        what: what they are, for messages ("intervals").
        block: bytes read at a time.

    Returns:
        Tables of `line` (counts from 1) and the format's columns, none of them empty.

    Raises:
        SourceError: as `read_lines`; a line has other columns, or one that is not of its type; a stretch like BED's
            begins before its contig or holds no base.
    """
    found = ended = False
    for number, data in _blocks(path, what, block):
        table = _quick(data, number, form)
        if table is None:
            table, ended = _careful(path, _lines(path, number, data, strict=False), form)
        if form.bed:
            wrong = (pl.col("start") < 0) | (pl.col("end") <= pl.col("start"))
            refuse(path, table, wrong, "start is at least 0 and below end, which is not included")
        if len(table):
            found = True
            yield table
        if ended:
            break
    if not found:
        raise _nothing(path, what)


def _quick(data: bytes, number: int, form: Format) -> pl.DataFrame | None:
    """The lines where each one is well formed; None where there is any doubt."""
    first = data[: data.find(b"\n")]
    separator = " " if form.bed and b"\t" not in data else "\t"
    extra = {f"_{i}": pl.String for i in range(len(form.columns), first.count(separator.encode()) + 1)}
    if extra and not form.more:
        return None
    schema = {**form.columns, **extra}
    try:
        table = pl.read_csv(data, has_header=False, separator=separator, quote_char=None, schema=schema)
    except (pl.exceptions.PolarsError, OSError):
        return None
    table = table.select(form.columns.keys())
    if len(table) != data.count(b"\n") or table.null_count().sum_horizontal()[0]:
        return None
    if table.to_series(0).unique().str.contains(_DOUBTFUL).any():
        return None
    return table.with_row_index("line", number)


def _careful(path: Path, lines: pl.DataFrame, form: Format) -> tuple[pl.DataFrame, bool]:
    """The same for any lines, and whether the file ends here; knows what is wrong with a line."""
    tail = lines.filter(pl.col("text").str.contains(form.stop)) if form.stop else lines.clear()
    lines = lines.filter(pl.col("line") < tail["line"][0]) if len(tail) else lines
    lines = lines.filter(~pl.col("text").str.contains(_NO_RECORD))
    names = [*form.columns, "_more"]

    def split(text: pl.Expr) -> pl.DataFrame:
        fields = text.str.splitn("\t", len(names)).struct.rename_fields(names)
        return lines.select("line", fields.alias("_fields")).unnest("_fields")

    table = split(pl.col("text"))
    short = table[names[-2]].is_null()
    if form.bed and short.any():
        by_blanks = pl.col("text").str.strip_chars().str.replace_all(r"\s+", "\t")
        table = split(pl.when(short).then(by_blanks).otherwise("text"))
    wrong = pl.col(names[-2]).is_null() | (pl.lit(not form.more) & pl.col("_more").is_not_null())
    has = f"{len(form.columns)} columns{' or more' if form.more else ''} ({', '.join(form.columns)})"
    refuse(path, table, wrong, f"a line of {form.name} has {has}, parted by tabs{' or blanks' if form.bed else ''}")
    for number, (name, kind) in enumerate(form.columns.items(), 1):
        if kind in _KINDS:
            table = table.with_columns(pl.col(name).str.strip_chars(" ").cast(kind, strict=False))
            refuse(path, table, pl.col(name).is_null(), f"{name} (column {number}) must be {_KINDS[kind]}")
    return table.drop("_more"), len(tail) > 0


def refuse(path: Path, table: pl.DataFrame, wrong: pl.Expr, problem: str) -> None:
    """Raise SourceError with `problem` and the text of the first line of `table` for which `wrong` is true."""
    bad = table.filter(wrong).head(1)
    if len(bad):
        line = int(bad["line"][0])
        raise SourceError(f"{path}:{line}: {problem}: {_text(path, line)[:80]!r}")


def _text(path: Path, line: int) -> str:
    """The text of a line. It is only asked for after an error: keeping it while reading costs time."""
    for number, data in _blocks(path, "lines", BLOCK):
        texts = data.split(b"\n")
        if line < number + len(texts) - 1:
            return texts[line - number].decode(errors="replace")
    raise AssertionError(f"{path} has changed while it was read")


# ---- contigs --------------------------------------------------------------------------------


class Names:
    """Which contigs the names in one file mean, told block by block for a file that has no header.

    Attributes:
        skipped: how much lies on contigs that the assembly lacks, by the name the file has for them.
    """

    def __init__(self, contigs: Contigs, path: Path):
        self._contigs, self._path = contigs, path
        self._lengths = pl.Series(contigs.lengths)
        self._circular = pl.Series(contigs.circular or [False] * len(contigs)).cast(pl.Int64)
        self._rows: dict[str, int] = {}
        self.skipped: Counter[str] = Counter()

    def locate(self, table: pl.DataFrame, count: pl.Expr | None = None, *, around: bool = False) -> pl.DataFrame:
        """The lines of `table` (contig, start, end, line, ...) on the assembly's contigs, `contig` as Int32 rows there.

        Args:
            count: what of the other lines is added up in `skipped`; by default they are counted.
            around: on a circular contig a feature may reach over the origin: its end is then beyond the contig's.

        Raises:
            SourceError: a line leaves its contig.
        """
        names = table["contig"].unique(maintain_order=True).to_list()
        for name in names:
            if name not in self._rows:
                self._rows[name] = self._row(name)
        rows = table["contig"].replace_strict(names, [self._rows[name] for name in names]).cast(pl.Int32)
        if (rows < 0).any():
            outside = table.filter(rows < 0).group_by("contig").agg(pl.len() if count is None else count.sum())
            self.skipped.update(dict(outside.iter_rows()))
            table, rows = table.filter(rows >= 0), rows.filter(rows >= 0)
        lengths = self._lengths.gather(rows)
        most = lengths * (1 + self._circular.gather(rows)) if around else lengths
        over = table.filter((table["end"] > most) | (table["start"] >= lengths)).head(1)
        if len(over):
            name = over["contig"][0]
            raise SourceError(
                f'{self._path}:{over["line"][0]}: the feature ends at {over["end"][0]:,}, contig "{name}" of the '
                f"assembly has {self._contigs.lengths[self._rows[name]]:,} bases: the file is of another assembly"
                + (", or the contig is circular ([contigs] circular)" if around else "")
            )
        return table.with_columns(rows)

    def _row(self, name: str) -> int:
        try:
            return int(self._contigs.rows([name], str(self._path))[0])
        except SourceError:  # unknown alone; `known` says so if all of them are
            return -1

    def known(self) -> npt.NDArray[np.bool_]:
        """bool (C,): the contigs that were named.

        Raises:
            SourceError: none was, or two names mean one contig.
        """
        rows = self._contigs.rows(list(self._rows), str(self._path))
        known = np.zeros(len(self._contigs), np.bool_)
        known[rows[rows >= 0]] = True
        return known
