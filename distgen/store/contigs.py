"""Which contigs go into a store, and the table of those that do."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from distgen.config import ContigRules, Recipe
from distgen.errors import SourceError, redact, suggest
from distgen.genome import ALIGNMENT, Contigs, Int64, match
from distgen.ingest.fasta import Header, Listing
from distgen.ingest.names import Alias, is_alternative, read_aliases
from distgen.store.rows import text

_OTHERS = ("alt-scaffold", "fix-patch", "novel-patch")  # Sequence-Role of what NCBI adds to the primary assembly


@dataclass(frozen=True)
class Wanted:
    """Whether a contig belongs into the store.

    Args:
        rules: the recipe's patterns; "*" alone does not name alternative, patch and decoy contigs.
        aliases: what the table of other names says of each name.
        kept: the names that remain, where lengths decide, too; None where they don't.
    """

    rules: ContigRules
    aliases: dict[str, Alias]
    kept: frozenset[str] | None = None

    @classmethod
    def of(cls, recipe: Recipe) -> Wanted:
        path = recipe.contigs.aliases
        table = read_aliases(recipe.resolve(path, "contigs.aliases")) if path else []
        return cls(recipe.contigs, {name: alias for alias in table for name in alias.names})

    def __call__(self, header: Header) -> bool:
        if self.kept is not None:
            return header.name in self.kept
        include = self.rules.include
        if self.is_alternative(header):
            include = tuple(pattern for pattern in include if pattern != "*")
        return self._listed(header, include) and not self._listed(header, self.rules.exclude)

    def is_alternative(self, header: Header) -> bool:
        """An alternative, patch or decoy contig, by its name or by its role in the table of other names."""
        alias = self.aliases.get(header.name)
        return is_alternative(header.name) or (alias is not None and alias.role in _OTHERS)

    def long_enough(self, contigs: Iterable[tuple[Header, int]]) -> Wanted:
        """The same, with the lengths of all contigs known."""
        kept = (header.name for header, bases in contigs if bases >= self.rules.min_length and self(header))
        return Wanted(self.rules, self.aliases, frozenset(kept))

    def names(self, header: Header) -> list[str]:
        """All names of a contig, the file's own first."""
        alias = self.aliases.get(header.name) or self.aliases.get(header.alias)
        if alias is None and not header.alias:
            return [header.name]
        return list(dict.fromkeys([header.name, *header.alias.split(), *(alias.names if alias else ())]))

    def _listed(self, header: Header, patterns: Sequence[str]) -> bool:
        if not patterns or "*" in patterns:
            return bool(patterns)
        names = self.names(header)
        return any(match(pattern, names) for pattern in patterns)


@dataclass(frozen=True)
class Found:
    """The contigs of a source in their order: those that are kept, and the others."""

    kept: Listing
    others: Listing

    @classmethod
    def of(cls, contigs: Listing, wanted: Wanted) -> Found:
        """All contigs of an indexed file."""
        found = cls(Listing(), Listing())
        for header, bases in contigs:
            (found.kept if wanted(header) else found.others).add(header, bases)
        return found

    @classmethod
    def joined(cls, receipts: list[dict[str, Any]]) -> Found:
        """What the units of the planes say, each of those that it came by."""
        found = cls(Listing(), Listing())
        for receipt in receipts:
            found.others.extend(Listing.from_json(receipt["others"]))
            contigs = Listing.from_json(receipt["contigs"])
            # A unit ends where it must: the next one says how its last contig goes on.
            if len(contigs) and len(found.kept) and contigs.positions[0] == found.kept.positions[-1]:
                found.kept.bases[-1] = max(found.kept.bases[-1], contigs.bases[0])
                contigs = contigs[1:]
            found.kept.extend(contigs)
        return found

    def everything(self) -> Listing:
        """Those that are kept, then the others."""
        both = self.kept[:]
        both.extend(self.others)
        return both


def table(recipe: Recipe, wanted: Wanted, found: Found) -> Contigs:
    """The contig table.

    Raises:
        ConfigError: a pattern names no contig, or no contig is left. SourceError: the table of aliases is of another
            assembly.
    """
    patterns = {
        key: [p for p in getattr(recipe.contigs, key) if p != "*"] for key in ("include", "exclude", "circular")
    }
    if any(patterns.values()):
        names = [name for header, _ in found.everything() for name in wanted.names(header)]
        for key, pattern in ((key, pattern) for key, listed in patterns.items() for pattern in listed):
            if not match(pattern, names):
                raise recipe.error(f"contigs.{key}", f'no contig matches "{pattern}". {suggest(pattern, names)}')
    if not len(found.kept):
        raise recipe.error("contigs", f"no contig of {recipe.genome.fasta} is left of {len(found.others)}")
    lengths = np.array(found.kept.bases, np.int64)
    padded = -(-lengths // ALIGNMENT) * ALIGNMENT
    aliases, circular = [], []
    for header, length in found.kept:
        name, *others = wanted.names(header)
        _refuse_other_length(recipe, wanted, name, length)
        aliases.append(" ".join(others))
        circular.append(any(match(pattern, (name, *others)) for pattern in recipe.contigs.circular))
    own = tuple(found.kept.names)
    if wanted.aliases and not any(name in wanted.aliases for name in own):
        problem = f"it names none of the contigs ({', '.join(own[:5])}): it is of another assembly"
        raise recipe.error("contigs.aliases", problem)
    return Contigs(own, lengths, np.cumsum(padded) - padded, tuple(aliases), tuple(circular))


def left_out(wanted: Wanted, found: Found) -> dict[str, Any]:
    """What the manifest says of the contigs that are not in the store: how many, how many of these for what their
    names or roles tell (alternative, patch, decoy), and the first names."""
    others = found.others
    alternative = sum(wanted.is_alternative(header) for header, _ in others)
    return {"contigs": len(others), "alternative": alternative, "first": others.names[:5]}


def _refuse_other_length(recipe: Recipe, wanted: Wanted, name: str, length: int) -> None:
    alias = wanted.aliases.get(name)
    if alias and alias.length is not None and alias.length != length:
        raise SourceError(
            f'{redact(str(recipe.contigs.aliases))}: contig "{name}" has {alias.length:,} bases there and {length:,} '
            f"in {redact(recipe.genome.fasta)}: the table is of another assembly"
        )


def columns(contigs: Contigs, letters: Int64) -> dict[str, npt.NDArray[Any]]:
    """The contig table as arrays; `letters` has a row (contig, letter in ASCII, how many) for all but A, C, G, T."""
    return {
        "name": text(contigs.names),
        "alias": text(contigs.aliases),
        "length": contigs.lengths,
        "offset": contigs.offsets,
        "circular": np.array(contigs.circular, np.uint8),
        "letters": letters,
    }


def letters(found: Found, receipts: list[dict[str, Any]]) -> Int64:
    """Rows (contig, letter, how many), sorted, from what each unit of the planes counted."""
    counted, positions = [np.empty((0, 3), np.int64)], np.array(found.kept.positions, np.int64)
    for receipt in receipts:
        rows = unpack(receipt["letters"])
        rows[:, 0] = np.searchsorted(positions, rows[:, 0])
        counted.append(rows)
    return added_up(np.concatenate(counted))


def added_up(rows: Int64) -> Int64:
    """Counts (contig, letter, how many) with those of one letter of one contig added, sorted."""
    keys, of = np.unique(rows[:, 0] * 256 + rows[:, 1], return_inverse=True)
    counts = np.zeros(len(keys), np.int64)
    np.add.at(counts, of, rows[:, 2])
    return np.stack([keys // 256, keys % 256, counts], axis=1)


def pack(rows: Int64) -> str:
    """Rows of three numbers for a receipt; `unpack` reads them."""
    return base64.b64encode(rows.tobytes()).decode()


def unpack(packed: str) -> Int64:
    """The rows that `pack` was given."""
    return np.frombuffer(bytearray(base64.b64decode(packed)), np.int64).reshape(-1, 3)
