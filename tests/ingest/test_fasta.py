"""FASTA as it is found in the wild, against a parser of five obvious lines."""

import gzip
import zlib
from itertools import groupby

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.errors import SourceError
from distgen.ingest.fasta import read_fasta

LETTERS = "ACGTUNRYSWKMBDHV-.acgtunryswkmbdhv"
CODE = {letter: "ACGT".find(letter.upper().replace("U", "T")) for letter in LETTERS}
CODE = {letter: code if code >= 0 else 4 for letter, code in CODE.items()}


def contigs_of(path, block=1 << 24):
    """Name, codes and lower case of each contig, pieces joined."""
    found = []
    for header, group in groupby(read_fasta(path, block), key=lambda piece: piece.header):
        pieces = list(group)
        assert all(len(piece.codes) % 64 == 0 for piece in pieces[:-1])
        codes = np.concatenate([p.codes for p in pieces])
        found.append((header.name, codes.tolist(), np.concatenate([p.lower for p in pieces]).tolist()))
    return found


@st.composite
def files(draw):
    """A FASTA file's bytes, and the contigs that it holds."""
    names = draw(st.lists(st.text("abcXYZ0189_.|", min_size=1, max_size=8), min_size=1, max_size=4, unique=True))
    newline = draw(st.sampled_from(["\n", "\r\n"]))
    text, contigs = draw(st.sampled_from(["", newline, newline + " " + newline])), []
    for name in names:
        letters = draw(st.text(LETTERS, min_size=1, max_size=300))
        width = draw(st.integers(1, 400))
        text += f">{name}{draw(st.sampled_from(['', ' a description', chr(9) + 'tab >']))}{newline}"
        for first in range(0, len(letters), width):
            text += letters[first : first + width] + draw(st.sampled_from(["", " ", "\t"])) + newline
            text += draw(st.sampled_from(["", "", newline]))
        contigs.append((name, [CODE[c] for c in letters], [c.islower() for c in letters]))
    if draw(st.booleans()):
        text = text.rstrip("\r\n")
    return text.encode(), contigs


@given(files(), st.integers(1, 500), st.booleans())
def test_every_way_of_writing_a_file_reads_the_same(tmp_path, file, block, compress):
    content, expected = file
    path = tmp_path / "genome.fa"
    path.write_bytes(gzip.compress(content) if compress else content)
    assert contigs_of(path, block) == expected


def test_old_ncbi_headers_are_known_by_accession_and_keep_the_old_name(tmp_path):
    path = tmp_path / "a.fa"
    path.write_text(">gi|110640213|ref|NC_008253.1| Escherichia coli 536, complete genome\nACGT\n")
    (piece,) = read_fasta(path)
    assert (piece.header.name, piece.header.alias) == ("NC_008253.1", "gi|110640213|ref|NC_008253.1|")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"ACGT\n", "a.fa:1: text before the first header"),
        (b"\n;comment\n>a\nA\n", "a.fa:2: text before the first header"),
        (b">a\nACGT\n>b\n\n>c\nA\n", 'a.fa:3: contig "b" has no sequence'),
        (b">a\nACGT\n>b", 'a.fa:3: contig "b" has no sequence'),
        (b">a\nA\n>b\nA\n>a\nC\n", 'a.fa:5: contig "a" comes a second time .first in line 1'),
        (b">a\nACGT\nAC1T\n", "a.fa:3: '1' in contig \"a\""),
        (b">a\nMEEPQSDPSV\n", "a.fa:2: 'E' in contig \"a\""),
        (b">a\nAC>b\nACGT\n", 'a.fa:2: ">" inside a line of contig "a"'),
        (b">\nACGT\n", "a.fa:1: a header without a name"),
        (b">a\rACGT\r>b\rAC\r", "a.fa:1: the header does not end"),
    ],
)
@pytest.mark.parametrize("block", [1, 7, 1 << 20])
def test_what_is_wrong_is_named_with_line_and_contig(tmp_path, content, message, block):
    path = tmp_path / "a.fa"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=message):
        list(read_fasta(path, block))


@pytest.mark.parametrize("cut", [1, 9, 200])
def test_a_gzip_cut_short_is_refused_by_name(tmp_path, cut):
    content = gzip.compress(b">a\n" + bytes(np.random.default_rng(0).choice(list(b"ACGT"), 4000)))
    path = tmp_path / "a.fa.gz"
    path.write_bytes(content[:-cut])
    with pytest.raises(SourceError, match=r"a\.fa\.gz: the gzip stream is cut short"):
        list(read_fasta(path))


def test_a_bgzip_cut_between_two_blocks_is_refused(tmp_path):
    end = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
    raw = zlib.compressobj(wbits=-15)
    content = b">a\nACGT\n"
    packed = raw.compress(content) + raw.flush()
    size = (len(packed) + 25).to_bytes(2, "little")
    block = end[:16] + size + packed + zlib.crc32(content).to_bytes(4, "little") + len(content).to_bytes(4, "little")
    path = tmp_path / "a.fa.gz"
    path.write_bytes(block + end)
    assert contigs_of(path) == [("a", [0, 1, 2, 3], [False] * 4)]
    path.write_bytes(block)
    with pytest.raises(SourceError, match="cut short"):
        list(read_fasta(path))


def test_a_damaged_gzip_is_refused_by_name(tmp_path):
    content = bytearray(gzip.compress(b">a\n" + b"ACGT" * 1000))
    content[-6] ^= 1
    path = tmp_path / "a.fa.gz"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r"a\.fa\.gz: the gzip stream is damaged"):
        list(read_fasta(path))


def test_a_missing_file_suggests_its_neighbour(tmp_path):
    (tmp_path / "genome.fa").write_text(">a\nA\n")
    with pytest.raises(SourceError, match=r'Did you mean ".*/genome\.fa"'):
        list(read_fasta(tmp_path / "genom.fa"))


@pytest.mark.data
def test_human_chromosome_20_has_its_known_size_and_ambiguity(data):
    codes = np.concatenate([piece.codes for piece in read_fasta(data / "human_b37_chr20/20.fa.gz")])
    assert len(codes) == 63_025_520
    assert int((codes == 4).sum()) == 3_520_000
