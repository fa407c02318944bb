"""Regions with names: BED and genes."""

import gzip

import numpy as np
import pytest

from distgen.errors import SourceError
from distgen.genome import Contigs
from distgen.ingest.regions import read_regions

LENGTHS = np.array([1000, 500])
CONTIGS = Contigs(("chr1", "chr2"), LENGTHS, np.array([0, 1024]), ("", ""), (False, False))

BED = """track name=peaks
# a comment
chr2\t10\t20\tb\t0\t-
chr1\t5\t9\ta
chrX\t1\t2\tx\t.\t+
"""
GTF = """#!genome
chr1\ts\texon\t11\t20\t.\t+\t.\tgene_id "g1"; transcript_id "t1";
chr1\ts\texon\t31\t40\t.\t+\t.\tgene_id "g1"; transcript_id "t2";
chr2\ts\tgene\t1\t500\t.\t-\t.\tgene_id "g2";
chrX\ts\texon\t1\t9\t.\t-\t.\tgene_id "g3"; transcript_id "t3";
"""
GFF3 = """##gff-version 3
chr1\ts\tgene\t11\t40\t.\t+\t.\tID=gene:g1;gene_id=g1
chr1\ts\tmRNA\t1\t900\t.\t+\t.\tID=t1;Parent=gene:g1
chr2\ts\tncRNA_gene\t1\t500\t.\t-\t.\tID=g%202
##FASTA
>chr1
ACGT
"""


def read(tmp_path, text, name):
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return read_regions(path, CONTIGS)


def rows(found):
    columns = (found.ids, found.contig, found.start, found.end, found.strand, found.elsewhere)
    return [
        tuple(value.item() if hasattr(value, "item") else value for value in row) for row in zip(*columns, strict=True)
    ]


@pytest.mark.parametrize("name", ["a.bed", "a.bed.gz", "a.narrowPeak"])
def test_bed_takes_names_from_column_4_and_keeps_what_lies_elsewhere_apart(tmp_path, name):
    assert rows(read(tmp_path, BED, name)) == [
        ("x", -1, 1, 2, 1, "chrX"),
        ("a", 0, 5, 9, 0, ""),
        ("b", 1, 10, 20, -1, ""),
    ]


def test_a_gene_of_a_gtf_reaches_over_all_its_lines(tmp_path):
    assert rows(read(tmp_path, GTF, "a.gtf")) == [
        ("g3", -1, 0, 9, -1, "chrX"),
        ("g1", 0, 10, 40, 1, ""),
        ("g2", 1, 0, 500, -1, ""),
    ]


def test_genes_of_a_gff3_go_by_gene_id_or_else_by_id(tmp_path):
    assert rows(read(tmp_path, GFF3, "a.gff3")) == [("g1", 0, 10, 40, 1, ""), ("g 2", 1, 0, 500, -1, "")]


def test_a_line_of_the_table_of_transcripts_is_a_gene(tmp_path):
    header = "#NAME\tCHROM\tSTRAND\tTX_START\tTX_END\tEXON_START\tEXON_END\n"
    text = header + "B\tchr2\t-\t5\t40\t5,30,\t9,40,\n" + "A\tchr1\t+\t0\t7\t0,\t7,\n"
    assert rows(read(tmp_path, text, "a.tsv")) == [("A", 0, 0, 7, 1, ""), ("B", 1, 5, 40, -1, "")]
    with pytest.raises(SourceError, match=r"a\.tsv:2: the strand must be \+ or -"):
        read(tmp_path, header + "B\tchr2\t.\t5\t40\t5,30,\t9,40,\n", "a.tsv")


def test_a_gene_at_two_places_is_two_regions(tmp_path):
    found = read(tmp_path, GTF + 'chr2\ts\texon\t3\t9\t.\t+\t.\tgene_id "g1";\n', "a.gtf")
    assert [row[:2] for row in rows(found) if row[0] == "g1"] == [("g1", 0), ("g1", 1)]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.bed", "chr1\t1\t2\n", r"a\.bed:1: a region takes its name from column 4"),
        ("a.bed", "chr1\t1\t2\tok\nchr1\t1\t2\t.\n", r"a\.bed:2: a region takes its name"),
        ("a.bed", "chr1\tx\t2\ta\n", r"a\.bed:1: start and end .* must be integers"),
        ("a.bed", "chr1\t2\t2\ta\n", r"a\.bed:1: start is at least 0 and below end"),
        ("a.bed", "chr1\t1\t2\ta\t0\t*\n", r"a\.bed:1: the strand .column 6."),
        ("a.bed", "chr1\t1\t2000\ta\n", r"a\.bed:1: the region leaves its contig"),
        ("a.bed", "chrQ\t1\t2\ta\n", r"none of its contigs .chrQ."),
        ("a.bed", "# nothing\n", r"a\.bed: the file holds no regions"),
        ("a.gtf", "# nothing\n", r"a\.gtf: the file holds no features"),
        ("a.gtf", "chr1\ts\texon\t1\t9\t.\t+\t.\tx 1;\n", r"a\.gtf:1: the line has no gene_id: "),
        ("a.gtf", 'chr1\ts\texon\t0\t9\t.\t+\t.\tgene_id "a";\n', r"a\.gtf:1: positions count from 1"),
        ("a.gff3", "##gff-version 3\nchr1\ts\tgene\t1\t9\t.\t+\t.\tName=a\n", r"a\.gff3:2: .* no gene_id and no ID"),
        ("a.gff3", "##gff-version 3\nchr1\ts\texon\t1\t9\t.\t+\t.\tID=a\n", r"a\.gff3: the file holds no gene"),
        (
            "a.tsv",
            "#NAME\tCHROM\tSTRAND\tTX_START\tTX_END\tEXON_START\tEXON_END\n",
            r"a\.tsv: the file holds no ",
        ),
    ],
)
def test_what_is_malformed_is_named_with_its_line(tmp_path, name, text, message):
    with pytest.raises(SourceError, match=message):
        read(tmp_path, text, name)


@pytest.mark.data
def test_the_genes_of_yeast(data):
    from tests.conftest import genome

    contigs, _ = genome(data / "sacCer3" / "sacCer3.fa.gz")
    found = read_regions(data / "sacCer3" / "sacCer3.ensGene.gtf.gz", contigs)
    with gzip.open(data / "sacCer3" / "sacCer3.ensGene.gtf.gz", "rt") as lines:
        ids = {line.split('gene_id "')[1].split('"')[0] for line in lines}
    assert set(found.ids) == ids
    assert len(found.ids) == len(ids)
    row = found.ids.index("YDL248W")
    assert (contigs.names[found.contig[row]], found.start[row], found.end[row], found.strand[row]) == (
        "chrIV",
        1801,
        2953,
        1,
    )
