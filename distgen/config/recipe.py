"""What a store is made of: the sections of a recipe."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, PrivateAttr, model_validator

from distgen.config.file import SHA256, File, Name, NotNegative, Positive, Section, Strings, TableError, source_name
from distgen.config.track import Track
from distgen.errors import ConfigError, redact, suggest

SCHEMES = ("s3", "gs", "az", "https", "http")  # of remote sources
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Assembly(Section):
    """One genome: its name, its sequence (FASTA, plain or gzip, or UCSC .2bit), and the file's SHA-256 where it
    must be that very file."""

    name: Name
    fasta: str
    sha256: Annotated[str, Field(pattern=SHA256)] | None = None


class ContigRules(Section):
    """Which contigs go into the store, and what they are called.

    `include`, `exclude` and `circular` are names or globs; `min_length` is in bases. Alternative, patch and decoy
    contigs are left out unless `include` names them. `aliases` is a table of other names: UCSC chromAlias or an NCBI
    assembly report.
    """

    include: Strings = ("*",)
    exclude: Strings = ()
    min_length: NotNegative = 0
    circular: Strings = ()
    aliases: str | None = None


class Drawn(Section):
    """Which share of the bases validates and tests."""

    valid: Fraction = 0.0
    test: Fraction = 0.0


class Homology(Section):
    """What resembles `test` is taken from the other parts, and what resembles `valid` from `train`: tiles of `tile` bases
    that align with at least this identity over at least this share of their length are dropped, or moved to the part
    they resemble; `neighbours` tiles on either side are dropped.

    Of a table of sequences, whole ones are: those that align over at least this share, or stand in the other part. Where
    its parts are drawn, families of sequences that resemble each other are, and nothing is dropped.
    """

    identity: Annotated[float, Field(ge=0.7, le=1)] = 0.8
    coverage: Annotated[float, Field(gt=0, le=1)] = 0.5
    tile: Annotated[int, Field(ge=128, le=8192, multiple_of=64)] = 512
    neighbours: NotNegative = 1
    action: Literal["drop", "move"] = "drop"


class Split(Section):
    """Which stretches validate and test; `train` is the rest unless named.

    Each entry of `train`, `valid` and `test` is a contig, a glob, `contig:start-end` (0-based, half-open, or in
    percent), or a BED file. Instead, `fraction` draws blocks of `block_bp`, and `folds = k` makes k splits NAME-0 to
    NAME-(k-1) of whole contigs (of drawn blocks, with `block_bp`), each of which tests on one fold and validates on the
    next. Bases less than `buffer_bp` from a held-out part belong to no other.
    """

    train: Strings = ()
    valid: Strings = ()
    test: Strings = ()
    fraction: Drawn | None = None
    folds: Annotated[int, Field(ge=3, le=100)] | None = None
    block_bp: Positive | None = None
    buffer_bp: NotNegative = 0
    seed: NotNegative = 0
    homology: Homology | None = None

    @model_validator(mode="after")
    def _check(self) -> Split:
        ways = [bool(self.train or self.valid or self.test), self.fraction is not None, self.folds is not None]
        if sum(ways) > 1:
            raise ValueError("name the parts, or draw a fraction, or ask for folds: one of them")
        if self.fraction and self.fraction.valid + self.fraction.test >= 1:
            raise ValueError("valid and test leave nothing to train on")
        if self.block_bp and ways[0]:
            raise ValueError("block_bp belongs to fraction and folds")
        return self

    def called(self, name: str) -> list[str]:
        """What the splits are called that this table makes under its own name."""
        return [f"{name}-{number}" for number in range(self.folds)] if self.folds else [name]

    @property
    def drawn(self) -> bool:
        """The parts are drawn: a fraction or folds."""
        return self.fraction is not None or self.folds is not None


class MatrixTable(Section):
    """Values by region and condition: `matrix` is CSV or TSV, whose first column names the regions and whose header
    names the conditions; `regions` is a BED file with these names in column 4, or a GTF or GFF3 with them as gene_id.

    Names that only one of the two has are refused, or counted and left out (`missing = "drop"`).
    """

    name: Name
    matrix: str
    regions: str
    missing: Literal["refuse", "drop"] = "refuse"


class VariantsTable(Section):
    """Substitutions of bases from a VCF or BCF file, with the genotypes of `samples` (the sites alone if there are none).
    What is no substitution is refused, or counted and left out (`indels = "skip"`); with `indels = "keep"`, insertions and
    deletions are kept as well, and the rest (symbolic alleles, breakends) is counted and left out."""

    name: Name
    source: str
    samples: Strings = ()
    indels: Literal["refuse", "skip", "keep"] = "refuse"

    @model_validator(mode="after")
    def _check(self) -> VariantsTable:
        if len(set(self.samples)) < len(self.samples):
            raise ValueError("samples must differ")
        return self


def _column(value: Any) -> Any:
    """Refuses with one sentence what is no column; a union would say one for each of its types."""
    for column in value if isinstance(value, list) and value else [value]:
        if not (isinstance(column, str) or (type(column) is int and column >= 0)):
            raise ValueError("a column is a name, or a number that counts from 0")
    return value


Column = Annotated[str | int, BeforeValidator(_column)]
Columns = Annotated[str | int | Annotated[tuple[str | int, ...], Field(strict=False)], BeforeValidator(_column)]
Labelled = str | dict[str, str]


class Sequences(Section):
    """A table of short labelled sequences: each is a contig of the store, and all in one part of the split.

    `train`, `valid` and `test` are files (CSV, TSV or FASTA), or a file for each class, { CLASS = FILE, ... }; or `table`
    is one file, whose column `split` names the part of each row. Without that column, [split] makes the parts. Or
    `webdataset` is a folder that `distgen export` has written with one track, whose only bin of a window is its label.

    `sequence`, `label`, `split` and `id` are columns by name, or by 0-based number in a file without a header. `kind`:

    - `binary`: labels are 0 and 1, or two names; `classes`: names; `regression`: one or several columns of numbers;
    - `multilabel`: several columns of 0 and 1, or one column of names parted by `separator`, "-" for none of them.

    A sequence is called as `id` says, or by its row if there is no such column or its names repeat.
    """

    name: Name
    kind: Literal["binary", "classes", "multilabel", "regression"]
    train: Labelled | None = None
    valid: Labelled | None = None
    test: Labelled | None = None
    table: str | None = None
    webdataset: str | None = None
    sequence: Column = "sequence"
    label: Columns = "label"
    split: Column | None = None
    id: Column | None = None
    separator: Annotated[str, Field(min_length=1)] = ";"

    @model_validator(mode="after")
    def _check(self) -> Sequences:
        if bool(self.parts) + (self.table is not None) + (self.webdataset is not None) != 1:
            raise ValueError("give train, valid and test, or one table, or a webdataset: one of the three")
        if self.webdataset is not None:
            if "://" in self.webdataset:
                raise ValueError("webdataset is a folder on this machine; copy it here first")
            columns = {"sequence", "label", "split", "id", "separator"} & self.model_fields_set
            if columns:
                raise ValueError(f'"{min(columns)}" does not belong to a webdataset, which has no columns')
        if self.parts and self.train is None:
            raise ValueError("train is missing")
        if self.split is not None and self.table is None:
            raise ValueError("split is a column of the one table; files for each part have none")
        return self

    @property
    def parts(self) -> dict[str, Labelled]:
        """The file of each part, where each has its own."""
        named = {"train": self.train, "valid": self.valid, "test": self.test}
        return {part: entry for part, entry in named.items() if entry is not None}

    @property
    def is_split(self) -> bool:
        """The table says to which part each sequence belongs."""
        return self.table is None or self.split is not None

    @property
    def files(self) -> dict[str, Labelled]:
        """The files by the key they stand at; of an export it is the index, which has the checksums of the others."""
        if self.webdataset is not None:
            return {"webdataset": f"{self.webdataset}/index.json"}
        return self.parts or {"table": str(self.table)}


class Recipe(File):
    """What a store is made of; `distgen build` reads it. `[split]` is the split called `default`.

    A source is a path, or `s3://bucket/key`, `gs://bucket/key`, `az://container/key` or an http(s) URL.
    """

    format: Literal[1]
    assembly: Assembly | None = None
    sequences: Sequences | None = None
    contigs: ContigRules = ContigRules()
    track: Annotated[tuple[Track, ...], Field(strict=False)] = ()
    matrix: Annotated[tuple[MatrixTable, ...], Field(strict=False)] = ()
    variants: Annotated[tuple[VariantsTable, ...], Field(strict=False)] = ()
    split: Split = Split()
    splits: dict[Name, Split] = Field(default_factory=dict)
    _fetch: Callable[[str], Path] | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        if (self.assembly is None) == (self.sequences is None):
            raise ValueError("give [assembly] or [sequences]: a store is made of one of the two")
        several = (("track", "tracks", self.track), ("matrix", "matrices", self.matrix))
        for kind, what, tables in (*several, ("variants", "variants", self.variants)):
            names = [table.name for table in tables]
            if twice := [name for name, count in Counter(names).items() if count > 1]:
                row = max(row for row, name in enumerate(names) if name == twice[0])
                raise TableError(f'two {what} are called "{twice[0]}"', kind, row, "name")
        if "default" in self.splits:
            raise ValueError("the split called default is [split]")
        made = Counter(
            fold for name, split in {"default": self.split, **self.splits}.items() for fold in split.called(name)
        )
        if twice := [name for name, count in made.items() if count > 1]:
            raise ValueError(f'two splits are called "{twice[0]}", one of them for its folds: give one another name')
        if self.sequences and self.contigs != ContigRules():
            raise ValueError("[contigs] is about an assembly; a table of sequences is taken whole")
        if self.sequences and self.sequences.is_split and self.split != Split(homology=self.split.homology):
            raise ValueError("[sequences] says the parts already; but for homology, splits go to [splits.NAME]")
        for name, split in {"default": self.split, **self.splits}.items():
            own = name == "default" and self.sequences is not None and self.sequences.is_split
            if split.homology and not (own or split.drawn or split.valid or split.test):
                keys = ("split",) if name == "default" else ("splits", name)
                problem = "what resembles valid or test is taken from other parts: name one of these, or draw a fraction or folds"
                raise TableError(problem, *keys, "homology")
        for split in (self.split, *self.splits.values()) if self.sequences else ():
            given = split.homology.model_fields_set if split.homology else set()
            if useless := given & ({"tile", "neighbours", "action"} if split.drawn else {"tile", "neighbours"}):
                raise ValueError(
                    f'"{min(useless)}" of homology does nothing here: a table\'s sequences stay whole'
                    + (", and drawn parts are drawn by families" if split.drawn else "")
                )
        return self

    @property
    def name(self) -> str:
        """What the store is called."""
        return self.sequences.name if self.sequences else self.genome.name

    @property
    def genome(self) -> Assembly:
        """The assembly of a recipe that is not about a table of sequences."""
        assert self.assembly is not None
        return self.assembly

    def split_of(self, name: str) -> Split:
        """The table that a split comes from; folds are called NAME-0, NAME-1, ..."""
        tables = {"default": self.split, **self.splits}
        return tables[name] if name in tables else tables[name.rsplit("-", 1)[0]]

    def resolve(self, path: str, key: str) -> Path:
        """The path of the source that stands at a key; one that is elsewhere is fetched."""
        uri = self.uri(path, key)
        if uri is None:
            return super().resolve(path, key)
        if self._fetch is None:
            raise self.error(key, f"{redact(uri)} is not on this machine; distgen build fetches it")
        return self._fetch(uri)

    def uri(self, source: str, key: str) -> str | None:
        """Where a remote source is, with any credentials; None for a file."""
        expanded = self.expand(source, key)
        scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", expanded)
        if scheme is None:
            return None
        shown, place = redact(expanded), expanded[scheme.end() :]
        if scheme[1] not in SCHEMES:
            raise self.error(key, f"{shown}: {suggest(scheme[1], SCHEMES)} A file is named by its path")
        if scheme[1].startswith("http"):
            _refuse_malformed(expanded, partial(self.error, key))
        elif "@" in place.partition("/")[0]:
            raise self.error(key, f"{shown}: credentials belong into the environment, not into the URI")
        if source_name(place) in ("", ".", "..") or "/" not in place:
            raise self.error(key, f"{shown} names no file; write {scheme[1]}://BUCKET/NAME (or HOST/NAME)")
        return expanded

    def fetching(self, fetch: Callable[[str], Path]) -> Recipe:
        """The same recipe, whose remote sources `fetch` brings here when they are first needed."""
        recipe = self.model_copy()
        recipe._fetch = fetch
        return recipe

    def files(self) -> dict[str, str]:
        """Every source as it is written, and the key it stands at."""
        found = {self.assembly.fasta: "assembly.fasta"} if self.assembly else {}
        if self.sequences:
            for part, entry in self.sequences.files.items():
                for path in [entry] if isinstance(entry, str) else entry.values():
                    found.setdefault(path, f"sequences.{part}")
        for number, matrix in enumerate(self.matrix):
            found.setdefault(matrix.matrix, f"matrix.{number}.matrix")
            found.setdefault(matrix.regions, f"matrix.{number}.regions")
        for number, variants in enumerate(self.variants):
            found.setdefault(variants.source, f"variants.{number}.source")
        if self.contigs.aliases:
            found[self.contigs.aliases] = "contigs.aliases"
        for number, track in enumerate(self.track):
            for path in track.sources:
                found.setdefault(path, f"track.{number}.source")
            for path in track.tables:
                found.setdefault(path, f"track.{number}.groups")
        for name, split in {"default": self.split, **self.splits}.items():
            for part in ("train", "valid", "test"):
                for entry in getattr(split, part):
                    if is_bed(entry):
                        found.setdefault(entry, f"split.{part}" if name == "default" else f"splits.{name}.{part}")
        return found


def is_bed(entry: str) -> bool:
    """Whether an entry of a split is a BED file."""
    return source_name(entry).endswith((".bed", ".bed.gz"))


def _refuse_malformed(uri: str, error: Callable[[str], ConfigError]) -> None:
    """What cannot be taken apart is not shown: there is no telling where a password ends."""
    try:
        urlsplit(uri).port  # noqa: B018 - asking for it checks it
        if re.search(r"[\s\"']", uri):
            raise ValueError
    except ValueError:
        hint = "in a password, @ is written %40, / %2F, ? %3F, a space %20 and a quote %22 or %27"
        raise error(f"this is no valid URI; {hint}") from None
