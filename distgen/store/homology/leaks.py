"""What the parts of a split know of each other or of another store: an assembly by its tiles, a table by its sequences."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distgen.genome import Contigs, Int64, bases_in
from distgen.store.homology import seeds
from distgen.store.homology.search import Floats, Likeness, Search
from distgen.store.homology.tables import Table, table_leakage, too_short
from distgen.store.homology.text import Text, with_mask
from distgen.store.homology.tiles import leakage, place_name
from distgen.store.reader import Store
from distgen.store.work import in_this_process

_EXAMPLES = 5


def leaks(store: Store, split: str = "default") -> dict[str, Any]:
    """As `tiles.leakage` for an assembly, as `tables.table_leakage` for a table of sequences.

    Raises:
        ConfigError: there is no such split, or it has fewer than two parts.
    """
    parts = {part: store.regions(part, split) for part in store.parts(split)}
    if not _is_table(store):
        return leakage(store, parts)
    table = Table.of(store)
    of = np.full(len(table), "", "U5")
    for part, intervals in parts.items():
        of[table.locate(intervals[:, 0])] = part
    return table_leakage(table, of.tolist())


def leaks_against(
    store: Store, other: Store, split: str = "default", likeness: Likeness | None = None
) -> dict[str, Any]:
    """Report what of each part of a split resembles another store, and what of that store the part.

    Two assemblies are compared by tiles of the larger side, a table by its sequences, with `coverage` of each; a sequence
    that stands in another table counts, too. Each assembly's repeats are masked.

    Args:
        store, other: each of an assembly or of a table of sequences.
        split: of `store`.
        likeness: what counts; by default `Likeness()`, between assemblies `Likeness(identity=0.7)`.

    Returns:
        What JSON can hold: `likeness`; `unit` and `other_unit`, "bases" or "sequences"; `short`, how many sequences of
        tables are too short for the search; and `parts`: for each part how many of its `total` are `found` in the other
        store and their `share`, the same of the other store as `other_total`, `other_found`, `other_share`, and the
        `worst` examples (`contig:start-end`, 0-based, half-open).

    Raises:
        ConfigError: there is no such split.
    """
    parts = {part: store.regions(part, split) for part in store.parts(split)}
    sides = [store, other]
    likeness = likeness or Likeness(identity=0.8 if any(map(_is_table, sides)) else 0.7)
    shape = seeds.pattern(max(side.length for side in sides))
    entries = []
    with ExitStack() as stack:
        texts = [_text(side, shape, likeness, stack) for side in sides]
        two = _Side(texts[1], other.contigs.whole(), _is_table(other))
        for part, intervals in parts.items():
            one = _Side(texts[0], intervals, _is_table(store))
            entries.append({"part": part} | _compare(one, two, shape, likeness))
    units = ["sequences" if _is_table(side) else "bases" for side in sides]
    short = sum(int(too_short(side.contigs.whole(), shape).sum()) for side in sides if _is_table(side))
    return {"likeness": asdict(likeness), "unit": units[0], "other_unit": units[1], "short": short, "parts": entries}


def _is_table(store: Store) -> bool:
    return bool(store.manifest.get("labels"))


def _text(store: Store, shape: str, likeness: Likeness, stack: ExitStack) -> Text:
    if _is_table(store):
        return Text.of(store)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    return with_mask(Text.of(store), shape, likeness.copies, folder, in_this_process, 1)


@dataclass(frozen=True)
class _Side:
    """One of the two that are compared: stretches of a text."""

    text: Text
    intervals: Int64
    is_table: bool

    @property
    def tiled(self) -> Contigs | None:
        return None if self.is_table else self.text.contigs

    @property
    def table(self) -> Table:
        return Table(self.text, self.intervals)

    @property
    def total(self) -> int:
        return len(self.intervals) if self.is_table else bases_in(self.intervals)

    def found(self, stretches: Int64) -> int:
        """How many bases stretches (n, 2) cover, or sequences they lie in."""
        if self.is_table:
            return len(np.unique(self.text.contigs.locate(stretches[:, 0])))
        return bases_in(self.text.contigs.join(stretches))


def _compare(one: _Side, two: _Side, shape: str, likeness: Likeness) -> dict[str, Any]:
    """The numbers of a part, `one`, beside another store, `two`."""

    def search(query: _Side, target: _Side) -> Floats:
        long = [
            side.intervals[~too_short(side.intervals, shape)] if side.is_table else side.intervals
            for side in (query, target)
        ]
        return Search(query.text, target.text, shape, likeness, query.tiled).run(*long)

    if two.is_table or not (one.is_table or one.total > two.total):
        pairs = search(two, one)[:, [2, 3, 0, 1, 4, 5, 6]]
    else:
        pairs = search(one, two)
    here, there = pairs[:, :2].astype(np.int64), pairs[:, 2:4].astype(np.int64)
    worst = _worst(pairs, here, there, one, two)
    if one.is_table and two.is_table:  # coverage is of the sequence that is counted
        keys = [list(side.table.keys()) for side in (one, two)]
        same = set(keys[0]).intersection(keys[1])
        known = [[key in same for key in side] for side in keys]
        here = np.concatenate([search(one, two)[:, :2].astype(np.int64), one.intervals[known[0]]])
        there = np.concatenate([there, two.intervals[known[1]]])
    found, other_found = one.found(here), two.found(there)
    return {
        "total": one.total,
        "found": found,
        "share": found / max(one.total, 1),
        "other_total": two.total,
        "other_found": other_found,
        "other_share": other_found / max(two.total, 1),
        "worst": worst,
    }


def _worst(pairs: Floats, here: Int64, there: Int64, one: _Side, two: _Side) -> list[dict[str, Any]]:
    """The pairs with the most matching bases."""
    order = np.argsort(-pairs[:, 5] * (here[:, 1] - here[:, 0]), kind="stable")[:_EXAMPLES]
    return [
        {
            "part": place_name(here[i], one.text.contigs),
            "other": place_name(there[i], two.text.contigs),
            "reverse": bool(pairs[i, 4]),
            "identity": round(float(pairs[i, 5]), 4),
        }
        for i in order.tolist()
    ]
