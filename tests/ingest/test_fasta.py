"""FASTA as it is found in the wild, against a parser of five obvious lines."""

import gzip
import itertools
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.errors import SourceError
from distgen.ingest import packing
from distgen.ingest.fasta import Header, Letters, cut_lines, join, read_fasta, scan_fasta

LETTERS = "ACGTUNRYSWKMBDHV-.acgtunryswkmbdhv"


def contigs_of(path, block=1 << 20):
    """Name and letters of each contig."""
    found = []
    for event in read_fasta(path, block=block):
        if isinstance(event, Header):
            found.append((event.name, ""))
        else:
            found[-1] = found[-1][0], found[-1][1] + event.letters.tobytes().decode()
    return found


@st.composite
def files(draw):
    """A FASTA file's bytes, and the contigs that it holds."""
    names = draw(st.lists(st.text("abcXYZ0189_.|", min_size=1, max_size=8), min_size=1, max_size=4, unique=True))
    newline = draw(st.sampled_from(["\n", "\r\n"]))
    text, contigs = (
        draw(st.sampled_from(["", "\ufeff"])) + draw(st.sampled_from(["", newline, newline + " " + newline])),
        [],
    )
    for name in names:
        letters = draw(st.text(LETTERS, min_size=1, max_size=300))
        width = draw(st.integers(1, 400))
        text += f">{name}{draw(st.sampled_from(['', ' a description', chr(9) + 'tab >']))}{newline}"
        for first in range(0, len(letters), width):
            text += letters[first : first + width] + draw(st.sampled_from(["", " ", "\t"])) + newline
            text += draw(st.sampled_from(["", "", newline]))
        contigs.append((name, letters))
    if draw(st.booleans()):
        text = text.rstrip("\r\n")
    return text.encode(), contigs


@pytest.mark.parametrize("small", [0, 1 << 25])
@given(files(), st.integers(1, 500), st.booleans())
def test_every_way_of_writing_a_file_reads_the_same(tmp_path, monkeypatch, small, file, block, compress):
    monkeypatch.setattr(packing, "SMALL", small)  # whether what is compiled reads it
    content, expected = file
    path = tmp_path / "genome.fa"
    path.write_bytes(gzip.compress(content) if compress else content)
    assert contigs_of(path, block) == expected


@given(files(), st.integers(1, 200), st.booleans(), st.data())
def test_reading_goes_on_from_any_place(tmp_path, file, block, compress, data):
    content, _ = file
    path = tmp_path / "genome.fa"
    path.write_bytes(gzip.compress(content) if compress else content)
    whole = list(_kept(path, block=block))
    number = data.draw(st.sampled_from([i for i, event in enumerate(whole) if isinstance(event, Letters)]))
    rest = list(_kept(path, start=whole[number].place, block=block))
    assert _joined(rest) == _joined(whole[number:])


def _kept(path, **how):
    """The events, of which the letters are bytes of their own."""
    for event in read_fasta(path, **how):
        yield event if isinstance(event, Header) else event._replace(letters=event.letters.tobytes())


def _joined(events):
    """Letters in a row joined, whatever blocks they came in."""
    found = []
    for event in events:
        if isinstance(event, Header) or not found or isinstance(found[-1], Header):
            found.append(event if isinstance(event, Header) else event.letters)
        else:
            found[-1] += event.letters
    return found


@given(files(), st.integers(1, 9))
def test_the_indices_of_parts_join_to_that_of_the_file(tmp_path, file, parts):
    content, contigs = file
    path = tmp_path / "genome.fa"
    path.write_bytes(content)
    cuts = [*cut_lines(path, parts), None]
    index = join([scan_fasta(path, begin, end) for begin, end in itertools.pairwise(cuts)])
    assert [(header.name, bases) for header, bases in index.contigs] == [(name, len(s)) for name, s in contigs]
    for number, place in index.marks:
        first = next(event for event in _kept(path, start=place) if isinstance(event, Letters))
        assert contigs[number][1][place.bases :].startswith(first.letters.decode())
        assert place.header == index.contigs.header(number)


def test_old_ncbi_headers_are_known_by_accession_and_keep_the_old_name(tmp_path):
    path = tmp_path / "a.fa"
    path.write_text(">gi|110640213|ref|NC_008253.1| Escherichia coli 536, complete genome\nACGT\n")
    header, letters = read_fasta(path)
    assert (header.name, header.alias) == ("NC_008253.1", "gi|110640213|ref|NC_008253.1|")
    assert letters.place == letters.place._replace(header=header, bases=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"ACGT\n", "a.fa:1: 'A.* stands before the first header"),
        (b"\n;comment\n>a\nA\n", "a.fa:2: ';.* stands before the first header"),
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
        list(read_fasta(path, block=block))


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
    assert contigs_of(path) == [("a", "ACGT")]
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
    with pytest.raises(SourceError, match=r'Did you mean "genome\.fa"'):
        list(read_fasta(tmp_path / "genom.fa"))
