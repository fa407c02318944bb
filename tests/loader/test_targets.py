"""Targets against the obvious: bin by bin out of the whole decoded track."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distgen.genome import MISSING, Contigs, Interval
from distgen.loader.targets import DeviceTrack, HostTrack, label_rows, matrix_rows
from distgen.loader.transfer import Transfer
from distgen.store.format import Layout
from distgen.store.reader import Track
from tests.loader.test_gather import written

CPU = Transfer(torch.device("cpu"))
LENGTHS = np.array([1003, 7, 640])
OFFSETS = np.array([0, 1024, 1088])
CONTIGS = Contigs(("a", "b", "c"), LENGTHS, OFFSETS)
NO_HOLES = np.empty((0, 2), np.int64)


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Tracks by what they are made of, each built once: 16 bins a chunk, some chunks absent, gaps in what is there."""
    made = {}

    def track(bin_bp, widths, dtype, codec, swap):
        key = (bin_bp, widths, dtype, codec, swap)
        if key not in made:
            made[key] = built(tmp_path_factory.mktemp("track"), *key)
        return made[key]

    return track


def built(folder, bin_bp, widths, dtype, codec, swap):
    rng = np.random.default_rng(sum(widths) + bin_bp)
    per_contig = -(-LENGTHS // bin_bp)
    bins, columns = int(per_contig.sum()), sum(widths)
    classes = dtype == "classes"
    kind = np.dtype("u1" if classes else dtype)
    fill = 0 if classes else MISSING if dtype == "u1" else float("nan")
    values = rng.integers(0, 2 if classes else 200, (bins, columns)).astype(kind)
    if not classes:
        values[rng.random(values.shape) < 0.1] = fill
    values[bins // 3 : bins // 2] = fill
    blocks = []
    for number, first in enumerate(np.cumsum(widths) - widths):
        part = values[:, first : first + widths[number]]
        blocks.append(written(folder / str(number), part, Layout(part.shape, kind, 16, 64, codec, fill)))
    order = {"none": np.arange(columns), "back": np.arange(columns)[::-1], "any": rng.permutation(columns)}[swap]
    names = tuple(map(str, range(columns)))
    offsets = np.cumsum(per_contig) - per_contig
    return Track(
        "t",
        names,
        bin_bp,
        tuple(order.tolist()),
        classes,
        1.0,
        1.0,
        None,
        blocks[0].layout.dtype,
        tuple(blocks),
        offsets,
    )


def expected(track, bins, start, limits, reverse, holes):
    """Values and mask of one window, bin by bin."""
    inside = max(start, limits[0])
    contig = max(c for c in range(3) if OFFSETS[c] <= max(inside, 0))
    values = np.zeros((bins, len(track.columns)), track.decoded.dtype)
    known = np.zeros(values.shape, bool)
    for i in range(bins):
        number = (start - OFFSETS[contig]) // track.bin_bp + i
        first = OFFSETS[contig] + number * track.bin_bp
        end = min(first + track.bin_bp, OFFSETS[contig] + LENGTHS[contig])
        if limits[0] <= first < end <= limits[1] and not any(h[0] < end and first < h[1] for h in holes):
            found = track.decoded[track.bin_offsets[contig] + number]
            known[i] = True if track.is_classes else (found != MISSING if found.dtype == np.uint8 else ~np.isnan(found))
            values[i] = np.where(known[i], found, 0)
    if reverse:
        values, known = values[::-1][:, list(track.swap)], known[::-1][:, list(track.swap)]
    return values, known


@st.composite
def windows(draw, bin_bp):
    """Rows (start, limits, reverse): windows that begin on a bin, and may stick out of their stretch on both sides."""
    rows = []
    for _ in range(draw(st.integers(0, 8))):
        contig = draw(st.integers(0, 2))
        low = draw(st.integers(0, int(LENGTHS[contig]) - 1))
        high = draw(st.integers(low + 1, int(LENGTHS[contig])))
        number = draw(st.integers(low // bin_bp - 5, high // bin_bp))
        start = int(OFFSETS[contig]) + number * bin_bp
        rows.append((start, (int(OFFSETS[contig]) + low, int(OFFSETS[contig]) + high), draw(st.booleans())))
    return rows


@given(data=st.data())
@pytest.mark.parametrize("kind", [HostTrack, DeviceTrack])
@pytest.mark.parametrize("dtype", ["classes", "u1", "f2", "f4"])
def test_rows_are_the_bins_of_their_windows(make, kind, dtype, data):
    bin_bp = data.draw(st.sampled_from([1, 8, 10]))
    widths = data.draw(st.sampled_from([(1,), (3,), (16,), (9, 2), (8, 8, 1)]))
    codec, swap = data.draw(st.sampled_from(["raw", "zstd"])), data.draw(st.sampled_from(["none", "back", "any"]))
    track, bins = make(bin_bp, widths, dtype, codec, swap), data.draw(st.integers(1, 60))
    rows = data.draw(windows(bin_bp))
    cuts = data.draw(st.lists(st.integers(0, 1727), max_size=6, unique=True).filter(lambda cuts: len(cuts) % 2 == 0))
    holes = np.array(sorted(cuts), np.int64).reshape(-1, 2)
    starts = np.array([row[0] for row in rows], np.int64)
    limits = np.array([row[1] for row in rows], np.int64).reshape(-1, 2)
    reverse = np.array([row[2] for row in rows], bool)
    targets = kind(SimpleNamespace(contigs=CONTIGS), track, bins * bin_bp, CPU, holes)
    values, known = targets.rows(starts, limits, reverse, None)
    assert values.shape == (len(rows), bins, sum(widths))
    assert known.shape == ((len(rows), bins, 1) if dtype == "classes" else values.shape)
    for row, (start, within, backward) in enumerate(rows):
        truth, there = expected(track, bins, start, within, backward, holes.tolist())
        assert np.array_equal(values[row].numpy(), truth)
        assert np.array_equal(np.broadcast_to(known[row].numpy(), there.shape), there)


def test_a_long_track_turns_in_pieces(tmp_path, monkeypatch):
    """More values in one chunk than are turned at a time."""
    values = np.random.default_rng(0).normal(size=(900, 70)).astype(np.float32)
    blocks = tuple(
        written(tmp_path / str(n), part, Layout(part.shape, np.dtype("f4"), 450, 900, "zstd", float("nan")))
        for n, part in enumerate((values[:, :64], values[:, 64:]))
    )
    swap = tuple(np.random.default_rng(1).permutation(70).tolist())
    track = Track(
        "t",
        tuple(map(str, range(70))),
        1,
        swap,
        False,
        1.0,
        1.0,
        None,
        blocks[0].layout.dtype,
        blocks,
        np.zeros(1, np.int64),
    )
    store = SimpleNamespace(contigs=Contigs(("a",), np.array([900]), np.array([0])))
    starts, limits = np.array([20, 20]), np.array([[0, 900], [30, 850]])
    found, known = HostTrack(store, track, 850, CPU).rows(starts, limits, np.array([False, True]))
    assert np.array_equal(found[0], values[20:870])
    assert known[0].all()
    assert np.array_equal(found[1, 20:-10], values[30:850][::-1][:, list(swap)])
    assert not known[1, :20].any()
    assert not known[1, -10:].any()


def test_a_track_is_never_in_memory_whole(small, monkeypatch):
    monkeypatch.setattr(Track, "decoded", property(lambda _: pytest.fail("the whole track was decoded")))
    values, known = HostTrack(small, small.track("genes"), 30, CPU).rows(
        np.array([0]), np.array([[0, 800]]), np.array([False])
    )
    assert values[0, :, 0].nonzero().flatten().tolist() == list(range(10, 20))
    assert known.all()


def test_rows_of_a_table_are_zero_where_nothing_is_known():
    store = SimpleNamespace(
        matrix=lambda _: SimpleNamespace(values=np.array([[1, np.nan], [3, 4], [np.nan, 6]], np.float32)),
    )
    none, limits = np.empty(0), np.array([[0, 9], [0, 9], [9, 9]])  # nothing of the last may be read
    values, known = matrix_rows(store, "m", CPU).rows(none, limits, none, np.array([2, 0, 0]))
    assert values.tolist() == [[0, 6], [1, 0], [0, 0]]
    assert known.tolist() == [[False, True], [True, False], [False, False]]
    assert np.isnan(store.matrix("m").values[0, 1])


@pytest.mark.parametrize(
    ("kind", "stored", "values", "known"),
    [
        ("binary", np.array([[1], [MISSING], [0]], np.uint8), [[1], [0], [0]], [[True], [False], [True]]),
        ("multilabel", np.array([[1, 0], [1, MISSING], [0, 1]], np.uint8), [[1, 0], [1, 0], [0, 1]], None),
        ("classes", np.array([4, -1, 0], np.int32), [4, 0, 0], [True, False, True]),
        ("regression", np.array([[1.5], [np.nan], [0]], np.float32), [[1.5], [0], [0]], [[True], [False], [True]]),
    ],
)
def test_labels_are_those_of_the_sequence_that_a_window_lies_in(kind, stored, values, known):
    store = SimpleNamespace(labels=SimpleNamespace(kind=kind, values=stored), contigs=CONTIGS)
    starts = np.array([500, 1020, 1700])  # the second begins before its contig
    limits = np.array([[0, 1003], [1024, 1031], [1088, 1728]])
    found, there = label_rows(store, CPU).rows(starts, limits, np.zeros(3, bool), None)
    assert found.tolist() == values
    assert there.tolist() == (known or [[True, True], [True, False], [True, True]])
    assert found.dtype == (torch.int64 if kind == "classes" else torch.from_numpy(stored).dtype)


def test_what_is_asked_of_a_stretch_is_named_as_the_store_names_it(small):
    """The values of a window are those of the bases that `codes` gives for the same interval."""
    genes, place = small.track("genes"), Interval("chr2", 880, 920)
    start = int(small.contigs.offsets[1]) + place.start
    limits = np.array([[small.contigs.offsets[1], small.contigs.offsets[1] + small.contigs.lengths[1]]])
    values, known = HostTrack(small, genes, 40, CPU).rows(np.array([start]), limits, np.array([False]))
    assert known.flatten().tolist() == [True] * 20 + [False] * 20
    assert values[0, :, 0].nonzero().flatten().tolist() == [19]
