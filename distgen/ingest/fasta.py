"""FASTA to headers and letters, and where in the text each of them stands.

Accepted: plain or gzip; a byte order mark; LF or CRLF; wrapped, unwrapped and blank lines; blanks and tabs in lines;
any case (lower case is the soft mask); all IUPAC letters (other than ACGTU they become ambiguous), "-" and
"." (ambiguous). U is read as T. A leading ";" comment, other characters, a contig without sequence, a
name that comes twice, and text before the first ">" are refused with file, line and contig.
"""

from __future__ import annotations

import base64
import re
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from distgen.errors import SourceError
from distgen.genome import Bytes
from distgen.ingest import packing
from distgen.ingest.open import content_size, explained, fill_blocks, read_blocks
from distgen.ingest.packing import BLANK

BLOCK = 1 << 18  # so small that what is read is packed before it leaves the processor's second cache
_LONGEST_HEADER = 1 << 16
_ROOM = _LONGEST_HEADER + 2
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Header(NamedTuple):
    """One ">" line: the contig's name, its other name or "", and the bytes of text before the line."""

    name: str
    alias: str
    position: int


class Place(NamedTuple):
    """A place in the text of a FASTA file from which reading can go on.

    Args:
        position: bytes of (decompressed) text before it.
        fresh: it is the beginning of a line.
        header: the contig it lies in, None before the first.
        bases: letters of that contig before it.
    """

    position: int = 0
    fresh: bool = True
    header: Header | None = None
    bases: int = 0


_BEGINNING = Place()


class Letters(NamedTuple):
    """Some letters uint8 (n,) of a contig without blanks, which hold until the next are asked for; the place where their
    text begins, and the bytes of text before its end."""

    letters: Bytes
    place: Place
    end: int


def read_fasta(
    path: Path,
    start: Place = _BEGINNING,
    block: int = BLOCK,
    stop: int | None = None,
) -> Iterator[Header | Letters]:
    """The headers and letters of a FASTA file as they come; at most `block` letters at a time.

    Letters are not looked at: `strange` names the place of one that is none.

    Args:
        path: plain, gzip or bgzip.
        start: where to begin.
        block: bytes of text to read at a time.
        stop: where to end, in bytes of text; None for the end.

    Raises:
        SourceError: what the module refuses; names the file, the line and the contig.
    """
    at, squeeze = start, _squeezer(path)
    # A block is put behind room for the rest of the one before it: a header line whose end has not come yet.
    data, room = bytearray(_ROOM + block), np.empty(_ROOM + block, np.uint8)
    texts, rest = np.frombuffer(data, np.uint8), b""
    for size in fill_blocks(path, memoryview(data)[_ROOM:], start.position, stop):
        cursor, stretch = _ROOM - len(rest), _ROOM + size
        data[cursor:_ROOM], rest = rest, b""
        if at.position == 0 and _BYTE_ORDER_MARK.startswith(data[cursor : min(cursor + 3, stretch)]):
            if stretch - cursor < 3:
                rest = bytes(data[cursor:stretch])
                continue
            cursor, at = cursor + 3, at._replace(position=3)
        while cursor < stretch:
            if at.fresh and data[cursor] == ord(">"):
                end = data.find(b"\n", cursor, stretch)
                text = bytes(data[cursor + 1 : end if end >= 0 else stretch])
                if len(text) > _LONGEST_HEADER or b"\r" in text.rstrip(b"\r"):
                    raise refusal(path, at.position, "the header does not end; lines must end in LF or CRLF")
                if end < 0:
                    rest = b">" + text
                    break
                header = parse_header(path, text, at.position)
                yield header
                at = Place(at.position + end + 1 - cursor, True, header, 0)
                cursor = end + 1
                continue
            # Letters run up to the next ">" that begins a line, or to the block's end.
            found = data.find(b">", cursor, stretch)
            end = found if found >= 0 else stretch
            count = squeeze(texts[cursor:end], room)
            if count and at.header is None:
                raise _headless(path, bytes(data[cursor:end]), at.position)
            if count:
                yield Letters(room[:count], at, at.position + end - cursor)
            fresh = data[end - 1] == ord("\n") if end > cursor else at.fresh
            at = Place(at.position + end - cursor, fresh, at.header, at.bases + count)
            if found >= 0 and not at.fresh:
                name = at.header.name if at.header else ""
                raise refusal(path, at.position, f'">" inside a line of contig "{name}"')
            cursor = end
    if rest.startswith(b">"):
        yield parse_header(path, rest[1:], at.position)
    elif at.header is None and stop is None:
        raise SourceError(f"{path}: the file is empty; a FASTA file begins with a line such as >chr1")


def _headless(path: Path, text: bytes, position: int) -> SourceError:
    """The error for text at a position before the first header."""
    shown = text.strip().split(b"\n")[0][:40].decode(errors="replace")
    begin = position + len(text) - len(text.lstrip(BLANK))
    return refusal(path, begin, f'{shown!r} stands before the first header; a FASTA file begins with ">"')


def _squeezer(path: Path) -> Callable[[Bytes, Bytes], int]:
    """What takes the blanks out of a file's text."""
    with explained(path):
        if path.stat().st_size <= packing.SMALL:
            return _squeeze
    from distgen.ingest.squeezing import squeeze

    return squeeze


def _squeeze(text: Bytes, letters: Bytes) -> int:
    """The specification of `squeezing.squeeze`."""
    found = text.tobytes().translate(None, BLANK)
    letters[: len(found)] = np.frombuffer(found, np.uint8)
    return len(found)


def parse_header(path: Path, text: bytes, position: int) -> Header:
    """What a header line without its ">" says."""
    words = text.decode(errors="replace").split(maxsplit=1)
    if not words:
        raise refusal(path, position, 'a header without a name; write ">name"')
    # NCBI's old style >gi|110640213|ref|NC_008253.1| is known by its accession.
    old = "|" in words[0] and re.fullmatch(r"(?:gi\|\d+\|)?(?:ref|gb|emb|dbj|tpg)\|([\w.]+)\|?\w*", words[0])
    return Header(old[1], words[0], position) if old else Header(words[0], "", position)


def strange(path: Path, start: Place, wanted: Callable[[Header], bool]) -> SourceError:
    """The error for the first letter from `start` on, in a contig that is wanted, that is no nucleotide letter."""
    for event in read_fasta(path, start):
        if isinstance(event, Header) or event.place.header is None or not wanted(event.place.header):
            continue
        if packing.foreign(event.letters).any():
            position = event.place.position
            text = np.frombuffer(next(read_blocks(path, event.end - position, position)), np.uint8)
            i = int(np.flatnonzero(packing.foreign(text) & ~np.isin(text, list(BLANK)))[0])
            shown = repr(chr(text[i])) if text[i] < 128 else f"byte 0x{text[i]:02x}"
            problem = f'{shown} in contig "{event.place.header.name}" is no IUPAC nucleotide letter'
            return refusal(path, position + i, problem)
    raise AssertionError("all letters are IUPAC letters")


def refuse_doubles(path: Path, contigs: Listing) -> None:
    """Raises SourceError if two contigs have one name."""
    if len(set(contigs.names)) == len(contigs):
        return
    seen: dict[str, int] = {}
    for header in sorted((header for header, _ in contigs), key=lambda header: header.position):
        if header.name in seen:
            first = _line(path, seen[header.name])
            problem = f'contig "{header.name}" comes a second time (first in line {first})'
            raise refusal(path, header.position, problem)
        seen[header.name] = header.position


def refusal(path: Path, position: int, problem: str) -> SourceError:
    """The error for what stands at a position of the text."""
    return SourceError(f"{path}:{_line(path, position)}: {problem}")


def _line(path: Path, position: int) -> int:
    """The line number of a position. It is only asked for after an error: counting lines while reading costs time."""
    line, left = 1, position
    for data in read_blocks(path):
        line += data[:left].count(b"\n")
        left -= len(data)
        if left <= 0:
            break
    return line


# ---- the index of a file ------------------------------------------------------------------------

_MARK = 1 << 24  # bytes of text between two places at which a reader may begin


@dataclass(frozen=True)
class Listing:
    """Headers and bases of contigs, a column each: as objects, 10^6 scaffolds would take most of a gigabyte."""

    names: list[str] = field(default_factory=list)
    aliases: list[str] = field(default_factory=list)
    positions: array[int] = field(default_factory=lambda: array("q"))
    bases: array[int] = field(default_factory=lambda: array("q"))

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[tuple[Header, int]]:
        return ((Header(*header), bases) for *header, bases in zip(*self._columns, strict=True))

    @property
    def _columns(self) -> tuple[Any, ...]:
        return self.names, self.aliases, self.positions, self.bases

    def header(self, number: int) -> Header:
        """The header of one."""
        return Header(self.names[number], self.aliases[number], self.positions[number])

    def add(self, header: Header, bases: int = 0) -> None:
        """One more at the end."""
        self.names.append(header.name)
        self.aliases.append(header.alias)
        self.positions.append(header.position)
        self.bases.append(bases)

    def extend(self, more: Listing) -> None:
        """All of another at the end."""
        for column, values in zip(self._columns, more._columns, strict=True):
            column.extend(values)

    def __getitem__(self, some: slice) -> Listing:
        return Listing(*(column[some] for column in self._columns))

    def to_json(self) -> list[str]:
        """As `from_json` reads it; names hold no ends of lines."""
        numbers = (base64.b64encode(column.tobytes()).decode() for column in (self.positions, self.bases))
        return ["\n".join(self.names), "\n".join(self.aliases), *numbers]

    @classmethod
    def from_json(cls, saved: list[str]) -> Listing:
        names, aliases = (column.split("\n") for column in saved[:2])
        positions, bases = (array("q", base64.b64decode(column)) for column in saved[2:])
        return cls(names, aliases, positions, bases) if positions else cls()


@dataclass(frozen=True)
class Index:
    """The contigs of a FASTA file with their lengths, and places at which reading may begin.

    Args:
        contigs: in the file's order.
        marks: places inside contigs, in the file's order, with the number of the contig each lies in.
    """

    contigs: Listing
    marks: list[tuple[int, Place]]


def scan_fasta(path: Path, begin: int = 0, end: int | None = None) -> Index:
    """Index a FASTA file, or the lines of a plain one from byte `begin` to byte `end`.

    In a part that is not the first, a contig without a name stands for the one that had begun before.
    """
    unnamed = Header("", "", begin)
    index = Index(Listing(), [])
    if begin:
        index.contigs.add(unnamed)
    for event in read_fasta(path, Place(begin, True, unnamed if begin else None), stop=end):
        if isinstance(event, Header):
            index.contigs.add(event)
            continue
        index.contigs.bases[-1] += len(event.letters)
        if not index.marks or event.place.position - index.marks[-1][1].position >= _MARK:
            index.marks.append((len(index.contigs) - 1, event.place))
    return index


def join(parts: Iterable[Index]) -> Index:
    """The index of a file from those of its parts, in order."""
    whole = Index(Listing(), [])
    for part in parts:
        contigs, first, before = part.contigs, len(whole.contigs), 0
        if len(contigs) and contigs.names[0] == "":  # what had begun before; or blank lines before the first header
            first -= 1
            if first >= 0:
                before = whole.contigs.bases[first]
                whole.contigs.bases[first] += contigs.bases[0]
            contigs = contigs[1:]
        whole.contigs.extend(contigs)
        for number, place in part.marks:
            bases = place.bases + (before if number == 0 else 0)
            header = whole.contigs.header(first + number)
            whole.marks.append((first + number, place._replace(header=header, bases=bases)))
    return whole


def cut_lines(path: Path, parts: int) -> list[int]:
    """Bytes of text at which about equal parts of a file begin, each at the beginning of a line; gzip stays whole."""
    size, cuts = content_size(path) or 0, [0]
    for part in range(1, parts):
        nominal = max(size * part // parts, cuts[-1] + 1)
        position = nominal - 1
        for data in read_blocks(path, 1 << 16, start=position):
            if (at := data.find(b"\n")) >= 0:
                position += at + 1
                break
            position += len(data)
        if cuts[-1] < position < size:
            cuts.append(position)
    return cuts
