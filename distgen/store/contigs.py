"""Which contigs go into a store, and the table of those that do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from distgen.config import ContigRules, Recipe
from distgen.errors import SourceError, redact, suggest
from distgen.genome import ALIGNMENT, Contigs, match
from distgen.ingest.fasta import Header
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
        return list(dict.fromkeys([header.name, *header.alias.split(), *(alias.names if alias else ())]))

    def _listed(self, header: Header, patterns: Iterable[str]) -> bool:
        names = self.names(header)
        return any(match(pattern, names) for pattern in patterns)


def table(recipe: Recipe, wanted: Wanted, receipts: list[dict[str, Any]]) -> Contigs:
    """The contig table, from what each unit of the planes says of its contigs.

    Raises:
        ConfigError: a pattern names no contig, or no contig is left. SourceError: the table of aliases is of another
            assembly.
    """
    kept: dict[int, dict[str, Any]] = {}
    for record in (record for receipt in receipts for record in receipt["contigs"]):
        kept.setdefault(record["row"], record | {"length": 0})["length"] += record["length"]
    found = headers(receipts)
    names = [name for header in found for name in wanted.names(header)]
    for key in ("include", "exclude", "circular"):
        for pattern in getattr(recipe.contigs, key):
            if pattern != "*" and not match(pattern, names):
                raise recipe.error(f"contigs.{key}", f'no contig matches "{pattern}". {suggest(pattern, names)}')
    if not kept:
        raise recipe.error("contigs", f"no contig of {recipe.genome.fasta} is left of {len(found)}")
    lengths = np.array([record["length"] for record in kept.values()], np.int64)
    padded = -(-lengths // ALIGNMENT) * ALIGNMENT
    own, aliases, circular = [], [], []
    for record in kept.values():
        name, *others = wanted.names(Header(record["name"], record["alias"], 0))
        _refuse_other_length(recipe, wanted, name, record["length"])
        own.append(name)
        aliases.append(" ".join(others))
        circular.append(any(match(pattern, (name, *others)) for pattern in recipe.contigs.circular))
    if wanted.aliases and not any(name in wanted.aliases for name in own):
        problem = f"it names none of the contigs ({', '.join(own[:5])}): it is of another assembly"
        raise recipe.error("contigs.aliases", problem)
    return Contigs(tuple(own), lengths, np.cumsum(padded) - padded, tuple(aliases), tuple(circular))


def headers(receipts: list[dict[str, Any]]) -> list[Header]:
    """All contigs of the file, those that were left out too, each once."""
    records = (record for receipt in receipts for record in (*receipt["contigs"], *receipt["left_out"]))
    return list(dict.fromkeys(Header(r["name"], r["alias"], r["position"]) for r in records))


def left_out(wanted: Wanted, receipts: list[dict[str, Any]]) -> dict[str, Any]:
    """What the manifest says of the contigs that are not in the store: how many, how many of these for what their
    names or roles tell (alternative, patch, decoy), and the first names."""
    kept = {record["position"] for receipt in receipts for record in receipt["contigs"]}
    others = [header for header in headers(receipts) if header.position not in kept]
    alternative = sum(wanted.is_alternative(header) for header in others)
    return {"contigs": len(others), "alternative": alternative, "first": [header.name for header in others[:5]]}


def _refuse_other_length(recipe: Recipe, wanted: Wanted, name: str, length: int) -> None:
    alias = wanted.aliases.get(name)
    if alias and alias.length is not None and alias.length != length:
        raise SourceError(
            f'{redact(str(recipe.contigs.aliases))}: contig "{name}" has {alias.length:,} bases there and {length:,} '
            f"in {redact(recipe.genome.fasta)}: the table is of another assembly"
        )


def columns(contigs: Contigs, receipts: list[dict[str, Any]]) -> dict[str, npt.NDArray[Any]]:
    """The contig table as arrays; `letters` has a row (contig, letter in ASCII, how many) for all but A, C, G, T."""
    letters: dict[tuple[int, int], int] = {}
    for record in (record for receipt in receipts for record in receipt["contigs"]):
        for letter, count in record["letters"].items():
            key = record["row"], ord(letter)
            letters[key] = letters.get(key, 0) + count
    return {
        "name": text(contigs.names),
        "alias": text(contigs.aliases),
        "length": contigs.lengths,
        "offset": contigs.offsets,
        "circular": np.array(contigs.circular, np.uint8),
        "letters": np.array([(*key, n) for key, n in sorted(letters.items())], np.int64).reshape(-1, 3),
    }
