"""Annotation files to classes along a contig."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from distgen.errors import SourceError, suggest
from distgen.genome import Contigs, Int64
from distgen.ingest.open import read_blocks

_COLUMNS = ("contig", "source", "feature", "start", "end", "score", "strand", "frame", "attributes")


@dataclass(frozen=True)
class Features:
    """Stretches of contigs that carry classes, in the order of the file.

    Args:
        contig: int64 (n,), row in the contig table.
        start, end: int64 (n,), 0-based half-open positions in the contig.
        klass: int64 (n,), which class.
        skipped: how many features lie on contigs that the table lacks, by contig name.
    """

    contig: Int64
    start: Int64
    end: Int64
    klass: Int64
    skipped: dict[str, int]


def read_gtf(path: Path, classes: tuple[str, ...], contigs: Contigs) -> Features:
    """The features of a GTF or GFF3 file that belong to some classes.

    Args:
        path: the file, plain or gzip; it counts from 1 with inclusive ends.
        classes: each a feature type of column 3 in any case, with a final "+" or "-" if only one strand counts.
        contigs: the assembly's; features on other contigs are counted and left out.

    Raises:
        SourceError: a line is malformed or leaves its contig, a class has no feature, no contig is known.
    """
    table = _read_table(path)
    kinds = table["feature"].str.to_lowercase()
    picked = []
    for number, name in enumerate(classes):
        kind, strand = (name[:-1], name[-1]) if name[-1] in "+-" else (name, "")
        mask = kinds == kind.lower()
        if not mask.any():
            raise SourceError(
                f'{path}: no feature is a "{kind}" (class "{name}"). {suggest(kind, kinds.unique().sort().to_list())}'
            )
        if strand:
            mask &= table["strand"] == strand
        picked.append(table.filter(mask).with_columns(klass=pl.lit(number, pl.Int64)))
    chosen = pl.concat(picked).sort("line", "klass")
    known = chosen["contig"].is_in(list(contigs.names) + [a for a in contigs.aliases if a])
    if not known.any():
        raise SourceError(
            f"{path}: its contigs ({', '.join(chosen['contig'].unique().sort().to_list()[:5])}) are none of the "
            f"assembly's ({', '.join(contigs.names[:5])})"
        )
    skipped = dict(chosen.filter(~known)["contig"].value_counts().sort("contig").iter_rows())
    chosen = chosen.filter(known)
    names = chosen["contig"].to_list()
    rows = np.array([contigs.index(name) for name in names], np.int64)
    start, end = chosen["start"].to_numpy() - 1, chosen["end"].to_numpy()
    bad = np.flatnonzero((start < 0) | (start >= end) | (end > contigs.lengths[rows]))
    if bad.size:
        i = int(bad[0])
        raise SourceError(
            f"{path}:{chosen['line'][i]}: {names[i]}:{start[i] + 1}-{end[i]} is no stretch of contig "
            f'"{names[i]}", which has {contigs.lengths[rows[i]]:,} bases'
        )
    return Features(rows, start, end, chosen["klass"].to_numpy(), skipped)


def paint(features: Features, contig: int, length: int, classes: int, bin_bp: int) -> npt.NDArray[np.uint8]:
    """Classes along one contig: (bins, classes) of 0 and 1; a bin is 1 where any base of it is in a feature."""
    bins = -(-length // bin_bp)
    here = features.contig == contig
    edges = np.zeros((bins + 1, classes), np.int32)
    klass = features.klass[here]
    np.add.at(edges, (features.start[here] // bin_bp, klass), 1)
    np.add.at(edges, (-(-features.end[here] // bin_bp), klass), -1)
    return (np.cumsum(edges[:-1], axis=0) > 0).astype(np.uint8)


def _read_table(path: Path) -> pl.DataFrame:
    content = b"".join(read_blocks(path))
    lines = pl.Series(content.decode(errors="replace").splitlines(), dtype=pl.String)
    table = lines.to_frame("text").with_row_index("line", 1)
    # GFF3 may end in FASTA: everything from "##FASTA" on is no annotation.
    fasta = table.filter(pl.col("text") == "##FASTA")
    if len(fasta):
        table = table.filter(pl.col("line") < fasta["line"][0])
    table = table.filter(~pl.col("text").str.starts_with("#") & (pl.col("text").str.strip_chars() != ""))
    if table.is_empty():
        raise SourceError(f"{path}: the file holds no features")
    table = table.with_columns(
        pl.col("text").str.splitn("\t", 9).struct.rename_fields(list(_COLUMNS)).alias("fields")
    ).unnest("fields")
    table = table.with_columns(pl.col("start", "end").cast(pl.Int64, strict=False))
    broken = table.filter(
        pl.col("attributes").is_null()
        | pl.col("start").is_null()
        | pl.col("end").is_null()
        | ~pl.col("strand").is_in(["+", "-", ".", "?"])
    )
    if len(broken):
        raise SourceError(
            f"{path}:{broken['line'][0]}: this is no GTF line (nine columns parted by tabs, start and end are "
            f"integers, the strand is + - or .): {broken['text'][0][:80]!r}"
        )
    return table.drop("text", "source", "score", "frame", "attributes")
