"""FASTA to base codes.

Accepted: plain or gzip; LF or CRLF; wrapped, unwrapped and blank lines; blanks and tabs in lines; any
case (lower case is the soft mask); all IUPAC letters (other than ACGTU they become ambiguous), "-" and
"." (ambiguous). U is read as T. A leading ";" comment, other characters, a contig without sequence, a
name that comes twice, and text before the first ">" are refused with file, line and contig.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from distgen.errors import SourceError
from distgen.genome import ALIGNMENT, AMBIGUOUS
from distgen.ingest.open import BLOCK, read_blocks

_BLANK = b" \t\r\n"
_INVALID = 255


def _table() -> bytes:
    table = np.full(256, _INVALID, np.uint8)
    for letters, code in ((b"A", 0), (b"C", 1), (b"G", 2), (b"TU", 3), (b"NRYSWKMBDHV.-", AMBIGUOUS)):
        for letter in letters + letters.lower():
            table[letter] = code
    return table.tobytes()


CODES = _table()


@dataclass(frozen=True)
class Header:
    """One ">" line: the contig's name, its other name or "", and the line number."""

    name: str
    alias: str
    line: int


@dataclass(frozen=True)
class Piece:
    """A stretch of one contig, in order; every piece but a contig's last is a multiple of 64 bases.

    Args:
        header: the contig.
        codes: uint8 (n,), 0 to 4.
        lower: bool (n,), True where the letter is lower case.
    """

    header: Header
    codes: npt.NDArray[np.uint8]
    lower: npt.NDArray[np.bool_]


def read_fasta(path: Path, block: int = BLOCK) -> Iterator[Piece]:
    """The contigs of a FASTA file, piece by piece, at most `block` bases in memory at a time.

    Raises:
        SourceError: what the module refuses; names the file, the line and the contig.
    """
    seen: dict[str, int] = {}
    header: Header | None = None
    letters, codes, bases = b"", b"", 0  # what has come of the contig and was not yielded yet, and how much came in all
    for event in _events(path, block):
        if isinstance(event, Header):
            if header is not None:
                yield _last(path, header, letters, codes, bases)
            header, letters, codes, bases = event, b"", b"", 0
            if header.name in seen:
                raise SourceError(
                    f'{path}:{header.line}: contig "{header.name}" comes a second time (first in line {seen[header.name]})'
                )
            seen[header.name] = header.line
        elif header is not None:
            letters, codes, bases = letters + event.letters, codes + event.codes, bases + len(event.letters)
            whole = (len(letters) - 1) // ALIGNMENT * ALIGNMENT
            if whole:
                yield _piece(header, letters[:whole], codes[:whole])
                letters, codes = letters[whole:], codes[whole:]
    if header is None:
        raise SourceError(f"{path}: the file is empty; a FASTA file begins with a line such as >chr1")
    yield _last(path, header, letters, codes, bases)


def _last(path: Path, header: Header, letters: bytes, codes: bytes, bases: int) -> Piece:
    if not bases:
        raise SourceError(f'{path}:{header.line}: contig "{header.name}" has no sequence')
    return _piece(header, letters, codes)


def _piece(header: Header, letters: bytes, codes: bytes) -> Piece:
    ascii = np.frombuffer(letters, np.uint8)
    return Piece(header, np.frombuffer(codes, np.uint8), (ascii & 0x20 != 0) & (ascii >= 0x41))


@dataclass(frozen=True)
class _Letters:
    """Some letters of a contig without blanks, and their codes."""

    letters: bytes
    codes: bytes


def _events(path: Path, block: int) -> Iterator[Header | _Letters]:
    """Headers and letters as they come."""
    line, at_line_start, started = 1, True, False
    partial: bytes | None = None  # a header line of which the end has not come yet
    header: Header | None = None
    for data in read_blocks(path, block):
        position = 0
        while position < len(data):
            if partial is None and at_line_start and data[position : position + 1] == b">":
                partial, position, started = b"", position + 1, True
                continue
            if partial is not None:
                end = data.find(b"\n", position)
                partial += data[position : end if end >= 0 else len(data)]
                if len(partial) > 1 << 16 or b"\r" in partial.rstrip(b"\r"):
                    raise SourceError(f"{path}:{line}: the header does not end; lines must end in LF or CRLF")
                if end < 0:
                    break
                header = _header(path, partial, line)
                yield header
                partial, line, at_line_start, position = None, line + 1, True, end + 1
                continue
            # Letters run up to the next ">" that begins a line, or to the block's end.
            end = data.find(b">", position)
            text = data[position : end if end >= 0 else len(data)]
            if not started and text.strip(_BLANK):
                bad = line + text[: len(text) - len(text.lstrip(_BLANK))].count(b"\n")
                raise SourceError(f'{path}:{bad}: text before the first header; a FASTA file begins with ">"')
            codes = text.translate(CODES, _BLANK)
            if _INVALID in codes:
                raise _strange(path, text, line, header)
            at_line_start = text.endswith(b"\n") or (not text and at_line_start)
            line += text.count(b"\n")
            if end >= 0 and not at_line_start:
                raise SourceError(f'{path}:{line}: ">" inside a line of contig "{header.name if header else ""}"')
            if codes:
                yield _Letters(text.translate(None, _BLANK), codes)
            position = len(data) if end < 0 else end
    if partial is not None:
        yield _header(path, partial, line)


def _header(path: Path, text: bytes, line: int) -> Header:
    words = text.decode(errors="replace").split()
    if not words:
        raise SourceError(f'{path}:{line}: a header without a name; write ">name"')
    # NCBI's old style >gi|110640213|ref|NC_008253.1| is known by its accession.
    old = re.fullmatch(r"(?:gi\|\d+\|)?(?:ref|gb|emb|dbj|tpg)\|([\w.]+)\|?\w*", words[0])
    return Header(old[1], words[0], line) if old else Header(words[0], "", line)


def _strange(path: Path, text: bytes, line: int, header: Header | None) -> SourceError:
    at = next(i for i, letter in enumerate(text) if CODES[letter] == _INVALID and letter not in _BLANK)
    found = line + text[:at].count(b"\n")
    contig = header.name if header else ""
    return SourceError(f'{path}:{found}: {chr(text[at])!r} in contig "{contig}" is no IUPAC nucleotide letter')
