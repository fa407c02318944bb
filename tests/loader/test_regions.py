import gzip

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from distgen.config import Recipe, read
from distgen.errors import ConfigError
from distgen.genome import Contigs
from distgen.loader.exclusions import Exclusions
from distgen.loader.regions import Places, Regions, read_regions
from distgen.loader.windows import Geometry
from distgen.store.build import build
from distgen.store.reader import Store, open_store
from tests.conftest import genome
from tests.loader.test_exclusions import RUNS, is_bad, reach

CONTIGS = Contigs(("a", "b"), np.array([100, 150]), np.array([0, 128]))
STRANDS = st.sampled_from([-1, 0, 1])


def regions(intervals, strands, summits=None):
    intervals = np.array(intervals)
    origins = CONTIGS.offsets[CONTIGS.locate(intervals[:, 0])]
    rows = np.arange(len(intervals)) * 10
    return Regions(intervals, origins, np.array(strands, np.int8), rows, summits)


def oriented(start, end, strand):
    """The positions of a stretch as they are read."""
    return list(range(start, end))[:: -1 if strand < 0 else 1]


@pytest.mark.parametrize("strand", [-1, 0, 1])
@pytest.mark.parametrize("length", [1, 2, 7, 8])
@pytest.mark.parametrize("target", [1, 4, 5])
def test_windows_lie_where_the_region_says_as_it_is_read(strand, length, target):
    start, end, summit = 40, 40 + length, 40 + length // 3
    here = regions([(start, end)], [strand], np.array([summit]))
    read = {}
    for at in ("middle", "summit", "start", "end", "whole"):
        margin = 0 if at == "whole" else 2  # what is shorter than the margin has no target
        places = Places(here, CONTIGS.whole(), Geometry(target + 2 * margin, target, target), at=at)
        located = places.locate(np.arange(1))
        first = int(located.target_starts[0])
        read[at] = oriented(first, first + target, strand)
        assert (located.reverse is None) == (strand == 0)
        assert located.rows.tolist() == [0]
        assert located.limits.tolist() == [[start, end] if at == "whole" else [0, 100]]
        assert places.geometry.moved(*located[:2], np.array([7])).tolist() == [first]
        if at == "whole":
            window = int(located.target_starts[0]) - places.geometry.margin
            assert oriented(window, window + target, strand)[0] == oriented(start, end, strand)[0]
    assert read["summit"][target // 2] == summit
    assert read["start"][target // 2] == oriented(start, end, strand)[0]
    assert read["end"][target // 2] == oriented(start, end, strand)[-1]
    if (length - target) % 2 == 0:
        assert sum(read["middle"]) / target == (start + end - 1) / 2
    else:
        bases = oriented(start, end, strand)
        middle = bases[(length - 1) // 2]  # of two the first
        assert read["middle"][target // 2] == middle


@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 99), st.integers(1, 50), STRANDS), min_size=1, max_size=6),
    RUNS,
    RUNS,
    RUNS,
    st.sampled_from(["start", "tile", "whole"]),
    st.integers(0, 100),
    st.integers(1, 3),
    st.integers(1, 9),
    st.integers(0, 9),
    st.integers(1, 9),
    st.integers(0, 2),
    st.integers(0, 20),
)
def test_windows_at_regions_are_those_that_one_picks_by_hand(
    places, split, unknown, holes, at, percent, unit, target, extra, stride, jitter, pad
):
    jitter = 0 if at == "whole" else jitter
    g = Geometry(target * unit + 2 * extra, target * unit, stride * unit, jitter * unit, unit)
    within = CONTIGS.whole()
    split = [(max(a, c), min(b, d)) for a, b in split.tolist() for c, d in within.tolist() if a < d and b > c]
    stretches = CONTIGS.align(np.array(split or [(0, 100)]), unit)
    assume(len(stretches))
    spans = [(within[c, 0] + s, min(within[c, 0] + s + n, within[c, 1])) for c, s, n, _ in places]
    exclusions = Exclusions(holes, unknown, percent / 100)
    expected, left_out = [], {"elsewhere": 0, "outside": 0, "ambiguous": 0, "excluded": 0}
    for row, ((start, end), (contig, *_, strand)) in enumerate(zip(spans, places, strict=True)):
        origin = int(within[contig, 0])
        if at == "tile":
            holding = [s for s in stretches.tolist() if s[0] <= start and end <= s[1]]
            first = max(start - pad, holding[0][0]) if holding else 0
            first -= (first - origin) % unit
            last = min(end + pad, holding[0][1]) if holding else 0
            starts = range(first, last, g.stride)
            starts = [s for n, s in enumerate(starts) if n == 0 or starts[n - 1] + g.target_length < last]
        elif at == "whole":
            exact = end - g.margin - g.target_length if strand < 0 else start + g.margin
            starts = [next(p for p in range(exact, exact + unit) if (p - origin) % unit == 0)]
            within_target = set(range(starts[0], starts[0] + g.target_length)) & set(range(start, end))
            holding = [[start, end] for s in stretches.tolist() if s[0] <= start and end <= s[1] and within_target]
        else:
            base = end - 1 if strand < 0 else start
            exact = base - ((g.target_length - 1) // 2 if strand < 0 else g.target_length // 2)
            near = range(origin - 50 * unit, origin + 200, unit)
            starts = [min(near, key=lambda p, exact=exact: (abs(p - exact), p))]
            holding = [s for s in stretches.tolist() if s[0] <= starts[0] and starts[0] + g.target_length <= s[1]]
        left_out["outside"] += not holding
        for s in starts if holding else ():
            if at == "whole":
                shown = (max(s - g.margin, start), min(s - g.margin + g.window, end))
                reasons = {is_bad(exclusions, shown, Geometry(n := shown[1] - shown[0], n, n), shown[0])} - {None}
            else:
                reasons = {is_bad(exclusions, holding[0], g, p) for p in reach(holding[0], g, s)} - {None}
            if reasons:
                left_out[min(reasons)] += 1
            else:
                expected.append((s, *holding[0], strand < 0, row * 10))
    here = regions(spans, [strand for *_, strand in places])

    def make():
        return Places(here, stretches, g, at=at, pad=pad if at == "tile" else 0, exclusions=exclusions)

    if not expected:
        with pytest.raises(ConfigError, match="no window is left"):
            make()
        return
    made = make()
    found = made.locate(np.arange(len(made)))
    reverse = np.zeros(len(made), bool) if found.reverse is None else found.reverse
    columns = (found.target_starts, *found.limits.T, reverse, found.rows)
    assert sorted(zip(*(column.tolist() for column in columns), strict=True)) == sorted(expected)
    if at != "tile":
        assert (np.diff(found.target_starts) >= 0).all()
    assert dict(made.left_out) == left_out


def test_regions_come_from_a_file_a_matrix_or_the_contigs(small_recipe, tmp_path):
    (tmp_path / "expr.csv").write_text("id,heart\np2,2.5\np1,1\n")
    (tmp_path / "peaks.bed").write_text("chr2\t5\t900\tp2\t0\t+\nchr1\t0\t10\tp1\t0\t-\nchr7\t0\t10\tp3\t0\t-\n")
    matrix = '[[matrix]]\nname = "expr"\nmatrix = "expr.csv"\nregions = "peaks.bed"\nmissing = "drop"\n'
    small_recipe.write_text(small_recipe.read_text() + matrix)
    build(read(small_recipe, Recipe), tmp_path / "small.zarr")
    store = open_store(tmp_path / "small.zarr")
    second = int(store.contigs.offsets[1])
    bed = read_regions(tmp_path / "peaks.bed", store)
    assert bed.intervals.tolist() == [[second + 5, second + 900], [0, 10]]
    assert (bed.rows.tolist(), bed.strands.tolist(), bed.skipped) == ([0, 1], [1, -1], {"chr7": 1})
    expr = read_regions("matrix:expr", store)
    assert expr.intervals.tolist() == [[0, 10], [second + 5, second + 900]]
    assert (expr.rows.tolist(), expr.strands.tolist(), expr.origins.tolist()) == ([0, 1], [-1, 1], [0, second])
    assert read_regions("contigs", store).intervals.tolist() == store.contigs.whole().tolist()
    with pytest.raises(ConfigError, match='no matrix "exp". Did you mean "expr"'):
        read_regions("matrix:exp", store)
    places = Places(bed, store.contigs.whole(), Geometry(8, 8, 8))
    assert places.left_out["elsewhere"] == 1
    assert places.locate(np.arange(2)).rows.tolist() == [1, 0]


def test_sequences_are_windows_from_their_first_base_on_however_short_they_are(small: Store):
    sequences = read_regions("contigs", small)
    places = Places(sequences, small.regions("test"), Geometry(16, 16, 16), at="whole")
    located = places.locate(np.arange(len(places)))
    names = [small.contigs.names[row] for row in located.rows]
    assert names == ["chr3"]
    assert located.target_starts.tolist() == [small.contigs.offsets[2]]
    assert located.limits.tolist() == [small.contigs.whole()[2].tolist()]
    assert places.left_out["outside"] == 2


def test_the_genes_of_an_annotation_are_regions(small: Store, tmp_path):
    genes = read_regions(tmp_path / "small.gtf", small)
    second = int(small.contigs.offsets[1])
    assert genes.intervals.tolist() == [[0, 400], [10, 20], [second + 899, second + 900]]
    assert genes.strands.tolist() == [-1, 1, 1]
    assert genes.rows.tolist() == [1, 2, 3]  # chrX has row 0
    assert genes.skipped == {"chrX": 1}


def test_the_genes_of_a_table_of_transcripts_are_regions(small: Store, tmp_path):
    header = "#NAME\tCHROM\tSTRAND\tTX_START\tTX_END\tEXON_START\tEXON_END\n"
    second = small.contigs.names[1]
    (tmp_path / "a.tsv").write_text(f"{header}B\t{second}\t-\t5\t40\t5,30,\t9,40,\n")
    genes, offset = read_regions(tmp_path / "a.tsv", small), int(small.contigs.offsets[1])
    assert (genes.intervals.tolist(), genes.strands.tolist()) == ([[offset + 5, offset + 40]], [-1])
    exons = read_regions(tmp_path / "a.tsv", small, at="exon")
    assert exons.intervals.tolist() == [[offset + 5, offset + 9], [offset + 30, offset + 40]]
    assert exons.strands.tolist() == [-1, -1]
    whole = np.array([[offset, offset + 60]])
    middles = [Places(exons, whole, Geometry(4, 2, 2), at=at).runs.starts.tolist() for at in ("exon", "middle")]
    assert middles[0] == middles[1] == [offset + 6, offset + 34]
    with pytest.raises(ConfigError, match=r"at: .*peaks.bed has no exons"):
        read_regions(tmp_path / "peaks.bed", small, at="exon")


def test_a_summit_is_asked_of_regions_that_have_one(small: Store):
    for source in ("contigs", "matrix:expr", "a.gtf.gz"):
        with pytest.raises(ConfigError, match=f"at: {source} has no summits"):
            read_regions(source, small, at="summit")
    with pytest.raises(ConfigError, match="at: the regions were read without"):
        Places(regions([(3, 9)], [0]), CONTIGS.whole(), Geometry(4, 4, 4), at="summit")


def test_whole_regions_do_not_move():
    with pytest.raises(ConfigError, match=r'jitter: whole regions do not move. Use 0, or at = "middle"'):
        Places(regions([(3, 9)], [0]), CONTIGS.whole(), Geometry(4, 4, 4, jitter=1), at="whole")


@pytest.mark.data
def test_starts_of_human_transcripts_are_read_from_their_strand_and_shun_n_and_blacklists(data, tmp_path):
    folder = data / "human_b37_chr20"
    fasta, starts = folder / "20.fa.gz", folder / "annotation/gencode_v19.txStart.bed.gz"
    blacklist = folder / "annotation/wgEncodeDacMapabilityConsensusExcludable.bed.gz"
    (tmp_path / "h20.toml").write_text(f'format = 1\n[assembly]\nname = "h20"\nfasta = "{fasta}"\n')
    build(read(tmp_path / "h20.toml", Recipe), tmp_path / "h20.zarr")
    store = open_store(tmp_path / "h20.zarr")
    exclusions = Exclusions.of(store, [blacklist], 0.1)
    geometry, listed = Geometry(2048, 1024, 1024), read_regions(starts, store)
    places = Places(listed, store.regions(None), geometry, at="start", exclusions=exclusions)
    lines = [line.split("\t") for line in gzip.decompress(starts.read_bytes()).decode().splitlines()]
    _, (codes,) = genome(fasta)
    unknown = np.r_[0, np.cumsum(codes == 4)]
    hidden = np.zeros(len(codes), bool)
    for line in gzip.decompress(blacklist.read_bytes()).decode().splitlines():
        start, end = map(int, line.split("\t")[1:3])
        hidden[start:end] = True
    expected, left_out = [], 0
    for row, (_, start, _, _, _, strand) in enumerate(lines):
        target = int(start) - (511 if strand == "-" else 512)
        crowded = unknown[target - 512 + 2048] - unknown[target - 512] > 204
        if crowded or hidden[target : target + 1024].all():
            left_out += 1
        else:
            expected.append((target, strand == "-", row))
    found = places.locate(np.arange(len(places)))
    columns = (found.target_starts, found.reverse, found.rows)
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == sorted(expected)
    assert sum(places.left_out.values()) == left_out > 0


@pytest.mark.parametrize("together", [1, 3, 1 << 22])
@pytest.mark.parametrize("bin_bp", [1, 7, 50])
def test_regions_of_a_track_are_the_stretches_that_any_class_marks(
    small_recipe, tmp_path, monkeypatch, bin_bp, together
):
    monkeypatch.setattr("distgen.loader.regions._TOGETHER", together)
    small_recipe.write_text(small_recipe.read_text().replace("classes = ", f"bin_bp = {bin_bp}\nclasses = "))
    build(read(small_recipe, Recipe), tmp_path / "t.zarr")
    store = open_store(tmp_path / "t.zarr")
    found = read_regions("track:genes", store)
    # of the annotation of `tests.conftest`: 10 to 40 of chr1, and the last base but one of chr2
    ends = (-(-40 // bin_bp) * bin_bp, min(-(-900 // bin_bp) * bin_bp, 900))
    starts = (10 // bin_bp * bin_bp, 899 // bin_bp * bin_bp)
    chr2 = int(store.contigs.offsets[1])
    assert found.intervals.tolist() == [[starts[0], ends[0]], [chr2 + starts[1], chr2 + ends[1]]]
    assert found.origins.tolist() == [0, chr2]
    with pytest.raises(ConfigError, match="has no summits"):
        read_regions("track:genes", store, at="summit")


def test_a_track_of_signals_marks_no_regions(annotated):
    signals = next(name for name, track in annotated.tracks.items() if not track.is_classes)
    with pytest.raises(ConfigError, match=f'track "{signals}" holds signals, which mark no regions'):
        read_regions(f"track:{signals}", annotated)
