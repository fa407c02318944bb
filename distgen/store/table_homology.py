"""What one part of a table of short sequences already knows of another: the same sequences, and similar ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distgen.errors import ConfigError
from distgen.genome import AMBIGUOUS, BASES, COMPLEMENT, Int64
from distgen.store import seeds
from distgen.store.search import OVERLAP, PIECE, Bits, Bytes, Likeness, Search

_EXAMPLES = 5


def table_leakage(
    sequences: Sequence[str] | tuple[Bytes, Int64], parts: Sequence[str], likeness: Likeness | None = None
) -> dict[str, Any]:
    """Report which sequences of each part of a table stand in another part, or resemble one of its sequences.

    Args:
        sequences: the letters of each (either case; all but ACGT are ambiguous, and alike); or the codes uint8 (bases,) of all
            with their offsets int64 (n + 1,).
        parts: the part of each.
        likeness: what counts, `Likeness()` by default; `coverage` is of the whole sequence, `tile` plays no role.

    Returns:
        What JSON can hold. `parts`: sequences of each part, how many are `unique` (either strand), and how many are
        too `short` for anything but the exact comparison. `pairs`: for each ordered pair, the rows of `part` whose
        sequence stands in `other` (`exact`, on either strand), the rows that only resemble one (`similar`), and their
        `share` of the part together, with `worst` examples of the latter.

    Raises:
        ConfigError: fewer than two parts, or not one for each sequence; offsets that don't divide the codes; a
            sequence of more than 65,536 bases.
    """
    codes, offsets = sequences if isinstance(sequences, tuple) else _encode(sequences)
    lengths = np.diff(offsets)
    if not len(offsets) or offsets[0] != 0 or offsets[-1] != len(codes) or (lengths < 0).any():
        raise ConfigError(f"offsets must rise from 0 to the number of codes, {len(codes):,}")
    if lengths.max(initial=0) > OVERLAP:
        row = int(lengths.argmax())
        raise ConfigError(
            f"sequence {row} has {lengths[row]:,} bases: a table's have at most {OVERLAP:,}; use an assembly"
        )
    if len(parts) != len(offsets) - 1:
        raise ConfigError(f"{len(offsets) - 1:,} sequences but parts for {len(parts):,}: give each its part")
    names = list(dict.fromkeys(parts))
    if len(names) < 2:
        raise ConfigError(f"a comparison needs two parts or more, not {', '.join(names) or 'none'}")
    table = _Table(codes, offsets, seeds.pattern(len(codes)))
    rows = {name: np.flatnonzero(np.array(parts) == name) for name in names}
    canonical = [table.canonical(row) for row in range(len(parts))]
    known = {name: {canonical[row] for row in rows[name].tolist()} for name in names}
    sizes = {
        name: {"sequences": len(rows[name]), "unique": len(known[name]), "short": int(table.short(rows[name]).sum())}
        for name in names
    }
    pairs = []
    for one, other in ((one, other) for one in names for other in names if one != other):
        exact = [row for row in rows[one].tolist() if canonical[row] in known[other]]
        rest = np.setdiff1d(rows[one], exact)
        best = table.nearest(rest, rows[other], likeness or Likeness())
        worst = sorted(best.items(), key=lambda item: -item[1]["identity"])[:_EXAMPLES]
        pairs.append(
            {
                "part": one,
                "other": other,
                "exact": exact,
                "similar": sorted(best),
                "share": (len(exact) + len(best)) / len(rows[one]),
                "worst": [{"row": row, **found} for row, found in worst],
            }
        )
    return {"parts": sizes, "pairs": pairs}


def _encode(sequences: Sequence[str]) -> tuple[Bytes, Int64]:
    table = np.full(256, AMBIGUOUS, np.uint8)
    for code, letter in enumerate(BASES[:4].encode()):
        table[[letter, letter + 32]] = code
    offsets = np.cumsum([0, *map(len, sequences)], dtype=np.int64)
    return table[np.frombuffer("".join(sequences).encode("ascii", "replace"), np.uint8)], offsets


@dataclass(frozen=True)
class _Table:
    """Sequences one after another; nothing is masked.

    Args:
        flat: uint8 (bases,), the codes.
        offsets: int64 (n + 1,).
        shape: the seed's pattern.
    """

    flat: Bytes
    offsets: Int64
    shape: str

    def codes(self, start: int, end: int) -> Bytes:
        """Codes (end - start,), ambiguous is 4."""
        return self.flat[start:end]

    def read(self, start: int, end: int) -> tuple[Bytes, Bits]:
        """Codes and masked flags, both (end - start,)."""
        return self.codes(start, end), np.zeros(end - start, bool)

    def short(self, rows: Int64) -> Bits:
        """Which rows are too short for two seeds apart from each other."""
        shorter: Bits = self.offsets[rows + 1] - self.offsets[rows] < 2 * len(self.shape)
        return shorter

    def canonical(self, row: int) -> bytes:
        """A sequence as it reads on the strand that comes first by alphabet."""
        codes = self.flat[self.offsets[row] : self.offsets[row + 1]]
        return min(codes.tobytes(), COMPLEMENT[codes[::-1]].tobytes())

    def nearest(self, rows: Int64, others: Int64, likeness: Likeness) -> dict[int, dict[str, Any]]:
        """For each of `rows` that resembles one of `others`: the most alike of these, with the alignment's numbers."""
        windows = self._intervals(rows)
        if not len(windows):
            return {}
        longest = int((windows[:, 1] - windows[:, 0]).max())
        found = Search(self, self.shape, likeness, tiled=False).run(
            lambda: self._batches(windows), self._intervals(others), longest
        )
        best = {}
        for start, _, target, _, reverse, identity, coverage in found[np.argsort(found[:, 5] * found[:, 6])].tolist():
            row, other = (int(np.searchsorted(self.offsets, at, side="right")) - 1 for at in (start, target))
            numbers = {"identity": round(identity, 4), "coverage": round(coverage, 4)}
            best[row] = {"other_row": other, "reverse": bool(reverse), **numbers}
        return best

    def _intervals(self, rows: Int64) -> Int64:
        kept = rows[~self.short(rows)]
        return np.stack([self.offsets[kept], self.offsets[kept + 1]], axis=1)

    def _batches(self, windows: Int64) -> Iterator[Int64]:
        breaks = np.flatnonzero(np.diff(windows[:, 0] // PIECE)) + 1
        yield from np.split(windows, breaks)
