from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.compiled import compiled
from distgen.config import Recipe, read
from distgen.errors import ConfigError
from distgen.genome import Contigs, Int64
from distgen.ingest.packing import codes_between, pack_codes
from distgen.loader.classes import Balanced
from distgen.loader.negatives import Matched, _count, away_from
from distgen.loader.windows import Located
from distgen.store.build import build
from distgen.store.reader import Store, open_store

WINDOW, TARGET, DISTANCE = 200, 100, 300


@dataclass
class Sites:
    """Windows around targets that begin at given bases, in one stretch each."""

    starts: Int64
    limits: Int64
    window: int = WINDOW
    target_length: int = TARGET

    def __len__(self):
        return len(self.starts)

    def locate(self, windows: Int64) -> Located:
        return Located(self.starts[windows], self.limits[windows])


@pytest.fixture(scope="module")
def isochores(tmp_path_factory) -> Store:
    """Five contigs whose share of GC wanders between 0.25 and 0.65, with runs of N and single ones."""
    random = np.random.default_rng(5)
    folder = tmp_path_factory.mktemp("isochores")
    with open(folder / "iso.fa", "wb") as file:
        for number in range(5):
            gc = np.repeat(0.45 + 0.2 * np.sin(np.arange(40) + number), 500)
            strong, first = random.random(len(gc)) < gc, random.random(len(gc)) < 0.5
            letters = np.where(strong, np.where(first, ord("C"), ord("G")), np.where(first, ord("A"), ord("T")))
            letters[random.random(len(gc)) < 0.001] = ord("N")
            letters[7000:7600] = ord("N")
            file.write(b">chr%d\n%s\n" % (number, letters.astype(np.uint8).tobytes()))
    recipe = 'format = 1\n[assembly]\nname = "iso"\nfasta = "iso.fa"\n[split]\nvalid = ["chr4", "chr3:50%-100%"]\n'
    (folder / "iso.toml").write_text(recipe)
    build(read(folder / "iso.toml", Recipe), folder / "iso.zarr")
    return open_store(folder / "iso.zarr")


def sites(store: Store) -> Sites:
    """Where GC is above its average: positives that a random negative does not match."""
    starts, limits = [], []
    for first, last in store.regions("train").tolist():
        for at in range(first - 20, last - TARGET, 1000):
            if composition(store, at - 50, first, last)[0] > 0.5:  # some stick out of their part
                starts.append(max(at, first))
                limits.append((first, last))
    return Sites(np.array(starts), np.array(limits))


def composition(store: Store, start: int, first: int, last: int) -> tuple[float, float]:
    """Share of GC and of N of a window, the obvious way."""
    begin, end = min(max(start, first), last), max(min(start + WINDOW, last), first)
    codes = codes_between(store.planes["sequence"], store.planes["ambiguous"], begin, end)
    known = int((codes < 4).sum())
    return ((codes == 1) | (codes == 2)).sum() / max(known, 1), 1 - known / WINDOW


def matched(store: Store, positives: Sites, **options) -> Matched:
    avoid = np.stack([positives.starts, positives.starts + TARGET], axis=1)
    return Matched(store, positives, store.regions("train"), avoid[::-1], distance=DISTANCE, **options)


def test_negatives_have_the_composition_of_their_positives(isochores):
    positives = sites(isochores)
    pool = matched(isochores, positives, tolerance=0.02, candidates=200)
    windows = np.arange(len(positives))
    drawn = [pool.draw(windows, np.full(len(windows), cycle)) for cycle in range(20)]
    wanted = [composition(isochores, s - 50, *p) for s, p in zip(positives.starts, positives.limits, strict=True)]
    got = [[composition(isochores, s - 50, *p) for s, p in zip(d.target_starts, d.limits, strict=True)] for d in drawn]
    off = abs(np.array(got) - np.array(wanted))
    known = np.array(wanted)[:, 1] <= 0.02
    assert (off.max(axis=2)[:, known] <= 0.02 + 1e-12).mean() > 0.97
    assert not known.all()  # few windows have as many unknown bases as those that stick out of their part
    # Kolmogorov-Smirnov: each value moved by at most the tolerance, so the distributions lie as close.
    gc, pooled = np.sort(np.array(wanted)[known, 0]), np.sort(np.array(got)[:, known, 0].reshape(-1))
    apart = max(abs(np.searchsorted(pooled, g) / len(pooled) - np.searchsorted(gc, g) / len(gc)) for g in pooled)
    unmatched = matched(isochores, positives, tolerance=1.0).draw(windows, np.zeros_like(windows))
    alone = [
        composition(isochores, s - 50, *p)[0] for s, p in zip(unmatched.target_starts, unmatched.limits, strict=True)
    ]
    assert apart < 0.2
    assert abs(np.mean(alone) - gc.mean()) > 0.05 > 0.01 > abs(pooled.mean() - gc.mean())


def test_negatives_keep_their_distance_inside_their_part_of_the_split(isochores):
    positives = sites(isochores)
    pool = matched(isochores, positives, unit=10)
    windows = np.arange(len(positives)).repeat(10)
    drawn = pool.draw(windows, np.tile(np.arange(10), len(positives)))
    starts = drawn.target_starts - 50
    regions = isochores.regions("train")
    inside = ((starts[:, None] >= regions[:, 0]) & (starts[:, None] + WINDOW <= regions[:, 1])).any(axis=1)
    assert inside.all()
    assert (drawn.limits[:, 0] <= starts).all()
    assert (starts + WINDOW <= drawn.limits[:, 1]).all()
    for first, last in ((starts, starts + WINDOW), drawn.limits.T):  # also wherever jitter takes it
        contig, positive = isochores.contigs.locate(first), isochores.contigs.locate(positives.starts)
        gap = np.maximum(positives.starts - last[:, None], first[:, None] - positives.starts - TARGET)
        assert gap[contig[:, None] == positive].min() >= DISTANCE
    offsets = isochores.contigs.offsets[isochores.contigs.locate(drawn.target_starts)]
    assert ((drawn.target_starts - offsets) % 10 == 0).all()


def test_a_negative_is_a_function_of_seed_positive_and_cycle(isochores):
    positives = sites(isochores)
    windows, cycles = np.arange(len(positives)), np.arange(len(positives)) % 3
    one, other = matched(isochores, positives, seed=4), matched(isochores, positives, seed=5)
    whole = one.draw(windows, cycles).target_starts
    alone = [one.draw(windows[i : i + 1], cycles[i : i + 1]).target_starts[0] for i in range(len(windows))]
    assert whole.tolist() == alone
    assert (other.draw(windows, cycles).target_starts != whole).mean() > 0.9
    assert (one.draw(windows, cycles + 1).target_starts != whole).mean() > 0.9
    fixed = matched(isochores, positives, seed=4, drawn="fixed")
    assert np.array_equal(fixed.draw(windows, cycles).target_starts, fixed.draw(windows, cycles + 1).target_starts)


def test_balanced_classes_serve_a_negative_for_each_positive(isochores):
    positives = sites(isochores)
    pools = {"bound": positives, "not": matched(isochores, positives)}
    balanced = Balanced(pools, {"bound": 1, "not": 1}, seed=2)
    located, labels = balanced.draw(np.arange(len(balanced)), 3)
    assert len(balanced) == 2 * len(positives)
    assert sorted(located.target_starts[labels == 0].tolist()) == sorted(positives.starts.tolist())
    assert not set(located.target_starts[labels == 1].tolist()) & set(positives.starts.tolist())


def test_where_no_window_keeps_its_distance_the_user_is_told(isochores):
    positives = sites(isochores)
    with pytest.raises(ConfigError, match="no window of 200 bases lies 300 bases away"):
        Matched(isochores, positives, isochores.regions("train"), isochores.contigs.whole(), distance=DISTANCE)


def test_a_positive_at_the_end_of_a_contig_takes_nothing_from_the_next():
    contigs = Contigs(("a", "b"), np.array([100, 90]), np.array([0, 128]), ("", ""))
    left = away_from(contigs.whole(), np.array([[95, 100], [20, 30], [28, 40]]), 10, contigs)
    assert left.tolist() == [[0, 10], [50, 85], [128, 218]]


@given(st.lists(st.tuples(st.integers(0, 700), st.integers(0, 300)), min_size=1), st.integers(0))
def test_bases_are_counted_as_one_by_one(spans, seed):
    codes = np.random.default_rng(seed).integers(0, 4, 1024).astype(np.uint8)
    firsts = np.array([first for first, _ in spans])
    lasts = firsts + np.array([length for _, length in spans])
    gc = compiled(_count)(pack_codes(codes).view(np.uint64), firsts, lasts)
    assert gc.tolist() == [np.isin(codes[a:b], (1, 2)).sum() for a, b in zip(firsts, lasts, strict=True)]


def test_the_composition_counted_is_that_of_the_codes(isochores):
    positives = sites(isochores)
    pool = matched(isochores, positives)
    whole = isochores.contigs.whole()
    starts = np.concatenate([np.arange(first - 90, last + 40, 37) for first, last in whole])  # over both ends, too
    limits = whole[isochores.contigs.locate(starts + 90)]
    found = pool._composition(starts + 50, limits)
    expected = [composition(isochores, *place) for place in zip(starts, *limits.T, strict=True)]
    assert np.allclose(np.stack(found, axis=1), expected, atol=1e-12)
