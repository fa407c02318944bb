"""A small writer of .2bit, the reader against base-by-base packing and against py2bit."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.errors import SourceError
from distgen.ingest import twobit
from distgen.ingest.twobit import TwoBit

MIXED = "ACGTNNNNacgtnnACGTRYacgt" * 40 + "ACG"


def runs(flags):
    """Starts and sizes of the stretches where `flags` is True."""
    edges = np.flatnonzero(np.diff(np.r_[0, np.array(flags, np.int8), 0]))
    return edges[::2].tolist(), (edges[1::2] - edges[::2]).tolist()


def record(letters, order="<"):
    blocks = b""
    for flags in ([c.upper() not in "ACGT" for c in letters], [c.islower() for c in letters]):
        starts, sizes = runs(flags)
        blocks += struct.pack(f"{order}{1 + 2 * len(starts)}I", len(starts), *starts, *sizes)
    codes = ["TCAG".find(c.upper()) % 4 for c in letters] + [3] * (
        -len(letters) % 4
    )  # -1 % 4: the bases under N are arbitrary
    packed = bytes(a << 6 | b << 4 | c << 2 | d for a, b, c, d in zip(*[iter(codes)] * 4, strict=True))
    return struct.pack(order + "I", len(letters)) + blocks + struct.pack(order + "I", 0) + packed


def write(path, contigs, order="<", version=0):
    word = "Q" if version else "I"
    at = 16 + sum(1 + len(name) + struct.calcsize("<" + word) for name in contigs)
    index, records = b"", b""
    for name, letters in contigs.items():
        index += bytes([len(name)]) + name.encode() + struct.pack(order + word, at + len(records))
        records += record(letters, order)
    path.write_bytes(struct.pack(order + "4I", twobit.SIGNATURE, version, len(contigs), 0) + index + records)
    return path


def expected(letters):
    """The three planes, base by base."""
    n = len(letters)
    sequence, ambiguous, softmask = bytearray(-(-n // 4)), bytearray(-(-n // 8)), bytearray(-(-n // 8))
    for i, letter in enumerate(letters):
        code = "ACGT".find(letter.upper())
        sequence[i // 4] |= max(code, 0) << 2 * (i % 4)
        ambiguous[i // 8] |= (code < 0) << i % 8
        softmask[i // 8] |= letter.islower() << i % 8
    return [bytes(plane) for plane in (sequence, ambiguous, softmask)]


def planes(file, row, start, end):
    return [plane.tobytes() for plane in file.planes(row, start, end)]


@given(
    st.lists(st.text("ACGTNacgtn", min_size=1, max_size=300), min_size=1, max_size=4),
    st.sampled_from("<>"),
    st.sampled_from([0, 1]),
    st.data(),
)
def test_any_stretch_of_any_file_equals_packing_base_by_base(tmp_path, contigs, order, version, data):
    names = {f"c{i}": letters for i, letters in enumerate(contigs)}
    file = TwoBit(write(tmp_path / "a.2bit", names, order, version))
    assert file.names == tuple(names)
    assert file.lengths.tolist() == [len(letters) for letters in contigs]
    row = data.draw(st.integers(0, len(contigs) - 1))
    start = 64 * data.draw(st.integers(0, len(contigs[row]) // 64))
    end = data.draw(st.integers(start, len(contigs[row])))
    assert planes(file, row, start, end) == expected(contigs[row][start:end])


def test_an_independent_reader_sees_the_same_bases(tmp_path):
    py2bit = pytest.importorskip("py2bit")
    path = write(tmp_path / "a.2bit", {"chr1": MIXED, "chr2": "acgtTTNNg"})
    other, file = py2bit.open(str(path), True), TwoBit(path)
    assert other.chroms() == dict(zip(file.names, file.lengths.tolist(), strict=True))
    for row, name in enumerate(file.names):
        sequence, ambiguous, softmask = expected(other.sequence(name))  # it writes every N in upper case
        found = file.planes(row, 0, int(file.lengths[row]))
        assert [found[0].tobytes(), found[1].tobytes()] == [sequence, ambiguous]
        assert (found[2] & ~found[1]).tobytes() == softmask
        assert any(ambiguous)
        assert any(softmask)


def test_many_contigs_open_and_read(tmp_path):
    contigs = {f"scaffold_{i}": "ACGTN"[: 1 + i % 5] for i in range(5000)}
    file = TwoBit(write(tmp_path / "a.2bit", contigs))
    assert len(file.names) == 5000
    assert planes(file, 4999, 0, 5) == expected("ACGTN")


def test_a_contig_of_more_than_two_to_the_31_bases_is_read_at_its_end(tmp_path):
    length = 2**31 + 1000
    path = tmp_path / "a.2bit"
    head = struct.pack("<4I", twobit.SIGNATURE, 1, 1, 0) + b"\x01c" + struct.pack("<Q", 26)
    head += struct.pack("<6I", length, 1, length - 8, 8, 0, 0)
    with path.open("wb") as file:  # a sparse file: zeros are T
        file.write(head)
        file.truncate(len(head) + -(-length // 4))
    start = (length - 100) // 64 * 64
    assert planes(TwoBit(path), 0, start, length) == expected("T" * (length - start - 8) + "N" * 8)


def test_the_stretch_must_be_one_of_the_contig(tmp_path):
    file = TwoBit(write(tmp_path / "a.2bit", {"c": MIXED}))
    for start, end in ((0, len(MIXED) + 1), (32, 64), (128, 64), (-64, 0)):
        with pytest.raises(ValueError, match="is no stretch of 963 bases"):
            file.planes(0, start, end)


def refused(tmp_path, content, message):
    path = tmp_path / "bad.2bit"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=message):
        TwoBit(path).planes(0, 0, 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no .2bit file"),
        (b">chr1\nACGTACGTACGTACGT\n", "does not begin with the signature"),
        (b"\x1f\x8b" + bytes(30), "it is gzip: decompress it first"),
        (struct.pack("<4I", twobit.SIGNATURE, 2, 1, 0), "version 2 is not known"),
        (struct.pack("<4I", twobit.SIGNATURE, 0, 0, 0), "holds no contig"),
        (struct.pack("<4I", twobit.SIGNATURE, 0, 7, 0), "index is cut short at contig 1 of 7"),
        (struct.pack("<4I", twobit.SIGNATURE, 0, 1, 0) + b"\0\0\0\0\0", "contig 1 of 1 has no proper name"),
        (struct.pack("<4I", twobit.SIGNATURE, 0, 1, 0) + b"\1c\0\0\0\0", 'contig "c" lies at byte 0, inside the index'),
    ],
)
def test_what_is_no_twobit_file_is_refused(tmp_path, content, message):
    refused(tmp_path, content, message)


def test_a_file_cut_anywhere_is_refused(tmp_path):
    whole = write(tmp_path / "a.2bit", {"chr1": "ACGTNacgtn" * 5}).read_bytes()
    for size in range(len(whole)):
        refused(tmp_path, whole[:size], "no .2bit file|cut short")


def test_two_contigs_of_one_name_are_refused(tmp_path):
    content = write(tmp_path / "a.2bit", {"c1": "ACGT", "c2": "ACGT"}).read_bytes()
    refused(tmp_path, content.replace(b"c2", b"c1"), 'contig "c1" comes a second time')


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([(2, 9)], r'contig "c" \(10 bases\): ambiguous block 1 of 1, 2-11, leaves the contig'),
        ([(0, 3), (2, 2)], "ambiguous block 2 of 2, 2-4, begins before the block before it ends"),
        ([(5, 1), (2, 2)], "ambiguous block 2 of 2, 2-4, begins before"),
        ([(2**32 - 1, 2**32 - 1)], "leaves the contig"),
    ],
)
def test_blocks_that_overlap_or_leave_the_contig_are_refused(tmp_path, blocks, message):
    starts, sizes = zip(*blocks, strict=True)
    body = (
        struct.pack(f"<{2 + 2 * len(blocks)}I", 10, len(blocks), *starts, *sizes) + struct.pack("<2I", 0, 0) + bytes(3)
    )
    refused(tmp_path, struct.pack("<4I", twobit.SIGNATURE, 0, 1, 0) + b"\1c" + struct.pack("<I", 22) + body, message)


def test_a_missing_file_names_its_neighbours(tmp_path):
    write(tmp_path / "genome.2bit", {"c": "ACGT"})
    with pytest.raises(SourceError, match=r'there is no such file. Did you mean ".*genome.2bit"'):
        TwoBit(tmp_path / "genom.2bit")
