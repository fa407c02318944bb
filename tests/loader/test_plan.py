"""Every kind of window through `GenomeLoader`, against windows that are cut out by hand."""

import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distgen import GenomeLoader, kernels
from distgen.config import Lengths, Recipe, Windows, read
from distgen.errors import CheckpointError, ConfigError
from distgen.genome import Interval
from distgen.store.build import build
from distgen.store.reader import open_store
from tests.annotated import BIN, CODE, HOLES, LENGTHS, PEAKS, SPLIT, VALUES, codes, part_of

MATRIX_ROWS = (1, 0, 2)  # which of VALUES each row of the matrix is: by start; 8 is of another part


def loader(store, windows=None, **options):
    """A loader of 41-base windows with 21-base targets, whose files lie beside the store."""
    return GenomeLoader(store, **(common() | options), windows=beside(store, windows or {}))


def common():
    return {"window": 41, "target_length": 21, "batch_size": 7, "last": "pad", "seed": 3}


def beside(store, windows):
    """Windows whose paths are put beside the store."""

    def found(section):
        known = section.get("source", "")
        return section | {"source": str(store.path.parent / known)} if "." in known else section

    made = dict(windows)
    if "regions" in made:
        made["regions"] = found(made["regions"])
    if "pool" in made:
        made["pool"] = [found(pool) for pool in made["pool"]]
    made["exclude"] = [str(store.path.parent / bed) for bed in made.get("exclude", ())]
    return Windows.model_validate(made)


def rows(loader, epoch=0):
    """Every row of an epoch that is no padding: batch, row, where, codes."""
    loader.epoch, loader.position = epoch, 0
    for batch in loader:
        decoded = kernels.tokens(**batch.packed).tolist()
        for row, place in enumerate(batch.where()):
            if batch.weight[row]:
                yield batch, row, place, decoded[row]


def target_start(place):
    return place.start + 10


def centred(at, length=21, part="train"):
    """(contig, target start, strand, row) of windows at PEAKS, by hand."""
    found = []
    for row, (contig, start, end, strand, summit) in enumerate(PEAKS):
        minus = strand == "-"
        base = {
            "middle": (start + end - 1) // 2,
            "summit": start + summit,
            "start": end - 1 if minus else start,
            "end": start if minus else end - 1,
        }[at]
        first = base - length // 2
        if any(c == contig and s <= first and first + length <= e for c, s, e in SPLIT[part]):
            found.append((contig, first, strand, row))
    return found


@pytest.mark.parametrize("placement", ["device", "host"])
@pytest.mark.parametrize("strand", ["forward", "region", "random", "both"])
@pytest.mark.parametrize("at", ["middle", "summit", "start", "end"])
def test_windows_at_regions_are_served_as_they_are_read(annotated, at, strand, placement):
    asked = {"regions": {"source": "peaks.narrowPeak", "at": at}}
    served = loader(annotated, asked, strand=strand, placement=placement, tracks=("genes",), inputs=("genes",))
    found = []
    genes, contigs = annotated.track("genes").decoded, annotated.contigs
    for batch, row, place, decoded in rows(served):
        limits = part_of(place.contig, target_start(place))
        assert decoded == codes(annotated, place, limits)
        found.append((place.contig, target_start(place), place.strand))
        for tables, masks, first, length in (
            (batch.targets, batch.mask, target_start(place), 21),
            (batch.inputs, batch.inputs_mask, place.start, 41),
        ):
            offset = int(annotated.track("genes").bin_offsets[contigs.index(place.contig)])
            inside = [limits[0] <= p < limits[1] for p in range(first, first + length)]
            values = [
                genes[offset + p].tolist() if ok else [0, 0]
                for p, ok in zip(range(first, first + length), inside, strict=True)
            ]
            if place.strand == "-":
                values, inside = [v[::-1] for v in reversed(values)], inside[::-1]
            assert tables["genes"][row].tolist() == values
            assert masks["genes"][row, :, 0].tolist() == inside
    expected = [(c, s, t) for c, s, t, _ in centred(at)]
    if strand == "both":
        assert Counter(found) == Counter((c, s, t) for c, s, _ in expected for t in "+-")
    elif strand == "region":
        assert Counter(found) == Counter((c, s, "-" if t == "-" else "+") for c, s, t in expected)
    else:
        assert Counter(f[:2] for f in found) == Counter(e[:2] for e in expected)
        assert strand == "random" or {f[2] for f in found} == {"+"}


def test_whole_regions_begin_with_their_first_base_and_show_no_other(annotated):
    asked = {"regions": {"source": "peaks.bed", "at": "whole"}}
    served = list(rows(loader(annotated, asked, target_length=41, strand="region")))
    held = [p for p in PEAKS if any(c == p[0] and s <= p[1] and p[2] <= e for c, s, e in SPLIT["train"])]
    assert len(served) == len(held) == 7
    expected = []
    for contig, start, end, strand, _ in held:
        first = end - 41 if strand == "-" else start
        place = Interval(contig, first, first + 41, "-" if strand == "-" else "+")
        expected.append((place, codes(annotated, place, (start, end))))
    key = str
    assert sorted(((place, decoded) for _, _, place, decoded in served), key=key) == sorted(expected, key=key)


def test_tiled_regions_are_covered_with_their_pad_and_no_more(annotated):
    asked = {"regions": {"source": "peaks.bed", "at": "tile", "pad": 15}}
    found = Counter((place.contig, target_start(place)) for _, _, place, _ in rows(loader(annotated, asked)))
    expected = Counter()
    for contig, start, end, *_ in PEAKS:
        held = [(s, e) for c, s, e in SPLIT["train"] if c == contig and s <= start and end <= e]
        if held:
            low, high = max(start - 15, held[0][0]), min(end + 15, held[0][1])
            expected.update((contig, at) for n, at in enumerate(range(low, high, 21)) if n == 0 or at < high)
    assert found == expected


def test_genes_of_an_annotation_are_read_from_where_their_transcription_starts(annotated):
    asked = {"regions": {"source": "a.gtf", "at": "start"}}
    found = sorted(
        (p.contig, target_start(p), p.strand) for _, _, p, _ in rows(loader(annotated, asked, strand="region"))
    )
    assert found == sorted((c, s, "-" if t == "-" else "+") for c, s, t, _ in centred("start"))


@pytest.mark.parametrize("strand", ["region", "both"])
def test_the_regions_of_a_matrix_bring_their_values(annotated, strand):
    served = list(rows(loader(annotated, {"regions": {"source": "matrix:expr"}}, strand=strand)))
    of = {(c, s): f"p{row}" for c, s, _, row in centred("middle")}
    for batch, row, place, _ in served:
        values = VALUES[of[place.contig, target_start(place)]]
        assert batch.mask["expr"][row].tolist() == [value is not None for value in values]
        assert batch.targets["expr"][row].tolist() == [value or 0.0 for value in values]
    assert len(served) == (6 if strand == "both" else 3)


def test_bins_in_holes_are_masked_and_windows_that_are_all_hole_are_left_out(annotated):
    asked = {"exclude": ["holes.bed"], "max_ambiguous": 0.5}
    options = {"window": 40, "target_length": 24, "tracks": ("signal",), "strand": "random"}
    served = list(rows(loader(annotated, asked, **options)))
    everything = list(rows(loader(annotated, {}, **options)))
    hidden = {name: np.zeros(length, bool) for name, length in LENGTHS.items()}
    for contig, start, end in HOLES:
        hidden[contig][start:end] = True
    kept, signal = set(), annotated.track("signal")
    for _, _, place, _ in everything:
        first, limits = place.start + 8, part_of(place.contig, place.start + 8)
        window = codes(annotated, place, limits)
        target = hidden[place.contig][max(first, limits[0]) : min(first + 24, limits[1])]
        if not target.all() and sum(code == 4 for code in window) <= 20:
            kept.add((place.contig, first))
    assert {(p.contig, p.start + 8) for _, _, p, _ in served} == kept
    assert len(kept) < len(everything)
    touched = 0
    for batch, row, place, decoded in served:
        first, limits = place.start + 8, part_of(place.contig, place.start + 8)
        assert decoded == codes(annotated, place, limits)  # bases in holes stay what they are
        contig = annotated.contigs.index(place.contig)
        known, values = [], []
        for at in range(first, first + 24, BIN):
            end = min(at + BIN, LENGTHS[place.contig])
            inside = limits[0] <= at < end <= limits[1]
            hole = inside and hidden[place.contig][at:end].any()
            value = float(signal.decoded[signal.bin_offsets[contig] + at // BIN, 0]) if inside else np.nan
            known.append(bool(inside and not hole and not np.isnan(value)))
            values.append(value if known[-1] else 0.0)
            touched += bool(hole)
        step = -1 if place.strand == "-" else 1
        assert batch.mask["signal"][row, :, 0].tolist() == known[::step]
        assert batch.targets["signal"][row, :, 0].tolist() == values[::step]
    assert touched


# ---- haplotypes -------------------------------------------------------------------------------


@pytest.mark.parametrize("strand", ["random", "both"])
@pytest.mark.parametrize("regions", [{}, {"regions": {"source": "peaks.bed"}}])
def test_every_haplotype_of_every_window_comes_once_an_epoch(annotated, regions, strand):
    asked = regions | {"personal": {"variants": "people"}}
    plain = Counter((p.contig, p.start) for _, _, p, _ in rows(loader(annotated, regions)))
    per_placement = []
    for placement in ("device", "host"):
        seen = Counter()
        served = []
        for batch, row, place, decoded in rows(loader(annotated, asked, strand=strand, placement=placement)):
            copy = int(batch.haplotypes[row])
            assert decoded == codes(annotated, place, part_of(place.contig, max(place.start, 0) + 10), copy)
            seen[place.contig, place.start, copy, place.strand if strand == "both" else ""] += 1
            served.append((place, copy, decoded))
        per_placement.append(served)
        strands = "+-" if strand == "both" else [""]
        expected = {(*key, copy, s): n for key, n in plain.items() for copy in range(4) for s in strands}
        assert seen == expected
    assert per_placement[0] == per_placement[1]


def test_some_samples_are_haplotypes_of_their_own(annotated):
    asked = {"personal": {"variants": "people", "samples": ["s2"]}}
    for batch, row, place, decoded in rows(loader(annotated, asked)):
        copy = 2 + int(batch.haplotypes[row])
        assert decoded == codes(annotated, place, part_of(place.contig, max(place.start, 0) + 10), copy)


def test_both_strands_alone_are_no_haplotypes(annotated):
    assert loader(annotated, strand="both").batch(0, 0).haplotypes is None


# ---- pools ------------------------------------------------------------------------------------

POOLS = [
    {"name": "bound", "source": "peaks.bed", "share": 2},
    {"name": "like", "matches": "bound", "distance": 30, "tolerance": 0.1},
    {"name": "rest", "distance": 10, "share": 3},
]


def distance(place, length=41):
    """Bases between a window and the nearest region of its contig."""
    gaps = [max(start - place.end, place.start - end, 0) for contig, start, end, *_ in PEAKS if contig == place.contig]
    return min(gaps)


def shown(place, limits):
    return Interval(place.contig, max(place.start, limits[0]), min(place.end, limits[1]), place.strand)


@pytest.mark.parametrize("part", ["train", "valid"])
def test_pools_are_served_in_their_shares_from_their_part_alone(annotated, part):
    served = loader(annotated, {"pool": POOLS}, split=part, batch_size=6, strand="random")
    positives = Counter((c, s) for c, s, *_ in centred("middle", part=part))
    labels, found = [], Counter()
    for epoch in range(3):
        for batch, row, place, decoded in rows(served, epoch):
            label = int(batch.targets["pool"][row])
            labels.append(label)
            assert batch.mask["pool"].all()
            inside = target_start(place)
            stretch = part_of(place.contig, inside, part)
            if label == 0:
                found[place.contig, inside] += 1
                assert decoded == codes(annotated, place, stretch)
            elif label == 1:
                assert decoded == codes(annotated, place, stretch)
                assert stretch[0] <= place.start < place.end <= stretch[1]
                assert distance(place) >= 30
            else:  # what is nearer than its distance is not read
                allowed = [stretch[0] <= p < stretch[1] and distance(Interval(place.contig, p, p + 1)) >= 10
                           for p in range(place.start, place.end)]  # fmt: skip
                step = -1 if place.strand == "-" else 1
                assert [code < 4 for code in decoded] == [
                    ok and CODE[place.contig][p] < 4
                    for ok, p in zip(allowed, range(place.start, place.end), strict=True)
                ][::step]
    for n in range(1, len(labels) + 1):
        for label, share in enumerate((2, 1, 3)):
            assert abs(labels[:n].count(label) - n * share / 6) < 1
    counts = [found[key] / n for key, n in positives.items()]
    assert found.keys() <= positives.keys()
    assert max(counts) - min(counts) <= 1


def test_negatives_are_read_from_the_strands_of_their_positives(annotated):
    pools = [{"name": "bound", "source": "peaks.bed"}, {"name": "like", "matches": "bound"}]
    served = loader(annotated, {"pool": pools}, batch_size=2, strand="region")
    strands = {0: Counter(), 1: Counter()}
    for batch, row, place, _ in rows(served):
        strands[int(batch.targets["pool"][row])][place.strand] += 1
    assert strands[0] == strands[1]
    assert strands[0]["-"]


def test_jitter_leaves_negatives_on_the_bins_of_tracks(annotated):
    pools = [{"name": "bound", "source": "peaks.bed"}, {"name": "like", "matches": "bound", "distance": 1}]
    served = loader(
        annotated, {"pool": pools}, batch_size=4, window=32, target_length=32, jitter=128, tracks=("signal",)
    )
    contigs = annotated.contigs
    for _ in range(20):
        for batch in served:
            starts = batch.positions.numpy()
            assert not ((starts - contigs.offsets[contigs.locate(starts)]) % BIN).any()


# ---- tables of sequences ----------------------------------------------------------------------

SEQUENCES = {
    "train": ["ACGTACG", "GGGA", "TTTTTTTTTTCC", "ACN", "CATTAG"],
    "valid": ["ACG"],
    "test": ["TTG", "AAAAAAAAAAAAAAAA"],
}
LABELS = {"train": ["1", "0", "", "1", "0"], "valid": ["1"], "test": ["0", "1"]}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    for part, sequences in SEQUENCES.items():
        lines = (f"{s},{label}\n" for s, label in zip(sequences, LABELS[part], strict=True))
        (folder / f"{part}.csv").write_text("sequence,label\n" + "".join(lines))
    files = "".join(f'{part} = "{part}.csv"\n' for part in SEQUENCES)
    (folder / "t.toml").write_text(f'format = 1\n[sequences]\nname = "t"\nkind = "binary"\n{files}')
    build(read(folder / "t.toml", Recipe), folder / "t.zarr")
    return open_store(folder / "t.zarr")


@pytest.mark.parametrize("order", ["flat", "grouped", "sequential"])
@pytest.mark.parametrize("strand", ["forward", "random", "both"])
def test_the_windows_of_a_table_are_its_sequences_with_their_labels(table, strand, order):
    served = list(rows(GenomeLoader(table, batch_size=2, last="pad", strand=strand, order=order)))
    found = []
    for batch, row, place, decoded in served:
        assert batch.length == 16  # the longest of all parts
        known = bool(batch.mask["labels"][row, 0])
        window = [3 - c if c < 4 else 4 for c in reversed(decoded)] if place.strand == "-" else decoded
        letters = "".join("ACGTN"[code] for code in window).ljust(16, "N")
        found.append((letters, str(int(batch.targets["labels"][row, 0])) if known else ""))
    expected = [(s.ljust(16, "N"), label) for s, label in zip(SEQUENCES["train"], LABELS["train"], strict=True)]
    assert sorted(found) == sorted(expected * (2 if strand == "both" else 1))


# ---- order, ranks and states ------------------------------------------------------------------

KINDS = {
    "tiles": {},
    "regions": {"regions": {"source": "peaks.bed", "at": "tile"}, "exclude": ["holes.bed"]},
    "pools": {"pool": POOLS},
    "personal": {"personal": {"variants": "people"}, "max_ambiguous": 0.2},
    "matrix": {"regions": {"source": "matrix:expr", "at": "tile", "pad": 40}},
}


def content(batches):
    """All that some ranks' parts of a batch say."""
    tensors = []
    for batch in batches:
        columns = [kernels.tokens(**batch.packed), batch.samples, batch.keys, batch.weight, batch.positions]
        columns += [] if batch.haplotypes is None else [batch.haplotypes]
        for table in (batch.targets, batch.mask, batch.inputs, batch.inputs_mask):
            columns += [table[name] for name in sorted(table)]
        tensors.append(columns)
    return [torch.cat(parts) for parts in zip(*tensors, strict=True)]


def forever(loader):
    while True:
        yield from loader


@pytest.mark.parametrize("order", ["flat", "grouped"])
@pytest.mark.parametrize("last", ["drop", "pad", "wrap"])
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=3)
@given(taken=st.integers(0, 25), world_size=st.sampled_from([2, 3, 5]), staged=st.booleans())
def test_any_number_of_ranks_goes_on_with_windows_of_every_kind(
    annotated, kind, last, order, taken, world_size, staged
):
    if (kind, order) == ("pools", "grouped"):
        return
    lengths = (Lengths(epochs=1, window=28, target_length=20), Lengths(epochs=2, window=64, target_length=24))
    options = {"window": 48, "target_length": 32, "batch_size": 5, "jitter": 4, "strand": "random", "last": last}
    options |= {"order": order, "tracks": ("genes", "signal"), "inputs": ("signal",)}
    options |= {"curriculum": lengths} if staged else {}
    alone = loader(annotated, KINDS[kind], **options, placement="device")
    expected = forever(alone)
    for _ in range(taken):
        next(expected)
    state = alone.state_dict()
    assert alone.plan.at_step(taken) == (state["epoch"], state["position"])
    ranks = [
        loader(annotated, KINDS[kind], **options, rank=rank, world_size=world_size, placement="host")
        for rank in range(world_size)
    ]
    for rank in ranks:
        rank.load_state_dict(state)
    parts = [forever(rank) for rank in ranks]
    for _ in range(4):
        whole, some = content([next(expected)]), content([next(part) for part in parts])
        assert all(map(torch.equal, whole, some))


def test_a_state_is_known_by_windows_and_not_by_where_files_lie(annotated, tmp_path):
    for name in ("peaks.bed", "peaks.narrowPeak", "holes.bed"):
        shutil.copy(annotated.path.parent / name, tmp_path)
    (tmp_path / "peaks.bed").write_text("# moved\n" + (tmp_path / "peaks.bed").read_text())
    for asked in KINDS.values():
        moved = beside(annotated, asked).model_dump_json()
        text = moved.replace(str(annotated.path.parent), str(tmp_path))
        other = Windows.model_validate_json(text)
        state = loader(annotated, asked).state_dict()
        options = common() | {"placement": "host", "rank": 1, "world_size": 3}
        GenomeLoader(annotated, **options, windows=other).load_state_dict(state)


def test_a_state_of_other_soft_masks_is_refused(small, small_recipe, tmp_path):
    (tmp_path / "small.fa").write_text((tmp_path / "small.fa").read_text().replace("acgtn", "ACGTN"))
    build(read(small_recipe, Recipe), tmp_path / "upper.zarr")
    state = GenomeLoader(small, window=64, batch_size=2).state_dict()
    with pytest.raises(CheckpointError, match="the loader's state has data"):
        GenomeLoader(open_store(tmp_path / "upper.zarr"), window=64, batch_size=2).load_state_dict(state)


PEAK = {"regions": {"source": "peaks.bed"}}


@pytest.mark.parametrize(
    ("asked", "options", "other", "changed"),
    [
        (PEAK, {}, {"regions": {"source": "peaks.bed", "at": "start"}}, {}),
        (PEAK, {}, {}, {}),
        (PEAK, {}, PEAK | {"exclude": ["holes.bed"]}, {}),
        (PEAK, {}, PEAK | {"max_ambiguous": 0.0}, {}),
        (PEAK, {}, PEAK | {"personal": {"variants": "people"}}, {}),
        (PEAK, {}, PEAK, {"strand": "region"}),
        (PEAK, {}, PEAK, {"inputs": ("genes",)}),
        (PEAK, {}, PEAK, {"last": "wrap"}),
        (PEAK, {}, PEAK, {"curriculum": [Lengths(epochs=1, window=9)]}),
        (PEAK, {}, {"regions": {"source": "matrix:expr"}}, {}),
        ({}, {"order": "grouped", "lanes": 7}, {}, {"order": "grouped", "lanes": 1}),
        ({"pool": POOLS}, {}, {"pool": POOLS[:2]}, {}),
        ({"pool": POOLS}, {}, {"pool": [POOLS[0] | {"share": 1}, *POOLS[1:]]}, {}),
        ({"pool": POOLS}, {}, {"pool": [POOLS[0], POOLS[1] | {"drawn": "fixed"}, POOLS[2]]}, {}),
        ({"personal": {"variants": "people"}}, {}, {"personal": {"variants": "people", "samples": ["s1"]}}, {}),
    ],
)
def test_a_state_of_other_samples_is_refused(annotated, asked, options, other, changed):
    state = loader(annotated, asked, **options).state_dict()
    with pytest.raises(CheckpointError, match="the loader's state has"):
        loader(annotated, other, **changed).load_state_dict(state)


# ---- what does not fit ------------------------------------------------------------------------


def pools(**change):
    return {"pool": [POOLS[0], POOLS[1] | change]}


@pytest.mark.parametrize(
    ("asked", "options", "message"),
    [
        ({"pool": POOLS}, {"on_corrupt": "skip"}, "on_corrupt: negatives are matched by their bases"),
        ({"regions": {"source": "matrix:exp"}}, {}, r'regions: store .* has no matrix "exp". Did you mean "expr"'),
        ({"regions": {"source": "peaks.bed", "at": "whole"}}, {"jitter": 3}, "jitter: whole regions do not move. Use 0"),
        ({"regions": {"source": "matrix:expr", "at": "summit"}}, {}, r"regions\.at: matrix:expr has no summits"),
        ({"regions": {"source": "peaks.bed"}, "max_ambiguous": 0.0}, {"window": 1501, "split": "valid"},
         "regions: no window is left: 9 outside the part, 1 with too much N"),
        ({"regions": {"source": "holes.bed"}}, {"strand": "region"}, "strand: no window lies at a region that has one"),
        ({}, {"strand": "region"}, "strand: no window lies at a region that has one"),
        (pools(distance=2000), {}, r"pool\.1\.distance: no window of 41 bases lies 2,000 bases away"),
        ({"pool": [POOLS[0], {"name": "rest", "distance": 2000}]}, {}, r"pool\.1\.distance: nothing lies 2,000 bases away"),
        ({"pool": [POOLS[0] | {"source": "matrix:expo"}, POOLS[1]]}, {}, r"pool\.0: .*no matrix"),
        (pools(), {"order": "grouped"}, 'order: windows of pools are drawn from everywhere. Use "flat"'),
        (pools(), {"strand": "both"}, 'strand: pool "like" matches single windows'),
        ({}, {"order": "grouped", "lanes": 3}, "lanes: 3 does not divide a batch of 7. Use 1 or 7"),
        ({}, {"lanes": 7}, 'lanes: "flat" has no lanes: leave them out, or use "grouped"'),
        ({}, {"split": "cv/train"}, r'^split: store .* has no split "cv"'),
        ({}, {"inputs": ("signl",)}, r'^inputs: store .* has no track "signl"'),
        ({}, {"rank": 1, "world_size": 9}, "batch_size: 7 leaves some of 9 workers without samples. Use at least 9"),
        ({}, {"window": 42, "target_length": None, "tracks": ("signal",)}, "target_length: 42 is no multiple of track"),
        ({}, {"window": 40, "target_length": 36, "inputs": ("signal",)}, "window: 40 does not begin on a bin"),
        ({}, {"curriculum": [Lengths(epochs=1, window=10, target_length=12)]}, r"curriculum\.0\.target_length: 12 is more"),
        ({"personal": {"variants": "peple"}}, {}, 'personal: .*no variants "peple". Did you mean "people"'),
        ({"max_ambiguous": 0.0}, {"window": 3001}, "^no window is left: .* with too much N"),
        ({}, {"strand": "revers"}, 'strand: "revers" is none of the choices.*region'),
        ({}, {"jitter": -1}, "jitter: input should be greater than or equal to 0"),
        ({}, {"rank": 2, "world_size": 2}, "rank: 2 is none of 2 ranks"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said_of_the_key_that_is_wrong(annotated, asked, options, message):
    with pytest.raises(ConfigError, match=message):
        loader(annotated, asked, **options)


def test_a_bed_file_without_summits_is_named(annotated):
    with pytest.raises(ConfigError, match=r"regions\.source: .*peaks\.bed: BED has no summits: narrowPeak does"):
        loader(annotated, {"regions": {"source": "peaks.bed", "at": "summit"}})


def test_targets_of_one_name_are_told_apart(small_recipe, tmp_path):
    text = small_recipe.read_text().replace('name = "genes"', 'name = "pool"')
    small_recipe.write_text(text)
    build(read(small_recipe, Recipe), tmp_path / "p.zarr")
    (tmp_path / "a.bed").write_text("chr1\t100\t300\n")
    asked = Windows.model_validate({"pool": [{"name": "x", "source": str(tmp_path / "a.bed")}]})
    with pytest.raises(ConfigError, match="tracks: pool: windows have other targets of that name"):
        GenomeLoader(tmp_path / "p.zarr", window=8, batch_size=1, tracks=("pool",), windows=asked)
