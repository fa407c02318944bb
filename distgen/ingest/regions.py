"""Regions that have a name: BED by its column 4, genes of a GTF or GFF3 by their gene_id, or of SpliceAI's table of transcripts.

A gene reaches from its first to its last base over all lines of a GTF that carry its gene_id, and over the lines of a
GFF3 whose type is "gene", "pseudogene" or ends in "_gene", by their gene_id or else their ID; SpliceAI's table has a line for
each. A name that stands at two places (on two contigs, or both strands) makes two regions.

Specifications: BED 1.0 (GA4GH), GTF 2.2 (mblab.wustl.edu/GTF22.html), GFF3 1.26 (Sequence Ontology).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
import polars as pl

from distgen.errors import SourceError
from distgen.genome import Contigs, Int64
from distgen.ingest.annotation import FORMATS, checked, form_of, transcripts
from distgen.ingest.lines import read_columns, read_lines, refuse

_BED = ("contig", "start", "end", "name", "score", "strand", "more")
_GENE_ID = r"""(?:^|[;\s])gene_id[ =]+"?([^";]+)"""
_ID = r"(?:^|;)\s*ID=([^;]+)"


@dataclass(frozen=True)
class Regions:
    """Named stretches of contigs.

    Args:
        ids: (n,), the names.
        contig: int64 (n,), rows in the contig table, -1 on contigs that it lacks.
        start, end: int64 (n,), 0-based half-open positions in the contig.
        strand: int8 (n,), 1 for +, -1 for -, 0 for none.
        elsewhere: the contig's name where `contig` is -1, otherwise "".
    """

    ids: tuple[str, ...]
    contig: Int64
    start: Int64
    end: Int64
    strand: npt.NDArray[np.int8]
    elsewhere: tuple[str, ...]


def read_regions(path: Path, contigs: Contigs) -> Regions:
    """The named regions of a file, plain, gzip or bgzip, sorted by contig, position and name.

    Args:
        path: BED with four columns or more, if its name says so; otherwise GTF, GFF3 or SpliceAI's table.
        contigs: the assembly's.

    Raises:
        SourceError: a line is malformed, has no name or leaves its contig; the file holds no region; no contig is known.
    """
    plain = path.name.lower().removesuffix(".gz").removesuffix(".bgz")
    bed, found = plain.endswith((".bed", "peak")), list[pl.DataFrame]()
    for table in _bed(path) if bed else _genes(path):
        found.append(table.with_columns(place=pl.col("contig")))
        if not bed:  # isoforms share genes: memory follows the genes
            found = [_spans(pl.concat(found))]
    if not sum(map(len, found)):
        raise SourceError(f"{path}: the file holds no {'interval' if bed else 'gene'}")
    table = _located(path, pl.concat(found), contigs).sort("contig", "start", "end", "id", "place", "strand")
    elsewhere = table.select(pl.when(pl.col("contig") < 0).then(pl.col("place")).otherwise(pl.lit(""))).to_series()
    strand = table["strand"].replace_strict({"+": 1, "-": -1}, default=0, return_dtype=pl.Int8)
    contig, start, end = (table[key].to_numpy() for key in ("contig", "start", "end"))
    return Regions(tuple(table["id"]), contig, start, end, strand.to_numpy(), tuple(elsewhere))


def _spans(table: pl.DataFrame) -> pl.DataFrame:
    where = ["id", "contig", "strand", "place"]
    last = pl.col("line").sort_by("end").last()
    return table.group_by(where, maintain_order=True).agg(last, pl.col("start").min(), pl.col("end").max())


def _located(path: Path, table: pl.DataFrame, contigs: Contigs) -> pl.DataFrame:
    """`table` with `contig` as rows of the contig table, -1 where it lacks the contig."""
    names = table["place"].unique(maintain_order=True).to_list()
    rows = contigs.rows(names, str(path))
    table = table.with_columns(contig=pl.col("place").replace_strict(names, rows.tolist(), return_dtype=pl.Int64))
    longest = dict(zip(range(len(contigs)), contigs.lengths.tolist(), strict=True)) | {-1: 1 << 62}
    length = pl.col("contig").replace_strict(longest, return_dtype=pl.Int64)
    refuse(path, table, pl.col("end") > length, "the region leaves its contig: the file is of another assembly")
    return table


def _bed(path: Path) -> Iterator[pl.DataFrame]:
    for lines in read_lines(path, "regions"):
        fields = pl.col("text").str.splitn("\t", len(_BED)).struct.rename_fields(list(_BED))
        table = lines.with_columns(fields.alias("fields")).unnest("fields")
        table = table.with_columns(pl.col("start", "end").cast(pl.Int64, strict=False))
        start, end, name = pl.col("start"), pl.col("end"), pl.col("name")
        unnamed = name.is_null() | name.is_in(["", "."])
        refuse(path, table, unnamed, "a region takes its name from column 4 of BED, which this line lacks")
        refuse(path, table, start.is_null() | end.is_null(), "start and end (columns 2 and 3) must be integers")
        refuse(path, table, (start < 0) | (end <= start), "start is at least 0 and below end, which is not included")
        strand = pl.col("strand").fill_null(".")
        refuse(path, table, ~strand.is_in(["+", "-", "."]), "the strand (column 6) must be + - or .")
        yield table.select("line", "contig", "start", "end", id=name, strand=strand)


def _genes(path: Path) -> Iterator[pl.DataFrame]:
    form = form_of(path)
    for lines in read_columns(path, FORMATS[form], "features"):
        if form == "table":
            named = lines.select("line", id="NAME")
            spans = transcripts(path, lines).filter(pl.col("type") == "gene").join(named, on="line")
            yield spans.select("line", "contig", "start", "end", "id", strand=pl.col("strand").cast(pl.String))
            continue
        table = checked(path, lines)
        name = pl.col("attributes").str.extract(_GENE_ID)
        if form == "gff3":
            table = table.filter(pl.col("type").str.to_lowercase().str.contains(r"(^|_)gene$|^pseudogene$"))
            name = pl.coalesce(name, pl.col("attributes").str.extract(_ID))
        table = table.with_columns(id=name.str.strip_chars())
        refuse(path, table, pl.col("id").is_null(), f"the line has no gene_id{' and no ID' * (form == 'gff3')}")
        if form == "gff3":
            table = table.with_columns(_unquoted(table["contig"]), _unquoted(table["id"]))
        yield table.select("line", "contig", "start", "end", "id", strand=pl.col("strand").cast(pl.String))


def _unquoted(names: pl.Series) -> pl.Series:
    return names.map_elements(unquote, return_dtype=pl.String)
