"""Tables of short labelled sequences, and matrices of values by region and condition.

How the files may be written, and what counts as a missing value: `distgen.ingest.delimited`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import polars as pl

from distgen.errors import ConfigError, SourceError, some, suggest
from distgen.genome import MISSING, Int64
from distgen.ingest.delimited import BLOCK, Rows, is_missing, numbers, read_named, read_table
from distgen.ingest.packing import CODES

Kind = Literal["binary", "classes", "multilabel", "regression"]
Files = Mapping[str, Path | Mapping[str, Path]]
NONE = "-"
_MOST_CLASSES = 1 << 16
_NUMBER = re.compile(r"[-+]?\d+(\.\d*)?")


@dataclass(frozen=True)
class SequenceBlock:
    """Some rows of a table of sequences, in the order of the file.

    Args:
        ids: (n,), what the id column says, or "file:line". Nobody checks that they are unique.
        where: of a row, where it stands, for messages: "path:line", or the window it comes from.
        parts: (n,), the part of the split that each row belongs to.
        letters: uint8 (letters,), the sequences one after another in ASCII, in the case of the file.
        offsets: int64 (n + 1,), where each sequence begins in `letters`, and the end of the last.
        labels: regression float32 (n, k), NaN missing; binary uint8 (n, 1) and multilabel uint8 (n, k), 0, 1 or 255
            missing; classes int32 (n,), -1 missing.
        names: binary and classes: what each number means; otherwise what each column of `labels` is.
        missing: how many labels are missing.
    """

    ids: list[str]
    where: Callable[[int], str]
    parts: list[str]
    letters: npt.NDArray[np.uint8]
    offsets: Int64
    labels: npt.NDArray[Any]
    names: tuple[str, ...]
    missing: int


@dataclass(frozen=True)
class MatrixFile:
    """Values by identifier and condition, read when asked for.

    Args:
        path: the file.
        ids: (n,), the identifiers in the order of the file.
        conditions: (c,), what each column is.
        block: bytes of text at a time.
    """

    path: Path
    ids: tuple[str, ...]
    conditions: tuple[str, ...]
    block: int

    def blocks(self) -> Iterator[npt.NDArray[np.float32]]:
        """The values in the order of the file, some rows (m, c) at a time; NaN is missing.

        Raises:
            SourceError: a value is no number.
        """
        for _, rows in read_table(self.path, True, self.block):
            fields = rows.columns[0].list.slice(1).explode().str.strip_chars()
            cells = Rows(self.path, np.repeat(rows.lines, len(self.conditions)), [fields])
            yield numbers(cells, fields).reshape(len(rows.lines), -1)


def read_sequences(
    files: Files,
    *,
    kind: Kind,
    sequence: str | int = "sequence",
    label: str | int | tuple[str | int, ...] = "label",
    split: str | int | None = None,
    id: str | int | None = None,
    separator: str = ";",
    block: int = BLOCK,
) -> Iterator[SequenceBlock]:
    """The labelled sequences of one or several files, a block of rows at a time.

    Where labels are names, all files are read twice: first for the names, so that every block has the same numbers.

    Args:
        files: part of the split to file; or part to class to file, where each file holds one class (binary and classes).
            The part "" takes the part of each row from the column `split`.
        kind: "binary": 0 and 1, or two names, of which the first in order is 0; "classes": names, numbered in order
            (that of numbers if all are); "multilabel": several columns of 0 and 1, or one column of names parted by
            `separator`, "-" for none of them; "regression": one or several columns of numbers.
        sequence, label, split, id: columns by name; by 0-based number in a file without a header.
        block: bytes of text at a time.

    Raises:
        ConfigError: a column is not there, or the columns do not fit the kind.
        SourceError: a row is ragged, its sequence is empty or has other than IUPAC letters, or its label is none of the
            kind; names file and line.
    """
    labels = label if isinstance(label, tuple) else (label,)
    others = (sequence, sequence if id is None else id, sequence if split is None else split)
    _check(files, kind, labels, others, split)
    one_column = kind in ("binary", "classes") or (kind == "multilabel" and len(labels) == 1)
    names = tuple(str(column) for column in labels)
    if one_column:
        names = _names(kind, separator, (rows for _, rows in _labelled(files, others[:1], labels, block)))
    for part, rows in _labelled(files, others, labels, block):
        text, ids, parts, *values = rows.columns
        letters, offsets = _letters(rows, text)
        if not part:
            rows.refuse(parts == "", parts, "names no part: the row's split column is empty")
        if kind == "regression":
            encoded: npt.NDArray[Any] = np.stack([numbers(rows, column) for column in values], axis=1)
        elif kind == "classes":
            encoded = _number(_plain(values[0]), names)
        elif kind == "multilabel" and one_column:
            encoded = _many(_plain(values[0]), names, separator)
        else:
            encoded = _bits(rows, values, names if kind == "binary" else ("0", "1"))
        yield SequenceBlock(
            [f"{rows.path.name}:{line}" for line in rows.lines] if id is None else ids.to_list(),
            rows.where,
            [part] * len(rows.lines) if part else parts.to_list(),
            letters,
            offsets,
            encoded,
            names,
            sum(int(is_missing(column).sum()) for column in values),
        )


def _check(
    files: Files, kind: Kind, labels: Sequence[str | int], others: Sequence[str | int], split: str | int | None
) -> None:
    if kind not in get_args(Kind):
        raise ConfigError(f'no kind of label is called "{kind}". {suggest(kind, get_args(Kind))}')
    if len({isinstance(column, int) for column in (*others, *labels)}) > 1:
        raise ConfigError("columns are all given by name, or all by number for files without a header")
    if kind in ("binary", "classes") and len(labels) > 1:
        raise ConfigError(f'kind "{kind}" takes one label column, not {len(labels)}')
    if ("" in files) != (split is not None):
        raise ConfigError(
            "one file for all parts, and no other, needs a column that names the part of each row (split)"
        )
    if kind in ("multilabel", "regression") and any(isinstance(entry, Mapping) for entry in files.values()):
        raise ConfigError(f'a file for each class is for the kinds binary and classes, not "{kind}"')


def _labelled(
    files: Files, others: Sequence[str | int], labels: Sequence[str | int], block: int
) -> Iterator[tuple[str, Rows]]:
    """The part, and the columns asked for, the labels last; in a file of one class that is its name."""
    for part, entry in files.items():
        if isinstance(entry, Path):
            for rows in read_named(entry, (*others, *labels), block):
                yield part, rows
            continue
        for name, path in entry.items():
            for rows in read_named(path, others, block):
                constant = pl.Series([name]).new_from_index(0, len(rows.lines))
                yield part, Rows(path, rows.lines, [*rows.columns, constant])


def _letters(rows: Rows, text: pl.Series) -> tuple[npt.NDArray[np.uint8], Int64]:
    rows.refuse(is_missing(text), text, "is no sequence")  # "NA" and "nan" would pass for IUPAC letters
    joined = "".join(text.to_list()).encode()
    offsets = np.r_[0, np.cumsum(text.str.len_bytes().to_numpy(), dtype=np.int64)]
    if (at := joined.translate(CODES.tobytes()).find(255)) >= 0:
        row = int(np.searchsorted(offsets, at, side="right")) - 1
        letter = text[row].encode()[at - offsets[row] :].decode(errors="replace")[0]
        raise SourceError(
            f"{rows.where(row)}: {letter!r}, letter {at - offsets[row] + 1} of the sequence, "
            "is no IUPAC nucleotide letter"
        )
    return np.frombuffer(joined, np.uint8), offsets


# ---- labels -----------------------------------------------------------------------------------


def _names(kind: Kind, separator: str, blocks: Iterator[Rows]) -> tuple[str, ...]:
    """The names of all labels in their order."""
    where: dict[str, str] = {}
    paths: dict[Path, None] = {}
    for rows in blocks:
        paths[rows.path] = None
        table = _plain(rows.columns[-1]).alias("label").to_frame().with_row_index()
        table = table.unique("label", keep="first", maintain_order=True)
        for row, value in table.filter(~is_missing(table["label"])).iter_rows():
            for name in _parts(value, separator) if kind == "multilabel" else [value]:
                where.setdefault(name, rows.where(row))
                if not name:
                    raise SourceError(f'{where[name]}: "{value}" has an empty name beside a "{separator}"')
        if len(where) > _MOST_CLASSES:
            raise SourceError(f"{rows.path}: more than {_MOST_CLASSES:,} classes; are the labels of another kind?")
    if not where:
        raise SourceError(f"{', '.join(map(str, paths))}: all labels are missing")
    values = {name: float(name) for name in where if _NUMBER.fullmatch(name)}
    if kind == "binary" and where.keys() <= {"0", "1"}:
        return ("0", "1")
    if kind == "binary" and (len(where) != 2 or values):
        odd = next(name for name in where if name not in ("0", "1"))
        raise SourceError(
            f'{where[odd]}: binary labels are 0 and 1, or two names, but "{odd}" is among {some(list(where))}'
        )
    by_number = len(values) == len(where)
    return tuple(sorted(sorted(where), key=values.__getitem__) if by_number else sorted(where))


def _plain(labels: pl.Series) -> pl.Series:
    """Labels with 1.0 as 1: so pandas writes a column of integers if one is missing."""
    return labels.str.replace(r"^([-+]?\d+)\.0$", "${1}")


def _bits(rows: Rows, values: list[pl.Series], pair: tuple[str, ...]) -> npt.NDArray[np.uint8]:
    codes = np.full((len(rows.lines), len(values)), MISSING, np.uint8)
    for column, text in enumerate(values):
        known, missing = _number(_plain(text), pair), is_missing(text).to_numpy()
        rows.refuse((known < 0) & ~missing, text, f"is neither {pair[0]} nor {pair[1]}")
        codes[~missing, column] = known[~missing]
    return codes


def _many(labels: pl.Series, names: tuple[str, ...], separator: str) -> npt.NDArray[np.uint8]:
    order = {name: number for number, name in enumerate(names)}
    combinations = labels.unique().to_list()
    table = np.zeros((len(combinations), len(names)), np.uint8)
    for row, missing in enumerate(is_missing(pl.Series(combinations))):
        table[row, [] if missing else [order[name] for name in _parts(combinations[row], separator)]] = 1
        table[row] |= MISSING * missing
    return table[_number(labels, combinations)]


def _number(values: pl.Series, names: Sequence[str]) -> npt.NDArray[np.int32]:
    """The number of each name, -1 for what is none."""
    known = values.replace_strict(list(names), list(range(len(names))), default=-1, return_dtype=pl.Int32)
    return known.to_numpy()


def _parts(text: str, separator: str) -> list[str]:
    return [] if text == NONE else [name.strip() for name in text.split(separator)]


# ---- matrices ---------------------------------------------------------------------------------


def read_matrix(path: Path, block: int = BLOCK) -> MatrixFile:
    """A table of numbers by identifier (first column) and condition (header).

    Args:
        path: CSV or TSV; a missing value is NaN.
        block: bytes of text at a time.

    Raises:
        SourceError: a row is ragged, an identifier is empty or comes twice, a condition has no name or comes twice.
    """
    lines: dict[str, int] = {}
    conditions: tuple[str, ...] = ()
    for columns, rows in read_table(path, True, block):
        conditions = tuple(columns[1:])
        names = rows.columns[0].list.get(0).str.strip_chars().to_list()
        for line, name in zip(rows.lines.tolist(), names, strict=True):
            if not name or name in lines:
                what = f'"{name}" came before in line {lines[name]}' if name else "the row has no identifier"
                raise SourceError(f"{path}:{line}: {what}")
            lines[name] = line
    if not conditions or "" in conditions or len(set(conditions)) < len(conditions):
        raise SourceError(
            f"{path}: the header must name each condition once; it has {', '.join(conditions[:8]) or 'none'}"
        )
    return MatrixFile(path, tuple(lines), conditions, block)


def join(found: Sequence[str], wanted: Sequence[str], where: str) -> Int64:
    """Where each identifier of `wanted` (an interval's name, a gene_id) stands in `found`, int64 (n,).

    Raises:
        SourceError: an identifier comes twice, or is on one side only; says how many are, and names the first five.
    """
    rows = {name: row for row, name in enumerate(found)}
    for names, side in ((found, "the matrix"), (wanted, "the regions")):
        if len(set(names)) < len(names):
            twice = next(name for name, count in Counter(names).items() if count > 1)
            raise SourceError(f'{where}: identifier "{twice}" comes twice in {side}')
    lacking, idle = [name for name in wanted if name not in rows], rows.keys() - set(wanted)
    sides = [
        f"{len(names):,} identifiers are in {one} alone: {', '.join(names[:5])}"
        for names, one in ((lacking, "the regions"), ([name for name in found if name in idle], "the matrix"))
        if names
    ]
    if sides:
        raise SourceError(f"{where}: {'; '.join(sides)}. Matrix and regions must hold the same identifiers")
    return np.array([rows[name] for name in wanted], np.int64)
