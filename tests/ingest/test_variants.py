"""VCF records as they are written, against the assembly and against applying them one by one."""

import gzip
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.errors import ConfigError, SourceError
from distgen.genome import Contigs
from distgen.ingest.variants import _trimmed, apply, read_variants
from tests.conftest import genome

LETTERS = {"chr1": "ACGTNACGTACGTTTACGAC" * 5, "chr2": "GATTACAGAT"}
CONTIGS = Contigs(tuple(LETTERS), np.array([100, 10]), np.array([0, 128]), ("", "II"))
CODES = [np.array(["ACGTN".index(c) for c in letters], np.uint8) for letters in LETTERS.values()]
DECLARED = "##contig=<ID=chr1,length=100>\n##contig=<ID=chr2,length=10>\n"
FORMAT = '##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">\n'


def record(position, ref, alt, *genotypes, contig="chr1"):
    return (
        "\t".join([contig, str(position), ".", ref, alt, ".", ".", ".", *(["GT", *genotypes] if genotypes else [])])
        + "\n"
    )


def write(tmp_path, records, samples=(), declared=DECLARED, name="a.vcf"):
    columns = [
        "#CHROM",
        "POS",
        "ID",
        "REF",
        "ALT",
        "QUAL",
        "FILTER",
        "INFO",
        *(["FORMAT", *samples] if samples else []),
    ]
    path = tmp_path / name
    path.write_text("##fileformat=VCFv4.2\n" + declared + FORMAT + "\t".join(columns) + "\n" + records)
    return path


def read(path, contigs=CONTIGS, **options):
    """Rows (contig, position, bases), genotypes, phased, counts and skipped contigs of all blocks."""
    blocks = list(read_variants(path, contigs, **options))
    rows = [
        (int(row), int(position), "ACGTN"[old], "ACGTN"[new])
        for block in blocks
        for row, position, old, new in zip(block.row, block.position, block.reference, block.alternative, strict=True)
    ]
    genotypes, phased = (
        np.concatenate([getattr(block, key) for block in blocks]).tolist() if options.get("samples") else None
        for key in ("genotypes", "phased")
    )
    counts, skipped = (sum((getattr(block, key) for block in blocks), Counter()) for key in ("counts", "skipped"))
    return rows, genotypes, phased, counts, skipped


def assembly(row, positions):
    return CODES[row][positions]


# ---- what becomes a row -----------------------------------------------------------------------


def test_substitutions_become_rows_of_0_based_positions(tmp_path):
    path = write(tmp_path, record(1, "A", "C") + record(100, "c", "t") + record(10, "T", "G", contig="chr2"))
    rows, genotypes, phased, counts, skipped = read(path, reference=assembly)
    assert rows == [(0, 0, "A", "C"), (0, 99, "C", "T"), (1, 9, "T", "G")]
    assert (genotypes, phased, skipped) == (None, None, {})
    assert counts == {"records": 3, "substitutions": 3}


def test_several_alternatives_and_several_bases_become_several_rows(tmp_path):
    path = write(tmp_path, record(2, "C", "A,G") + record(6, "ACGT", "ATGA"))
    assert read(path, reference=assembly)[0] == [(0, 1, "C", "A"), (0, 1, "C", "G"), (0, 6, "C", "T"), (0, 8, "T", "A")]


def test_what_is_no_substitution_is_counted_by_kind_when_skipped(tmp_path):
    path = write(
        tmp_path,
        record(1, "A", "C,<DEL>,*,AT") + record(2, "CG", "C") + record(3, "G", "G[chr2:5[") + record(4, "T", "]chr2:5]T")
        + record(5, "N", ".A") + record(6, "A", "N") + record(7, "C", ".") + record(8, "G", "<NON_REF>,<*>,G,T"),
    )  # fmt: skip
    rows, _, _, counts, _ = read(path, reference=assembly, indels="skip")
    assert rows == [(0, 0, "A", "C"), (0, 7, "G", "T")]
    kinds = {"symbolic": 1, "star": 1, "indel": 2, "breakend": 3, "ambiguous": 1, "reference": 4}
    assert counts == {"records": 8, "substitutions": 2, **kinds}


@pytest.mark.parametrize(
    ("ref", "alt", "kind"),
    [
        ("G", "GA", "indel"),
        ("G", "A,<CN0>", "symbolic"),
        ("G", "*", "star"),
        ("G", "G]chr2:5]", "breakend"),
        ("G", "R", "ambiguous"),
    ],
)
def test_what_is_no_substitution_is_refused_by_default(tmp_path, ref, alt, kind):
    path = write(tmp_path, record(1, "A", "C") + record(3, ref, alt))
    with pytest.raises(
        SourceError, match=rf"a\.vcf: chr1:3: G to .* \({kind}\) is no substitution .*indels = \"skip\""
    ):
        read(path)


def test_records_that_claim_no_alternative_are_never_refused(tmp_path):
    path = write(tmp_path, record(7, "C", ".") + record(8, "G", "<NON_REF>"))
    assert read(path)[3] == {"records": 2, "reference": 2}


# ---- genotypes --------------------------------------------------------------------------------


def test_genotypes_say_who_has_this_alternative(tmp_path):
    path = write(
        tmp_path,
        record(2, "C", "A,G", "0|1", "2/1", "./.", "2") + record(3, "G", "T", ".|1", "1/1", "0/0", "0"),
        "abcd",
    )
    _, genotypes, phased, _, _ = read(path, samples=["d", "b", "a", "c"])
    assert genotypes == [
        [[0, -1], [0, 1], [0, 1], [-1, -1]],
        [[1, -1], [1, 0], [0, 0], [-1, -1]],
        [[0, -1], [1, 1], [-1, 1], [0, 0]],
    ]
    assert [row[1:] for row in phased] == [[False, True, False], [False, True, False], [False, True, False]]


def test_blocks_without_a_substitution_still_have_their_samples(tmp_path):
    path = write(tmp_path, record(2, "C", ".", "0|0") + record(1, "A", "C", "0|1", contig="chrX"), ["s"])
    for block in read_variants(path, CONTIGS, samples=["s"], records=1):
        assert block.genotypes.shape == (0, 1, 2)
        assert block.phased.shape == (0, 1)


@pytest.mark.parametrize(
    ("records", "samples", "error", "message"),
    [
        (record(2, "C", "A", "0|1"), ["x1"], ConfigError, 'no sample is called "x1". Did you mean "s1"'),
        (record(2, "C", "A", "0|1|1"), ["s1"], SourceError, "chr1:2: a genotype of more than two alleles"),
        (record(2, "C", "A", "0|2"), ["s1"], SourceError, "chr1:2: a genotype names allele 2 of 1"),
        (record(2, "C", "A", ".").replace("GT", "DP"), ["s1"], SourceError, "chr1:2: the record has no genotypes"),
        (
            record(1, "A", "C", "0|1") + record(2, "C", "A", "0|x"),
            ["s1"],
            SourceError,
            "record 2, after chr1:1, is malformed",
        ),
    ],
)
def test_genotypes_that_cannot_be_read_are_refused(tmp_path, records, samples, error, message):
    depth = '##FORMAT=<ID=DP,Number=1,Type=Integer,Description="d">\n'
    with pytest.raises(error, match=message):
        read(write(tmp_path, records, ["s1"], DECLARED + depth), samples=samples)


# ---- the assembly -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (record(1, "A", "C") + record(2, "G", "C"), r"chr1:2: REF is G, the assembly has C there \(1 of 2 letters"),
        (record(1, "ACT", "CCT"), "chr1:3: REF is T, the assembly has G"),
        (record(4, "TA", "T"), "chr1:5: REF is A, the assembly has N"),
        (record(1, "N", "C"), "chr1:1: REF is N, the assembly has A"),
        (record(3, "A", "C", contig="II"), "II:3: REF is A, the assembly has T"),
    ],
)  # fmt: skip
def test_a_ref_that_the_assembly_does_not_have_is_refused(tmp_path, records, message):
    path = write(tmp_path, records, declared=DECLARED.replace("chr2", "II"))
    with pytest.raises(SourceError, match=message):
        read(path, reference=assembly, indels="skip")


def test_contigs_that_the_assembly_lacks_are_counted_by_name(tmp_path):
    records = record(1, "A", "C") + record(1, "A", "<DEL>", contig="chrX") * 2 + record(1, "G", "C", contig="chr2")
    rows, _, _, counts, skipped = read(write(tmp_path, records, declared=DECLARED + "##contig=<ID=chrX,length=9>\n"))
    assert (rows, skipped, counts["records"]) == ([(0, 0, "A", "C"), (1, 0, "G", "C")], {"chrX": 2}, 4)


@pytest.mark.parametrize(
    "declared",
    [
        "",
        "##contig=<ID=chr1>\n",
        "##contig=<ID=chr1,length=100>\n",
        "##contig=<ID=chr9,length=7>\n##contig=<ID=chr1>\n##contig=<ID=chr2,length=10>\n",
    ],
)
def test_a_header_need_not_declare_contigs_nor_lengths(tmp_path, declared):
    records = record(1, "A", "C", contig="chrX") + record(1, "A", "C") + record(1, "G", "C", contig="2")
    rows, _, _, _, skipped = read(write(tmp_path, records.replace("\n2\t", "\nchr2\t"), declared=declared))
    assert (rows, skipped) == ([(0, 0, "A", "C"), (1, 0, "G", "C")], {"chrX": 1})


def test_the_prefix_chr_may_be_missing_in_the_file(tmp_path):
    path = write(tmp_path, record(1, "A", "C", contig="1"), declared="##contig=<ID=1,length=100>\n")
    assert read(path)[0] == [(0, 0, "A", "C")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("##contig=<ID=chr1,length=101>\n", 'contig "chr1" has 101 bases here and 100 in the assembly'),
        ("##contig=<ID=chr7,length=100>\n", "none of its contigs"),
    ],
)
def test_another_assembly_is_known_by_its_contigs(tmp_path, content, message):
    with pytest.raises(SourceError, match=message):
        read(write(tmp_path, record(1, "A", "C"), declared=content))


# ---- order ------------------------------------------------------------------------------------


def test_unsorted_and_duplicated_records_are_counted(tmp_path):
    records = record(5, "N", "C") + record(3, "G", "C") + record(3, "G", "C,T") + record(3, "G", "T")
    records += record(1, "G", "C", contig="chr2") + record(6, "A", "C") + record(6, "AC", "CC")
    counts = read(write(tmp_path, records), records=2)[3]
    assert (counts["unsorted"], counts["duplicated"], counts["records"]) == (2, 2, 7)


# ---- files that are not what they should be ---------------------------------------------------


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (record(0, "A", "C"), "chr1:0: REF of 1 bases leaves the contig"),
        (record(100, "CA", "TA"), "chr1:100: REF of 2 bases leaves the contig, which has 100"),
        (record(1, "A", "Q"), "chr1:1: ALT 'Q' is no allele"),
        (record(1, "A", "<DEL"), "chr1:1: ALT '<DEL' is no allele"),
        (record(1, "-", "A"), "chr1:1: REF '-' is no sequence of bases"),
        (record(1, "A", "C") + record("one", "A", "C"), "record 2, after chr1:1, is malformed"),
        ("chr1\t1\n", "record 1, the first, is malformed"),
    ],
)
def test_malformed_records_are_refused(tmp_path, records, message):
    with pytest.raises(SourceError, match=rf"a\.vcf: {message}"):
        read(write(tmp_path, records), indels="skip")


@pytest.mark.parametrize("content", ["", "hello\n", "##fileformat=VCFv4.2\nchr1\t1\t.\tA\tC\t.\t.\t.\n"])
def test_what_is_no_vcf_is_refused(tmp_path, content):
    (tmp_path / "a.vcf").write_text(content)
    with pytest.raises(SourceError, match="a.vcf: no VCF or BCF file"):
        read(tmp_path / "a.vcf")


def test_a_file_without_variants_is_refused(tmp_path):
    with pytest.raises(SourceError, match=r"a\.vcf: the file holds no variants below its header$"):
        read(write(tmp_path, ""))


def test_what_htslib_only_wonders_about_is_not_printed(tmp_path, capfd):
    read(write(tmp_path, record(2, "C", "G"), declared=""))
    assert capfd.readouterr().err == ""


def test_a_file_that_is_missing_or_cut_short_is_refused(tmp_path):
    with pytest.raises(SourceError, match="there is no such file"):
        read(tmp_path / "none.vcf")
    records = "".join(record(1 + i % 100, LETTERS["chr1"][i % 100], "C" if i % 2 else "G") for i in range(5000))
    whole = gzip.compress(write(tmp_path, records).read_bytes())
    (tmp_path / "b.vcf.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match="cut short|the file is damaged"):
        read(tmp_path / "b.vcf.gz", indels="skip")


# ---- applied ----------------------------------------------------------------------------------


@st.composite
def haplotypes(draw):
    """Records with one phased sample, and the contig with each haplotype written out by hand."""
    haplotype = [list(LETTERS["chr1"]), list(LETTERS["chr1"])]
    text, position = "", 0
    while position < 95:
        width = draw(st.integers(1, 3))
        ref = LETTERS["chr1"][position : position + width]
        alts = draw(st.lists(st.text("ACGT", min_size=width, max_size=width), min_size=1, max_size=3, unique=True))
        calls = draw(st.tuples(*[st.integers(0, len(alts))] * 2))
        text += record(position + 1, ref, ",".join(alts), f"{calls[0]}|{calls[1]}")
        for letters, call in zip(haplotype, calls, strict=True):
            letters[position : position + width] = alts[call - 1] if call else ref
        position += width + draw(st.integers(0, 30))
    return text, ["".join(letters) for letters in haplotype]


@given(haplotypes(), st.integers(1, 5), st.integers(0, 100), st.integers(0, 100))
def test_applying_a_haplotype_writes_its_alleles(tmp_path, drawn, records, start, end):
    text, expected = drawn
    blocks = list(
        read_variants(write(tmp_path, text, ["s"]), CONTIGS, samples=["s"], reference=assembly, records=records)
    )
    start, end = min(start, end), max(start, end)
    before = CODES[0].copy()
    for haplotype in (0, 1):
        has = [block.genotypes[:, 0, haplotype] == 1 for block in blocks]
        positions = np.concatenate([block.position[here] for block, here in zip(blocks, has, strict=True)])
        alternatives = np.concatenate([block.alternative[here] for block, here in zip(blocks, has, strict=True)])
        codes = apply(CODES[0][start:end], start, positions, alternatives)
        assert "".join("ACGTN"[code] for code in codes) == expected[haplotype][start:end]
    assert np.array_equal(CODES[0], before)


def test_two_bases_at_one_position_are_refused():
    positions, alternatives = np.array([3, 12, 12]), np.array([0, 1, 2], np.uint8)
    with pytest.raises(SourceError, match=r"position 12 \(0-based\) gets two bases"):
        apply(np.zeros(5, np.uint8), 10, positions, alternatives)
    assert apply(np.zeros(5, np.uint8), 0, positions, alternatives).tolist() == [0] * 5
    assert apply(np.zeros(1, np.uint8), 12, positions, np.array([0, 2, 2], np.uint8)).tolist() == [2]


# ---- real files -------------------------------------------------------------------------------


@pytest.mark.data
def test_a_yeast_strain_fits_the_assembly_at_every_site(data):
    contigs, codes = genome(data / "sacCer3/sacCer3.fa.gz")
    path = data / "sacCer3/sacCer3_sample_variants.vcf.gz"
    options = {"samples": ["BKI"], "reference": lambda row, positions: codes[row][positions]}
    rows, genotypes, _, counts, skipped = read(path, contigs, indels="skip", **options)
    assert (counts, skipped) == ({"records": 44251, "substitutions": 42916, "indel": 1335}, {})
    assert rows[0] == (0, 581, "C", "G")
    assert genotypes[0] == [[0, 1]]
    with pytest.raises(SourceError, match=r"chrI:2232: AT to A \(indel\) is no substitution"):
        read(path, contigs, **options)


@pytest.mark.data
def test_sites_without_genotypes_are_read_from_a_contig_of_another_name(data):
    lengths = np.array([63025520])
    contigs = Contigs(("20",), lengths, np.array([0]))
    rows, _, _, counts, _ = read(data / "human_b37_chr20/1000g_20_1Mb-2Mb.vcf.gz", contigs, indels="skip")
    assert counts == {"records": 28998, "substitutions": 28203, "indel": 917, "symbolic": 24}
    assert rows[0] == (0, 1000009, "A", "T")


@given(st.text("AC", min_size=1, max_size=7), st.text("AC", min_size=1, max_size=7))
def test_an_indel_has_no_more_than_what_differs_and_keeps_the_base_before_it(ref, alt):
    offset, deleted, inserted = _trimmed(ref, alt)
    assert ref[:offset] + inserted + ref[offset + deleted :] == alt
    assert offset >= (ref[0] == alt[0])
    gone = ref[offset : offset + deleted]
    if gone and inserted:
        assert gone[0] != inserted[0]
        assert gone[-1] != inserted[-1]
