"""Text files as blocks of numbered lines, their typed columns, and the contigs that they name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
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
_BLANK = r"^\s*$"
_NO_RECORD = r"^(?:\s*$|#|(?:track|browser)(?:\s|$))"


def read_lines(
    path: Path,
    what: str,
    *,
    comments: bool = True,
    stop: str | None = None,
    strict: bool = False,
    block: int = BLOCK,
) -> Iterator[pl.DataFrame]:
    """The lines of a text file, plain, gzip or bgzip, block by block; blank ones are left out.

    Args:
        path: the file.
        what: what its lines are, for messages ("intervals").
        comments: lines of "#", "track" and "browser" are left out, too.
        stop: a regular expression; the first line that it matches, and what follows, are left out.
        strict: other bytes than UTF-8 are refused; otherwise they are read as the replacement character.
        block: bytes read at a time.

    Returns:
        Tables of `line` (counts from 1) and `text`, none of them empty.

    Raises:
        SourceError: the file cannot be read, is no text, has a line of more than 64 MiB, or holds no lines.
    """
    number, rest, found, ended = 1, b"", False, False
    for data in chain(read_blocks(path, block), (None,)):
        rest += data or b""
        end = len(rest) if data is None else rest.rfind(b"\n") + 1
        lines = _lines(path, rest[:end], number, strict)
        number += rest.count(b"\n", 0, end)
        rest = rest[end:]
        if len(rest) > LONGEST:
            raise SourceError(f"{path}:{number}: the line has more than {LONGEST >> 20} MiB: this is no file of {what}")
        if stop and len(tail := lines.filter(pl.col("text").str.contains(stop))):
            lines, ended = lines.filter(pl.col("line") < tail["line"][0]), True
        lines = lines.filter(~pl.col("text").str.contains(_NO_RECORD if comments else _BLANK))
        if len(lines):
            found = True
            yield lines
        if ended:
            break
    if not found:
        raise SourceError(f"{path}: the file holds no {what}")


def _lines(path: Path, data: bytes, number: int, strict: bool) -> pl.DataFrame:
    def refusal(at: int, problem: str) -> SourceError:
        line = number + data.count(b"\n", 0, at)
        return SourceError(f"{path}:{line}: {problem}")

    if number == 1:
        data = data.removeprefix(b"\xef\xbb\xbf")
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").removesuffix(b"\r")
        if (at := data.find(b"\r")) >= 0:
            raise refusal(at, "a carriage return inside a line; lines must end in LF or CRLF")
    if (at := data.find(b"\0")) >= 0:
        raise refusal(at, "this is no text (it holds zero bytes); a text file is saved as UTF-8")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        if strict:
            problem = f"this is no UTF-8 text (byte 0x{data[error.start]:02x}); save it as UTF-8"
            raise refusal(error.start, problem) from None
        text = data.decode(errors="replace")
    return pl.Series("text", [text]).str.split("\n").explode().to_frame().with_row_index("line", number)


def refuse(path: Path, lines: pl.DataFrame, wrong: pl.Expr, problem: str) -> None:
    """Raise SourceError with `problem` and the text of the first line for which `wrong` is true."""
    bad = lines.filter(wrong).head(1)
    if len(bad):
        raise SourceError(f"{path}:{bad['line'][0]}: {problem}: {bad['text'][0][:80]!r}")


# ---- columns --------------------------------------------------------------------------------


def split_columns(
    path: Path, lines: pl.DataFrame, columns: Mapping[str, Any], what: str, *, more: bool = False, blanks: bool = False
) -> pl.DataFrame:
    """`lines` with their columns, parted by tabs.

    Args:
        path: the file, for messages.
        lines: as `read_lines` gives them.
        columns: name and type (String, Int64 or Float32) of the columns that every line must have.
        what: the format's name, for messages.
        more: further columns may follow, and are left out.
        blanks: a line without enough tabs is parted by runs of blanks.

    Raises:
        SourceError: a line has other columns, or one that is not of its type.
    """
    names = [*columns, "_more"]

    def split(text: pl.Expr) -> pl.DataFrame:
        fields = text.str.splitn("\t", len(names)).struct.rename_fields(names)
        return lines.with_columns(fields.alias("_fields")).unnest("_fields")

    table = split(pl.col("text"))
    short = table[names[-2]].is_null()
    if blanks and short.any():
        by_blanks = pl.col("text").str.strip_chars().str.replace_all(r"\s+", "\t")
        table = split(pl.when(short).then(by_blanks).otherwise("text"))
    wrong = pl.col(names[-2]).is_null() | (pl.lit(not more) & pl.col("_more").is_not_null())
    number, parted = f"{len(columns)} columns{' or more' if more else ''}", f"tabs{' or blanks' if blanks else ''}"
    refuse(path, table, wrong, f"a line of {what} has {number} ({', '.join(columns)}), parted by {parted}")
    for kind, one, several in ((pl.Int64, "an integer", "integers"), (pl.Float32, "a number", "numbers")):
        typed = [name for name, type in columns.items() if type == kind]
        if typed:
            table = table.with_columns(pl.col(typed).cast(kind, strict=False))
            places = [str(names.index(name) + 1) for name in typed]
            which = f"{' and '.join(typed)} (column{'s' * (len(typed) > 1)} {' and '.join(places)})"
            missing = pl.any_horizontal(pl.col(typed).is_null())
            refuse(path, table, missing, f"{which} must be {several if len(typed) > 1 else one}")
    return table.drop("_more")


def split_stretches(
    path: Path, lines: pl.DataFrame, columns: Mapping[str, Any], what: str, *, more: bool = False
) -> pl.DataFrame:
    """`split_columns` of a format that looks like BED: `start` and `end` are 0-based and half-open.

    Raises:
        SourceError: as `split_columns`; a line's stretch holds no base or begins before the contig.
    """
    table = split_columns(path, lines, columns, what, more=more, blanks=True)
    start, end = pl.col("start"), pl.col("end")
    refuse(path, table, (start < 0) | (end <= start), "start is at least 0 and below end, which is not included")
    return table


# ---- contigs --------------------------------------------------------------------------------


class Names:
    """Which contigs the names in one file mean, told block by block for a file that has no header.

    Attributes:
        skipped: how much lies on contigs that the assembly lacks, by the name the file has for them.
    """

    def __init__(self, contigs: Contigs, path: Path):
        self._contigs, self._path = contigs, path
        self._lengths = pl.Series(contigs.lengths)
        self._rows: dict[str, int] = {}
        self.skipped: Counter[str] = Counter()

    def locate(self, table: pl.DataFrame, count: pl.Expr | None = None) -> pl.DataFrame:
        """The lines of `table` (contig, start, end, line, ...) on the assembly's contigs, `contig` as Int32 rows there.

        Args:
            count: what of the other lines is added up in `skipped`; by default they are counted.

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
        over = table.filter(table["end"] > self._lengths.gather(rows)).head(1)
        if len(over):
            name = over["contig"][0]
            raise SourceError(
                f'{self._path}:{over["line"][0]}: the feature ends at {over["end"][0]:,}, contig "{name}" of the '
                f"assembly has {self._contigs.lengths[self._rows[name]]:,} bases: the file is of another assembly"
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
