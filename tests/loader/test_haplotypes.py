"""Personal genomes: windows as the haplotypes of samples have them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distgen import kernels
from distgen.genome import Interval
from distgen.loader.haplotypes import Haplotypes
from distgen.loader.placement import Host
from tests.conftest import LETTERS
from tests.store.test_variants import made, vcf

__all__ = ["made"]  # a fixture
DRAWABLE = 'samples = ["A", "B", "C"]\n'


def rows_of(store, places, length):
    """Flat starts and limits of windows at (contig, start on it), and their rows as the host placement gathers them."""
    contigs, found = np.array(places, np.int64)[:, 0], np.array(places, np.int64)[:, 1]
    starts, limits = store.contigs.offsets[contigs] + found, store.contigs.whole()[contigs]
    return starts, limits, Host(store, torch.device("cpu")).rows(starts, limits, length)


def windows(haplotypes, store, places, length, copies):
    """Codes (B, length) of windows in host rows, as the kernels decode them after `apply`."""
    starts, limits, rows = rows_of(store, places, length)
    sequence = rows.plane.view(len(places), -1).numpy()
    ambiguous = None if rows.ambiguous is None else rows.ambiguous.view(len(places), -1).numpy()
    ambiguous = haplotypes.apply(sequence, ambiguous, starts, limits, length, np.array(copies))
    plane, flags = (None if a is None else torch.from_numpy(a.reshape(-1)) for a in (sequence, ambiguous))
    return kernels.tokens(plane, rows.starts, length, ambiguous=flags, limits=rows.limits).numpy()


def expected(store, haplotypes, place, length, copy, unphased="refuse"):
    """The same window from the store's own reader, N where it leaves its contig."""
    sample, haplotype = haplotypes.name(copy)
    contig, start = place
    first, last = np.clip([start, start + length], 0, int(store.contigs.lengths[contig])).tolist()
    codes = np.full(length, 4, np.uint8)
    interval = Interval(store.contigs.names[contig], first, last)
    found = store.codes(interval, variants="v", sample=sample, haplotype=haplotype, unphased=unphased)
    codes[first - start :][: len(found)] = found
    return codes


def random_records(seed, count, phases="|/"):
    """Records of three samples in the order of the contigs in the file, which is not the assembly's; no base twice."""
    random = np.random.default_rng(seed)
    found = []
    for contig in ("chr3", "chr1", "chr2"):
        letters = LETTERS[contig].upper()
        known = [i for i, letter in enumerate(letters) if letter in "ACGT"]
        for at in sorted(random.choice(known, min(count, len(known)), replace=False).tolist()):
            others = [base for base in "ACGT" if base != letters[at]]
            random.shuffle(others)
            alts = others[: random.integers(1, 4)]
            calls = []
            for _ in range(3):
                alleles = [str(a) if a >= 0 else "." for a in random.integers(-1, len(alts) + 1, 2)]
                calls.append(alleles[0] if random.random() < 0.1 else str(random.choice(list(phases))).join(alleles))
            found.append((contig, at + 1, letters[at], ",".join(alts), *calls))
    return found


@pytest.fixture(params=[1, 3000], ids=["few", "many"])
def panel(made, request):
    """A store with three samples; `many` fills several blocks and leaves none of them without something unknown."""
    return made(vcf(random_records(7, request.param), "ABC"), DRAWABLE)


def any_windows(store, draw):
    """Length, places and copies; windows begin before their contig, end after it, or lie beside it."""
    length = draw.draw(st.integers(1, 700))
    contigs = st.sampled_from(range(len(store.contigs)))
    place = contigs.flatmap(lambda c: st.tuples(st.just(c), st.integers(-length, int(store.contigs.lengths[c]) + 9)))
    places = draw.draw(st.lists(place, min_size=1, max_size=8))
    return length, places, draw.draw(st.lists(st.integers(0, 5), min_size=len(places), max_size=len(places)))


@given(draw=st.data())
def test_a_window_has_the_bases_that_the_reader_gives_it(panel, draw):
    found = Haplotypes(panel, "v", unphased="listed")
    length, places, copies = any_windows(panel, draw)
    codes = windows(found, panel, places, length, copies)
    for row, (place, copy) in enumerate(zip(places, copies, strict=True)):
        assert np.array_equal(codes[row], expected(panel, found, place, length, copy, "listed"))
