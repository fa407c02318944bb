"""What one part of a table of short sequences already knows of another: the same sequences, and similar ones; reported,
taken apart, or drawn so that it cannot happen: families of sequences that resemble each other stay together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import combinations
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from distgen.errors import ConfigError
from distgen.genome import AMBIGUOUS, BASES, COMPLEMENT, Bits, Bytes, Int64, bases_in
from distgen.store.homology import seeds
from distgen.store.homology.search import OVERLAP, Floats, Likeness, Search, Searched
from distgen.store.homology.text import PIECE, Codes, Text
from distgen.store.reader import Store
from distgen.store.work import Execute, in_this_process

_EXAMPLES = 5


@dataclass(frozen=True)
class Table:
    """Short sequences one after another; nothing is masked.

    Args:
        text: where they lie.
        rows: int64 (n, 2), flat start and end of each, sorted.
        execute, parallel: carries out tasks, about so many at the same time.

    Raises:
        ConfigError: a sequence has more than 65,536 bases.
    """

    text: Searched
    rows: Int64
    execute: Execute = in_this_process
    parallel: int = 1

    def __post_init__(self) -> None:
        lengths = self.rows[:, 1] - self.rows[:, 0]
        if lengths.max(initial=0) > OVERLAP:
            row = int(lengths.argmax())
            raise ConfigError(
                f"sequence {row} has {lengths[row]:,} bases: a table's have at most {OVERLAP:,}; use an assembly"
            )

    @classmethod
    def of(cls, store: Store | Text, execute: Execute = in_this_process, parallel: int = 1) -> Table:
        """The sequences of a store."""
        return cls(Text.of(store), store.contigs.whole(), execute, parallel)

    @classmethod
    def of_letters(cls, sequences: Sequence[str]) -> Table:
        """Sequences of letters, in either case; all but ACGT are ambiguous, and alike."""
        table = np.full(256, AMBIGUOUS, np.uint8)
        for code, letter in enumerate(BASES[:4].encode()):
            table[[letter, letter + 32]] = code
        ends = np.cumsum([0, *map(len, sequences)], dtype=np.int64)
        flat = table[np.frombuffer("".join(sequences).encode("ascii", "replace"), np.uint8)]
        return cls(Codes(flat), np.stack([ends[:-1], ends[1:]], axis=1))

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def shape(self) -> str:
        """The seed's pattern."""
        return seeds.pattern(bases_in(self.rows))

    @cached_property
    def same(self) -> Int64:
        """The first row (n,) that has the same sequence, on either strand."""
        first: dict[bytes, int] = {}
        return np.array([first.setdefault(key, row) for row, key in enumerate(self.keys())], np.int64)

    def keys(self) -> Iterator[bytes]:
        """What tells each sequence, on either strand, from the others."""
        for batch in batches(self.rows):
            first = int(batch[0, 0])
            codes = self.text.codes(first, int(batch[-1, 1]))
            for start, end in (batch - first).tolist():
                forward, backward = codes[start:end].tobytes(), COMPLEMENT[codes[start:end][::-1]].tobytes()
                yield blake3(min(forward, backward)).digest(16)

    def search(
        self, rows: Int64, others: Int64, likeness: Likeness, family: Int64 | None = None
    ) -> tuple[Int64, Floats]:
        """Which of `rows` resemble which of `others`; two of one `family` (n,) are not compared.

        Returns:
            (row, other) int64 (m, 2), and reverse, identity and coverage of `row` float64 (m, 3).
        """
        one, other = (those[~too_short(those, self.shape)] for those in (self.rows[rows], self.rows[others]))
        known = None if family is None else (self.rows[:, 0], family)
        search = Search(self.text, self.text, self.shape, likeness, None, self.execute, self.parallel, known)
        found = search.run(one, other)
        return np.stack([self.locate(found[:, 0]), self.locate(found[:, 2])], axis=1), found[:, 4:]

    def locate(self, flat: npt.NDArray[Any]) -> Int64:
        """The row of each flat position."""
        return np.searchsorted(self.rows[:, 0], flat, side="right") - 1

    def alike(self, rows: Int64, others: Int64, likeness: Likeness) -> Int64:
        """Pairs (row, other) int64 (m, 2) of which one resembles the other, or both are the same sequence.

        Of many others that a row resembles, some.
        """
        forth, back = self.search(rows, others, likeness)[0], self.search(others, rows, likeness)[0]
        same, first = np.unique(self.same[others], return_index=True)
        known = rows[np.isin(self.same[rows], same)]
        exact = np.stack([known, others[first[np.searchsorted(same, self.same[known])]]], axis=1)
        return np.concatenate([forth, back[:, ::-1], exact])


def too_short(rows: Int64, shape: str) -> Bits:
    """Which sequences (n, 2) are too short for two seeds apart from each other: the search leaves them out."""
    shorter: Bits = rows[:, 1] - rows[:, 0] < 2 * len(shape)
    return shorter


def batches(rows: Int64) -> list[Int64]:
    """Sorted rows that span about `PIECE` bases at a time."""
    return np.split(rows, np.flatnonzero(np.diff(rows[:, 0] // PIECE)) + 1)


# ---- the report -----------------------------------------------------------------------------


def table_leakage(
    sequences: Sequence[str] | Table, parts: Sequence[str], likeness: Likeness | None = None
) -> dict[str, Any]:
    """Report which sequences of each part of a table stand in another part, or resemble one of its sequences.

    Args:
        sequences: a table, or the letters of each sequence (either case; all but ACGT are ambiguous, and alike).
        parts: the part of each; "" for none.
        likeness: what counts, `Likeness()` by default; `coverage` is of the whole sequence, `tile` plays no role.

    Returns:
        What JSON can hold. `likeness`: what counted. `parts`: sequences of each part, how many are `unique` (either strand), and how many are
        too `short` for anything but the exact comparison. `pairs`: for each ordered pair, the rows of `part` whose
        sequence stands in `other` (`exact`, on either strand), the rows that only resemble one (`similar`), and their
        `share` of the part together, with `worst` examples of the latter.

    Raises:
        ConfigError: fewer than two parts, or not one for each sequence; a sequence of more than 65,536 bases.
    """
    table = sequences if isinstance(sequences, Table) else Table.of_letters(sequences)
    if len(parts) != len(table):
        raise ConfigError(f"{len(table):,} sequences but parts for {len(parts):,}: give each its part")
    names = [name for name in dict.fromkeys(parts) if name]
    if len(names) < 2:
        raise ConfigError(f"a comparison needs two parts or more, not {', '.join(names) or 'none'}")
    likeness, of = likeness or Likeness(), np.array(parts)
    rows = {name: np.flatnonzero(of == name) for name in names}
    known = {name: np.unique(table.same[rows[name]]) for name in names}
    short = {name: int(too_short(table.rows[rows[name]], table.shape).sum()) for name in names}
    sizes = {name: {"sequences": len(rows[name]), "unique": len(known[name]), "short": short[name]} for name in names}
    pairs = []
    for one, other in ((one, other) for one in names for other in names if one != other):
        exact = rows[one][np.isin(table.same[rows[one]], known[other])]
        best = _nearest(table, np.setdiff1d(rows[one], exact), rows[other], likeness)
        worst = sorted(best.items(), key=lambda item: -item[1]["identity"])[:_EXAMPLES]
        pairs.append(
            {
                "part": one,
                "other": other,
                "exact": exact.tolist(),
                "similar": sorted(best),
                "share": (len(exact) + len(best)) / len(rows[one]),
                "worst": [{"row": row, **found} for row, found in worst],
            }
        )
    return {"likeness": asdict(likeness), "parts": sizes, "pairs": pairs}


def _nearest(table: Table, rows: Int64, others: Int64, likeness: Likeness) -> dict[int, dict[str, Any]]:
    """For each of `rows` that resembles one of `others`: the most alike of these, with the alignment's numbers."""
    pairs, numbers = table.search(rows, others, likeness)
    best = {}
    for i in np.argsort(numbers[:, 1] * numbers[:, 2], kind="stable").tolist():
        (row, other), (reverse, identity, coverage) = pairs[i].tolist(), numbers[i].tolist()
        alike = {"identity": round(identity, 4), "coverage": round(coverage, 4)}
        best[row] = {"other_row": other, "reverse": bool(reverse), **alike}
    return best


# ---- apart ----------------------------------------------------------------------------------


def separate_table(
    table: Table,
    part: Bytes,
    likeness: Likeness,
    *,
    keep: Mapping[str, int],
    action: Literal["drop", "move"] = "drop",
) -> tuple[Bytes, dict[str, Any]]:
    """Take from parts the sequences that resemble one of another part, or stand there, until there is none.

    Args:
        table: the sequences.
        part: uint8 (n,), the number of the part that each is in; 0 for none.
        likeness: what counts.
        keep: the number of each part by its name; of a pair, the later one loses its sequence.
        action: "drop": the sequence belongs to no part afterwards. "move": it goes to the part that it resembles.

    Returns:
        The new parts, and a report: `rounds` (searches made), `dropped` and `moved` (sequences that each part lost).

    Raises:
        ConfigError: nothing would be left of a part.
    """
    part, rounds, changed = part.copy(), 0, True
    lost = dict.fromkeys(keep, 0)
    while changed:
        rounds, changed = rounds + 1, False
        for winner, loser in combinations(keep, 2):
            mine, others = (np.flatnonzero(part == keep[name]) for name in (loser, winner))
            gone = np.unique(table.alike(mine, others, likeness)[:, 0])
            if len(gone) and len(gone) == len(mine):
                raise ConfigError(f'nothing is left of "{loser}": all of it resembles "{winner}"')
            part[gone] = keep[winner] if action == "move" else 0
            lost[loser] += len(gone)
            changed |= bool(len(gone))
    report: dict[str, Any] = {"rounds": rounds, "dropped": dict.fromkeys(keep, 0), "moved": dict.fromkeys(keep, 0)}
    return part, report | {"moved" if action == "move" else "dropped": lost}


def families(
    table: Table, likeness: Likeness, draw: Callable[[Int64], Sequence[Int64]]
) -> tuple[Int64, dict[str, Any]]:
    """Group sequences so that none resembles one of another part, however far the kinship goes.

    Of a sequence that resembles many, the search tells some. So it is made again, without what is of one family
    already, until no two meet. Of a seed that stands in very many sequences, it looks at some only. So what was drawn
    is searched across its parts, too.

    Args:
        table: the sequences.
        likeness: what counts.
        draw: takes a family (n,) of each sequence and returns the rows of each part.

    Returns:
        The family int64 (n,) of each sequence, called by its first row; and a report: `families`, the `largest` of
        them in sequences, `rounds`.
    """
    everything, family, rounds, meet = np.arange(len(table)), table.same, 0, True
    while meet:
        rounds += 1
        found = table.search(everything, everything, likeness, family)[0]
        if not len(found):
            drawn, inside = draw(family), np.zeros(len(table), bool)
            inside[np.concatenate(drawn)] = True
            pairs = [table.search(np.setdiff1d(np.flatnonzero(inside), rows), rows, likeness)[0] for rows in drawn]
            found = np.concatenate(pairs)
        meet, family = bool(len(found)), _join(family, found)
    sizes = np.unique(family, return_counts=True)[1]
    return family, {"families": len(sizes), "largest": int(sizes.max()), "rounds": rounds}


def _join(family: Int64, pairs: Int64) -> Int64:
    """Families with those joined that a pair has members of; each is called by the first row of all."""
    while True:
        ends = family[pairs]
        low = ends.min(axis=1)
        lower = family.copy()
        for side in (0, 1):
            np.minimum.at(lower, ends[:, side], low)
        while (lower[lower] != lower).any():
            lower = lower[lower]
        joined = lower[family]
        if (joined == family).all():
            return family
        family = joined
