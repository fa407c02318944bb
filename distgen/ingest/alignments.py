"""Alignments (BAM, CRAM) and fragment files to coverage or cut sites, per group of cells where asked.

| file | coverage counts for each base | cuts |
|---|---|---|
| BAM, CRAM | reads with a base aligned there (M, = and X; not deletions, introns or clips); mates count each | the 5' end of each read |
| fragments | fragments that span it | both ends of each fragment: `start` and `end - 1` |

Secondary, supplementary, duplicate, QC-failed and unmapped reads don't count, nor reads below `min_mapq`. Tn5 cuts lie 4 bases
downstream of a forward read's 5' end and 5 of a reverse read's; fragment files have this shift already. A fragment counts once,
whatever its fifth column says. A base that nothing covers is 0 on every contig that the header names (fragment files have no
header: on every contig with a fragment).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from distgen.errors import ConfigError, SourceError
from distgen.genome import Contigs, Int64
from distgen.ingest.open import consumed, read_blocks
from distgen.ingest.signal import RECORD, Signal, Spooled, column_name
from distgen.ingest.spool import Keys, Spool

What = Literal["coverage", "cuts"]

NO_GROUP = "(barcode in no group)"
NO_BARCODE = "(no barcode)"
OUTSIDE = "(cut site beyond its contig)"

_EVENT = np.dtype([("key", "<i8"), ("change", "<i4")])
_LEFT_OUT = 0x4 | 0x100 | 0x200 | 0x400 | 0x800  # unmapped, secondary, QC-failed, duplicate, supplementary
_FIELDS = 0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x20 | 0x800  # name, flag, contig, start, mapping quality, CIGAR, tags
_READS = 1 << 18  # alignments held as Python numbers at a time


def open_alignments(
    path: Path,
    contigs: Contigs,
    scratch: Path,
    *,
    groups: Path | None = None,
    tn5: bool = False,
    what: What = "coverage",
    min_mapq: int = 0,
) -> Signal:
    """Read a BAM, a CRAM or a fragment file once, and count what the module says.

    Args:
        path: the file, in any order; neither an index nor a CRAM's reference is needed. Its content says which it is. Fragments
            are text, plain or gzip: contig, start, end (0-based, half-open), barcode, and further columns that are left out.
        contigs: the assembly's; alignments on other contigs are counted in `skipped` and left out.
        scratch: a folder for temporary files, which must last as long as the signal is used; the caller removes it.
        groups: a table of two columns, barcode and group, parted by tabs or commas; a first line that begins with
            "barcode" is its head. The columns are then the groups, sorted. A read's barcode is its tag CB. `skipped`
            counts those in no group as NO_GROUP, reads without the tag as NO_BARCODE.
        tn5: shift the cuts of a BAM or CRAM; those shifted off their contig are counted in `skipped` as OUTSIDE.
        what: "coverage" or "cuts".
        min_mapq: least mapping quality of a read.

    Follows https://samtools.github.io/hts-specs/SAMv1.pdf (sections 1.4 and 4.2) and, for fragments, 10x Genomics'
    fragments.tsv.gz.

    Raises:
        SourceError: the file or the table is malformed or damaged, its contigs are not the assembly's, or nothing
            counts. ConfigError: an option that this file or `what` does not have.
    """
    if tn5 and what != "cuts":
        raise ConfigError(f'{path}: tn5 shifts cut sites; it goes with what = "cuts"')
    table = read_groups(groups) if groups else None
    columns = tuple(sorted(set(table.values()))) if table is not None else (column_name(path),)
    column_of = {barcode: columns.index(group) for barcode, group in table.items()} if table is not None else None
    counted = _Counted(Keys(contigs, len(columns)), Spool(scratch, _EVENT), contigs, what == "cuts")
    head = next(read_blocks(path, 4), b"")
    if head in (b"BAM\1", b"CRAM"):
        known = _read_bam(path, counted, column_of, (4, 5) if tn5 else (0, 0), min_mapq)
    elif path.suffix.lower() in (".bam", ".cram"):
        raise SourceError(f"{path}: this is no BAM or CRAM (it begins with {head!r}); fetch the file again")
    elif tn5 or min_mapq:
        raise ConfigError(
            f"{path}: this is no BAM or CRAM; fragments have no mapping quality and are shifted already: "
            f"leave out {'tn5' if tn5 else 'min_mapq'}"
        )
    else:
        known = _read_fragments(path, counted, column_of)
    if not counted.n:
        left_out = ", ".join(f"{name}: {n:,}" for name, n in counted.skipped.items())
        raise SourceError(
            f"{path}: nothing in this file counts ({left_out or 'no alignment passes the filters'})"
            + (f"; do the barcodes of {groups} end like the file's (-1)?" if groups else "")
        )
    return Spooled(path, columns, contigs, known, counted.skipped, scratch, _depths(counted), dense=True)


class _Counted:
    """What counts so far: +1 where a stretch begins and -1 where it ends, in one column."""

    def __init__(self, keys: Keys, spool: Spool, contigs: Contigs, cuts: bool):
        self.keys, self.spool, self.contigs, self.cuts = keys, spool, contigs, cuts
        self.skipped: dict[str, int] = {}
        self.n = 0

    def skip(self, name: str, n: int = 1) -> None:
        if n:
            self.skipped[name] = self.skipped.get(name, 0) + n

    def add(self, column: Int64, row: Int64, start: Int64, end: Int64) -> None:
        """Stretches [start, end) of contigs."""
        events = np.empty(2 * len(row), _EVENT)
        events["key"] = np.r_[self.keys.of(column, row, start), self.keys.of(column, row, end)]
        events["change"][: len(row)], events["change"][len(row) :] = 1, -1
        self.spool.add(events)
        self.n += len(row)

    def add_cuts(self, column: Int64, row: Int64, at: Int64) -> None:
        """Cut sites; those beyond the contig are counted and left out."""
        inside = (at >= 0) & (at < self.contigs.lengths[row])
        self.skip(OUTSIDE, int((~inside).sum()))
        self.add(column[inside], row[inside], at[inside], at[inside] + 1)


def _depths(counted: _Counted) -> Iterator[tuple[Int64, npt.NDArray[np.void]]]:
    """How many stretches lie over each base, as sorted disjoint records of what is not 0."""
    key, depth = np.zeros(1, np.int64), np.zeros(1, np.int64)  # the last event so far and the depth after it
    for events in counted.spool.blocks():
        key = np.r_[key[-1:], events["key"]]
        depth = np.cumsum(np.r_[depth[-1:], events["change"]])
        # Depth falls to 0 at the end of each contig, so that no record ever crosses one.
        filled = np.flatnonzero((depth[:-1] > 0) & (key[:-1] < key[1:]))
        group, start = counted.keys.split(key[filled])
        records = np.empty(len(filled), RECORD)
        records["start"], records["end"] = start, start + (key[filled + 1] - key[filled])
        records["value"] = depth[filled]
        yield group, records


def _read_bam(
    path: Path, counted: _Counted, column_of: dict[str, int] | None, shift: tuple[int, int], min_mapq: int
) -> npt.NDArray[np.bool_]:
    """Count the reads of a BAM or CRAM; returns the contigs in its header, bool (C,)."""
    import pysam

    quiet = pysam.set_verbosity(0)  # htslib complains on stderr that there is no index, which is not needed
    try:
        # A CRAM is decoded without its sequence, which alone would need the reference it was written with.
        file = pysam.AlignmentFile(str(path), check_sq=False, format_options=[f"required_fields={_FIELDS}"])
    except (OSError, ValueError) as error:
        pysam.set_verbosity(quiet)
        raise _broken(path, error) from error
    try:
        if not file.references:
            raise SourceError(f"{path}: its header names no contigs: the reads were not aligned")
        rows = counted.contigs.rows(file.references, str(path), file.lengths)
        stretches = _stretches(path, file, rows, counted, column_of, shift, min_mapq)
        place = 0
        while len(batch := _batch(stretches)):
            before, place = place, 0 if file.is_cram else file.tell() >> 16
            consumed(max(place - before, 0))
            column, row, start, end = batch.T
            if counted.cuts:
                counted.add_cuts(column, row, start)
            else:
                counted.add(column, row, start, end)
    finally:
        pysam.set_verbosity(quiet)
        with suppress(OSError):  # of a damaged file closing complains once more
            file.close()
    known = np.zeros(len(counted.contigs), np.bool_)
    known[rows[rows >= 0]] = True
    return known


def _broken(path: Path, error: Exception) -> SourceError:
    # The system error that comes with it is often another's: htslib doesn't clear the last one.
    why = "" if getattr(error, "errno", None) else f" ({error})"
    return SourceError(f"{path}: reading stops with an error{why}: the file is cut short or damaged; fetch it again")


def _reads(path: Path, file: Any) -> Iterator[Any]:
    """All reads; what a consumer raises does not pass through here."""
    try:
        yield from file.fetch(until_eof=True)
    except (OSError, ValueError) as error:
        raise _broken(path, error) from error


def _batch(stretches: Iterator[tuple[int, int, int, int]]) -> Int64:
    flat = np.fromiter(chain.from_iterable(islice(stretches, _READS)), np.int64)
    return flat.reshape(-1, 4)


def _stretches(
    path: Path,
    file: Any,
    rows: Int64,
    counted: _Counted,
    column_of: dict[str, int] | None,
    shift: tuple[int, int],
    min_mapq: int,
) -> Iterator[tuple[int, int, int, int]]:
    """Column, row, start and end of what each read covers, or of its cut."""
    names, lengths, row_of = file.references, file.lengths, rows.tolist()
    column = 0
    for read in _reads(path, file):
        if read.flag & _LEFT_OUT or read.mapping_quality < min_mapq:
            continue
        contig = read.reference_id
        blocks = read.get_blocks()
        if not blocks:
            raise SourceError(f'{path}: read "{read.query_name}" is mapped but has no aligned base')
        if blocks[-1][1] > lengths[contig]:
            raise SourceError(
                f'{path}: read "{read.query_name}" at {names[contig]}:{blocks[0][0]}-{blocks[-1][1]} (0-based, half-open) '
                f"leaves its contig, which has {lengths[contig]:,} bases"
            )
        row = row_of[contig]
        if row < 0:
            counted.skip(names[contig])
            continue
        if column_of is not None:
            if not read.has_tag("CB"):
                counted.skip(NO_BARCODE)
                continue
            column = column_of.get(str(read.get_tag("CB")), -1)
            if column < 0:
                counted.skip(NO_GROUP)
                continue
        if counted.cuts:
            at = blocks[-1][1] - 1 - shift[1] if read.flag & 0x10 else blocks[0][0] + shift[0]
            yield column, row, at, at + 1
        else:
            for start, end in blocks:
                yield column, row, start, end


def _read_fragments(path: Path, counted: _Counted, column_of: dict[str, int] | None) -> npt.NDArray[np.bool_]:
    """Count the fragments of a text file; returns the contigs that have one, bool (C,)."""
    import polars as pl

    from distgen.ingest.lines import Format, Names, read_columns

    columns = {"contig": pl.String, "start": pl.Int64, "end": pl.Int64, "barcode": pl.String}
    form = Format("a fragment file", columns, more=True)
    names = Names(counted.contigs, path)
    for table in read_columns(path, form, "fragments"):
        table = names.locate(table)
        if column_of is None:
            table = table.with_columns(column=pl.lit(0, pl.Int64))
        else:
            table = table.with_columns(
                column=pl.col("barcode").replace_strict(column_of, default=-1, return_dtype=pl.Int64)
            )
            counted.skip(NO_GROUP, int((table["column"] < 0).sum()))
            table = table.filter(pl.col("column") >= 0)
        column, row, start, end = (table[name].to_numpy() for name in ("column", "contig", "start", "end"))
        if counted.cuts:
            counted.add_cuts(np.r_[column, column], np.r_[row, row], np.r_[start, end - 1])
        else:
            counted.add(column, row, start, end)
    for name, n in names.skipped.items():
        counted.skip(name, n)
    return names.known()


def read_groups(path: Path) -> dict[str, str]:
    """The group of each barcode."""
    from distgen.ingest.lines import read_lines

    groups: dict[str, str] = {}
    line_of: dict[str, int] = {}
    separator = ""
    for line, text in (row for lines in read_lines(path, "barcodes") for row in lines.iter_rows()):
        separator = separator or ("\t" if "\t" in text else ",")
        fields = [field.strip() for field in text.split(separator)]
        if not line_of and fields[0].lower() == "barcode":
            continue
        if len(fields) != 2 or not all(fields):
            raise SourceError(
                f"{path}:{line}: a line of this table is a barcode and its group, parted by a tab or a comma: {text[:80]!r}"
            )
        barcode, group = fields
        if barcode in groups:
            raise SourceError(
                f'{path}:{line}: barcode "{barcode}" comes a second time (first in line {line_of[barcode]})'
            )
        groups[barcode], line_of[barcode] = group, line
    if not groups:
        raise SourceError(f"{path}: the file holds no barcodes below its header")
    return groups
