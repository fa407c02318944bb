import gzip

import pytest

from distgen.errors import SourceError
from distgen.ingest.names import Alias, is_alternative, read_aliases

REPORT = """# Assembly name:  GRCh37.p13
# RefSeq assembly accession: GCF_000001405.25
#
# Sequence-Name\tSequence-Role\tAssigned-Molecule\tAssigned-Molecule-Location/Type\tGenBank-Accn\tRelationship\tRefSeq-Accn\tAssembly-Unit\tSequence-Length\tUCSC-style-name\r
1\tassembled-molecule\t1\tChromosome\tCM000663.1\t=\tNC_000001.10\tPrimary Assembly\t249250621\tchr1
HG1_PATCH\tfix-patch\t1\tChromosome\tJH636052.4\t<>\tNW_003871055.3\tPATCHES\t7283150\tna
MT\tassembled-molecule\tMT\tMitochondrion\tna\t<>\tNC_012920.1\tnon-nuclear\t16569\tna
Scaffold 7\tunplaced-scaffold\tna\tna\tGL000192.1\t=\tna\tPrimary Assembly\tna\tna
"""
WIDE = """# ucsc\tassembly\tgenbank\tncbi\trefseq
chr1\t1\tCM000663.2\t1\tNC_000001.11
chr1_GL383518v1_alt\tHSCHR1_1_CTG31\tGL383518.1\t\tNW_003315905.1
"""


def read(tmp_path, text, name="a.txt"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_aliases(path)


def test_an_assembly_report_gives_names_lengths_and_roles(tmp_path):
    found = read(tmp_path, REPORT)
    assert found[0] == Alias(("1", "chr1", "CM000663.1", "NC_000001.10"), 249250621, "assembled-molecule")
    assert found[2] == Alias(("MT", "NC_012920.1"), 16569, "assembled-molecule")


def test_accessions_that_differ_in_sequence_are_no_aliases(tmp_path):
    assert read(tmp_path, REPORT)[1] == Alias(("HG1_PATCH",), 7283150, "fix-patch")


def test_a_name_with_a_blank_is_left_out(tmp_path):
    assert read(tmp_path, REPORT)[3] == Alias(("GL000192.1",), None, "unplaced-scaffold")


def test_an_assembly_report_of_the_old_columns_has_no_lengths(tmp_path):
    lines = ["\t".join(line.split("\t")[:8]) for line in REPORT.splitlines()]
    assert read(tmp_path, "\n".join(lines))[0] == Alias(("1", "CM000663.1", "NC_000001.10"), None, "assembled-molecule")


def test_a_wide_table_groups_the_names_of_a_line(tmp_path):
    expected = [
        Alias(("chr1", "1", "CM000663.2", "NC_000001.11")),
        Alias(("chr1_GL383518v1_alt", "HSCHR1_1_CTG31", "GL383518.1", "NW_003315905.1")),
    ]
    assert read(tmp_path, WIDE) == expected
    assert read(tmp_path, gzip.compress(WIDE.replace("\n", "\r\n").encode()), "a.txt.gz") == expected


def test_a_wide_table_may_have_the_header_of_ucscs_middle_years(tmp_path):
    text = "# sequenceName\talias names\tUCSC database: hg38\nchr1\t1\tCM000663.2\tNC_000001.11\nchrM\tMT\n"
    assert [alias.names for alias in read(tmp_path, text)] == [
        ("chr1", "1", "CM000663.2", "NC_000001.11"),
        ("chrM", "MT"),
    ]


@pytest.mark.parametrize("header", ["", "#alias\tchrom\tsource\n", "# alias\tchrom\tsource\n"])
def test_a_table_of_pairs_groups_by_the_chrom_column(tmp_path, header):
    text = header + "1\tchr1\tensembl\nMT\tchrM\tassembly,ensembl,ncbi\nNC_1.1\tchr1\trefseq\n1\tchr1\tncbi\n"
    assert read(tmp_path, text) == [Alias(("chr1", "1", "NC_1.1")), Alias(("chrM", "MT"))]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file holds no names: it is empty"),
        ("# ucsc\tassembly\n", "no line of the table holds a name; distgen reads UCSC chromAlias.txt"),
        ("chr1\t1\tCM1\tNC1\n", "a.txt:1: .* is no line of an alias table"),
        ("chr1,1,ensembl\n", "a.txt:1: .* is no line of an alias table"),
        ("1\tchr1\tensembl\n\n2\tchr2\n", "a.txt:3: .* is no line of an alias table"),
        ("chr1\t248956422\t112\n", "a.txt:1: .* is no line of an alias table"),
        ("1\tchr1\tensembl\n1\tchr2\tensembl\n", 'a.txt:2: "1" already names the contig of line 1'),
        (WIDE + "chr2\t1\tCM2\t\tNC2\n", 'a.txt:4: "1" already names the contig of line 2'),
        (WIDE + "chr2\t2\n", "a.txt:4: 2 columns where the header has 5"),
        (WIDE + "\t2\t\t\tNC2\n", "a.txt:4: the first column, the contig's own name, is empty"),
        (REPORT + "2\tassembled-molecule\t2\n", "a.txt:9: 3 columns where the header has 10"),
        (REPORT.replace("249250621", "249,250,621"), 'a.txt:5: Sequence-Length "249,250,621" is no number of bases'),
        (REPORT.replace("RefSeq-Accn", "RefSeq"), "lacks the column RefSeq-Accn"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, text, message):
    with pytest.raises(SourceError, match=message):
        read(tmp_path, text)


@pytest.mark.parametrize(
    "name",
    [
        "chr1_KI270762v1_alt", "chr1_KN196472v1_fix", "chr6_cox_hap2", "chr17_ctg5_hap1", "chrUn_KN707606v1_decoy", "hs37d5",
        "HLA-A*01:01:01:01", "chrEBV", "NC_007605", "NC_007605.1", "CHR_HSCHR6_MHC_APD_CTG1", "HG1012_PATCH", "HSCHR6_MHC_APD",
        "HSCHR1_1_CTG3", "MMCHR1_CHORI29_IDD5_1", "CHR_MG171_PATCH",
    ],
)  # fmt: skip
def test_alternative_contigs_are_known_by_name(name):
    assert is_alternative(name)


@pytest.mark.parametrize(
    "name",
    [
        "chr1", "1", "X", "MT", "chrM", "chrUn_KI270302v1", "chr1_KI270706v1_random", "chrUn_gl000220", "GL000192.1", "KI270728.1",
        "NC_000001.11", "HSCHR1_RANDOM_CTG5", "HSCHR1_CTG1_UNLOCALIZED", "HSCHRUN_RANDOM_CTG1", "NT_113889", "2L", "chrII", "scaffold_12",
        "altar", "Halt", "NC_007605X",
    ],
)  # fmt: skip
def test_chromosomes_unplaced_and_unlocalised_scaffolds_are_not_alternative(name):
    assert not is_alternative(name)
