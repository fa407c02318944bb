"""Gene annotation to features: GTF, GFF3 and SpliceAI's table of transcripts.

A class is a feature type of column 3, in any case, or one of these, derived from exons and coding stretches:

| class | bases |
|---|---|
| `cds0` `cds1` `cds2` | bases of CDS lines by their position in the codon, which column 8 fixes |
| `utr5` `utr3` | lines of five_prime_UTR or 5UTR (three_prime_UTR or 3UTR) if there are any, else exons before (after) the coding part |
| `intron` | the gaps between the exons of one transcript |
| `donor` `acceptor` | the last base of the exon before an intron, the first of the exon after it, as SpliceAI has them |
| `tss` `tes` | the first and the last base of a transcript's exons, in its direction |
| `promoter` | bases around `tss`, which counts to those downstream |

Directions are those of the transcript. The type "UTR" has no side and says no more than exons do.

A final "+" or "-" leaves the features of one strand. CDS leaves out the stop codon in GTF and holds it in
GFF3; neither counts as UTR. All lines of one contig, strand and transcript are one transcript,
whatever their order; those that stand in a file many times count once.

Specifications: GTF 2.2 (mblab.wustl.edu/GTF22.html), GFF3 1.26 (Sequence Ontology). SpliceAI's table holds
0-based half-open positions, exons included: its starts are the starts of GENCODE v19's coding stretches and UTRs
and the ends of its introns in BED; SpliceAI itself adds 1 to them on reading.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import polars as pl

from distgen.errors import ConfigError, SourceError, some, suggest
from distgen.genome import Contigs
from distgen.ingest.features import Features, gather
from distgen.ingest.lines import Format, Names, read_columns, refuse
from distgen.ingest.open import read_blocks

_TABLE = ("NAME", "CHROM", "STRAND", "TX_START", "TX_END", "EXON_START", "EXON_END")
_TYPES = dict.fromkeys(("start", "end", "TX_START", "TX_END"), pl.Int64)
_COLUMNS, _TABLE_COLUMNS = (
    {name: _TYPES.get(name, pl.String) for name in names}
    for names in (("contig", "source", "type", "start", "end", "score", "strand", "frame", "attributes"), _TABLE)
)
FORMATS = {
    "gtf": Format("GTF", _COLUMNS, bed=False),
    # GFF3 may end in FASTA; its specification takes ">" alone as the beginning of that, too.
    "gff3": Format("GFF3", _COLUMNS, bed=False, stop="^(##FASTA|>)"),
    "table": Format("the table of transcripts", _TABLE_COLUMNS, more=True, bed=False),
}
_STRANDS = pl.Enum(["+", "-", ".", "?"])
_SIDED = {"utr5": ("five_prime_utr", "5utr"), "utr3": ("three_prime_utr", "3utr")}
_CODING = ("cds", "stop_codon")
_CODON = ("cds0", "cds1", "cds2")
_NEEDS = {
    **dict.fromkeys(_CODON, ("cds",)),
    **{side: ("exon", *_CODING, *types) for side, types in _SIDED.items()},
    **dict.fromkeys(("intron", "donor", "acceptor", "tss", "tes", "promoter"), ("exon",)),
}
_TRANSCRIPT = ["transcript", "contig", "strand"]
_PARENT = {
    "gtf": (r'(?:^|[;\s])transcript_id +"?([^";]+)', "transcript_id"),
    "gff3": (r"(?:^|;)\s*Parent=([^;]+)", "Parent"),
}
_ROWS_BEFORE_COLLAPSE = 1 << 20


def read_annotation(
    path: Path, classes: tuple[str, ...], contigs: Contigs, promoter: tuple[int, int] = (1000, 200)
) -> Features:
    """The features of a GTF, a GFF3 or SpliceAI's table of transcripts that belong to some classes.

    The file is streamed, plain, gzip or bgzip, and told by its content; equal features count once.

    Args:
        path: the file. GTF and GFF3 count from 1 with inclusive ends, which ends here.
        classes: column k holds classes[k]: a feature type or a derived class (see above), with a final "+" or "-"
            if only one strand counts.
        contigs: the assembly's. `Features.skipped` counts the lines of needed types on other contigs.
        promoter: bases upstream of the transcription start, and bases downstream with the start itself; what would
            leave the contig is cut off.

    Raises:
        SourceError: a line is malformed or leaves its contig; a class has no feature on either strand, or lacks the
            types, the strand, the frame or the transcript that it takes; no contig is known.
        ConfigError: `promoter` holds no base.
    """
    if min(promoter) < 0 or sum(promoter) == 0:
        raise ConfigError(f"promoter {list(promoter)} is no stretch: give two counts of bases, such as [1000, 200]")
    parsed = [(name[:-1].lower(), name[-1]) if name.endswith(("+", "-")) else (name.lower(), "") for name in classes]
    kinds = [kind for kind, _ in parsed]
    wanted, names, seen = _Wanted(kinds), Names(contigs, path), set[str]()
    lines = _collapse(_read(path, wanted, names, seen))
    for name, kind in zip(classes, kinds, strict=True):
        _refuse_absent(path, name, kind, seen)
    names.known()
    found = []
    for column, (kind, strand) in enumerate(parsed):
        features = _select(kind, lines, promoter)
        if features.is_empty():
            raise SourceError(f'{path}: no feature of class "{classes[column]}" lies on the contigs of the assembly')
        features = features.filter(pl.col("strand") == strand) if strand else features
        every = 3 if kind in _CODON else 1
        features = _inside(features, contigs, every)
        features = features.select("contig", "start", "end", klass=pl.lit(column, pl.Int16)).unique()
        found.append(features.with_columns(step=pl.lit(every, pl.UInt8)))
    table = pl.concat(found).sort("contig", "start", "end", "klass")
    contig, start, end, klass, step = (column.to_numpy() for column in table.get_columns())
    return gather(contig, start, end, klass, dict(names.skipped), step=step if wanted.framed else None)


class _Wanted:
    """What the classes take from a file: types of lines, and those that must have a transcript, a strand, a frame."""

    def __init__(self, kinds: list[str]):
        self.types = sorted({needed for kind in kinds for needed in _NEEDS.get(kind, (kind,))})
        derived = set(kinds).intersection(_NEEDS)
        by_transcript = derived.difference(_CODON)
        self.grouped = sorted({t for kind in by_transcript for t in _NEEDS[kind] if t in ("exon", *_CODING)})
        directed = derived.difference(["intron"])
        self.stranded = sorted({t for kind in directed for t in (_CODING if kind in _SIDED else _NEEDS[kind])})
        self.framed = bool(derived.intersection(_CODON))


def _refuse_absent(path: Path, name: str, kind: str, seen: set[str]) -> None:
    if kind in _NEEDS:
        needs = ["exon", "cds"] if kind in _SIDED else list(_NEEDS[kind])
        if not seen.issuperset(needs) and not seen.intersection(_SIDED.get(kind, ())):
            raise SourceError(
                f'{path}: class "{name}" is made of features of type {" and ".join(needs)}; the file has {some(sorted(seen), 12)}'
            )
    elif kind not in seen:
        raise SourceError(
            f'{path}: no feature is a "{kind}" (class "{name}"). {suggest(kind, sorted(seen) + list(_NEEDS))}'
        )


# ---- reading --------------------------------------------------------------------------------


def _read(path: Path, wanted: _Wanted, names: Names, seen: set[str]) -> Iterator[pl.DataFrame]:
    """Blocks of lines of the wanted types: contig (row), type, start, end (0-based half-open), strand, frame,
    transcript (a hash); `seen` gets the types of all lines."""
    form = form_of(path)
    for table in read_columns(path, FORMATS[form], "features"):
        table = transcripts(path, table) if form == "table" else checked(path, table)
        seen.update(kind.lower() for kind in table["type"].unique())
        types = pl.col("type").str.to_lowercase().cast(pl.Enum(wanted.types), strict=False)
        table = table.with_columns(type=types).filter(pl.col("type").is_not_null())
        if form == "gff3":
            escaped = table["contig"].unique().to_list()
            table = table.with_columns(pl.col("contig").replace_strict(escaped, [unquote(name) for name in escaped]))
        table = names.locate(table, around=True)
        table = table if form == "table" else _keyed(path, table, form, wanted)
        yield table.select("contig", "type", "start", "end", "strand", "frame", "transcript").unique()


def form_of(path: Path) -> str:
    """What kind of file it is ("table" is SpliceAI's): told by the header, or by the first line's attributes."""
    head = next(read_blocks(path), b"").decode(errors="replace").removeprefix("\ufeff")
    if head.startswith("#" + "\t".join(_TABLE)):
        return "table"
    if re.match(r"##gff-version\s+3", head):
        return "gff3"
    first = re.search(r"^[^#\s][^\t\n]*(?:\t[^\t\n]*){7}\t *([^\n]*)", head, re.MULTILINE)
    return "gff3" if first and re.match(r"[^\s;\"=]+=", first[1]) else "gtf"


def checked(path: Path, table: pl.DataFrame) -> pl.DataFrame:
    """Lines of GTF and GFF3, each checked, with 0-based half-open positions."""
    start, end = pl.col("start"), pl.col("end")
    refuse(path, table, (start < 1) | (end < start), "positions count from 1, and the end is not before the start")
    table = table.with_columns(pl.col("strand").cast(_STRANDS, strict=False), start=start - 1)
    refuse(path, table, pl.col("strand").is_null(), "the strand (column 7) must be + - . or ?")
    return table


def _keyed(path: Path, table: pl.DataFrame, form: str, wanted: _Wanted) -> pl.DataFrame:
    """`table` with frames as numbers and transcripts as hashes, where wanted; a line of several parents once for each."""
    kind, transcript = pl.col("type"), pl.col("transcript")
    unstranded = kind.is_in(wanted.stranded) & ~pl.col("strand").is_in(["+", "-"])
    refuse(path, table, unstranded, "a class that depends on the strand takes this line, which has none")
    frame = pl.col("frame").cast(pl.Int8, strict=False) if wanted.framed else pl.lit(None, pl.Int8)
    table = table.with_columns(frame=frame)
    if wanted.framed:
        unframed = (kind == "cds") & ~pl.col("frame").is_between(0, 2).fill_null(False)
        refuse(path, table, unframed, "positions in codons take the frame (column 8) of CDS, which must be 0, 1 or 2")
    if not wanted.grouped:
        return table.with_columns(transcript=pl.lit(None, pl.UInt64))
    pattern, name = _PARENT[form]
    grouped = kind.is_in(wanted.grouped)
    table = table.with_columns(transcript=pl.when(grouped).then(pl.col("attributes").str.extract(pattern)))
    problem = f"a class derived from transcripts takes this line, which has no {name}"
    refuse(path, table, grouped & transcript.is_null(), problem)
    if form == "gff3":
        table = table.with_columns(transcript.str.split(",")).explode("transcript")
    # 64 bits stand for the name: with 10^6 transcripts two share them in one of 3 * 10^7 files.
    return table.with_columns(transcript=pl.when(grouped).then(transcript.hash()))


def transcripts(path: Path, table: pl.DataFrame) -> pl.DataFrame:
    """SpliceAI's lines as exons, genes and transcripts."""
    table = table.rename({"CHROM": "contig", "STRAND": "strand"})
    first, last, starts, ends = (pl.col(name) for name in _TABLE[3:])
    table = table.with_columns(
        pl.col("EXON_START", "EXON_END").str.strip_suffix(",").str.split(",").cast(pl.List(pl.Int64), strict=False),
        pl.col("strand").cast(_STRANDS, strict=False),
    )
    refuse(path, table, ~pl.col("strand").is_in(["+", "-"]).fill_null(False), "the strand must be + or -")
    broken = starts.list.contains(None) | ends.list.contains(None) | (starts.list.len() != ends.list.len())
    refuse(path, table, broken, "positions of exons must be integers, and as many exons must end as start")
    outside = (starts.list.min() != first) | (ends.list.max() != last) | (first < 0)
    refuse(path, table, outside, "the exons must begin and end where the transcript does, from position 0 on")
    common = {"frame": pl.lit(None, pl.Int8), "transcript": pl.col("line").cast(pl.UInt64)}
    exons = table.explode("EXON_START", "EXON_END")
    refuse(path, exons, starts >= ends, "an exon must end after its start")
    return pl.concat(
        part.select("line", "contig", "strand", type=pl.lit(kind), start=start, end=end, **common)
        for kind, part, start, end in (
            ("exon", exons, "EXON_START", "EXON_END"),
            ("gene", table, "TX_START", "TX_END"),
            ("transcript", table, "TX_START", "TX_END"),
        )
    )


def _collapse(blocks: Iterator[pl.DataFrame]) -> pl.DataFrame:
    """All different rows. Isoforms share lines: what repeats is dropped on the way, so that memory follows the genes."""
    kept: list[pl.DataFrame] = []
    rows = collapsed = 0
    for block in blocks:
        kept.append(block)
        rows += len(block)
        if rows > 2 * collapsed + _ROWS_BEFORE_COLLAPSE:
            kept = [pl.concat(kept).unique()]
            rows = collapsed = len(kept[0])
    return pl.concat(kept).unique()


# ---- deriving -------------------------------------------------------------------------------


def _select(kind: str, lines: pl.DataFrame, promoter: tuple[int, int]) -> pl.DataFrame:
    """The features of one class on both strands: contig, strand, start, end; they may reach beyond their contig."""

    def of(*types: str) -> pl.DataFrame:
        return lines.filter(pl.col("type").is_in(list(types)))

    if kind not in _NEEDS:
        return of(kind)
    if kind in _CODON:
        return _codon_positions(of("cds"), _CODON.index(kind))
    if kind in _SIDED:
        explicit = of(*_SIDED[kind])
        return _untranslated(of("exon"), of(*_CODING), kind) if explicit.is_empty() else explicit
    forward = pl.col("strand") == "+"
    if kind in ("intron", "donor", "acceptor"):
        introns = _introns(of("exon"))
        if kind == "intron":
            return introns
        before = forward if kind == "donor" else ~forward
        base = pl.when(before).then(pl.col("start") - 1).otherwise(pl.col("end"))
        return introns.with_columns(start=base, end=base + 1)
    spans = of("exon").group_by(_TRANSCRIPT).agg(pl.col("start").min(), pl.col("end").max())
    base = pl.when(~forward if kind == "tes" else forward).then(pl.col("start")).otherwise(pl.col("end") - 1)
    if kind != "promoter":
        return spans.with_columns(start=base, end=base + 1)
    upstream, downstream = promoter
    start = pl.when(forward).then(base - upstream).otherwise(base + 1 - downstream)
    return spans.with_columns(start=start, end=start + upstream + downstream)


def _inside(features: pl.DataFrame, contigs: Contigs, step: int) -> pl.DataFrame:
    """What lies beyond the ends of a contig goes round where it is circular, and is cut off where it is not.

    Args:
        step: every so many bases of a feature count, from its first on.
    """
    start, end, length, around = (pl.col(name) for name in ("start", "end", "length", "around"))
    circular = pl.Series(contigs.circular or [False] * len(contigs))
    features = features.with_columns(
        length=pl.Series(contigs.lengths).gather(features["contig"]), around=circular.gather(features["contig"])
    )
    turned = pl.when(around).then(start.floordiv(length) * length).otherwise(0)
    features = features.with_columns(start=start - turned, end=end - turned)
    # The first base after the origin that counts: none is lost or added where a feature is cut in two.
    beyond = features.filter(around & (end > length)).with_columns(
        start=(start + (step - 1) * length) % step, end=pl.min_horizontal(end - length, start)
    )
    features = pl.concat([features.with_columns(start.clip(0), pl.min_horizontal(end, length)), beyond])
    return features.filter(start < end)


def _introns(exons: pl.DataFrame) -> pl.DataFrame:
    exons = exons.sort(*_TRANSCRIPT, "start").with_columns(
        start=pl.col("end").cum_max().over(_TRANSCRIPT), end=pl.col("start").shift(-1).over(_TRANSCRIPT)
    )
    return exons.filter(pl.col("start") < pl.col("end"))


def _untranslated(exons: pl.DataFrame, coding: pl.DataFrame, side: str) -> pl.DataFrame:
    """What the exons of coding transcripts hold outside the coding part, on one side in the transcript's direction."""
    spans = coding.group_by(_TRANSCRIPT).agg(first=pl.col("start").min(), last=pl.col("end").max())
    exons = exons.join(spans, on=_TRANSCRIPT)
    left = pl.col("strand") == ("+" if side == "utr5" else "-")
    exons = exons.with_columns(
        start=pl.when(left).then("start").otherwise(pl.max_horizontal("start", "last")),
        end=pl.when(left).then(pl.min_horizontal("end", "first")).otherwise("end"),
    )
    return exons.filter(pl.col("start") < pl.col("end"))


def _codon_positions(cds: pl.DataFrame, position: int) -> pl.DataFrame:
    """Every third base of each CDS line: from the first with this position in its codon, in the gene's direction."""
    skipped = (pl.col("frame").cast(pl.Int64) + position) % 3
    reach = pl.col("end") - pl.col("start") - skipped  # bases from the first such one on
    span = (reach - 1) // 3 * 3 + 1
    start = pl.when(pl.col("strand") == "+").then(pl.col("start") + skipped).otherwise(pl.col("end") - skipped - span)
    return cds.filter(reach > 0).with_columns(start=start, end=start + span)
