import struct
import threading

import numpy as np
import pybigtools
import pyBigWig
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.errors import SourceError
from distgen.genome import Contigs
from distgen.ingest.bigwig import BigWig

LENGTHS = {"chr1": 400_000, "chr2": 3000, "chrX": 70_000}
CONTIGS = Contigs(("chr1", "chr2"), np.array([400_000, 3000]), np.array([0, 400_000]), ("", ""))


def write(path, lengths=LENGTHS, seed=0):
    """A bigWig of drawn records of all three kinds in many blocks: bedGraph, variable and fixed steps."""
    rng = np.random.default_rng(seed)
    with pyBigWig.open(str(path), "w") as file:
        file.addHeader(list(lengths.items()), maxZooms=0)
        for name, length in lengths.items():
            third = length // 3
            ends = np.unique(rng.integers(1, third, third // 4))
            starts = np.r_[0, ends[:-1]]
            keep = rng.random(len(ends)) < 0.8
            values = rng.integers(-9, 99, len(ends)).astype(float)
            file.addEntries(
                [name] * int(keep.sum()), starts[keep].tolist(), ends=ends[keep].tolist(), values=values[keep].tolist()
            )
            variable = np.arange(third, 2 * third - 7, 7)
            file.addEntries(name, variable.tolist(), values=(variable % 13).astype(float).tolist(), span=5)
            fixed = np.arange(2 * third, length - 10, 10)
            file.addEntries(name, int(fixed[0]), values=(fixed % 11).astype(float).tolist(), span=6, step=10)
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write(tmp_path_factory.mktemp("bigwig") / "a.bw")


@given(first=st.integers(0, 400_000), bases=st.integers(1, 20_000))
def test_every_base_is_what_two_other_readers_find(path, first, bases):
    last = min(first + bases, 400_000)
    first = min(first, last - 1)
    found = BigWig(path, CONTIGS).bins(0, first, last, 1, "mean", absent="missing")[:, 0]
    np.testing.assert_array_equal(found, pyBigWig.open(str(path)).values("chr1", first, last, numpy=True))
    other = pybigtools.open(str(path)).values("chr1", first, last, fillna=np.nan)
    np.testing.assert_array_equal(found, np.asarray(other, np.float32))


def test_another_writer_and_a_deep_index_read_alike(tmp_path):
    rng = np.random.default_rng(1)
    ends = np.unique(rng.integers(1, 400_000, 80_000))
    entries = [("chr1", int(s), int(e), float(e % 7)) for s, e in zip(np.r_[0, ends[:-1]], ends, strict=True)]
    pybigtools.open(str(tmp_path / "b.bw"), "w").write({"chr1": 400_000}, iter(entries))
    found = BigWig(tmp_path / "b.bw", CONTIGS).bins(0, 0, 400_000, 1, "mean", absent="missing")[:, 0]
    expected = np.full(400_000, np.nan, np.float32)
    for _, start, end, value in entries:
        expected[start:end] = value
    np.testing.assert_array_equal(found, expected)


def test_other_contigs_that_hold_data_are_named_with_their_length(path, tmp_path):
    assert BigWig(path, CONTIGS).skipped == {"chrX": 70_000}
    with pyBigWig.open(str(tmp_path / "a.bw"), "w") as file:
        file.addHeader([("chr1", 400_000), ("chrX", 70_000), ("chrY", 9)])
        file.addEntries(["chr1", "chrY"], [5, 1], ends=[10, 2], values=[1.0, 1.0])
    assert BigWig(tmp_path / "a.bw", CONTIGS).skipped == {"chrY": 9}


def test_a_contig_in_the_header_without_data_is_all_gaps(tmp_path):
    with pyBigWig.open(str(tmp_path / "a.bw"), "w") as file:
        file.addHeader([("chr1", 400_000), ("chr2", 3000)])
        file.addEntries(["chr1"], [5], ends=[10], values=[1.0])
    found = BigWig(tmp_path / "a.bw", CONTIGS)
    assert found.bins(1, 0, 3, 1000, "mean", absent="zero")[:, 0].tolist() == [0, 0, 0]
    assert np.isnan(found.bins(1, 0, 3, 1000, "mean", absent="missing")).all()


def test_threads_share_one_open_file(path):
    file = BigWig(path, CONTIGS)
    alone = [BigWig(path, CONTIGS).bins(row, 0, 3000, 1, "mean", absent="zero") for row in (0, 1)]
    wrong = []

    def work(row):
        for _ in range(20):
            if not np.array_equal(file.bins(row, 0, 3000, 1, "mean", absent="zero"), alone[row]):
                wrong.append(row)

    threads = [threading.Thread(target=work, args=(i % 2,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_contig_of_another_length_is_refused(tmp_path):
    write(tmp_path / "a.bw", {"chr1": 300_000})
    with pytest.raises(SourceError, match=r'a\.bw: contig "chr1" has 300,000 bases here and 400,000 in the assembly'):
        BigWig(tmp_path / "a.bw", CONTIGS)


def test_a_file_of_other_contigs_is_refused(tmp_path):
    write(tmp_path / "a.bw", {"ctg9": 300_000})
    with pytest.raises(SourceError, match=r"none of its contigs \(ctg9\)"):
        BigWig(tmp_path / "a.bw", CONTIGS)


def test_a_file_cut_short_anywhere_before_its_zooms_is_refused(path, tmp_path):
    whole = path.read_bytes()
    for kept in (10, 63, 200, 5000, len(whole) // 2, len(whole) - 100):
        (tmp_path / "a.bw").write_bytes(whole[:kept])
        with pytest.raises(SourceError, match=r"a\.bw: the file is cut short"):
            BigWig(tmp_path / "a.bw", CONTIGS)


def damaged(path, tmp_path, at, with_bytes):
    content = bytearray(path.read_bytes())
    content[at : at + len(with_bytes)] = with_bytes
    (tmp_path / "a.bw").write_bytes(content)
    return tmp_path / "a.bw"


def header(path):
    return struct.unpack("<IHHQQQHHQQIQ", path.read_bytes()[:64])


def test_a_damaged_data_block_is_refused_when_it_is_read(path, tmp_path):
    first_block = header(path)[4] + 8
    file = BigWig(damaged(path, tmp_path, first_block, b"\xff" * 40), CONTIGS)
    with pytest.raises(SourceError, match=r"a\.bw: a data block at byte [\d,]+ is damaged"):
        file.bins(0, 0, 10, 10, "mean", absent="zero")


@pytest.mark.parametrize(
    ("field", "shift", "content", "message"),
    [
        (3, 0, b"xxxx", "the list of contigs is damaged"),
        (5, 0, b"xxxx", "the index is damaged"),
    ],
)
def test_damaged_trees_are_refused(path, tmp_path, field, shift, content, message):
    with pytest.raises(SourceError, match=message):
        BigWig(damaged(path, tmp_path, header(path)[field] + shift, content), CONTIGS)


def test_an_index_that_runs_in_a_circle_is_refused(path, tmp_path):
    root = header(path)[5] + 48
    circle = struct.pack("<BBHIIIIQ", 0, 0, 1, 0, 0, 2, 70_000, root)
    with pytest.raises(SourceError, match="the index is damaged .it runs in a circle"):
        BigWig(damaged(path, tmp_path, root, circle), CONTIGS)


def test_a_big_endian_file_is_named_as_such(path, tmp_path):
    with pytest.raises(SourceError, match="this bigWig is big-endian"):
        BigWig(damaged(path, tmp_path, 0, (0x888FFC26).to_bytes(4, "big")), CONTIGS)


def uncompressed(path, sections):
    """The smallest bigWig: one contig, data blocks as they are, one leaf."""
    names = struct.pack("<IIIIQQ", 0x78CA8C91, 1, 4, 8, 1, 0) + struct.pack("<BBH4sII", 1, 0, 1, b"chr2", 0, 3000)
    at = 64 + len(names) + 8
    leaf, data = b"", b""
    for start, end, body in sections:
        leaf += struct.pack("<IIIIQQ", 0, start, 0, end, at + len(data), len(body))
        data += body
    index = struct.pack("<IIQIIIIQII", 0x2468ACE0, 256, len(sections), 0, 0, 0, 3000, 0, 1, 0)
    head = struct.pack("<IHHQQQHHQQIQ", 0x888FFC26, 4, 0, 64, at - 8, at + len(data), 0, 0, 0, 0, 0, 0)
    tree = index + struct.pack("<BBH", 1, 0, len(sections)) + leaf
    path.write_bytes(head + names + struct.pack("<Q", len(sections)) + data + tree)
    return path


def block(id=0, kind=1, count=1, records=struct.pack("<IIf", 10, 20, 2.5)):  # noqa: B008
    return struct.pack("<IIIIIBBH", id, 10, 20, 0, 0, kind, 0, count) + records


def test_blocks_that_are_not_compressed_are_read(tmp_path):
    file = BigWig(uncompressed(tmp_path / "a.bw", [(10, 20, block())]), CONTIGS)
    assert file.bins(1, 0, 3, 10, "sum", absent="zero")[:, 0].tolist() == [0, 25, 0]
    assert np.isnan(file.bins(0, 0, 3, 10, "sum", absent="zero")).all()


@pytest.mark.parametrize("bad", [block(id=1), block(kind=4), block(kind=0), block(count=2), block()[:20]])
def test_a_block_that_contradicts_itself_or_the_index_is_refused(tmp_path, bad):
    file = BigWig(uncompressed(tmp_path / "a.bw", [(10, 20, bad)]), CONTIGS)
    with pytest.raises(SourceError, match=r"a\.bw: a data block at byte \d+ is damaged"):
        file.bins(1, 0, 3, 10, "sum", absent="zero")


def test_blocks_that_overlap_are_refused(tmp_path):
    twice = uncompressed(tmp_path / "a.bw", [(10, 20, block()), (15, 20, block())])
    with pytest.raises(SourceError, match=r"chr2:10-20 .* begins before the end of the record before it \(20\)"):
        BigWig(twice, CONTIGS).bins(1, 0, 3, 10, "sum", absent="zero")
