"""Signals along a genome (bigWig, bedGraph) to one value a bin.

Every base of a contig has a value or is a *gap*: no record covers it, or the record's value is NaN. With `absent = "zero"` a
gap is a value of 0 (many writers omit zeros); with "missing" it is no data. A bin is missing (NaN) if less than `min_covered`
of its bases have data, and where there is nothing to reduce:

| reduce | value of a bin | with no base of data |
|---|---|---|
| mean | sum over its bases / its width (a gap adds nothing) | missing |
| mean_covered | sum over its bases / bases that have data | missing |
| max, sum | the largest value; the sum over its bases | missing |
| coverage | bases with a record and a value / its width, whatever `absent` says | 0 |

Bins lie from the contig's start; the last is as wide as what is left of the contig. A contig that the file does not know (not
in the header of a bigWig, without a record in a bedGraph) is missing whatever `absent` says. Values are read base by base,
never from zoom levels, and summed in float64.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from distgen.errors import SourceError
from distgen.genome import Contigs, Int64
from distgen.ingest.open import read_blocks
from distgen.ingest.spool import Keys, Spool, write_groups

Reduce = Literal["mean", "mean_covered", "max", "sum", "coverage"]
Absent = Literal["zero", "missing"]

RECORD = np.dtype([("start", "<u4"), ("end", "<u4"), ("value", "<f4")])
_LINE = np.dtype([("key", "<i8"), ("bases", "<u4"), ("value", "<f4"), ("line", "<u4")])
_PIECE = 1 << 18  # bins reduced at a time: bounds the memory beside the result
_BIGWIG, _BIGBED = 0x888FFC26, 0x8789F2EB


class Section(NamedTuple):
    """Disjoint records of one contig, in order, as a bigWig data block has them.

    Args:
        words: uint32 (n,). Kind 1: start, end and value (float32) of each record; 2: start and value; 3: value.
        kind: 1, 2 or 3.
        start, step, span: bases. Records of kind 3 begin at start, start + step, ...; those of kinds 2 and 3 are `span` long.
    """

    words: npt.NDArray[np.uint32]
    kind: int = 1
    start: int = 0
    step: int = 0
    span: int = 0


class Signal(ABC):
    """One file's values along an assembly, in one or more columns.

    Args:
        path: the file.
        columns: their names.
        contigs: the assembly's.
        known: bool (C,): which contigs the file knows.
        skipped: how much lies on contigs that the assembly lacks, by contig name: bases in a signal, reads or fragments in
            alignments.
        dense: a gap is a value of 0 whatever `absent` says (as in alignments).
    """

    def __init__(
        self,
        path: Path,
        columns: tuple[str, ...],
        contigs: Contigs,
        known: npt.NDArray[np.bool_],
        skipped: dict[str, int],
        dense: bool = False,
    ):
        self.path, self.columns, self.contigs = path, columns, contigs
        self.known, self.skipped, self.dense = known, skipped, dense

    @abstractmethod
    def sections(self, column: int, row: int, low: int, high: int) -> Iterator[Section]:
        """All records of a column that touch bases [low, high) of a contig, in order; others may come with them."""

    def bins(
        self,
        row: int,
        first_bin: int,
        last_bin: int,
        bin_bp: int,
        reduce: Reduce,
        *,
        absent: Absent,
        min_covered: float = 0.0,
    ) -> npt.NDArray[np.float32]:
        """Values of the bins [first_bin, last_bin) of one contig; what they mean stands at the top of this module.

        Args:
            row: of the contig in the assembly's table.
            first_bin, last_bin: bins from the contig's start, half-open; the last may reach past the contig.
            bin_bp: bases per bin.
            min_covered: 0 to 1, the least fraction of a bin's bases that must have data.

        Returns:
            float32 (last_bin - first_bin, columns), NaN where data is missing. Safe to call from several threads.

        Raises:
            SourceError: the file is damaged, or its records overlap, leave their contig or are infinite.
        """
        out = np.full((last_bin - first_bin, len(self.columns)), np.nan, np.float32)
        if self.known[row]:
            zero = self.dense or absent == "zero"
            for column in range(len(self.columns)):
                for first in range(first_bin, last_bin, _PIECE):
                    piece = out[first - first_bin : min(first + _PIECE, last_bin) - first_bin, column]
                    self._reduce(column, row, first, bin_bp, reduce, zero, min_covered, piece)
        return out

    def _reduce(
        self,
        column: int,
        row: int,
        first_bin: int,
        bin_bp: int,
        reduce: Reduce,
        zero: bool,
        min_covered: float,
        out: npt.NDArray[np.float32],
    ) -> None:
        from distgen.ingest import binning

        length = int(self.contigs.lengths[row])
        low, high = first_bin * bin_bp, min((first_bin + out.size) * bin_bp, length)
        total, covered, after = np.zeros(out.size), np.zeros(out.size, np.int64), 0
        for section in self.sections(column, row, low, high):
            before = after
            after, bad = binning.add(
                section.words,
                section.words.view(np.float32),
                *section[1:],
                after,
                length,
                low,
                high,
                bin_bp,
                reduce == "max",
                total,
                covered,
            )
            if bad >= 0:
                raise self._bad(row, section, bad, before)
        binning.finish(total, covered, high - low, bin_bp, binning.REDUCES.index(reduce), zero, min_covered, out)

    def _bad(self, row: int, section: Section, index: int, before: int) -> SourceError:
        starts, ends, values = explicit(section)
        last = int(ends[index - 1]) if index else before
        start, end, value = int(starts[index]), int(ends[index]), float(values[index])
        record = f"{self.path}: {self.contigs.names[row]}:{start}-{end} (0-based, half-open)"
        if end <= start:
            return SourceError(f"{record} is an empty record: the file is damaged")
        if end > self.contigs.lengths[row]:
            return SourceError(f"{record} leaves its contig, which has {self.contigs.lengths[row]:,} bases")
        if np.isinf(value):
            return SourceError(f"{record} has the value {value}; write a finite number, or nan for no data")
        return SourceError(
            f"{record} begins before the end of the record before it ({last}): records must be sorted and must not overlap"
        )


def explicit(section: Section) -> tuple[Int64, Int64, npt.NDArray[np.float32]]:
    """Start, end and value of each record of a section, whatever its kind: int64, int64 and float32 (n,)."""
    items = section.words.reshape(-1, 4 - section.kind)
    if section.kind == 3:
        starts = section.start + section.step * np.arange(len(items), dtype=np.int64)
    else:
        starts = items[:, 0].astype(np.int64)
    ends = items[:, 1].astype(np.int64) if section.kind == 1 else starts + section.span
    return starts, ends, items[:, -1].copy().view(np.float32)


class Spooled(Signal):
    """A signal whose records were sorted into one array on disk."""

    def __init__(
        self,
        path: Path,
        columns: tuple[str, ...],
        contigs: Contigs,
        known: npt.NDArray[np.bool_],
        skipped: dict[str, int],
        scratch: Path,
        pieces: Iterable[tuple[Int64, npt.NDArray[np.void]]],
        dense: bool = False,
    ):
        """Write the records of all columns and contigs to `scratch`.

        Args:
            pieces: group (column times contigs plus row; int64 (n,), ascending over all pieces) and RECORD of each record;
                disjoint and in order within a group.
        """
        super().__init__(path, columns, contigs, known, skipped, dense)
        self._records, self._bounds = write_groups(scratch, RECORD, len(columns) * len(contigs), pieces)

    def sections(self, column: int, row: int, low: int, high: int) -> Iterator[Section]:
        group = column * len(self.contigs) + row
        records = self._records[self._bounds[group] : self._bounds[group + 1]]
        # Of the records' own type: anything else would convert, and so read, all of them.
        first = int(np.searchsorted(records["end"], np.uint32(low), side="right"))
        last = int(np.searchsorted(records["start"], np.uint32(high), side="left"))
        if first < last:
            yield Section(np.ascontiguousarray(records[first:last]).view(np.uint32))


def open_signal(path: Path, contigs: Contigs, scratch: Path) -> Signal:
    """Open a bigWig, or a bedGraph (plain or gzip), for reading values into bins; its content says which it is.

    Args:
        path: the file. A bedGraph may be in any order; `track`, `browser` and `#` lines are no records; nan is a gap.
        contigs: the assembly's; what lies on other contigs is counted in `skipped` and left out.
        scratch: a folder for temporary files, which must last as long as the signal is used; the caller removes it.

    Follows the bigWig format (doi:10.1093/bioinformatics/btq351, supplement) and
    https://genome.ucsc.edu/goldenPath/help/bedgraph.html.

    Raises:
        SourceError: the file is none of these, is damaged, or its contigs are not the assembly's. In a bedGraph also:
            a line is malformed, leaves its contig, or overlaps another (with both lines).
    """
    head = next(read_blocks(path, 4), b"")
    magics = {int.from_bytes(head, "little"), int.from_bytes(head, "big")}
    if _BIGWIG in magics:
        from distgen.ingest.bigwig import BigWig

        return BigWig(path, contigs)
    if _BIGBED in magics:
        raise SourceError(f"{path}: this is a bigBed, which has no values; a signal is a bigWig or a bedGraph")
    if path.suffix.lower() in (".bw", ".bigwig"):
        raise SourceError(f"{path}: this is no bigWig (it begins with {head!r}); fetch the file again")
    return _open_bedgraph(path, contigs, scratch)


def column_name(path: Path) -> str:
    """The name of a file's only column: the file's, without its endings."""
    return Path(path.name.removesuffix(".gz")).stem


def _open_bedgraph(path: Path, contigs: Contigs, scratch: Path) -> Spooled:
    import polars as pl

    from distgen.ingest.lines import Format, Names, read_columns, refuse

    form = Format("bedGraph", {"contig": pl.String, "start": pl.Int64, "end": pl.Int64, "value": pl.Float32})
    names, keys, spool = Names(contigs, path), Keys(contigs, columns=1), Spool(scratch, _LINE)
    for table in read_columns(path, form, "bedGraph records"):
        infinite = pl.col("value").is_infinite()
        refuse(path, table, infinite, "the value is infinite; write a finite number, or nan for no data")
        table = names.locate(table, pl.col("end") - pl.col("start"))
        row, start, end = (table[name].to_numpy() for name in ("contig", "start", "end"))
        records = np.empty(len(table), _LINE)
        records["key"], records["bases"] = keys.of(0, row, start), end - start
        records["value"], records["line"] = table["value"].to_numpy(), table["line"].to_numpy()
        spool.add(records)
    known = names.known()
    return Spooled(
        path, (column_name(path),), contigs, known, dict(names.skipped), scratch, _disjoint(path, spool, keys)
    )


def _disjoint(path: Path, spool: Spool, keys: Keys) -> Iterator[tuple[Int64, npt.NDArray[np.void]]]:
    """Sorted lines as RECORD; raises SourceError where two overlap."""
    reach, reach_line = -1, 0
    for lines in spool.blocks():
        ends = lines["key"] + lines["bases"]
        bad = np.flatnonzero(lines["key"] < np.r_[reach, ends[:-1]])
        if bad.size:
            i = int(bad[0])
            both = sorted((int(lines["line"][i]), int(lines["line"][i - 1]) if i else reach_line))
            raise SourceError(
                f"{path}:{both[1]}: this record overlaps the one in line {both[0]}; a bedGraph has one value for a base"
            )
        reach, reach_line = int(ends[-1]), int(lines["line"][-1])
        group, start = keys.split(lines["key"])
        records = np.empty(len(lines), RECORD)
        records["start"], records["end"], records["value"] = start, start + lines["bases"], lines["value"]
        yield group, records
