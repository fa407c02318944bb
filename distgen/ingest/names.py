"""What else a contig is called: UCSC chromAlias tables, NCBI assembly reports, and the names of alternative contigs.

Formats: https://genomewiki.ucsc.edu/index.php/Chrom_Alias, kent/src/hg/lib/chromAlias.as, and
https://ftp.ncbi.nlm.nih.gov/genomes/README.txt ("assembly_report.txt").
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from distgen.errors import SourceError

_REPORT = ("Sequence-Name", "Sequence-Role", "GenBank-Accn", "Relationship", "RefSeq-Accn")
_SOURCE = re.compile(r"(ucsc|assembly|refseq|genbank|ensembl|ncbi|insdc)(,\s*[a-z]+)*", re.IGNORECASE)

# Who names contigs that repeat or replace part of the primary assembly, and how.
_ALTERNATIVE = re.compile(
    "|".join(
        (
            r".+_(alt|fix)",  # UCSC from hg38 on: alternate loci and fix patches (chr1_KI270762v1_alt, chr1_KN196472v1_fix)
            r".+_hap\d+",  # UCSC up to hg19: haplotypes (chr6_cox_hap2)
            r".+_decoy",  # GRCh38 analysis sets: decoys (chrUn_KN707606v1_decoy)
            r"hs37d5",  # 1000 Genomes phase 2: the concatenated decoy
            r"HLA-.+",  # bwakit and GATK: HLA alleles (HLA-A*01:01:01:01)
            r"chrEBV|NC_007605(\.\d+)?",  # analysis sets and hs37d5: Epstein-Barr virus as a sink for reads
            r"CHR_.+",  # Ensembl from GRCh38 on: alternate loci and patches (CHR_HSCHR6_MHC_APD_CTG1)
            r".+_PATCH",  # GRC, so NCBI and Ensembl: patches (HG1012_PATCH)
            # GRC: alternate loci and novel patches of human and mouse (HSCHR6_MHC_APD); the same prefix with RANDOM or
            # UNLOCALIZED is an unlocalised or unplaced scaffold of the primary assembly.
            r"(HS|MM)CHR(?!.*(RANDOM|UNLOCALIZED)).+",
        )
    )
)


@dataclass(frozen=True)
class Alias:
    """One contig as a table has it.

    Args:
        names: its names, the table's own first, each once.
        length: bases if the table declares them.
        role: NCBI's Sequence-Role (assembled-molecule, alt-scaffold, fix-patch, ...), or "".
    """

    names: tuple[str, ...]
    length: int | None = None
    role: str = ""


def is_alternative(name: str) -> bool:
    """Whether a contig repeats or replaces part of the primary assembly, by its name alone.

    True for alternate loci, haplotypes, fix and novel patches, decoys, HLA alleles and EBV as UCSC, GRC, Ensembl,
    1000 Genomes and GATK name them; false for all else, also unplaced and unlocalised scaffolds (chrUn_*, *_random, GL000*).
    """
    return _ALTERNATIVE.fullmatch(name) is not None


def read_aliases(path: Path) -> list[Alias]:
    """The names that mean the same contig, from a table of UCSC or NCBI.

    Told by its header: an NCBI assembly report ("# Sequence-Name ..."), a UCSC table with one contig per line and one
    naming authority per column ("# ucsc  assembly  genbank ..."), or UCSC's older table of pairs (alias, chrom, source,
    with or without a header). An empty cell or "na" is no name, and neither is one with a blank: no sequence file can
    hold it. Accessions that a report calls different sequences (relationship "<>") are no aliases of each other: where
    both are given, both are left out.

    Args:
        path: plain or gzip.

    Raises:
        SourceError: the file is none of these, a line is malformed, or one name is given to two contigs.
    """
    from distgen.ingest.lines import read_lines

    rows = (row for block in read_lines(path, "names", comments=False) for row in block.iter_rows())
    lines = [(number, [field.strip() for field in text.split("\t")]) for number, text in rows]
    header = next((fields for number, fields in lines if fields[0].lstrip("# ") == "Sequence-Name"), None)
    if header:
        groups = _report(path, header, lines)
    elif lines[0][1][0].startswith("#") and lines[0][1][0].lstrip("# ") != "alias":
        groups = _wide(path, lines)
    else:
        groups = _pairs(path, lines)
    found: list[Alias] = []
    owner: dict[str, int] = {}
    for number, names, length, role in groups:
        kept = tuple(dict.fromkeys(name for name in names if name and name != "na" and not re.search(r"\s", name)))
        for name in kept:
            if name in owner:
                raise SourceError(f'{path}:{number}: "{name}" already names the contig of line {owner[name]}')
            owner[name] = number
        if kept:
            found.append(Alias(kept, length, role))
    if not found:
        raise SourceError(f"{path}: no line of the table holds a name; {_EXPECTED}")
    return found


_EXPECTED = (
    'distgen reads UCSC chromAlias.txt ("# ucsc  assembly  genbank ..." or alias, chrom, source) and NCBI '
    "assembly_report.txt, columns parted by tabs"
)
_Group = tuple[int, list[str], int | None, str]


def _report(path: Path, header: list[str], lines: list[tuple[int, list[str]]]) -> Iterator[_Group]:
    columns = {name.lstrip("# "): i for i, name in enumerate(header)}
    if lacking := [name for name in _REPORT if name not in columns]:
        raise SourceError(f"{path}: the assembly report lacks the column {lacking[0]}")
    for number, fields in lines:
        if fields[0].startswith("#"):
            continue
        if len(fields) != len(header):
            raise SourceError(f"{path}:{number}: {len(fields)} columns where the header has {len(header)}")
        row = {name: fields[i] for name, i in columns.items()}
        names = [row["Sequence-Name"], row.get("UCSC-style-name", "na")]
        accessions = [row["GenBank-Accn"], row["RefSeq-Accn"]]
        if row["Relationship"] == "=" or "na" in accessions:
            names += accessions
        length = row.get("Sequence-Length", "na")
        if length != "na" and not re.fullmatch("[1-9][0-9]*", length):
            raise SourceError(f'{path}:{number}: Sequence-Length "{length}" is no number of bases')
        yield number, names, None if length == "na" else int(length), row["Sequence-Role"]


def _wide(path: Path, lines: list[tuple[int, list[str]]]) -> Iterator[_Group]:
    header = [name.lstrip("# ") for name in lines[0][1]]
    # UCSC wrote "# sequenceName, alias names, UCSC database: hg38" for some years, whatever the number of columns.
    width = None if header[0] == "sequenceName" else len(header)
    for number, fields in lines[1:]:
        if width and len(fields) != width:
            raise SourceError(f"{path}:{number}: {len(fields)} columns where the header has {width}")
        if not fields[0]:
            raise SourceError(f"{path}:{number}: the first column, the contig's own name, is empty")
        yield number, fields, None, ""


def _pairs(path: Path, lines: list[tuple[int, list[str]]]) -> Iterator[_Group]:
    groups: dict[str, _Group] = {}
    for number, fields in lines:
        if fields[0].startswith("#"):
            continue
        if len(fields) != 3 or not fields[0] or not fields[1] or not _SOURCE.fullmatch(fields[2]):
            raise SourceError(f"{path}:{number}: {fields} is no line of an alias table; {_EXPECTED}")
        alias, contig, _ = fields
        group = groups.setdefault(contig, (number, [contig], None, ""))
        group[1].append(alias)
    yield from groups.values()
