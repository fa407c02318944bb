"""What one part of a split already knows of another: stretches that resemble each other, reported or moved apart.

Segmental duplications, paralogs, transposons and related species put near copies of a test sequence into train,
whichever chromosome is held out. The smaller part is indexed by spaced seeds in blocks of bounded size, the larger
one streams past in windows of `tile` bases that overlap by half, and what shares seeds near one diagonal, on either
strand, is aligned by minimap2. A pair counts when the alignment is as `Likeness` says.

Masked are soft-masked bases, and those under a seed that stands in the assembly more than `copies` times beyond what
chance makes: they start no comparison and don't count as aligned.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import combinations, permutations
from pathlib import Path
from typing import Any, Literal

import numpy as np

from distgen.errors import ConfigError, suggest
from distgen.genome import Bits, Contigs, Int64, bases_in, intersect, subtract
from distgen.store.homology import seeds
from distgen.store.homology.search import Floats, Likeness, Search
from distgen.store.homology.text import Text, with_mask
from distgen.store.reader import Store
from distgen.store.work import Execute, in_this_process

Parts = dict[str, Int64]

_BANDS = (0.8, 0.9, 0.99)
_EXAMPLES = 5


@dataclass(frozen=True)
class Pairs:
    """Stretches of different parts that resemble each other, n of them.

    Args:
        names: the parts.
        part: int64 (n, 2), rows of `names`, the smaller one first.
        left: int64 (n, 2), flat start and end of the stretch in the first of the two parts.
        right: int64 (n, 2), the same in the second.
        reverse: bool (n,), the stretches resemble each other on opposite strands.
        identity: float64 (n,), matches / length of the alignment with its gaps.
        coverage: float64 (n,), aligned bases that are not masked / tile.
    """

    names: tuple[str, ...]
    part: Int64
    left: Int64
    right: Int64
    reverse: Bits
    identity: Floats
    coverage: Floats

    def __len__(self) -> int:
        return len(self.part)

    def between(self, one: str, other: str) -> tuple[Int64, Int64, Int64]:
        """Rows (m,) of the pairs of two parts, their stretches (m, 2) in the one, and in the other."""
        i, j = self.names.index(one), self.names.index(other)
        rows = np.flatnonzero((self.part == (min(i, j), max(i, j))).all(axis=1))
        left, right = self.left[rows], self.right[rows]
        return (rows, left, right) if i < j else (rows, right, left)


def find_pairs(store: Store | Text, parts: Mapping[str, Int64], likeness: Likeness | None = None) -> Pairs:
    """Find what resembles each other across the parts of a split.

    Args:
        store: the assembly.
        parts: flat intervals (n, 2) of each part, sorted; parts share no base, no interval crosses a contig.
        likeness: what counts, `Likeness()` by default.

    Raises:
        ConfigError: fewer than two parts, or intervals that are unsorted, shared by two parts, or not inside one contig.
    """
    with _Comparison.of(store, likeness or Likeness()) as comparison:
        return comparison.pairs(_checked(parts, store.contigs))


def leakage(store: Store | Text, parts: Mapping[str, Int64], likeness: Likeness | None = None) -> dict[str, Any]:
    """Report how much of each part resembles each other part.

    Args:
        store, parts: as for `find_pairs`.
        likeness: what counts, `Likeness(identity=0.7)` by default: the bands tell how near the kinship is.

    Returns:
        What JSON can hold. `parts`: bases of each part, and how many of them are masked or ambiguous. `pairs`: for
        each ordered pair, the `bases` of `part` that resemble `other` and their share, in `bands` of the best
        identity, and the `worst` examples (`contig:start-end`, 0-based, half-open).

    Raises:
        ConfigError: as `find_pairs`.
    """
    likeness = likeness or Likeness(identity=0.7)
    checked = _checked(parts, store.contigs)
    with _Comparison.of(store, likeness) as comparison:
        pairs = comparison.pairs(checked)
        masked = {name: comparison.text.masked(part) for name, part in checked.items()}
    sizes = {name: {"bases": bases_in(part), "masked": masked[name]} for name, part in checked.items()}
    table = []
    for one, other in permutations(checked, 2):
        bands = _bands(pairs, one, other, likeness.identity, store.contigs)
        bases = sum(bands.values())
        entry = {"part": one, "other": other, "bases": bases, "share": bases / max(bases_in(checked[one]), 1)}
        table.append(entry | {"bands": bands, "worst": _worst(pairs, one, other, store.contigs)})
    return {"likeness": asdict(likeness), "parts": sizes, "pairs": table}


def separate(
    store: Store | Text,
    parts: Mapping[str, Int64],
    likeness: Likeness | None = None,
    *,
    keep: Sequence[str] = ("test", "valid", "train"),
    action: Literal["drop", "move"] = "drop",
    neighbours: int = 1,
    folder: Path | None = None,
    execute: Execute = in_this_process,
    parallel: int = 1,
) -> tuple[Parts, dict[str, Any]]:
    """Take from parts what resembles others, until the search finds no pair between any two.

    Of a pair, the part later in `keep` loses the tiles that its stretch touches. Tiles beside them are dropped: a
    window there would see what was taken. Then the rest is searched again, so that a tile that was moved into
    a part is compared with the others too.

    Args:
        store, parts, likeness: as for `find_pairs`.
        keep: the parts, each once; the first loses nothing. Names of parts that are not there do no harm.
        action: "drop": the tiles belong to no part afterwards. "move": they go to the part that they resemble.
        neighbours: tiles dropped on both sides.
        folder: where a file of a bit for each base may lie meanwhile that every worker sees; by default a temporary one.
        execute, parallel: carries out tasks, about so many at the same time.

    Returns:
        The new parts (sorted, disjoint), and a report: `rounds` (searches made), `pairs` (found by the first),
        `dropped` and `moved` (bases that each part lost).

    Raises:
        ConfigError: as `find_pairs`; `keep` is not the parts, `action` is unknown, `neighbours` is negative, or
            nothing would be left of a part.
    """
    likeness = likeness or Likeness()
    current = _checked(parts, store.contigs)
    keep = [name for name in keep if name in parts]
    if sorted(keep) != sorted(parts):
        raise ConfigError(f"keep must name each part once, first the one that loses nothing. {suggest('', parts)}")
    if action not in ("drop", "move"):
        raise ConfigError(f'action "{action}" is unknown. {suggest(action, ("drop", "move"))}')
    if neighbours < 0:
        raise ConfigError(f"neighbours is {neighbours}: use 0 or more")
    lost, counts = {what: dict.fromkeys(keep, 0) for what in ("dropped", "moved")}, list[int]()
    with _Comparison.of(store, likeness, folder, execute, parallel) as comparison:
        while not counts or counts[-1]:
            pairs = comparison.pairs(current)
            counts.append(len(pairs))
            for winner, loser in combinations(keep, 2):
                stretches = pairs.between(loser, winner)[1]
                near, around = (
                    intersect(current[loser], _tiles(stretches, store.contigs, likeness.tile, more))
                    for more in (0, neighbours)
                )
                moved = near if action == "move" else near[:0]
                current[loser] = subtract(current[loser], around)
                current[winner] = store.contigs.join(np.concatenate([current[winner], moved]))
                lost["moved"][loser] += bases_in(moved)
                lost["dropped"][loser] += bases_in(around) - bases_in(moved)
                if len(stretches) and not len(current[loser]):
                    raise ConfigError(
                        f'nothing is left of "{loser}": all of it resembles "{winner}" or lies beside what does'
                    )
    return current, {"rounds": len(counts), "pairs": counts[0], **lost}


# ---- the search -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Comparison:
    """What the public functions share: the assembly, whose repeats are masked once, and how it is searched."""

    text: Text
    search: Search

    @classmethod
    @contextmanager
    def of(
        cls,
        store: Store | Text,
        likeness: Likeness,
        folder: Path | None = None,
        execute: Execute = in_this_process,
        parallel: int = 1,
    ) -> Iterator[_Comparison]:
        with ExitStack() as stack:
            folder = folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            text = Text.of(store)
            shape = seeds.pattern(text.length)
            text = with_mask(text, shape, likeness.copies, folder, execute, parallel)
            yield cls(text, Search(text, text, shape, likeness, text.contigs, execute, parallel))

    def pairs(self, parts: Parts) -> Pairs:
        names = tuple(parts)
        found, part = [np.empty((0, 7))], [np.empty((0, 2), np.int64)]
        for i, j in combinations(range(len(names)), 2):
            one, other = parts[names[i]], parts[names[j]]
            swap = bases_in(one) < bases_in(other)
            rows = self.search.run(other, one) if swap else self.search.run(one, other)
            found.append(rows[:, [2, 3, 0, 1, 4, 5, 6]] if swap else rows)
            part.append(np.full((len(rows), 2), (i, j), np.int64))
        rows = np.concatenate(found)
        flat = rows[:, :4].astype(np.int64)
        return Pairs(names, np.concatenate(part), flat[:, :2], flat[:, 2:], rows[:, 4] == 1, rows[:, 5], rows[:, 6])


# ---- intervals ------------------------------------------------------------------------------


def _tiles(stretches: Int64, contigs: Contigs, tile: int, more: int) -> Int64:
    """The tiles that stretches touch, and `more` on both sides, inside their contigs."""
    rows = contigs.locate(stretches[:, 0])
    offsets = contigs.offsets[rows]
    first = np.maximum((stretches[:, 0] - offsets) // tile - more, 0)
    last = (stretches[:, 1] - 1 - offsets) // tile + 1 + more
    return contigs.join(np.stack([offsets + first * tile, offsets + np.minimum(last * tile, contigs.lengths[rows])], 1))


def _checked(parts: Mapping[str, Int64], contigs: Contigs) -> Parts:
    """Parts with touching intervals joined."""
    if len(parts) < 2:
        raise ConfigError(f"a comparison needs two parts or more, not {', '.join(parts) or 'none'}")
    for name, part in parts.items():
        rows = contigs.locate(part[:, 0])
        inside = (
            (part[:, 0] >= 0)
            & (part[:, 0] < part[:, 1])
            & (part[:, 1] <= contigs.offsets[rows] + contigs.lengths[rows])
        )
        if not inside.all():
            start, end = part[np.argmin(inside)].tolist()
            raise ConfigError(f"{name}: flat interval {start}-{end} does not lie inside one contig")
        if (part[1:, 0] < part[:-1, 1]).any():
            row = int(np.argmax(part[1:, 0] < part[:-1, 1]))
            raise ConfigError(
                f"{name}: interval {place_name(part[row + 1], contigs)} begins before {place_name(part[row], contigs)} ends: sort and merge them"
            )
    joined = {name: contigs.join(part) for name, part in parts.items()}
    for one, other in combinations(joined, 2):
        shared = intersect(joined[one], joined[other])
        if len(shared):
            raise ConfigError(f"{one} and {other} share {place_name(shared[0], contigs)}: parts share no base")
    return joined


# ---- the report -----------------------------------------------------------------------------


def place_name(stretch: Int64, contigs: Contigs) -> str:
    """A flat stretch (2,) as `contig:start-end`, 0-based, half-open."""
    row = int(contigs.locate(stretch[0]))
    start, end = (stretch - contigs.offsets[row]).tolist()
    return f"{contigs.names[row]}:{start}-{end}"


def _bands(pairs: Pairs, one: str, other: str, least: float, contigs: Contigs) -> dict[str, int]:
    """Bases of `one` in each band of identity, each base counted in its best."""
    rows, here, _ = pairs.between(one, other)
    edges = [least, *(edge for edge in _BANDS if edge > least), 1.0]
    seen, bands = here[:0], {}
    for low, high in zip(edges[-2::-1], edges[:0:-1], strict=True):
        union = contigs.join(np.concatenate([seen, here[pairs.identity[rows] >= low]]))
        bands[f"{100 * low:g}-{100 * high:g} %"] = bases_in(union) - bases_in(seen)
        seen = union
    return bands


def _worst(pairs: Pairs, one: str, other: str, contigs: Contigs) -> list[dict[str, Any]]:
    """The pairs with the most matching bases, no two at one place of `one`."""
    rows, here, there = pairs.between(one, other)
    order = np.argsort(-pairs.identity[rows] * (here[:, 1] - here[:, 0]), kind="stable")
    chosen: list[int] = []
    for i in order.tolist():
        if len(chosen) < _EXAMPLES and all(here[i, 0] >= here[j, 1] or here[i, 1] <= here[j, 0] for j in chosen):
            chosen.append(i)
    return [
        {
            "part": place_name(here[i], contigs),
            "other": place_name(there[i], contigs),
            "reverse": bool(pairs.reverse[rows[i]]),
            "identity": round(float(pairs.identity[rows[i]]), 4),
        }
        for i in chosen
    ]
