"""Variants of a store, and the sequence that a sample has."""

import gzip
import pickle
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.config import Recipe, read
from distgen.errors import ConfigError, DistgenError, SourceError
from distgen.genome import Interval
from distgen.ingest import variants as reader
from distgen.store import variants
from distgen.store.build import build
from distgen.store.reader import open_store
from distgen.store.verify import describe, verify
from tests.conftest import LETTERS
from tests.store.test_build import tree

HEAD = "##fileformat=VCFv4.2\n" + "".join(f"##contig=<ID={name},length={len(s)}>\n" for name, s in LETTERS.items())
HEAD += '##FORMAT=<ID=GT,Number=1,Type=String,Description="">\n'
COLUMNS = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"
TABLE = '[[variants]]\nname = "v"\nsource = "v.vcf"\n'
TWO = 'samples = ["A", "B"]\n'
RECORDS = (
    ("chr2", 1, "T", "A", "0|1", "1|1"),
    ("chr2", 3, "TTT", "CTG", "1|0", "0|0"),
    ("chr2", 4, "T", "G,C", "0|2", "1|2"),
    ("chr2", 10, "T", "C", "0/1", "1/1"),
    ("chr2", 20, "T", "C", ".|.", "1"),
    ("chr1", 1, "A", "G", "1|0", "0|1"),
    ("chrM", 1, "C", "G", "1|1", "1|1"),
)


def line(contig, position, ref, alt, *calls):
    return "\t".join([contig, str(position), ".", ref, alt, ".", ".", ".", "GT", *calls]) + "\n"


def vcf(records, samples=("A", "B")):
    return HEAD + "\t".join([COLUMNS, "FORMAT", *samples]) + "\n" + "".join(line(*record) for record in records)


@pytest.fixture
def made(small_recipe):
    """Builds the small recipe with variants."""
    plain = small_recipe.read_text()

    def make(text=None, more=TWO, out="a.zarr"):
        (small_recipe.parent / "v.vcf").write_text(vcf(RECORDS) if text is None else text)
        small_recipe.write_text(plain + TABLE + more)
        build(read(small_recipe, Recipe), small_recipe.parent / out)
        return open_store(small_recipe.parent / out)

    return make


def test_rows_lie_by_contig_and_position_and_the_rest_is_counted(made):
    store = made()
    found = store.variants("v")
    read = {name: array.read() for name, array in found.arrays.items()}
    assert read["contig"].tolist() == [1] * 7 + [0]
    assert read["position"].tolist() == [0, 2, 3, 3, 4, 9, 19, 0]
    assert read["reference"].tolist() == [3] * 7 + [0]
    assert read["alternative"].tolist() == [0, 1, 2, 1, 2, 1, 1, 2]
    assert read["genotype"][:, 0].tolist() == [[0, 1], [1, 0], [0, 0], [0, 1], [1, 0], [0, 1], [-1, -1], [1, 0]]
    assert read["genotype"][6, 1].tolist() == [1, -1]
    assert read["phased"][:6, 0].tolist() == [1, 1, 1, 1, 1, 0]
    assert store.manifest["variants"]["v"]["skipped"] == {"chrM": 1}
    shown = describe(store)["variants"]["v"]
    assert (shown["rows"], shown["samples"], shown["counts"]["records"]) == (8, ["A", "B"], 7)
    assert not verify(store).damage
    assert tree(store.path) == tree(made(out="b.zarr").path)


@pytest.mark.parametrize(
    ("sample", "haplotype", "expected"),
    [("A", 0, "TTCTG"), ("A", 1, "ATTCT"), ("B", 0, "ATTGT"), ("B", 1, "ATTCT")],
)
def test_a_haplotype_has_its_own_bases(made, sample, haplotype, expected):
    store = made()
    codes = store.codes(Interval("chr2", 0, 5), variants="v", sample=sample, haplotype=haplotype)
    assert "".join("ACGTN"[c] for c in codes) == expected
    other = store.codes(Interval("chr2", 0, 5, "-"), variants="v", sample=sample, haplotype=haplotype)
    assert "".join("ACGTN"[c] for c in other[::-1]) == expected.translate(str.maketrans("ACGT", "TGCA"))
    assert store.sequence(Interval("chr2", 0, 5)) == "TTTTT"


def test_a_base_whose_genotype_is_not_known_is_ambiguous(made):
    store = made()
    assert store.codes(Interval("chr2", 18, 21), variants="v", sample="A").tolist() == [3, 4, 3]
    assert store.codes(Interval("chr2", 19, 20), variants="v", sample="B").tolist() == [1]
    assert store.codes(Interval("chr2", 19, 20), variants="v", sample="B", haplotype=1).tolist() == [4]


def test_a_heterozygous_site_without_phase_is_refused_unless_taken_as_listed(made):
    store = made()
    with pytest.raises(ConfigError, match=r'variants "v", sample "A", chr2:10: the site is heterozygous'):
        store.codes(Interval("chr2", 5, 12), variants="v", sample="A")
    listed = [
        store.codes(Interval("chr2", 9, 10), variants="v", sample="A", haplotype=h, unphased="listed") for h in (0, 1)
    ]
    assert [codes.tolist() for codes in listed] == [[3], [1]]
    assert store.codes(Interval("chr2", 9, 10), variants="v", sample="B").tolist() == [1]


def test_a_stretch_around_the_origin_of_a_circular_contig_has_the_samples_bases(small_recipe):
    text = small_recipe.read_text().replace('["chrM"]', '["chrM"]\ncircular = ["chr3"]')
    small_recipe.write_text(text + TABLE + TWO)
    (small_recipe.parent / "v.vcf").write_text(
        vcf([("chr3", 1, "G", "C", "1|1", "0|0"), ("chr3", 7, "A", "T", "1|1", "0|0")])
    )
    build(read(small_recipe, Recipe), small_recipe.parent / "c.zarr")
    store = open_store(small_recipe.parent / "c.zarr")
    assert store.sequence(Interval("chr3", -2, 2)) == "CAGA"
    assert store.codes(Interval("chr3", -2, 2), variants="v", sample="A").tolist() == [1, 3, 1, 0]
    assert store.codes(Interval("chr3", 5, 9, "-"), variants="v", sample="A").tolist() == [3, 2, 0, 2]


def test_samples_are_named_and_sites_alone_make_no_haplotype(made):
    store = made()
    with pytest.raises(ConfigError, match=r"which sample\? Valid: A, B"):
        store.codes(Interval("chr2", 0, 5), variants="v")
    with pytest.raises(ConfigError, match='no sample is called "C"'):
        store.codes(Interval("chr2", 0, 5), variants="v", sample="C")
    with pytest.raises(ConfigError, match="haplotype 2"):
        store.codes(Interval("chr2", 0, 5), variants="v", sample="A", haplotype=2)
    with pytest.raises(ConfigError, match='no variants "w"'):
        store.codes(Interval("chr2", 0, 5), variants="w", sample="A")
    assert made(more='samples = ["B"]\n').codes(Interval("chr2", 0, 1), variants="v").tolist() == [0]
    sites = made(more="")
    assert set(sites.variants("v").arrays) == {"contig", "position", "offset", "reference", "alternative"}
    with pytest.raises(ConfigError, match="sites without genotypes. Name samples"):
        sites.codes(Interval("chr2", 0, 5), variants="v", sample="A")


def test_two_bases_at_one_place_are_refused(made):
    store = made(vcf([("chr2", 3, "T", "A", "1|1", "0|0"), ("chr2", 3, "T", "C", "1|1", "0|0")]))
    with pytest.raises(SourceError, match=r'variants "v", sample "A", chr2: position 2 .0-based. gets two bases'):
        store.codes(Interval("chr2", 0, 5), variants="v", sample="A")


@pytest.mark.parametrize(
    ("records", "more", "message"),
    [
        ([("chr2", 1, "A", "C", "0|1", "0|1")], TWO, r"v\.vcf: chr2:1: REF is A, the assembly has T"),
        ([("chr2", 1, "TT", "T", "0|1", "0|1")], TWO, r"v\.vcf: chr2:1: TT to T .indel."),
        ([("chr2", 900, "TT", "AA", "0|1", "0|1")], TWO, r"chr2:900: REF of 2 bases leaves the contig"),
        (RECORDS, 'samples = ["Z"]\n', r'no sample is called "Z"'),
        (RECORDS, 'samples = ["A", "A"]\n', r"variants\[0\]: samples must differ"),
        (RECORDS, 'indels = "some"\n', r'variants\[0\]\.indels: "some" is none of the choices'),
        (RECORDS, TABLE, r"two variants are called"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(made, records, more, message):
    with pytest.raises(DistgenError, match=message):
        made(vcf(records), more)


def test_what_is_no_substitution_is_skipped_and_counted_if_asked(made):
    store = made(
        vcf([("chr2", 1, "TT", "T,AT", "0|1", "2|2"), ("chr2", 5, "T", "<DEL>", "0|1", "0|1")]),
        TWO + 'indels = "skip"\n',
    )
    counts = store.manifest["variants"]["v"]["counts"]
    assert (counts["indel"], counts["symbolic"], counts["substitutions"]) == (1, 1, 1)
    assert store.sequence(Interval("chr2", 0, 2)) == "TT"
    assert store.codes(Interval("chr2", 0, 2), variants="v", sample="B").tolist() == [0, 3]


KEPT = TWO + 'indels = "keep"\n'


def cells(letters, records, column, haplotype):
    """What stands at each base of a contig in a haplotype, record by record: the obvious way."""
    cells, indels, free = list(letters.upper()), [], -1
    cells = [letter if letter in "ACGT" else "N" for letter in cells]
    for _, at, ref, alts, *calls in records:
        allele = [*calls[column].replace("|", "/").split("/"), "."][:2][haplotype]
        for number, alt in enumerate(alts.split(","), 1):
            start = at - 1
            if len(alt) == len(ref):
                for i, (old, new) in enumerate(zip(ref, alt, strict=True)):
                    if old != new and allele in (str(number), "."):
                        cells[start + i] = new if allele != "." else "N"
            elif allele == str(number):
                old, kept = (ref[1:], 1) if ref[0] == alt[0] else (ref, 0)
                start, alt = start + kept, alt[kept:]
                while old and alt and old[-1] == alt[-1]:
                    old, alt = old[:-1], alt[:-1]
                while old and alt and old[0] == alt[0]:
                    start, old, alt = start + 1, old[1:], alt[1:]
                indels.append((start, len(old), alt))
    for start, deleted, inserted in sorted(indels, key=lambda indel: indel[0]):
        if start < free:
            continue
        free = start + max(deleted, 1)
        if deleted:
            cells[start : start + deleted] = [inserted] + [""] * (deleted - 1)
        elif start:
            cells[start - 1] += inserted
        else:
            cells[0] = inserted + cells[0]
    return cells


def indel_records(contig, seed, samples=2, share=0.5, reach=9, phases="|"):
    """Records all along a contig: substitutions, insertions, deletions and what is both, which overlap now and then; no two
    substitutions are at one base."""
    random, letters, found = np.random.default_rng(seed), LETTERS[contig].upper(), []
    for at in range(0, len(letters), 4):
        if random.random() > share:
            continue
        plain = random.random() < 0.4
        ref = letters[at : at + int(random.integers(1, 4 if plain else reach))]
        alts = set()
        for _ in range(random.integers(1, 3)):
            size = len(ref) if plain else int(random.integers(1, 7))
            alt = "".join(random.choice(list("ACGT"), size))
            alts.add(letters[at] + alt[1:] if random.random() < 0.7 and letters[at] in "ACGT" else alt)
        alts = sorted(alt for alt in alts if alt != ref and (plain or len(alt) != len(ref)))
        calls = []
        for _ in range(samples):
            alleles = [str(a) if a >= 0 else "." for a in random.integers(-1, len(alts) + 1, 2)]
            calls.append(alleles[0] if random.random() < 0.1 else str(random.choice(list(phases))).join(alleles))
        if alts:
            found.append((contig, at + 1, ref, ",".join(alts), *calls))
    return found


@pytest.fixture(scope="module")
def resized(tmp_path_factory):
    """A store with insertions and deletions, and the records."""
    folder, records = tmp_path_factory.mktemp("resized"), indel_records("chr2", 3) + indel_records("chr1", 1)
    for name, letters in (("a.fa", "".join(f">{name}\n{letters}\n" for name, letters in LETTERS.items())),
                          ("v.vcf", vcf(records))):  # fmt: skip
        (folder / name).write_text(letters)
    (folder / "a.toml").write_text('format = 1\n[assembly]\nname = "a"\nfasta = "a.fa"\n' + TABLE + KEPT)
    build(read(folder / "a.toml", Recipe), folder / "a.zarr")
    return open_store(folder / "a.zarr"), records


@given(st.data())
def test_a_stretch_has_the_insertions_and_deletions_of_a_haplotype(resized, draw):
    store, records = resized
    contig, haplotype = draw.draw(st.sampled_from(["chr1", "chr2", "chr3"])), draw.draw(st.integers(0, 1))
    column, size = draw.draw(st.integers(0, 1)), len(LETTERS[contig])
    start = draw.draw(st.integers(0, size))
    end = draw.draw(st.integers(start, min(size, start + draw.draw(st.sampled_from([20, 900])))))
    truth = cells(LETTERS[contig], [r for r in records if r[0] == contig], column, haplotype)
    codes = store.codes(Interval(contig, start, end), variants="v", sample="AB"[column], haplotype=haplotype)
    assert "".join("ACGTN"[c] for c in codes) == "".join(truth[start:end])


def test_rows_of_insertions_and_deletions_and_of_substitutions_are_apart(made):
    records = [
        ("chr2", 1, "T", "TA,A", "0|1", "2|1"),
        ("chr2", 3, "TTT", "T", "1|0", "0|0"),
        ("chr2", 3, "T", "TTG", "1|0", "0|0"),  # behind the same base: the first is taken
        ("chr2", 4, "T", "G", "1|1", "0|0"),  # deleted in one haplotype
        ("chr2", 9, "T", "<DEL>,*,TN", "0|1", "2|3"),
    ]
    store = made(vcf(records), KEPT)
    found = store.variants("v")
    read = {name: array.read().tolist() for name, array in found.indels.arrays.items()}
    assert (len(found), len(found.indels), found.indels.indels) == (2, 3, None)
    assert (read["position"], read["deleted"], read["end"]) == ([1, 3, 3], [0, 2, 0], [1, 1, 3])
    assert (read["chain"], read["offset"], read["inserted"]) == ([0, 1, 1], [1, 1, 1], [0, 3, 2])
    shown = describe(store)["variants"]["v"]
    assert (shown["rows"], shown["indels"], shown["counts"]["indel"]) == (2, 3, 3)
    assert [shown["counts"][kind] for kind in ("symbolic", "star", "ambiguous")] == [1, 1, 1]
    sequences = [
        "".join("ACGTN"[c] for c in store.codes(Interval("chr2", 0, 6), variants="v", sample="A", haplotype=h))
        for h in (0, 1)
    ]
    assert sequences == ["TTTT", "TATTGTT"]
    assert not verify(store).damage


def test_an_indel_without_phase_is_refused_unless_taken_as_listed(made):
    store = made(vcf([("chr2", 10, "TT", "T", "0/1", "1/1")]), KEPT)
    with pytest.raises(ConfigError, match=r'variants "v", sample "A", chr2:11: the site is heterozygous'):
        store.codes(Interval("chr2", 5, 12), variants="v", sample="A")
    arguments = {"variants": "v", "sample": "A", "unphased": "listed"}
    assert [len(store.codes(Interval("chr2", 5, 12), haplotype=h, **arguments)) for h in (0, 1)] == [7, 6]
    assert len(store.codes(Interval("chr2", 0, 7), variants="v", sample="A")) == 7


def test_a_set_without_insertions_and_deletions_may_keep_them(made):
    store = made(more=KEPT)
    assert len(store.variants("v").indels) == 0
    assert store.codes(Interval("chr2", 0, 5), variants="v", sample="B").tolist() == [0, 3, 3, 2, 3]


def test_variants_are_built_anew_when_the_assembly_changes(made, small_recipe):
    made(vcf([("chr3", 7, "A", "C", "1|1", "0|0")]))
    fasta = small_recipe.parent / "small.fa"
    fasta.write_text(fasta.read_text().replace("GATTACA", "GATTACC"))
    with pytest.raises(SourceError, match=r"chr3:7: REF is A, the assembly has C"):
        made(vcf([("chr3", 7, "A", "C", "1|1", "0|0")]))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30)), max_size=40), st.integers(1, 7), st.integers(0, 40))
def test_rows_come_sorted_whatever_the_blocks_or_the_file_is_refused(small, rows, size, reach):
    """Against one stable sort of the whole file, by the contigs' first appearance."""
    rows = [(contig % 3, position) for contig, position in rows]
    first = {contig: rank for rank, contig in enumerate(dict.fromkeys(contig for contig, _ in rows))}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(variants, "_REACH", reach)
        order, found, refused = variants._Order(small.path, small.contigs), [], False
        try:
            for at in range(0, len(rows), size):
                contig, position = np.array(rows[at : at + size], np.int64).T
                done = order.sorted({"contig": contig, "position": position, "number": np.arange(at, at + len(contig))})
                found += done.get("number", np.empty(0)).tolist()
            found += order.rest().get("number", np.empty(0)).tolist()
        except SourceError:
            refused = True
    if refused:  # some row goes further back than `reach`, or to a contig before
        keys = [(first[contig] << 40) + position for contig, position in rows]
        assert any(earlier - reach > later for i, later in enumerate(keys) for earlier in keys[:i])
    else:
        assert found == sorted(range(len(rows)), key=lambda i: (first[rows[i][0]], rows[i][1]))


def test_a_file_in_no_order_is_refused(made, monkeypatch):
    monkeypatch.setattr(variants, "_REACH", 2)
    monkeypatch.setattr(reader, "read_variants", partial(reader.read_variants, records=1))
    records = [("chr2", p, "T", "A", "0|1", "0|1") for p in (50, 60, 3)]
    with pytest.raises(SourceError, match=r"v\.vcf: chr2:3 stands after what should follow it: sort the file"):
        made(vcf(records))


@given(st.data())
def test_the_rows_between_two_positions(small, draw):
    """Against a plain comparison of every row."""
    cells = st.tuples(st.integers(0, 2), st.integers(0, 20))
    rows = sorted(draw.draw(st.lists(cells, max_size=30)), key=lambda row: (-row[0], row[1]))
    contig, position = np.array(rows, np.int64).reshape(-1, 2).T
    arrays = {"contig": Rows(contig), "position": Rows(position)}
    found = variants.Variants("v", (), small.contigs, arrays)
    row, start = draw.draw(st.integers(0, 2)), draw.draw(st.integers(0, 21))
    end = draw.draw(st.integers(start, 22))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(variants, "_STEP", draw.draw(st.integers(1, 40)))
        inside = list(range(len(rows)))[found.between(row, start, end)]
    assert inside == [i for i, (c, p) in enumerate(rows) if c == row and start <= p < end]


class Rows:
    """What `Variants` needs of an array."""

    def __init__(self, values):
        self.values, self.shape = values, values.shape

    def __getitem__(self, part):
        return self.values[part]


@given(st.lists(st.integers(0, 856), min_size=1, max_size=60))
def test_bases_at_scattered_positions(small, positions):
    """Also on a worker of another process, where what was sent can't be written to."""
    bases = variants.Bases(small.contigs, small.path, small.manifest["arrays"])
    there = pickle.loads(pickle.dumps(bases))
    there.contigs.offsets.flags.writeable = False
    expected = small.codes(Interval("chr1", 0, 857))[positions]
    assert np.array_equal(there(0, np.array(positions)), expected)


def yeast(source, folder, indels):
    """A store with a real sample, and the sample's file."""
    path = source / "sacCer3_sample_variants.vcf.gz"
    (folder / "y.toml").write_text(
        f'format = 1\n[assembly]\nname = "y"\nfasta = "{source}/sacCer3.fa.gz"\n'
        f'[[variants]]\nname = "bki"\nsource = "{path}"\nsamples = ["BKI"]\nindels = "{indels}"\n'
    )
    build(read(folder / "y.toml", Recipe), folder / "y.zarr")
    return open_store(folder / "y.zarr"), path


@pytest.mark.data
def test_a_yeast_sample(data, tmp_path):
    store, path = yeast(data / "sacCer3", tmp_path, "skip")
    expected = {
        name: list(store.sequence(Interval(name, 0, int(n))))
        for name, n in zip(store.contigs.names, store.contigs.lengths, strict=True)
    }
    with gzip.open(path, "rt") as lines:
        for record in (text.split("\t") for text in lines if not text.startswith("#")):
            name, at, ref, alts, call = record[0], int(record[1]) - 1, record[3], record[4].split(","), record[9][:3]
            allele = int(call[2])
            if allele and len(ref) == len(alts[allele - 1]):
                expected[name][at : at + len(ref)] = alts[allele - 1]
    for name, letters in expected.items():
        codes = store.codes(Interval(name, 0, len(letters)), variants="bki", haplotype=1, unphased="listed")
        assert "".join("ACGTN"[c] for c in codes) == "".join(letters)
    counts = store.manifest["variants"]["bki"]["counts"]
    assert (counts["records"], counts["substitutions"], counts["indel"]) == (44_251, 42_916, 1_335)


def from_the_file(path, contigs):
    """The records of a VCF by contig, as pysam reads them: (contig, 1-based position, REF, ALTs, a call for each sample)."""
    import pysam

    found = {name: [] for name in contigs}
    for record in pysam.VariantFile(str(path)):
        calls = [
            "|".join("." if allele is None else str(allele) for allele in record.samples[column].allele_indices)
            for column in range(len(record.samples))
        ]
        if record.chrom in found:
            found[record.chrom].append((record.chrom, record.pos, record.ref, ",".join(record.alts), *calls))
    return found


@pytest.mark.data
def test_a_yeast_sample_with_its_insertions_and_deletions(data, tmp_path):
    store, path = yeast(data / "sacCer3", tmp_path, "keep")
    assert len(store.variants("bki").indels) == store.manifest["variants"]["bki"]["counts"]["indel"] == 1_335
    grown = 0
    for name, records in from_the_file(path, store.contigs.names).items():
        whole = Interval(name, 0, int(store.contigs.lengths[store.contigs.index(name)]))
        letters = store.sequence(whole)
        for haplotype in (0, 1):
            codes = store.codes(whole, variants="bki", haplotype=haplotype, unphased="listed")
            truth = "".join(cells(letters, records, 0, haplotype))
            assert "".join("ACGTN"[c] for c in codes) == truth
            grown += abs(len(codes) - len(letters))
    assert grown > 100
