"""Personal genomes: windows as the haplotypes of samples have them."""

import gzip
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distgen import kernels
from distgen.config import Recipe, read
from distgen.errors import ConfigError, SourceError, StoreError
from distgen.genome import Interval
from distgen.kernels.draws import PHASE
from distgen.loader import taken
from distgen.loader.haplotypes import Haplotypes
from distgen.loader.placement import Device, Host
from distgen.loader.transfer import Transfer
from distgen.store import format
from distgen.store.build import build
from distgen.store.reader import open_store
from tests.conftest import LETTERS
from tests.store.test_variants import RECORDS, TABLE, TWO, line, made, vcf

__all__ = ["made"]  # a fixture
DRAWABLE = 'samples = ["A", "B", "C"]\n'


def windows(haplotypes, store, places, length, copies, placement=Host):
    """Codes (B, length) of windows at (contig, start on it), as the kernels decode what a placement gives."""
    starts, limits = flat(store, places)
    placed = placement(store, Transfer(torch.device("cpu")), haplotypes)
    rows = placed.rows(starts, limits, length, np.array(copies, np.int64))
    return kernels.tokens(rows.plane, rows.starts, length, ambiguous=rows.ambiguous, limits=rows.limits).numpy()


def flat(store, places):
    """Flat starts and limits of windows at (contig, start on it)."""
    contigs, found = np.array(places, np.int64)[:, 0], np.array(places, np.int64)[:, 1]
    return store.contigs.offsets[contigs] + found, store.contigs.whole()[contigs]


def expected(store, haplotypes, place, length, copy, unphased="refuse"):
    """The same window from the store's own reader, N where it leaves its contig."""
    sample, haplotype = haplotypes.name(copy)
    contig, start = place
    first, last = np.clip([start, start + length], 0, int(store.contigs.lengths[contig])).tolist()
    codes = np.full(length, 4, np.uint8)
    interval = Interval(store.contigs.names[contig], first, last)
    found = store.codes(interval, variants="v", sample=sample, haplotype=haplotype, unphased=unphased)
    codes[first - start :][: len(found)] = found
    return codes


def random_records(count, phases="|/"):
    """Records of three samples, no base in two of them, some over several bases; the contigs stand in another order than
    the assembly's."""
    random = np.random.default_rng(7)
    found = []
    for contig in ("chr3", "chr1", "chr2"):
        letters = LETTERS[contig].upper()
        for at in sorted(random.choice(len(letters) // 3, min(count, len(letters) // 3), replace=False).tolist()):
            ref = letters[3 * at :][: random.integers(1, 4)]
            alts = {"".join(random.choice(list("ACGT"), len(ref))) for _ in range(random.integers(1, 4))} - {ref}
            calls = []
            for _ in range(3):
                alleles = [str(a) if a >= 0 else "." for a in random.integers(-1, len(alts) + 1, 2)]
                calls.append(alleles[0] if random.random() < 0.1 else str(random.choice(list(phases))).join(alleles))
            if alts:
                found.append((contig, 3 * at + 1, ref, ",".join(sorted(alts)), *calls))
    return found


@pytest.fixture(params=[1, 300], ids=["few", "many"])
def panel(made, request):
    """A store with three samples; `many` fills several blocks, each with genotypes that are not known."""
    return made(vcf(random_records(request.param), "ABC"), DRAWABLE)


def any_windows(store, draw):
    """Length, places and copies; windows begin before their contig, end after it, or lie beside it."""
    length = draw.draw(st.integers(1, 700))
    contigs = st.sampled_from(range(len(store.contigs)))
    place = contigs.flatmap(lambda c: st.tuples(st.just(c), st.integers(-length, int(store.contigs.lengths[c]) + 9)))
    places = draw.draw(st.lists(place, min_size=1, max_size=8))
    return length, places, draw.draw(st.lists(st.integers(0, 5), min_size=len(places), max_size=len(places)))


@given(draw=st.data())
def test_a_window_has_the_bases_that_the_reader_gives_it(panel, draw):
    found = Haplotypes(panel, "v", unphased="listed")
    assert (found.copies, found.name(3)) == (6, ("B", 1))
    length, places, copies = any_windows(panel, draw)
    codes = windows(found, panel, places, length, copies)
    assert np.array_equal(windows(found, panel, places, length, copies, Device), codes)
    for row, (place, copy) in enumerate(zip(places, copies, strict=True)):
        assert np.array_equal(codes[row], expected(panel, found, place, length, copy, "listed"))


@given(draw=st.data())
def test_replacements_put_the_same_bases_into_a_genome_on_a_device(panel, draw):
    found = Haplotypes(panel, "v", unphased="listed")
    length, places, copies = any_windows(panel, draw)
    starts, limits = flat(panel, places)
    inside = np.maximum(starts, 0)  # a window before the first contig would leave the planes
    replacements = found.replacements(inside, limits, length, np.array(copies))
    planes = {name: torch.from_numpy(array.read().copy()) for name, array in panel.planes.items()}
    begins = torch.from_numpy(inside)
    bounds = {"ambiguous": planes["ambiguous"], "limits": torch.from_numpy(limits)}
    made = kernels.substitute(planes["sequence"], begins, length, replacements, **bounds)
    moved = [
        (contig, int(start - panel.contigs.offsets[contig])) for (contig, _), start in zip(places, inside, strict=True)
    ]
    assert np.array_equal(kernels.tokens(**made._asdict()), windows(found, panel, moved, length, copies))


def drawn_by_hand(records, column, haplotype, seed):
    """All of chr1, which begins the assembly, as a haplotype has it: record by record."""
    letters = list(LETTERS["chr1"].upper())
    for contig, at, ref, alts, *calls in records:
        if contig != "chr1":
            continue
        alleles = [*calls[column].replace("|", "/").split("/"), "."][:2]
        counter, key = torch.tensor([at - 1]), torch.tensor([seed - 2**64 if seed >= 2**63 else seed])
        swap = kernels.philox(counter, key, tag=PHASE, epoch=column)[0].item() & 1
        if "/" in calls[column] and "." not in alleles and swap:
            alleles = alleles[::-1]
        sequences = [ref, *alts.split(",")]
        for i, column_letters in enumerate(zip(*sequences, strict=True)):
            if len(set(column_letters)) > 1:
                allele = alleles[haplotype]
                letters[at - 1 + i] = "N" if allele == "." else column_letters[int(allele)]
    return ["ACGT".index(letter) if letter in "ACGT" else 4 for letter in letters]


@pytest.mark.parametrize("seed", [0, 2**64 - 5])
def test_alleles_without_phase_are_drawn_record_by_record_and_the_haplotypes_complement_each_other(made, seed):
    records = random_records(300)
    store = made(vcf(records, "ABC"), DRAWABLE)
    found = Haplotypes(store, "v", unphased="drawn", seed=seed)
    codes = windows(found, store, [(0, 0)] * 6, len(LETTERS["chr1"]), range(6))
    for copy in range(6):
        assert codes[copy].tolist() == drawn_by_hand(records, copy // 2, copy % 2, seed)
    few = Haplotypes(store, "v", ("C", "A"), unphased="drawn", seed=seed)  # what is drawn for a sample is its own
    assert np.array_equal(windows(few, store, [(0, 0)] * 4, 857, range(4)), codes[[4, 5, 0, 1]])
    other = Haplotypes(store, "v", unphased="drawn", seed=seed + 1)
    assert other.id != found.id
    assert not np.array_equal(windows(other, store, [(0, 0)] * 6, 857, range(6)), codes)


def test_a_site_without_phase_is_refused_when_the_loader_is_made(made):
    store = made()
    with pytest.raises(
        ConfigError, match=r'unphased: variants "v", sample "A", chr2:10: the site is heterozygous and its'
    ):
        Haplotypes(store, "v")
    found = Haplotypes(store, "v", ("B",))  # whose calls are homozygous there
    assert windows(found, store, [(1, 0)] * 2, 20, [0, 1]).tolist() == [
        expected(store, found, (1, 0), 20, copy).tolist() for copy in (0, 1)
    ]


def test_two_bases_at_one_place_are_refused_and_the_same_base_twice_is_not(made):
    clash = [("chr2", 3, "T", "A", "0|0", "0|1"), ("chr2", 3, "T", "C", "0|0", "0|1")]
    with pytest.raises(SourceError, match=r'variants "v", sample "B", chr2:3: haplotype 1 gets two bases'):
        Haplotypes(made(vcf(clash)), "v")
    apart = [("chr2", 3, "T", "A", "0|0", "1|0"), ("chr2", 2, "TT", "TC", "0|0", "0|1")]
    same = [
        ("chr2", 3, "T", "A", "1|0", "0|0"),
        ("chr2", 2, "TT", "TA", "1|0", ".|."),
        ("chr2", 3, "T", "G", ".|.", "1|0"),
    ]
    for number, records in enumerate((apart, same)):
        store = made(vcf(sorted(records, key=lambda record: record[1])), out=f"{number}.zarr")
        found = Haplotypes(store, "v")
        codes = windows(found, store, [(1, 0)] * 4, 5, range(4))
        assert codes.tolist() == [expected(store, found, (1, 0), 5, copy).tolist() for copy in range(4)]


@pytest.mark.parametrize("step", [1, 4, 6, 8, 1000])  # bytes: two a row and sample
def test_a_clash_is_seen_wherever_stretches_that_are_decoded_together_end(made, monkeypatch, step):
    records = [("chr1", at, "A", "C,G,T", "1|2", "0|3") for at in (1, 15, 29)]
    store = made(vcf([*records, ("chr1", 29, "A", "C", "0|0", "0|1")]))
    monkeypatch.setattr(taken, "_STEP", step)
    with pytest.raises(SourceError, match=r'sample "B", chr1:29: haplotype 1 gets two bases'):
        Haplotypes(store, "v")


def test_rows_of_ambiguous_bases_are_made_where_the_assembly_has_none(tmp_path):
    (tmp_path / "a.fa").write_text(">c\n" + "ACGT" * 100)
    text = '##fileformat=VCFv4.2\n##contig=<ID=c>\n##FORMAT=<ID=GT,Number=1,Type=String,Description="">\n'
    text += "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tA\tB\n"
    (tmp_path / "v.vcf").write_text(text + line("c", 5, "A", "C", "1|0", ".|1"))
    recipe = 'format = 1\n[assembly]\nname = "a"\nfasta = "a.fa"\n'
    (tmp_path / "a.toml").write_text(recipe + TABLE + TWO)
    build(read(tmp_path / "a.toml", Recipe), tmp_path / "a.zarr")
    store = open_store(tmp_path / "a.zarr")
    assert store.planes["ambiguous"].empty
    found = Haplotypes(store, "v")
    codes = windows(found, store, [(0, 2)] * 4, 5, range(4))
    assert np.array_equal(windows(found, store, [(0, 2)] * 4, 5, range(4), Device), codes)
    assert codes.tolist() == [[2, 3, base, 1, 2] for base in (1, 0, 4, 1)]
    known = Haplotypes(store, "v", ("A",))
    starts, limits = flat(store, [(0, 2)])
    assert known.apply(np.zeros((1, 32), np.uint8), None, starts, limits, 5, np.array([0])) is None


def test_a_sample_that_has_no_alternative_reads_as_the_assembly(made):
    store = made(vcf([("chr2", 3, "T", "A", "0|0", "1|1")]))
    found = Haplotypes(store, "v", ("A",))
    assert windows(found, store, [(1, 0)] * 2, 5, [0, 1]).tolist() == [[3] * 5] * 2
    starts, limits = flat(store, [(1, 0)])
    assert found.replacements(starts, limits, 5, np.array([0])).offsets.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"samples": ("Z",)}, 'no sample is called "Z"'),
        ({"samples": ()}, 'no sample is called ""'),
        ({"samples": ("A", "A")}, "samples: samples must differ"),
        ({"unphased": "guess"}, 'unphased: "guess" is no choice. Valid: refuse, listed, drawn'),
    ],
)
def test_what_is_wrongly_asked_for_is_refused(made, arguments, message):
    with pytest.raises(ConfigError, match=message):
        Haplotypes(made(), "v", **arguments)
    with pytest.raises(ConfigError, match="sites without genotypes. Name samples"):
        Haplotypes(made(more="", out="b.zarr"), "v")
    found = Haplotypes(made(), "v", unphased="listed")
    with pytest.raises(ValueError, match=r"copies must lie in range.4."):
        windows(found, made(), [(0, 0)], 5, [4])


# ---- the file of what is large ----------------------------------------------------------------


@pytest.fixture
def large(monkeypatch, tmp_path):
    """Everything counts as large; the folder where it is kept."""
    monkeypatch.setattr(taken, "_IN_MEMORY", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "distgen"


def same(found, store):
    codes = windows(found, store, [(0, 0)] * 6, 857, range(6))
    return np.array_equal(codes, [expected(store, found, (0, 0), 857, copy, "listed") for copy in range(6)])


def test_what_is_large_is_kept_in_a_file_that_the_next_loader_finds(panel, large, monkeypatch):
    assert same(Haplotypes(panel, "v", unphased="listed"), panel)
    (kept,) = large.iterdir()
    monkeypatch.setattr(taken, "_write", None)  # it is not made again
    again = Haplotypes(panel, "v", unphased="listed")
    assert kept.name == f"{again.id}.haplotypes"
    assert same(again, panel)


def test_a_file_that_is_damaged_stops_the_run_or_is_made_anew(panel, large):
    Haplotypes(panel, "v", unphased="listed")
    (kept,) = large.iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(bytes([whole[0] ^ 8]) + whole[1:])
    with pytest.raises(StoreError, match=r"\.haplotypes is damaged: remove it, it is made anew"):
        same(Haplotypes(panel, "v", unphased="listed"), panel)
    for damaged in (whole[:-8], whole[8:], b"", whole[:-60] + b"x" + whole[-59:], bytes(len(whole))):
        kept.write_bytes(damaged)
        assert same(Haplotypes(panel, "v", unphased="listed"), panel)
        assert kept.read_bytes() == whole


def test_what_counts_as_checked_has_been(panel, large, monkeypatch):
    Haplotypes(panel, "v", unphased="listed")
    found, before = Haplotypes(panel, "v", unphased="listed"), []
    watched = lambda content: (before.append(found._bases._checked.tolist()), format.crc32c(content))[1]  # noqa: E731
    monkeypatch.setattr(taken, "crc32c", watched)  # another thread could read at this very moment
    found.replacements(np.array([0]), np.array([[0, panel.length]]), panel.length, np.array([0]))
    assert before
    assert not any(any(checked[block:]) for block, checked in enumerate(before))
    assert found._bases._checked.all()


PROGRAM = """
import logging, sys, time
from distgen.loader import haplotypes, taken
from distgen.store.reader import open_store
logging.basicConfig(level=logging.INFO)
taken._IN_MEMORY = 0
write = taken._write
def slowly(source, sink):
    write(source, sink)
    print("written", flush=True)
    time.sleep(float(sys.argv[2]))
taken._write = slowly
haplotypes.Haplotypes(open_store(sys.argv[1]), "v", unphased="listed")
"""


def start(store, seconds):
    arguments = [sys.executable, "-c", PROGRAM, str(store.path), str(seconds)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_of_several_processes_one_writes_and_a_killed_one_blocks_nobody(made, large):
    store = made(vcf(random_records(300), "ABC"), DRAWABLE)
    killed = start(store, 600)
    assert killed.stdout.readline() == "written\n"
    (draft,) = large.iterdir()
    others = [start(store, 0.5) for _ in range(2)]
    time.sleep(1)
    os.kill(killed.pid, signal.SIGKILL)
    said = [other.communicate(timeout=120) for other in others]
    killed.communicate()
    assert [other.returncode for other in others] == [0, 0]
    assert sorted(out for out, _ in said) == ["", "written\n"]
    assert sum("taking the haplotypes out of the genotypes" in err for _, err in said) == 1
    assert [path.name for path in large.iterdir()] == [draft.name.removeprefix(".").removesuffix(".new")]
    assert same(Haplotypes(store, "v", unphased="listed"), store)


def test_who_waits_for_another_process_too_long_says_so(made, large, monkeypatch):
    store = made()
    monkeypatch.setitem(taken.TIMEOUTS, "haplotypes", 0.2)
    large.mkdir(parents=True)
    path = large / "a.haplotypes"
    message = "another process has been writing it for 0 s"
    with taken._locked(path), pytest.raises(StoreError, match=message), taken._locked(path):
        pass
    assert not list(large.iterdir())
    assert Haplotypes(store, "v", unphased="listed").copies == 4


def test_a_folder_without_room_is_said(made, large):
    large.parent.write_text("a file")
    with pytest.raises(StoreError, match=r"can't be kept there .*set XDG_CACHE_HOME to a folder with more room"):
        Haplotypes(made(), "v", unphased="listed")
    large.parent.unlink()
    bad = made(vcf([*RECORDS[:1], ("chr2", 1, "T", "C", "0|1", "0|0")]))
    with pytest.raises(SourceError, match="gets two bases"):
        Haplotypes(bad, "v")
    assert not list(large.iterdir())


# ---- real sites -------------------------------------------------------------------------------


def with_genotypes(source, out, samples):
    """Real sites with genotypes drawn by their allele frequencies, no two alleles of a haplotype at the same bases; a
    hundredth is not known, and what is no substitution is carried as well."""
    random, taken = np.random.default_rng(5), [0] * (2 * samples)
    with gzip.open(source, "rt") as lines, out.open("w") as sink:
        for text in lines:
            if text.startswith("##"):
                sink.write(text)
                continue
            fields = text.rstrip("\n").split("\t")[:8]
            if text.startswith("#"):
                sink.write('##FORMAT=<ID=GT,Number=1,Type=String,Description="">\n')
                sink.write("\t".join([*fields, "FORMAT", *(f"S{i}" for i in range(samples))]) + "\n")
                continue
            start, ref = int(fields[1]), fields[3]
            info = dict(entry.partition("=")[::2] for entry in fields[7].split(";"))
            frequencies = [float(f) for f in info["AF"].split(",")]
            chances = [1 - sum(frequencies), *frequencies]
            alleles = random.choice(len(chances), 2 * samples, p=np.array(chances) / sum(chances)).tolist()
            for i, allele in enumerate(alleles):
                if start < taken[i]:
                    alleles[i] = 0
                elif allele:
                    taken[i] = start + len(ref)
            calls = [str(a) if random.random() > 0.01 else "." for a in alleles]
            pairs = [f"{first}|{second}" for first, second in zip(calls[::2], calls[1::2], strict=True)]
            sink.write("\t".join([*fields, "GT", *pairs]) + "\n")


def from_the_file(path, samples, first, last, codes):
    """Codes (2 samples, last - first) of a stretch, read from the file with pysam alone."""
    import pysam

    found = np.tile(codes, (2 * samples, 1))
    for record in pysam.VariantFile(str(path)):
        for column in range(samples):
            for haplotype, allele in enumerate(record.samples[column].allele_indices):
                for number, alt in enumerate(record.alts, 1):
                    if len(alt) != len(record.ref) or set(alt) - set("ACGT"):
                        continue
                    for i, (old, new) in enumerate(zip(record.ref, alt, strict=True)):
                        if old != new and allele in (None, number):
                            found[2 * column + haplotype, record.start + i - first] = (
                                4 if allele is None else "ACGT".index(new)
                            )
    return found


def human(source, folder, samples, indels):
    """Chromosome 20 with so many samples; their file is `v.vcf`."""
    with_genotypes(source / "1000g_20_1Mb-2Mb.vcf.gz", folder / "v.vcf", samples)
    names = ", ".join(f'"S{i}"' for i in range(samples))
    recipe = f'format = 1\n[assembly]\nname = "chr20"\nfasta = "{source}/20.fa.gz"\n{TABLE}'
    (folder / "c.toml").write_text(recipe + f'samples = [{names}]\nindels = "{indels}"\n')
    build(read(folder / "c.toml", Recipe), folder / "c.zarr")
    return open_store(folder / "c.zarr")


@pytest.mark.data
def test_real_sites_of_a_human_chromosome(data, tmp_path):
    samples = 4
    store = human(data / "human_b37_chr20", tmp_path, samples, "skip")
    found, random, length, count = Haplotypes(store, "v"), np.random.default_rng(6), 2048, 500
    first, last = 990_000, 2_010_000
    truth = from_the_file(tmp_path / "v.vcf", samples, first, last, store.codes(Interval("20", first, last)))
    places = [(0, int(start)) for start in random.integers(first, last - length, count)]
    copies = random.integers(0, found.copies, count)
    codes = windows(found, store, places, length, copies)
    plain = 0
    for row, ((_, start), copy) in enumerate(zip(places, copies.tolist(), strict=True)):
        assert np.array_equal(codes[row], truth[copy, start - first :][:length])
        assert np.array_equal(codes[row], expected(store, found, (0, start), length, copy))
        plain += int((codes[row] != store.codes(Interval("20", start, start + length))).sum())
    assert plain > 500  # about a base in a thousand
