import gzip
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.errors import ConfigError, SourceError
from distgen.genome import COMPLEMENT, Contigs
from distgen.ingest import annotation
from distgen.ingest.annotation import read_annotation
from distgen.ingest.features import paint
from tests.conftest import genome

CONTIGS = Contigs(("chr1", "chr2"), np.array([100, 50]), np.array([0, 128]), ("", "II"))


def line(contig="chr1", kind="CDS", start=11, end=20, strand="+", frame=".", attributes='transcript_id "t";'):
    return f"{contig}\tsource\t{kind}\t{start}\t{end}\t.\t{strand}\t{frame}\t{attributes}\n"


def read(tmp_path, text, classes=("cds+",), **options):
    path = tmp_path / "a.gtf"
    path.write_text(text)
    return read_annotation(path, classes, CONTIGS, **options)


def spans(found, column=0):
    return [(int(s), int(e)) for s, e, k in zip(found.start, found.end, found.klass, strict=True) if k == column]


def bases(found, column=0, row=0, length=100):
    return np.flatnonzero(paint(found, row, 0, length, 1 + max(found.klass), 1)[:, column]).tolist()


# ---- types of column 3 ----------------------------------------------------------------------


def test_positions_become_0_based_and_half_open(tmp_path):
    found = read(tmp_path, line(contig="II", start=11, end=50) + line(start=1, end=1))
    assert found.contig.tolist() == [0, 1]
    assert found.start.tolist() == [0, 10]
    assert found.end.tolist() == [1, 50]


def test_classes_tell_feature_types_and_strands_apart(tmp_path):
    text = line() + line(strand="-") + line(kind="exon") + line(kind="exon", start=12, strand="-")
    found = read(tmp_path, text, ("cds-", "exon", "CDS"))
    assert [spans(found, k) for k in range(3)] == [[(10, 20)], [(10, 20), (11, 20)], [(10, 20)]]


def test_a_class_whose_strand_has_no_feature_is_empty(tmp_path):
    assert len(read(tmp_path, line(), ("cds-",))) == 0


def test_features_on_other_contigs_are_counted(tmp_path):
    assert read(tmp_path, line() + line(contig="chrX") * 3).skipped == {"chrX": 3}
    gff = line(contig="X", kind="exon", attributes="Parent=a,b") * 2 + line(kind="exon", attributes="Parent=a")
    assert read(tmp_path, gff, ("tss",)).skipped == {"X": 2}


def test_equal_features_count_once(tmp_path, monkeypatch):
    monkeypatch.setattr(annotation, "_ROWS_BEFORE_COLLAPSE", 3)
    text = "".join(line(start=i) for i in range(1, 10)) * 3
    assert len(read(tmp_path, text)) == 9


def test_comments_blank_lines_and_a_gff3_tail_of_fasta_are_no_features(tmp_path):
    gff = line(attributes="ID=a")
    for tail in ("##FASTA\n>chr1\nACGT\n", ">chr1\nACGT\n"):
        assert len(read(tmp_path, "##gff-version 3\n\n###\n" + gff + " \n# x\n" + tail)) == 1
    with pytest.raises(SourceError, match=r"a\.gtf:2: a line of GTF has 9 columns"):
        read(tmp_path, line() + ">chr1\nACGT\n")


def test_contigs_are_known_by_prefix_and_by_escaped_names(tmp_path):
    assert read(tmp_path, line(contig="1") + line(contig="2", end=50)).contig.tolist() == [0, 1]
    assert read(tmp_path, "##gff-version 3\n" + line(contig="ch%721", attributes="ID=a")).contig.tolist() == [0]


def test_gzip_and_windows_line_ends_make_no_difference(tmp_path):
    path = tmp_path / "a.gff.gz"
    text = line(kind="exon", attributes="Parent=t") + line(kind="exon", start=31, end=40, attributes="ID=e;Parent=t")
    path.write_bytes(gzip.compress(text.replace("\n", "\r\n").encode()))
    assert spans(read_annotation(path, ("intron",), CONTIGS)) == [(20, 30)]


# ---- derived classes ------------------------------------------------------------------------

GENE = "".join(  # two exons of 10 and 20 bases; 21 coding bases, their last codon is the stop
    line(kind=kind, start=start, end=end, frame=frame)
    for kind, start, end, frame in [
        ("exon", 41, 60, "."),
        ("exon", 11, 20, "."),
        ("CDS", 14, 20, "0"),
        ("CDS", 41, 51, "2"),
        ("stop_codon", 52, 54, "0"),
    ]
)
MIRRORED = "".join(  # the same gene read from the other strand of a contig with 100 bases
    line(kind=kind, start=start, end=end, frame=frame, strand="-")
    for kind, start, end, frame in [
        ("exon", 41, 60, "."),
        ("exon", 81, 90, "."),
        ("CDS", 81, 87, "0"),
        ("CDS", 50, 60, "2"),
        ("stop_codon", 47, 49, "0"),
    ]
)
DERIVED = ("cds0", "cds1", "cds2", "utr5", "utr3", "intron", "donor", "acceptor", "tss", "tes", "promoter")


def test_a_gene_by_hand(tmp_path):
    found = read(tmp_path, GENE, DERIVED, promoter=(5, 3))
    classes = {name: bases(found, k) for k, name in enumerate(DERIVED)}
    assert classes == {
        "cds0": [13, 16, 19, 42, 45, 48],
        "cds1": [14, 17, 40, 43, 46, 49],
        "cds2": [15, 18, 41, 44, 47, 50],
        "utr5": [10, 11, 12],
        "utr3": [54, 55, 56, 57, 58, 59],
        "intron": list(range(20, 40)),
        "donor": [19],
        "acceptor": [40],
        "tss": [10],
        "tes": [59],
        "promoter": list(range(5, 13)),
    }
    mirrored = read(tmp_path, MIRRORED, DERIVED, promoter=(5, 3))
    assert {name: [99 - b for b in bases(mirrored, k)[::-1]] for k, name in enumerate(DERIVED)} == classes


def test_promoters_end_with_their_contig(tmp_path):
    text = line(kind="exon", start=3) + line(kind="exon", end=99, strand="-")
    assert spans(read(tmp_path, text, ("promoter",), promoter=(30, 4))) == [(0, 6), (95, 100)]
    at_the_edge = line(kind="exon", start=1) + line(kind="exon", end=99)
    assert spans(read(tmp_path, at_the_edge, ("promoter",), promoter=(5, 1))) == [(0, 1)]


@pytest.mark.parametrize("strand", ["+", "-"])
def test_what_reaches_over_the_origin_of_a_circular_contig_goes_round(tmp_path, strand):
    around = Contigs(("chr1",), np.array([100]), np.array([0]), ("",), (True,))
    gff = line(start=92, end=113, strand=strand, frame="0", attributes="Parent=t")
    gff += line(kind="exon", start=92, end=113, strand=strand, attributes="Parent=t")
    path = tmp_path / "a.gff3"
    path.write_text("##gff-version 3\n" + gff)
    classes = ("cds", "cds0", "cds1", "cds2", "tss", "promoter")
    found = read_annotation(path, classes, around, promoter=(20, 1))
    gene = [i % 100 for i in range(91, 113)][:: 1 if strand == "+" else -1]
    assert bases(found, 0) == sorted(gene)
    for position in range(3):
        assert bases(found, 1 + position) == sorted(gene[position::3])
    assert bases(found, 4) == gene[:1]
    upstream = range(71, 92) if strand == "+" else range(12, 33)
    assert bases(found, 5) == sorted(i % 100 for i in upstream)


def test_only_circular_contigs_have_features_over_their_end(tmp_path):
    with pytest.raises(SourceError, match=r"has 100 bases: .* or the contig is circular \(\[contigs\] circular\)"):
        read(tmp_path, line(start=92, end=113))


def test_explicit_utrs_go_before_derived_ones(tmp_path):
    text = GENE + line(kind="five_prime_UTR", start=12, end=13) + line(kind="3UTR", start=56, end=60)
    found = read(tmp_path, text, ("utr5", "utr3"))
    assert (spans(found, 0), spans(found, 1)) == ([(11, 13)], [(55, 60)])
    assert spans(read(tmp_path, GENE + line(kind="UTR", start=12, end=13), ("utr5",))) == [(10, 13)]


def test_a_gff3_line_of_several_parents_belongs_to_each(tmp_path):
    parts = [((11, 20), "a%2Cb,c"), ((31, 40), "c"), ((51, 60), "a%2Cb")]
    text = "".join(line(kind="exon", start=s, end=e, attributes=f"ID=x;Parent={p};Note=y") for (s, e), p in parts)
    assert spans(read(tmp_path, text, ("intron",))) == [(20, 30), (20, 50)]


def test_overlapping_and_touching_exons_have_no_intron_between(tmp_path):
    parts = [(11, 40), (21, 25), (41, 45), (51, 60)]
    text = "".join(line(kind="exon", start=s, end=e) for s, e in parts)
    assert spans(read(tmp_path, text, ("intron",))) == [(45, 50)]


def test_one_transcript_name_on_two_contigs_or_strands_is_two_transcripts(tmp_path):
    text = line(kind="exon") + line(kind="exon", start=31, end=40, strand="-") + line("chr2", kind="exon", end=40)
    found = read(tmp_path, text, ("tss",))
    assert list(zip(found.contig, found.start, strict=True)) == [(0, 10), (0, 39), (1, 10)]
    with pytest.raises(SourceError, match='no feature of class "intron"'):
        read(tmp_path, text, ("intron",))


@st.composite
def transcripts(draw):
    """Transcripts as (name, strand, exons, coding bases in order): disjoint exons, the coding part ends with a stop."""
    drawn = []
    for number in range(draw(st.integers(1, 4))):
        edges = sorted(draw(st.sets(st.integers(0, 100), min_size=4, max_size=10)))
        exons = list(zip(edges[::2], edges[1::2], strict=False))
        strand = draw(st.sampled_from("+-"))
        inside = [base for start, end in exons for base in range(start, end)][:: 1 if strand == "+" else -1]
        first = draw(st.integers(0, len(inside)))
        codons = draw(st.integers(0, (len(inside) - first) // 3))
        drawn.append((f"t{number}", strand, exons, inside[first : first + 3 * codons]))
    return drawn


def as_lines(name, strand, exons, coding, form):
    attributes = f'gene_id "g"; transcript_id "{name}"; x 1;' if form == "gtf" else f"Name=n;Parent={name}"
    places = {base: index for index, base in enumerate(coding)}
    for start, end in exons:
        yield line(kind="exon", start=start + 1, end=end, strand=strand, attributes=attributes)
        stop = max(len(coding) - 3, 0) if form == "gtf" else len(coding)  # GTF has the stop codon apart from CDS
        for kind, low, high in (("CDS", 0, stop), ("stop_codon", stop, len(coding))):
            part = [base for base in range(start, end) if low <= places.get(base, -1) < high]
            if part:
                frame = -min(places[base] for base in part) % 3
                start_end = {"start": part[0] + 1, "end": part[-1] + 1}
                yield line(kind=kind, **start_end, strand=strand, frame=frame, attributes=attributes)


def expected_bases(drawn, form, promoter):
    """The derived classes base by base."""
    sets = {name: set() for name in DERIVED}
    for _, strand, exons, coding in drawn:
        sense = 1 if strand == "+" else -1
        inside = [base for start, end in exons for base in range(start, end)][::sense]
        for index, base in enumerate(coding[: -3 if form == "gtf" else None]):
            sets[f"cds{index % 3}"].add(base)
        if coding:
            sets["utr5"].update(inside[: inside.index(coding[0])])
            sets["utr3"].update(inside[inside.index(coding[-1]) + 1 :])
        for (_, left), (right, _) in pairwise(exons):
            sets["intron"].update(range(left, right))
            sets["donor"].add(left - 1 if strand == "+" else right)
            sets["acceptor"].add(right if strand == "+" else left - 1)
        sets["tss"].add(inside[0])
        sets["tes"].add(inside[-1])
        around = range(inside[0] - sense * promoter[0], inside[0] + sense * promoter[1], sense)
        sets["promoter"].update(base for base in around if 0 <= base < 100)
    return sets


@given(transcripts(), st.randoms(), st.sampled_from(["gtf", "gff3"]), st.tuples(st.integers(0, 9), st.integers(1, 9)))
def test_derived_classes_equal_the_reference_base_by_base(tmp_path_factory, drawn, random, form, promoter):
    lines = [text for transcript in drawn for text in as_lines(*transcript, form)]
    random.shuffle(lines)
    expected = expected_bases(drawn, form, promoter)
    has_cds = any("\tCDS\t" in text for text in lines)
    classes = tuple(n for n in DERIVED if expected[n] and (has_cds or not n.startswith("utr")))
    found = read(tmp_path_factory.mktemp("gene"), "".join(lines), classes, promoter=promoter)
    assert {name: bases(found, k) for k, name in enumerate(classes)} == {n: sorted(expected[n]) for n in classes}


# ---- SpliceAI's table -----------------------------------------------------------------------

HEADER = "#NAME\tCHROM\tSTRAND\tTX_START\tTX_END\tEXON_START\tEXON_END\n"


def test_a_table_of_transcripts_counts_from_0(tmp_path):
    text = (
        HEADER
        + "A\t1\t+\t10\t60\t10,40,\t20,60,\n"
        + "B\tchr1\t-\t10\t60\t10,40,\t20,60,\n"
        + "C\tX\t+\t1\t2\t1,\t2,\n"
    )
    with pytest.raises(SourceError, match='"1" and "chr1" both mean contig "chr1"'):
        read(tmp_path, text, ("exon",))
    classes = ("exon", "intron", "donor", "acceptor", "tss", "tes", "gene", "transcript", "promoter")
    text = text.replace("A\t1", "A\tchr1")
    found = read(tmp_path, text, classes, promoter=(2, 1))
    assert found.skipped == {"X": 3}  # an exon, a gene and a transcript
    assert {name: spans(found, k) for k, name in enumerate(classes)} == {
        "exon": [(10, 20), (40, 60)],
        "intron": [(20, 40)],
        "donor": [(19, 20), (40, 41)],
        "acceptor": [(19, 20), (40, 41)],
        "tss": [(10, 11), (59, 60)],
        "tes": [(10, 11), (59, 60)],
        "gene": [(10, 60)],
        "transcript": [(10, 60)],
        "promoter": [(8, 11), (59, 62)],
    }
    assert spans(read(tmp_path, text, ("donor-",))) == [(40, 41)]


# ---- what is refused ------------------------------------------------------------------------

EXON = line(kind="exon")


@pytest.mark.parametrize(
    ("text", "classes", "message"),
    [
        ("", "cds", "holds no features"),
        ("# nothing\n", "tss", "holds no features"),
        (HEADER, "tss", "holds no features"),
        (line() + "chr1\tx\tCDS\t5\n", "cds", r"a\.gtf:2: .*9 columns .* parted by tabs: 'chr1\\tx\\tCDS\\t5'"),
        (line() + "#\n" + line().replace("\n", "\tmore\n"), "cds", r"a\.gtf:3: .*9 columns"),
        (line().replace("\t", "    "), "cds", r"a\.gtf:1: .*9 columns .* parted by tabs"),
        (line() + line(start="five"), "cds", r"a\.gtf:2: start \(column 4\) must be an integer"),
        (line(end="20.0"), "cds", r"a\.gtf:1: end \(column 5\) must be"),
        (line(end=10**30), "cds", r"a\.gtf:1: end \(column 5\) must be"),
        (line(start=0), "cds", r"a\.gtf:1: positions count from 1"),
        (line(start=21), "cds", r"a\.gtf:1: .*the end is not before the start"),
        (line(strand="plus"), "cds", r"a\.gtf:1: the strand \(column 7\)"),
        (line() + line(end=101), "cds", r'a\.gtf:2: the feature ends at 101, contig "chr1" of the assembly has 100'),
        (EXON, "cds", 'no feature is a "cds".*Valid: exon'),
        (EXON, "cds+-", r'no feature is a "cds\+"'),
        (line(), "", 'no feature is a ""'),
        (EXON, "exons", 'no feature is a "exons".*Did you mean "exon"'),
        (line(), "intron", 'class "intron" is made of features of type exon; the file has cds'),
        (EXON, "utr5", 'class "utr5" is made of features of type exon and cds; the file has exon'),
        (EXON, "cds0", 'class "cds0" is made of features of type cds; the file has exon'),
        (line() + line("chrX", kind="exon"), "cds exon", r'no feature of class "exon" lies on the contigs'),
        (EXON, "intron", r'no feature of class "intron"'),
        (line(contig="chr9"), "cds", r"none of its contigs \(chr9\) is one of the assembly's \(chr1, chr2\)"),
        (line(contig="chrII", end=50) + line(contig="II"), "cds", '"chrII" and "II" both mean'),
        (line(contig="II", end=50) + line(contig="chr2"), "cds", '"II" and "chr2" both mean contig "chr2"'),
        (EXON + line(kind="exon", attributes='x "y"'), "intron", r"a\.gtf:2: .*has no transcript_id"),
        (line(kind="exon", attributes='transcript_id "";'), "tss", r"a\.gtf:1: .*has no transcript_id"),
        (line(kind="exon", attributes='orig_transcript_id "a"'), "tss", r"a\.gtf:1: .*has no transcript_id"),
        (line(kind="exon", attributes="ID=a"), "tss", r"a\.gtf:1: .*has no Parent"),
        (EXON + line(kind="exon", strand="."), "donor", r"a\.gtf:2: a class that depends on the strand"),
        (line(strand="?", frame=0), "cds1", r"a\.gtf:1: a class that depends on the strand"),
        (line(), "cds0", r"a\.gtf:1: .*frame \(column 8\) of CDS, which must be 0, 1 or 2"),
        (line(frame=3), "cds2", r"a\.gtf:1: .*frame \(column 8\)"),
        (
            HEADER + "A\t1\t+\t10\t60\n",
            "exon",
            r"a\.gtf:2: a line of the table of transcripts has 7 columns or more .NAME, CHROM",
        ),
        (HEADER + "A\t1\t.\t10\t60\t10,\t60,\n", "exon", r"a\.gtf:2: the strand must be \+ or -"),
        (
            HEADER + "A\t1\t+\tx\t60\t10,\t60,\n",
            "exon",
            r"a\.gtf:2: TX_START \(column 4\) must be an int",
        ),
        (HEADER + "A\t1\t+\t10\t60\t10,x,\t20,60,\n", "exon", r"a\.gtf:2: positions of exons must be integers"),
        (HEADER + "A\t1\t+\t10\t60\t\t\n", "exon", r"a\.gtf:2: positions of exons must be integers"),
        (HEADER + "A\t1\t+\t10\t60\t10,30\t60,\n", "exon", r"a\.gtf:2: .*as many exons must end as start"),
        (HEADER + "A\t1\t+\t10\t60\t11,\t60,\n", "exon", r"a\.gtf:2: the exons must begin and end where"),
        (HEADER + "A\t1\t+\t10\t60\t10,40,\t30,40,60\n", "exon", r"a\.gtf:2: .*as many"),
        (HEADER + "A\t1\t+\t10\t60\t10,40,\t60,40,\n", "exon", r"a\.gtf:2: an exon must end after its start"),
        (HEADER + "A\t1\t+\t10\t60\t10,\t60,\n", "cds", 'no feature is a "cds".*exon, gene, transcript'),
        (HEADER + "A\t1\t+\t10\t60\t10,\t60,\n", "cds0", 'class "cds0" is made of features of type cds'),
        (HEADER + "A\t1\t+\t10\t160\t10,\t160,\n", "exon", r"a\.gtf:2: the feature ends at 160"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, text, classes, message):
    with pytest.raises(SourceError, match=message):
        read(tmp_path, text, tuple(classes.split(" ")))


def test_a_promoter_without_bases_is_refused(tmp_path):
    for promoter in ((0, 0), (-5, 10)):
        with pytest.raises(ConfigError, match="promoter .* is no stretch"):
            read(tmp_path, EXON, ("promoter",), promoter=promoter)


# ---- real annotations -----------------------------------------------------------------------


@pytest.mark.data
def test_codons_of_yeast_begin_with_atg_and_hold_no_stop(data):
    contigs, codes = genome(data / "sacCer3/sacCer3.fa.gz")
    classes = ("start_codon+", "cds0+", "cds0-", "cds1-", "cds2-")
    found = read_annotation(data / "sacCer3/sacCer3.ensGene.gtf.gz", classes, contigs)
    starts = stops = codons = 0
    for row, code in enumerate(codes):
        painted = paint(found, row, 0, len(code), len(classes), 1).astype(bool)
        first = np.flatnonzero(painted[:-2, 0] & painted[2:, 0] & painted[:-2, 1])  # first bases of whole start codons
        starts += np.sum((code[first] == 0) & (code[first + 1] == 3) & (code[first + 2] == 2))
        last = np.flatnonzero(painted[2:, 2] & painted[1:-1, 3] & painted[:-2, 4])  # third, second, first of a codon
        b0, b1, b2 = COMPLEMENT[code[last + 2]], COMPLEMENT[code[last + 1]], COMPLEMENT[code[last]]
        stops += np.sum((b0 == 3) & (((b1 == 0) & ((b2 == 0) | (b2 == 2))) | ((b1 == 2) & (b2 == 0))))
        codons += len(last)
    assert starts > 3300
    assert codons > 1_400_000
    assert stops < codons / 5000  # overlapping genes in two frames, and the mitochondrion's own code


@pytest.mark.data
def test_introns_of_human_genes_begin_with_gt_and_end_with_ag(data):
    contigs, (code,) = genome(data / "human_b37_chr20/20.fa.gz")
    table = data / "human_b37_chr20/annotation/spliceai_grch37_transcripts.tsv.gz"
    found = read_annotation(table, ("donor+", "acceptor+", "donor-", "acceptor-"), contigs)
    donor, acceptor, reverse_donor, reverse_acceptor = (found.start[found.klass == k] for k in range(4))
    gt = (code[donor + 1] == 2) & (code[donor + 2] == 3)
    ag = (code[acceptor - 2] == 0) & (code[acceptor - 1] == 2)
    reverse_gt = (code[reverse_donor - 1] == 1) & (code[reverse_donor - 2] == 0)
    reverse_ag = (code[reverse_acceptor + 2] == 3) & (code[reverse_acceptor + 1] == 1)
    assert min(len(donor), len(reverse_donor)) > 1900
    assert min(signal.mean() for signal in (gt, ag, reverse_gt, reverse_ag)) > 0.97
