"""What a track is made of: `[[track]]` of a recipe."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from distgen.config.file import Name, NotNegative, Positive, Section, Share, Strings, TableError, source_name
from distgen.errors import redact, suggest

# What a source is, by the end of its name (without .gz or .bgz).
KINDS = {
    "annotation": (".gtf", ".gff", ".gff3"),
    "intervals": (".bed", ".narrowPeak", ".broadPeak"),
    "signal": (".bw", ".bigwig", ".bigWig", ".bedgraph", ".bedGraph", ".bg", ".bdg"),
    "alignments": (".bam", ".cram", "fragments.tsv"),
}
# Which keys of a track belong to which kind.
_ONLY = {
    "annotation": {"classes", "promoter"},
    "intervals": {"columns", "summit", "value", "blocks", "absent"},
    "signal": {"columns", "reduce", "absent", "min_covered", "dtype", "scale", "power", "soft_clip"},
    "alignments": {"groups", "what", "tn5", "min_mapq", "reduce", "dtype", "scale", "power", "soft_clip"},
}


class Track(Section):
    """Values along the assembly, in one or more columns.

    What the source is says its name, or `kind`:

    - `annotation` (GTF, GFF3, a table of transcripts): `classes`, such as `cds+` for every CDS on the + strand. A bin
      carries a class when any of its bases does. `promoter` is (upstream, downstream) bases around the start.
    - `intervals` (BED, narrowPeak, broadPeak): a column for each file, 1 where any base of a bin lies in an interval;
      `summit` takes so many bases around the summit instead, `blocks` the blocks of a BED12, `value` the score.
    - `signal` (bigWig, bedGraph): a column for each file, reduced to bins. `absent` says what a gap in the file means;
      `mean` divides by the bin's width, `mean_covered` by the covered bases; a bin of which a smaller share than
      `min_covered` is covered has no data.
    - `alignments` (BAM, CRAM, fragments): coverage or cut sites of reads, a column for each group of cells.

    `compress = false` keeps values as they are: larger, but read from the page cache without being decoded.
    Signals are kept as (scale * x) ** power, and what then exceeds c = soft_clip as c - 1 + sqrt(x - c + 1).
    `swap` names the pairs of columns that change places when a window is read from the other strand; by default those
    that differ in a final + and - alone.
    """

    name: Name
    source: Annotated[str | Strings, Field(union_mode="left_to_right")]
    kind: Literal["annotation", "intervals", "signal", "alignments"] | None = None
    bin_bp: Positive = 1
    swap: Annotated[tuple[Annotated[Strings, Field(min_length=2, max_length=2)], ...], Field(strict=False)] = ()
    classes: Annotated[tuple[Name, ...], Field(strict=False, max_length=64)] = ()
    promoter: Annotated[tuple[NotNegative, NotNegative], Field(strict=False)] = (1000, 200)
    columns: Annotated[tuple[Name, ...], Field(strict=False)] = ()
    summit: NotNegative | None = None
    blocks: bool = False
    value: Literal["score", "signalValue"] | None = None
    reduce: Literal["mean", "mean_covered", "max", "sum", "coverage"] = "mean"
    absent: Literal["zero", "missing"] = "missing"
    min_covered: Share = 0.0
    groups: str | None = None
    what: Literal["coverage", "cuts"] = "coverage"
    tn5: bool = False
    min_mapq: NotNegative = 0
    dtype: Literal["float32", "float16", "uint8"] = "float32"
    scale: Annotated[float, Field(gt=0)] = 1.0
    power: Annotated[float, Field(gt=0, le=1)] = 1.0
    soft_clip: Annotated[float, Field(gt=1)] | None = None
    compress: bool = True

    @model_validator(mode="before")
    @classmethod
    def _tell_kind(cls, table: Any) -> Any:
        """The kind from the source's name; refuses keys of another kind, which would do nothing."""
        if not isinstance(table, dict) or "source" not in table:
            return table
        source = table["source"]
        if isinstance(source, (list, tuple)) and source:
            source = source[0]
        if not isinstance(source, str):
            raise TableError('it should be a path, or a list of paths, such as ["a.bw", "b.bw"]', "source")
        stem = re.sub(r"\.(gz|bgz)$", "", source_name(source))
        kind = table.get("kind") or next((k for k, ends in KINDS.items() if stem.endswith(ends)), None)
        if kind is None:
            raise ValueError(f'kind is missing: "{redact(source)}" does not tell it. {suggest("", KINDS)}')
        if kind in _ONLY:
            for key in set().union(*_ONLY.values()) - _ONLY[kind]:
                if key in table:
                    raise ValueError(f'"{key}" does not belong to a track of kind "{kind}"')
        return table | {"kind": kind}

    @model_validator(mode="after")
    def _check(self) -> Track:
        if self.kind == "annotation" and not self.classes:
            raise ValueError("classes is missing: name one or more, such as cds+")
        if self.kind in ("annotation", "alignments") and len(self.sources) > 1:
            raise ValueError(f"a track of kind {self.kind} has one source")
        for names in (self.classes, self.columns):
            if len(set(names)) < len(names):
                raise ValueError("columns must differ")
        if self.columns and len(self.columns) != len(self.sources):
            raise ValueError(f"columns names {len(self.columns)} for {len(self.sources)} sources")
        if self.kind != "alignments" and len(set(self.names)) < len(self.names):
            raise ValueError("two sources would have the same name: name the columns")
        for name in (name for pair in self.swap for name in pair):
            if self.kind != "alignments" and name not in self.names:
                raise ValueError(f'swap names column "{name}". {suggest(name, self.names)}')
        return self

    @property
    def sources(self) -> tuple[str, ...]:
        """The files of the columns."""
        return (self.source,) if isinstance(self.source, str) else self.source

    @property
    def tables(self) -> tuple[str, ...]:
        """Other files that the values depend on."""
        return (self.groups,) if self.groups else ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns, where the recipe tells them (groups of cells stand in a file)."""
        if self.kind == "annotation":
            return self.classes
        stems = (re.sub(r"(\.gz|\.bgz)$", "", source_name(source)) for source in self.sources)
        return self.columns or tuple(stem.rsplit(".", 1)[0] for stem in stems)

    @property
    def is_classes(self) -> bool:
        """Values are 0 and 1, without missing data."""
        return self.kind == "annotation" or (self.kind == "intervals" and self.value is None)

    def permutation(self, names: tuple[str, ...]) -> tuple[int, ...]:
        """Where each column is found on the other strand: column i becomes column permutation[i]."""
        pairs = self.swap or tuple(
            (name, name[:-1] + "-") for name in names if name.endswith("+") and name[:-1] + "-" in names
        )
        order = list(range(len(names)))
        for one, other in pairs:
            i, j = names.index(one), names.index(other)
            order[i], order[j] = j, i
        return tuple(order)
