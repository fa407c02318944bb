"""Windows of haplotypes with insertions and deletions, against the store's own reader and against the file."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distgen import kernels
from distgen.config import Recipe, read
from distgen.errors import ConfigError, StoreError
from distgen.genome import Interval
from distgen.loader import gather, placement, taken
from distgen.loader.batch import Batch
from distgen.loader.damage import Lost
from distgen.loader.haplotypes import Haplotypes
from distgen.loader.loader import GenomeLoader
from distgen.loader.placement import Host
from distgen.loader.transfer import Transfer
from distgen.store.build import build
from distgen.store.reader import open_store
from tests.conftest import LETTERS
from tests.loader.test_haplotypes import flat, human
from tests.store.test_variants import TABLE, cells, from_the_file, indel_records, vcf

HOLE = range(118, 121)
RECIPE = """format = 1
[assembly]
name = "a"
fasta = "a.fa"
[[track]]
name = "each"
source = "each.bw"
bin_bp = 1
absent = "missing"
[[track]]
name = "binned"
source = "each.bw"
bin_bp = 8
absent = "missing"
[split]
valid = ["chr2:0-203"]
"""


def made_in(folder, records, samples, more=""):
    """A store whose tracks say which base of its contig each is, counted from 1; bins have the mean."""
    import pyBigWig

    (folder / "a.fa").write_text("".join(f">{name}\n{letters}\n" for name, letters in LETTERS.items()))
    (folder / "v.vcf").write_text(vcf(records, samples))
    with pyBigWig.open(str(folder / "each.bw"), "w") as out:
        out.addHeader([(name, len(letters)) for name, letters in LETTERS.items()])
        for name, letters in LETTERS.items():
            size = len(letters)
            out.addEntries(name, list(range(size)), values=[float(1 + i) for i in range(size)], span=1)
    names = ", ".join(f'"{sample}"' for sample in samples)
    (folder / "a.toml").write_text(RECIPE + TABLE + f'samples = [{names}]\nindels = "keep"\n' + more)
    build(read(folder / "a.toml", Recipe), folder / "a.zarr")
    return open_store(folder / "a.zarr")


@pytest.fixture(scope="module", params=[0.03, 0.6], ids=["few", "many"])
def resized(tmp_path_factory, request):
    """Three samples whose haplotypes have few or many insertions and deletions; the contigs stand in another order than
    the assembly's. And the records."""
    records = []
    for seed, contig in enumerate(("chr3", "chr1", "chr2")):
        records += indel_records(contig, seed, 3, request.param, reach=40 if request.param < 0.1 else 9)
    return made_in(tmp_path_factory.mktemp("resized"), records, "ABC"), records


def rows_of(store, found, starts, limits, length, copies):
    placed = Host(store, Transfer(torch.device("cpu")), found)
    return placed.rows(starts, limits, length, np.array(copies, np.int64))


def expected(store, found, start, limits, length, copy):
    """A window from the reader: N before its limits, and after what they allow."""
    sample, haplotype = found.name(copy)
    contig = int(store.contigs.locate(limits[0]))
    offset = int(store.contigs.offsets[contig])
    low = max(start, int(limits[0]))
    codes = np.full(length, 4, np.uint8)
    if low < limits[1]:
        interval = Interval(store.contigs.names[contig], low - offset, int(limits[1]) - offset)
        own = store.codes(interval, variants="v", sample=sample, haplotype=haplotype)
        part = own[: max(length - (low - start), 0)]
        codes[low - start :][: len(part)] = part
    return codes


def any_windows(store, draw):
    """Length, starts, limits and copies; limits are contigs or parts of them, which windows stick out of."""
    length = draw.draw(st.integers(1, 400))
    starts, limits = [], []
    for _ in range(draw.draw(st.integers(1, 8))):
        contig = draw.draw(st.sampled_from(range(len(store.contigs))))
        size, offset = int(store.contigs.lengths[contig]), int(store.contigs.offsets[contig])
        low, high = (0, size) if draw.draw(st.booleans()) else sorted(draw.draw(st.tuples(*[st.integers(0, size)] * 2)))
        if low == high:
            low, high = 0, size
        starts.append(offset + draw.draw(st.integers(low - length, high + 5)))
        limits.append((offset + low, offset + high))
    copies = draw.draw(st.lists(st.integers(0, 5), min_size=len(starts), max_size=len(starts)))
    return length, np.array(starts), np.array(limits), copies


@given(draw=st.data())
def test_a_window_is_what_the_reader_gives_from_its_first_base_on(resized, draw):
    store, _ = resized
    found = Haplotypes(store, "v")
    length, starts, limits, copies = any_windows(store, draw)
    rows = rows_of(store, found, starts, limits, length, copies)
    codes = kernels.tokens(rows.plane, rows.starts, length, ambiguous=rows.ambiguous, limits=rows.limits).numpy()
    for row, copy in enumerate(copies):
        assert np.array_equal(codes[row], expected(store, found, int(starts[row]), limits[row], length, copy))
    masked = kernels.bits(rows.softmask, rows.starts, length, limits=rows.limits).numpy()
    pieces = found.pieces(starts, limits, length, np.array(copies))
    lower = {name: np.array([letter.islower() for letter in LETTERS[name]]) for name in store.contigs.names}
    for row in range(len(copies)):
        truth = np.zeros(length, np.bool_)
        for at, first, size in zip(*(c[pieces.rows == row].tolist() for c in pieces[1:4]), strict=True):
            if size:
                contig = int(store.contigs.locate(first))
                first -= int(store.contigs.offsets[contig])
                truth[at : at + size] = lower[store.contigs.names[contig]][first : first + size]
        assert np.array_equal(masked[row], truth)


@pytest.mark.parametrize("strand", ["forward", "random"])
def test_tracks_follow_the_bases(tmp_path, strand):
    """Targets and inputs of a loader, by how many bases were inserted and deleted before."""
    records = [
        ("chr2", 50, "T", "TACG", "1|0", "0|0"),  # 3 inserted behind base 49
        ("chr2", 100, "TTTTT", "T", "1|0", "0|1"),  # 100 to 103 deleted
        ("chr2", 130, "T", "A", "1|1", "0|1"),
        ("chr2", 170, "TT", "GCA", "0|1", "0|0"),  # 169 and 170 become three others
    ]
    store = made_in(tmp_path, records, "AB")
    (tmp_path / "hole.bed").write_text(f"chr2\t{HOLE.start}\t{HOLE.stop}\n")
    arguments = {
        "window": 64,
        "stride": 8,
        "split": "valid",
        "batch_size": 4,
        "strand": strand,
        "placement": "host",
        "seed": 3,
    }
    loader = GenomeLoader(
        store, tracks=["each", "binned"], target_length=48, inputs=["binned"], last="pad",
        windows={"personal": {"variants": "v"}, "exclude": [str(tmp_path / "hole.bed")]}, **arguments,
    )  # fmt: skip
    changes = {0: [(50, 0, 3), (100, 4, 0)], 1: [(169, 2, 3)], 2: [], 3: [(100, 4, 0)]}
    seen = 0
    for batch in loader:
        for row in range(len(batch)):
            if not batch.weight[row]:
                continue
            start = int(batch.positions[row] - store.contigs.offsets[1])
            base = list(range(start, 300))
            for position, deleted, inserted in reversed(changes[int(batch.haplotypes[row])]):
                low = max(start, 0)
                if position + deleted <= low:
                    continue
                if position >= low:
                    at = position - start
                    base[at : at + deleted] = [None] * inserted
                else:
                    at = low - start
                    base[at : at + position + deleted - low] = []
            inside = [b is not None and 0 <= b < 203 and b not in HOLE for b in base]
            seen += check(batch, row, base[:64], inside[:64])
    assert seen > 20


def check(batch: Batch, row, base, inside):
    """One window's values by the contig positions of its bases (None: inserted); whether it has any indel."""
    turned = -1 if batch.reverse[row] else 1
    each = batch.targets["each"][row, :, 0].numpy()[::turned]
    known = batch.mask["each"][row, :, 0].numpy()[::turned]
    assert known.tolist() == inside[8:56]
    assert all(each[i] == 1 + base[8 + i] for i in range(48) if known[i])
    for values, mask, margin, bins in (
        (batch.targets["binned"], batch.mask["binned"], 8, 6),
        (batch.inputs["binned"], batch.inputs_mask["binned"], 0, 8),
    ):
        found = values[row, :, 0].numpy()[::turned], mask[row, :, 0].numpy()[::turned]
        for number in range(bins):
            part = base[margin + 8 * number :][:8]
            whole = None not in part and part[-1] - part[0] == 7
            middle = part[4] // 8 if whole else None
            free = whole and not set(range(8 * middle, 8 * middle + 8)) & set(HOLE)
            whole = free and middle >= 0 and 8 * middle + 8 <= 203
            assert bool(found[1][number]) == whole
            assert found[0][number] == (8 * middle + 4.5 if whole else 0)
    return int(base != list(range(base[0] or 0, (base[0] or 0) + 64)))


def test_windows_with_insertions_and_deletions_are_made_on_the_host(resized):
    store, _ = resized
    arguments = {"window": 64, "split": None, "windows": {"personal": {"variants": "v"}}}
    with pytest.raises(ConfigError, match=r"placement: windows with insertions and deletions are made on the host"):
        GenomeLoader(store, placement="device", **arguments)
    batch = next(iter(GenomeLoader(store, **arguments)))
    assert batch.haplotypes is not None


@given(draw=st.data())
def test_rows_that_need_what_is_damaged_are_told_by_their_place_in_the_batch(resized, draw):
    store, _ = resized
    found = Haplotypes(store, "v")
    length, starts, limits, copies = any_windows(store, draw)
    byte = draw.draw(st.integers(0, store.length // 4 - 1))

    def damaged(chunks, first, last, out, at):
        bad = (first <= byte) & (byte < last) if chunks.array.id == store.planes["sequence"].id else first < 0
        if bad.any():
            raise Lost(bad)
        gather.gather(chunks, first, last, out, at)

    lost, left = np.zeros(len(starts), np.bool_), limits.copy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(placement, "gather", damaged)
        while True:
            try:
                rows_of(store, found, starts, left, length, copies)
                break
            except Lost as some:
                lost |= some.rows
                left[lost, 0] = left[lost, 1]  # as the loader does
    pieces = found.pieces(starts, limits, length, np.array(copies))
    held = pieces.sizes > 0
    reads = [
        (row, first // 4 <= byte < -(-(first + size) // 4))
        for row, first, size in zip(*(c[held].tolist() for c in (pieces.rows, pieces.first, pieces.sizes)), strict=True)
    ]
    # Whoever needs the byte is among them, and each of them reads it: between its first piece and the last, or beside.
    assert {row for row, needs in reads if needs} <= set(np.flatnonzero(lost).tolist())
    for row in np.flatnonzero(lost).tolist():
        own = pieces.rows == row
        own &= (
            held | ~(own & held).any()
        )  # one that lies beside its limits has no base, but is read from where its row begins
        low, high = pieces.first[own].min(), (pieces.first + pieces.sizes)[own].max()
        assert low // 64 * 16 <= byte < -(-high // 64) * 16


@pytest.mark.parametrize("seed", [0, 5])
def test_alleles_of_a_record_without_phase_are_drawn_together(tmp_path, seed):
    records = [("chr2", at, "TT", "AT,T", "1/2") for at in range(10, 200, 10)]
    store = made_in(tmp_path, records, "A")
    with pytest.raises(ConfigError, match="the site is heterozygous and its alleles have no phase"):
        Haplotypes(store, "v")
    found = Haplotypes(store, "v", unphased="drawn", seed=seed)
    starts, limits = flat(store, [(1, 0), (1, 0)])
    rows = rows_of(store, found, starts, limits, 190, [0, 1])
    codes = kernels.tokens(rows.plane, rows.starts, 190, ambiguous=rows.ambiguous, limits=rows.limits).numpy()
    pieces = found.pieces(starts, limits, 190, np.array([0, 1]))
    deleted = [{int(at) for at in (pieces.first - 1 - store.contigs.offsets[1])[(pieces.rows == h) & (pieces.sites >= 0)]}
               for h in (0, 1)]  # fmt: skip
    sites = set(range(10, 200, 10))
    assert deleted[0] | deleted[1] >= sites - {190}
    assert not deleted[0] & deleted[1]
    assert all(deleted)
    for haplotype in (0, 1):
        expected = "".join("" if at - 1 in deleted[haplotype] else "A" if at + 1 in sites - deleted[haplotype] else "T"
                           for at in range(400))  # fmt: skip
        assert "".join("ACGTN"[c] for c in codes[haplotype]) == expected[:190]


@given(draw=st.data())
def test_what_is_kept_in_a_file_gives_the_same_windows(resized, tmp_path_factory, draw):
    store, _ = resized
    length, starts, limits, copies = any_windows(store, draw)
    memory = Haplotypes(store, "v").pieces(starts, limits, length, np.array(copies))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(taken, "_IN_MEMORY", 0)
        kept = Haplotypes(store, "v", cache=tmp_path_factory.getbasetemp() / "kept")
        found = kept.pieces(starts, limits, length, np.array(copies))
    assert all(np.array_equal(a, b) for a, b in zip(memory, found, strict=True))


def test_a_damaged_file_of_insertions_and_deletions_stops_the_run(resized, tmp_path, monkeypatch):
    store, _ = resized
    monkeypatch.setattr(taken, "_IN_MEMORY", 0)
    Haplotypes(store, "v", cache=tmp_path)
    (path,) = tmp_path.glob("*.indels")
    whole = path.read_bytes()
    path.write_bytes(bytes([whole[0] ^ 8]) + whole[1:])
    found = Haplotypes(store, "v", cache=tmp_path)
    with pytest.raises(StoreError, match=r"\.indels is damaged: remove it"):
        found.pieces(*flat(store, [(0, 0)]), 800, np.array([0]))


@pytest.mark.data
def test_real_sites_of_a_human_chromosome_with_insertions_and_deletions(data, tmp_path):
    """Against records read with pysam alone, put together base by base."""
    store, length = human(data / "human_b37_chr20", tmp_path, 3, "keep"), 4096
    found, random = Haplotypes(store, "v"), np.random.default_rng(6)
    first, last, count = 990_000, 2_010_000, 300
    letters = "N" * first + store.sequence(Interval("20", first, last))
    records = records_of(tmp_path / "v.vcf")
    truth = [cells(letters, records, copy // 2, copy % 2) for copy in range(found.copies)]
    starts, copies = random.integers(first, last - 2 * length, count), random.integers(0, found.copies, count)
    limits = np.tile([0, store.length], (count, 1))
    rows = rows_of(store, found, starts, limits, length, copies)
    codes = kernels.tokens(rows.plane, rows.starts, length, ambiguous=rows.ambiguous, limits=rows.limits).numpy()
    for row, (start, copy) in enumerate(zip(starts.tolist(), copies.tolist(), strict=True)):
        assert "".join("ACGTN"[c] for c in codes[row]) == "".join(truth[copy][start : start + 2 * length])[:length]
    assert len(rows.pieces.moved(length, count).rows) >= 100


def records_of(path):
    """The records of a file of one contig, less what is no sequence of bases."""
    import pysam

    name = next(iter(pysam.VariantFile(str(path)))).chrom
    return [
        (contig, at, ref, ",".join(alt if set(alt) <= set("ACGT") else ref for alt in alts.split(",")), *calls)
        for contig, at, ref, alts, *calls in from_the_file(path, [name])[name]
    ]
