"""VCF and BCF (https://samtools.github.io/hts-specs/VCFv4.4.pdf) to substitutions and indels, read with htslib.

An alternative allele as long as REF is a substitution; one of several bases (MNV) becomes one row per base that differs.
One of another length is an indel, in one row: without the first base if it and REF share that, then without those that
both end with, then without the others that both begin with, some bases are deleted at a place and others inserted. Indels have no
place among bases that stay where they are; they are kept apart, refused, or left out and counted. The other kinds are never
kept, but counted where indels are:

    indel       another length than REF              symbolic    <DEL>, <CN0>, <INS:ME:ALU> and the like
    breakend    N[chr2:321[, .A and the like         star        *, a deletion upstream spans the site
    ambiguous   a letter other than A, C, G, T

"reference" counts what claims no alternative (".", <*>, <NON_REF>, an allele equal to REF); it is never refused.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from distgen.errors import ConfigError, SourceError, suggest
from distgen.genome import BASES, Bytes, Contigs, Int64
from distgen.ingest.open import read_blocks
from distgen.ingest.packing import CODES

Indels = Literal["refuse", "skip", "keep"]
Reference = Callable[[int, Int64], Bytes]
_RECORDS = 1 << 16
_REF_LETTERS = 1 << 22
_ALLELES = 1 << 23
_LETTERS = re.compile("[ACGTNRYSWKMBDHV]+")
_BREAKEND = re.compile(r"[A-Z]*[\[\]][^\[\]]+[\[\]][A-Z]*|\.[A-Z]+|[A-Z]+\.")


@dataclass(frozen=True)
class IndelBlock:
    """Alleles of another length than REF, in the order of the file.

    Args:
        row, offset, genotypes, phased: (m, ...), as `VariantBlock` has them.
        position: int64 (m,), 0-based, the first deleted base; where none is, the base that the inserted ones stand before.
        deleted: int64 (m,), how many bases are.
        inserted: object (m,), the base codes uint8 of each.
    """

    row: Int64
    position: Int64
    offset: Int64
    deleted: Int64
    inserted: npt.NDArray[np.object_]
    genotypes: npt.NDArray[np.int8] | None
    phased: npt.NDArray[np.bool_] | None


@dataclass(frozen=True)
class VariantBlock:
    """Substitutions, one row for each alternative base, in the order of the file, and indels beside them.

    Args:
        row: int64 (n,), the contig's row in the assembly.
        position: int64 (n,), 0-based.
        offset: int64 (n,), how far that is from the record's first base.
        reference, alternative: uint8 (n,), base codes.
        genotypes: int8 (n, samples, 2): 1 where the allele is this alternative, 0 where it is another one (the reference,
            or what another row says of the site), -1 where it is not known or not there (a haploid call).
        phased: bool (n, samples). Both are None if no samples are asked for.
        counts: what the records of this block were: "records", "substitutions" (rows), the module's kinds, "unsorted"
            (records before the one before them, or of a contig left earlier) and "duplicated" (alternatives that came
            before at the same position; duplicates further apart, in unsorted files, are not seen).
        skipped: records on contigs that the assembly lacks, by contig name.
        indels: those that are kept; no rows if they are not.
    """

    row: Int64
    position: Int64
    offset: Int64
    reference: Bytes
    alternative: Bytes
    genotypes: npt.NDArray[np.int8] | None
    phased: npt.NDArray[np.bool_] | None
    counts: Counter[str]
    skipped: Counter[str]
    indels: IndelBlock


def read_variants(
    path: Path,
    contigs: Contigs,
    *,
    samples: Sequence[str] | None = None,
    reference: Reference | None = None,
    indels: Indels = "refuse",
    records: int = _RECORDS,
) -> Iterator[VariantBlock]:
    """The substitutions of a file, a block of records at a time.

    Args:
        path: VCF (plain, gzip or bgzip) or BCF.
        contigs: the assembly's. Names in the file are understood by `Contigs.rows`, with the lengths that it declares.
        samples: whose genotypes to read, in this order.
        reference: the assembly's base codes uint8 (n,) at 0-based positions int64 (n,) of the contig in a row; if given,
            REF must agree with it (ambiguous with ambiguous).
        indels: what to do with alternatives that are no substitutions: "refuse" them, "skip" them, or "keep" indels and
            skip the rest.
        records: at most so many records in a block.

    Raises:
        ConfigError: a sample is not in the file.
        SourceError: the file is damaged, a record leaves its contig, REF is not the assembly's, or what cannot be
            represented is not to be skipped, or there are no records; names file and contig:position (1-based, as the file has it).
    """
    vcf = _open(path, samples)
    columns = [vcf.samples.index(name) for name in samples] if samples else None
    names, lengths = _declared(path, vcf)
    rows = _rows(path, contigs, names, lengths)
    most = min(records, max(1, _ALLELES // len(columns))) if columns else records
    sites, order, empty = _Sites(path, indels, columns), _Order(), True
    for variant in _records(path, vcf):
        name, start = variant.CHROM, variant.start
        sites.counts["records"], empty = sites.counts["records"] + 1, False
        sites.counts["unsorted"] += order.steps_back(name, start)
        if name not in rows:  # the header need not declare every contig
            names, lengths = [*names, name], [*lengths, -1]
            rows = _rows(path, contigs, names, lengths)
        row = rows[name]
        if row < 0:
            sites.skipped[name] += 1
        else:
            sites.add(row, int(contigs.lengths[row]), variant, order)
        if sites.counts["records"] >= most or sites.letters > _REF_LETTERS:
            yield sites.block(reference)
            sites = _Sites(path, indels, columns)
    if empty:
        raise SourceError(f"{path}: the file holds no variants below its header")
    if sites.counts["records"]:
        yield sites.block(reference)


def apply(codes: Bytes, start: int, positions: Int64, alternatives: Bytes) -> Bytes:
    """A stretch of a contig with some bases substituted.

    Args:
        codes: uint8 (n,), the stretch's base codes; left as they are.
        start: its first base on the contig, 0-based.
        positions: int64 (m,), 0-based on the contig; those outside the stretch change nothing.
        alternatives: uint8 (m,), base codes.

    Raises:
        SourceError: one position gets two bases; names the position (0-based).
    """
    here = (positions >= start) & (positions < start + len(codes))
    at, bases = positions[here] - start, alternatives[here]
    changed = codes.copy()
    changed[at] = bases
    if (clash := np.flatnonzero(changed[at] != bases)).size:
        raise SourceError(f"position {at[clash[0]] + start:,} (0-based) gets two bases; apply one haplotype at a time")
    return changed


class _Order:
    """Where the last record was, and which alternatives came at its position."""

    def __init__(self) -> None:
        self.name, self.start = "", -1
        self.left: set[str] = set()
        self.alternatives: set[tuple[str, str]] = set()

    def steps_back(self, name: str, start: int) -> bool:
        if same := name == self.name:
            back = start < self.start
        else:
            back = name in self.left
            self.left.add(self.name)
        if not same or start != self.start:
            self.alternatives.clear()
        self.name, self.start = name, start
        return back


@dataclass
class _Sites:
    """Records on their way to a block."""

    path: Path
    indels: Indels
    columns: list[int] | None
    counts: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    letters: int = 0
    where: list[tuple[str, int, int, str]] = field(default_factory=list)  # contig name, row, start, REF of each site
    found: list[tuple[int, int, str, str, int]] = field(
        default_factory=list
    )  # site, offset in REF, bases, allele number
    resized: list[tuple[int, int, int, str, int]] = field(
        default_factory=list
    )  # site, offset in REF, bases deleted, letters inserted, allele number
    alleles: list[npt.NDArray[np.int16]] = field(default_factory=list)
    phased: list[npt.NDArray[np.bool_]] = field(default_factory=list)

    def add(self, row: int, length: int, variant: Any, order: _Order) -> None:
        start, ref = variant.start, variant.REF.upper()
        if not _LETTERS.fullmatch(ref):
            raise self._error(variant, f"REF {ref[:40]!r} is no sequence of bases")
        if start < 0 or start + len(ref) > length:
            raise self._error(variant, f"REF of {len(ref):,} bases leaves the contig, which has {length:,}")
        for number, alt in enumerate(map(str.upper, variant.ALT or ["."]), 1):
            kind = _kind(ref, alt)
            if kind is None:
                raise self._error(variant, f"ALT {alt[:40]!r} is no allele that the VCF specification knows")
            if self.indels == "refuse" and kind not in ("substitution", "reference"):
                what = (
                    f"{ref[:40]} to {alt[:40]} ({kind}) is no substitution of bases; leave such records out of the file"
                )
                choices = 'have them skipped and counted (indels = "skip"), or insertions and deletions kept ("keep")'
                raise self._error(variant, f"{what}, {choices}")
            self.counts["duplicated"] += kind != "reference" and (ref, alt) in order.alternatives
            order.alternatives.add((ref, alt))
            if kind == "substitution":
                bases = enumerate(zip(ref, alt, strict=True))
                self.found += [(len(self.where), i, a, b, number) for i, (a, b) in bases if a != b]
            else:
                self.counts[kind] += 1
            if kind == "indel" and self.indels == "keep":
                self.resized.append((len(self.where), *_trimmed(ref, alt), number))
        self.where.append((variant.CHROM, row, start, ref))
        self.letters += len(ref)
        if self.columns is not None:
            self._call(variant, self.columns)

    def _call(self, variant: Any, columns: list[int]) -> None:
        try:
            calls = variant.genotype.array()[columns]  # alleles, then 1 if phased; -1 is missing, -2 fills short calls
        except Exception:
            raise self._error(variant, "the record has no genotypes (GT)") from None
        alleles = calls[:, :-1]
        if (alleles[:, 2:] != -2).any():
            raise self._error(variant, "a genotype of more than two alleles; distgen reads one or two")
        if alleles.max(initial=0) > len(variant.ALT):
            raise self._error(variant, f"a genotype names allele {alleles.max()} of {len(variant.ALT)}")
        pair = np.full((len(columns), 2), -1, np.int16)
        pair[:, : alleles.shape[1]] = np.maximum(alleles[:, :2], -1)
        self.alleles.append(pair)
        self.phased.append(calls[:, -1] == 1)

    def _error(self, variant: Any, what: str) -> SourceError:
        return SourceError(f"{self.path}: {variant.CHROM}:{variant.start + 1}: {what}")

    def block(self, reference: Reference | None) -> VariantBlock:
        if reference is not None and self.where:
            self._compare(reference)
        site, offset, number = (np.array([found[i] for found in self.found], np.int64) for i in (0, 1, 4))
        rows, starts = (np.array([where[i] for where in self.where], np.int64) for i in (1, 2))
        old, new = _codes("".join(found[2] for found in self.found)), _codes("".join(found[3] for found in self.found))
        self.counts["substitutions"] = len(site)
        at, within, deleted, which = (np.array([found[i] for found in self.resized], np.int64) for i in (0, 1, 2, 4))
        inserted = np.empty(len(at), object)
        inserted[:] = [_codes(found[3]) for found in self.resized]
        kept = IndelBlock(rows[at], starts[at] + within, within, deleted, inserted, *self._genotypes(at, which))
        genotypes, phased = self._genotypes(site, number)
        return VariantBlock(
            rows[site], starts[site] + offset, offset, old, new, genotypes, phased, self.counts, self.skipped, kept
        )

    def _genotypes(
        self, site: Int64, number: Int64
    ) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.bool_]] | tuple[None, None]:
        """Of the alleles with these numbers (n,) at these sites (n,); see `VariantBlock`."""
        if self.columns is None:
            return None, None
        alleles = np.array(self.alleles, np.int16).reshape(-1, len(self.columns), 2)[site]
        calls = np.where(alleles < 0, -1, alleles == number[:, None, None]).astype(np.int8)
        return calls, np.array(self.phased, np.bool_).reshape(-1, len(self.columns))[site]

    def _compare(self, reference: Reference) -> None:
        """Every letter of every REF with the assembly."""
        given = _codes("".join(ref for *_, ref in self.where))
        rows, starts, sizes = (
            np.array(column, np.int64)
            for column in zip(*((r, s, len(ref)) for _, r, s, ref in self.where), strict=True)
        )
        site = np.repeat(np.arange(len(sizes)), sizes)
        positions = np.arange(len(given)) - (np.cumsum(sizes) - sizes - starts)[site]
        actual = np.empty_like(given)
        for row in np.unique(rows):
            here = rows[site] == row
            actual[here] = reference(int(row), positions[here])
        if (bad := np.flatnonzero(given != actual)).size:
            i = int(bad[0])
            raise SourceError(
                f"{self.path}: {self.where[site[i]][0]}:{positions[i] + 1}: REF is {BASES[given[i]]}, the assembly has "
                f"{BASES[actual[i]]} there ({bad.size:,} of {len(given):,} letters around it differ): the file is of another assembly"
            )


def _codes(letters: str) -> Bytes:
    return np.frombuffer(letters.encode().translate(CODES.tobytes()), np.uint8)


def _kind(ref: str, alt: str) -> str | None:
    """What an alternative is, or None if it is malformed."""
    if alt in (ref, ".", "<*>", "<NON_REF>"):
        return "reference"
    if _LETTERS.fullmatch(alt):
        return "ambiguous" if set(alt) - set("ACGT") else "indel" if len(alt) != len(ref) else "substitution"
    if alt == "*":
        return "star"
    if re.fullmatch("<[^<>]+>", alt):
        return "symbolic"
    return "breakend" if _BREAKEND.fullmatch(alt) else None


def _trimmed(ref: str, alt: str) -> tuple[int, int, str]:
    """Where in REF an allele differs, how many bases it lacks there, and the letters that it has in their place."""
    first = int(ref[0] == alt[0])  # the base before the event, which stays whatever the others are
    tail = _shared(ref[first:][::-1], alt[first:][::-1])
    ref, alt = ref[: len(ref) - tail], alt[: len(alt) - tail]
    head = _shared(ref, alt)
    return head, len(ref) - head, alt[head:]


def _shared(a: str, b: str) -> int:
    """How many letters both begin with."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


# ---- the file ---------------------------------------------------------------------------------


def _open(path: Path, samples: Sequence[str] | None) -> Any:
    from cyvcf2 import VCF
    from cyvcf2.cyvcf2 import set_htslib_log_level

    set_htslib_log_level(0)  # what is wrong is raised; what htslib only wonders about is no matter
    next(read_blocks(path, 1), b"")  # says what is wrong with a file that is not there or cut short
    try:
        vcf = VCF(str(path))
    except Exception as error:
        raise SourceError(f"{path}: no VCF or BCF file ({error})") from None
    for name in samples or ():
        if name not in vcf.samples:
            raise ConfigError(f'{path}: no sample is called "{name}". {suggest(name, vcf.samples)}')
    vcf.set_samples(list(samples or ()))  # htslib then skips the other columns
    return vcf


def _records(path: Path, vcf: Any) -> Iterator[Any]:
    variant, number = None, 0
    while True:
        try:
            variant, number = next(vcf), number + 1
        except StopIteration:
            return
        except Exception as error:
            last = f"after {variant.CHROM}:{variant.POS}" if variant else "the first"
            raise SourceError(
                f"{path}: record {number + 1}, {last}, is malformed, or the file is damaged ({error})"
            ) from None
        yield variant


def _declared(path: Path, vcf: Any) -> tuple[list[str], list[int]]:
    """The contigs of the header and their lengths, -1 where it has none; if it has no contigs, those of the records."""
    names = list(vcf.seqnames)
    if not names:
        names = list(dict.fromkeys(variant.CHROM for variant in _records(path, _open(path, None))))
    try:
        lengths = list(vcf.seqlens)
    except AttributeError:
        lengths = []
    return names, lengths if len(lengths) == len(names) else [-1] * len(names)


def _rows(path: Path, contigs: Contigs, names: list[str], lengths: list[int]) -> dict[str, int]:
    # Where a length is not declared, the contig that its name means is as long as it should be.
    assumed = contigs.rows(names, str(path))
    known = [
        length if length > 0 else int(contigs.lengths[row]) if row >= 0 else -1
        for length, row in zip(lengths, assumed, strict=True)
    ]
    return dict(zip(names, contigs.rows(names, str(path), known).tolist(), strict=True))
