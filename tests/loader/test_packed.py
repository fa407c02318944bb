import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distgen import GenomeLoader, kernels
from distgen.config import Recipe, Regions, Windows, read
from distgen.errors import ConfigError
from distgen.genome import COMPLEMENT
from distgen.ingest.packing import CODES
from distgen.loader.gather import Chunks
from distgen.loader.packed import Filled, pack_rows, plan
from distgen.loader.summary import summarize
from distgen.objectives.masked_lm import MaskedLM, MaskedLMConfig
from distgen.store.build import build
from distgen.store.reader import open_store
from tests.conftest import flat_codes
from tests.loader.walk import go_on, two_epochs

some_lengths = st.lists(st.integers(1, 60), min_size=1, max_size=80)


@given(some_lengths, st.integers(60, 100), st.one_of(st.none(), st.integers(0, 2**40)))
def test_every_window_is_in_one_row_and_no_row_is_too_long(lengths, window, seed):
    found = plan(np.array(lengths), window, seed)
    assert sorted(found.samples.tolist()) == list(range(len(lengths)))
    for first, last in zip(found.bounds[:-1], found.bounds[1:], strict=True):
        row = [lengths[sample] for sample in found.samples[first:last]]
        assert 0 < sum(row) <= window
        assert found.ends[first:last].tolist() == np.cumsum(row).tolist()
    assert len(found) <= 2 * sum(lengths) // window + 1


@given(some_lengths, st.integers(60, 100), st.data())
def test_segments_are_those_of_the_rows_one_asks_for(lengths, window, data):
    found = plan(np.array(lengths), window, 1)
    rows = data.draw(st.lists(st.integers(0, len(found) - 1), max_size=5))
    segments = found.filled(np.array(rows, np.int64))
    samples, own, firsts, lasts = [], [], [], []
    for number, row in enumerate(rows):
        at = 0
        for sample in found.samples[found.bounds[row] : found.bounds[row + 1]].tolist():
            samples.append(sample)
            own.append(number)
            firsts.append(at)
            lasts.append(at := at + lengths[sample])
    assert [column.tolist() for column in segments] == [samples, own, firsts, lasts]
    bounds, inside = segments.bounds(len(rows), window)
    tokens = np.full(len(rows) * window, -1)
    for sample, row, first, last in zip(samples, own, firsts, lasts, strict=True):
        tokens[row * window + first : row * window + last] = sample
    assert np.repeat(inside, np.diff(bounds)).tolist() == tokens.tolist()
    assert (np.diff(bounds) > 0).all()
    assert set(np.arange(len(rows) + 1) * window) <= set(bounds.tolist())


def test_rows_are_nearly_full():
    lengths = np.random.default_rng(3).integers(20, 1024, 20_000)
    found = plan(lengths, 1024, 0)
    assert lengths.sum() / (len(found) * 1024) > 0.95


def test_each_seed_deals_otherwise():
    lengths = np.random.default_rng(3).integers(20, 100, 500)
    one, same, other = plan(lengths, 200, 4), plan(lengths, 200, 4), plan(lengths, 200, 5)
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not np.array_equal(one.samples, other.samples)


def test_without_a_seed_windows_are_dealt_as_they_come():
    found = plan(np.full(10, 30), 70, None)
    assert found.samples.tolist() == list(range(10))
    assert found.bounds.tolist() == [0, 2, 4, 6, 8, 10]


@settings(max_examples=60)
@given(st.data())
def test_rows_read_as_their_windows_one_after_another(store, data):
    codes, mask = store.truth
    window = data.draw(st.integers(1, 3000))
    count = data.draw(st.integers(1, 4))
    rows, firsts, lasts, starts = [], [], [], []
    for row in range(count):
        at = 0
        while at < window and data.draw(st.booleans()):
            begin, end = data.draw(st.sampled_from(store.contigs))
            length = data.draw(st.integers(1, min(window - at, end - begin)))
            rows.append(row)
            firsts.append(at)
            lasts.append(at := at + length)
            starts.append(data.draw(st.integers(begin, end - length)))
    reverse = np.array(data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows))), np.bool_)
    columns = [np.array(column, np.int64) for column in (range(len(rows)), rows, firsts, lasts, starts)]
    found = pack_rows(store.chunks, columns[4], reverse, Filled(*columns[:4]), count, window)
    expected = np.full((count, window), 4, np.uint8)
    soft = np.zeros((count, window), np.bool_)
    for row, first, last, start, back in zip(rows, firsts, lasts, starts, reverse, strict=True):
        part, lower = codes[start : start + last - first], mask[start : start + last - first]
        expected[row, first:last] = COMPLEMENT[part[::-1]] if back else part
        soft[row, first:last] = lower[::-1] if back else lower
    windows = {"starts": found.starts, "length": window, "limits": found.limits}
    tokens = kernels.tokens(found.plane, ambiguous=found.ambiguous, **windows)
    assert torch.equal(tokens, torch.from_numpy(expected))
    flags = np.unpackbits(found.softmask.numpy(), bitorder="little").reshape(count, -1)
    assert np.array_equal(flags[:, :window] == 1, soft)
    assert not flags[:, window:].any()


class Truth:
    def __init__(self, store):
        self.truth = flat_codes(store), np.unpackbits(store.planes["softmask"].read(), bitorder="little") == 1
        self.contigs = store.contigs.whole().tolist()
        self.chunks = {name: Chunks(array) for name, array in store.planes.items()}


@pytest.fixture
def store(small):
    return Truth(small)


def test_a_sequence_longer_than_a_row_is_refused():
    with pytest.raises(ConfigError, match="sequence 1 has 90 bases, a row 64. Use rows of 90 bases"):
        plan(np.array([3, 90, 2]), 64, 0)
    with pytest.raises(ConfigError, match="sequence 2 has 0 bases"):
        plan(np.array([3, 9, 0]), 64, 0)


def test_no_sequences_make_no_rows():
    assert len(plan(np.empty(0, np.int64), 64, 0)) == 0


# ---- a loader of packed rows -------------------------------------------------------------------

COUNT = 61
ROW = {"window": 70, "packed": True, "batch_size": 6}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A table of labelled sequences, and their codes and labels by name."""
    folder = tmp_path_factory.mktemp("table")
    random = np.random.default_rng(7)
    rows = ["".join(random.choice(list("ACGTacgtN"), random.integers(3, 60))) for _ in range(COUNT)]
    lines = [f"s{number},{letters},{number % 3}" for number, letters in enumerate(rows)]
    (folder / "all.csv").write_text("id,sequence,label\n" + "\n".join(lines) + "\n")
    (folder / "table.toml").write_text(RECIPE)
    build(read(folder / "table.toml", Recipe), folder / "table.zarr")
    found = {f"s{n}": (CODES[np.frombuffer(letters.encode(), np.uint8)], n % 3) for n, letters in enumerate(rows)}
    return open_store(folder / "table.zarr"), found


RECIPE = 'format = 1\n[sequences]\nname = "t"\ntrain = "all.csv"\nid = "id"\nkind = "classes"\n'


def check(batch, truth):
    """A batch is what its samples are, one by one; gives their names and strands."""
    tokens = kernels.tokens(**batch.packed).numpy().reshape(-1)
    bounds, owners = batch.segments.bounds.tolist(), batch.segments.owners.tolist()
    assert (bounds[0], bounds[-1]) == (0, len(batch) * batch.length)
    assert [owner for owner in owners if owner >= 0] == list(range(len(batch.samples)))
    where = batch.where()
    for owner, first, last in zip(owners, bounds[:-1], bounds[1:], strict=True):
        assert first // batch.length == (last - 1) // batch.length
        if owner < 0:
            assert (tokens[first:last] == 4).all()
            continue
        codes, label = truth[where[owner].contig]
        assert (where[owner].start, where[owner].end) == (0, len(codes))
        expected = COMPLEMENT[codes[::-1]] if where[owner].strand == "-" else codes
        assert tokens[first:last].tolist() == expected.tolist()
        assert batch.targets["labels"][owner] == label
        assert batch.mask["labels"][owner]
    return [(place.contig, place.strand) for place in where]


@pytest.mark.parametrize("order", ["flat", "grouped", "sequential"])
@pytest.mark.parametrize("strand", ["forward", "random", "both"])
def test_each_sequence_is_served_once_an_epoch_with_its_label(table, order, strand):
    store, truth = table
    loader = GenomeLoader(store, **ROW, order=order, strand=strand, last="pad")
    epochs = [[sample for batch in loader for sample in check(batch, truth)] for _ in range(3)]
    for served in epochs:
        expected = [(name, sign) for name in truth for sign in ("+-" if strand == "both" else "+")]
        names = [(name, sign if strand == "both" else "+") for name, sign in served]
        assert sorted(names) == sorted(expected)
    assert (epochs[0] == epochs[1]) == (order == "sequential" and strand != "random")
    assert ({sign for _, sign in epochs[0]} == {"+"}) == (strand == "forward")


@pytest.mark.parametrize(("order", "last"), [("flat", "pad"), ("flat", "wrap"), ("grouped", "drop")])
def test_packed_rows_go_on_on_any_number_of_ranks(table, order, last):
    options = ROW | {"order": order, "last": last, "strand": "random", "lanes": 3 if order == "grouped" else None}

    def content(batches):
        rows = torch.cat([kernels.tokens(**batch.packed) for batch in batches]).tolist()
        samples = [(s, str(w), w.strand) for b in batches for s, w in zip(b.samples.tolist(), b.where(), strict=True)]
        columns = [torch.cat([getattr(b, n) for b in batches]).tolist() for n in ("keys", "weight", "positions")]
        return rows, samples, columns, torch.cat([b.targets["labels"] for b in batches]).tolist()

    alone = GenomeLoader(table[0], **options)
    reference, states = two_epochs(alone, content)
    assert alone.plan.steps(2) == len(reference)
    for world_size in (2, 3, 5):
        ranks = [GenomeLoader(table[0], **options, rank=r, world_size=world_size) for r in range(world_size)]
        for step, expected in enumerate(reference):
            batches = go_on(ranks, states, step)
            assert content(batches) == expected
            for batch in batches:
                check(batch, table[1])
    for step, expected in enumerate(reference):
        epoch, position = alone.plan.at_step(step)
        assert content([alone.batch(epoch, position)]) == expected
        samples, places = alone.places(epoch, position)
        assert [(s, str(w), w.strand) for s, w in zip(samples, places, strict=True)] == expected[1]
        several = alone.make(epoch, range(position // 6, alone.plan.batches(epoch))).batches
        assert content([several[-1]]) == content([alone.batch(epoch, (alone.plan.batches(epoch) - 1) * 6)])


def test_the_batches_of_packed_rows_are_counted(table):
    rows = len(GenomeLoader(table[0], **ROW).plan.sampling(0))
    assert len(GenomeLoader(table[0], **ROW)) == rows // 6
    padded = list(GenomeLoader(table[0], **ROW, last="pad"))
    assert len(padded) == -(-rows // 6)
    assert torch.cat([batch.weight for batch in padded]).sum() == rows
    assert rows % 6
    empty = padded[-1].weight == 0
    assert (kernels.tokens(**padded[-1].packed)[empty] == 4).all()
    full = list(GenomeLoader(table[0], **ROW, last="wrap"))[-1]
    assert full.weight.all()


def test_what_packed_rows_will_read_is_told_beforehand(table):
    loader = GenomeLoader(table[0], **ROW)
    count = len(loader)
    reads = loader._reads(0, range(count))
    assert {one.of.id for one in reads} == {array.id for array in table[0].planes.values()}
    for number, batch in enumerate(loader):
        ends = batch.positions + batch.segments.lengths
        for one in reads:
            per = 4 if one.of.id == table[0].planes["sequence"].id else 8
            mine = list(zip(one.first.reshape(count, -1)[number], one.last.reshape(count, -1)[number], strict=True))
            expected = [(a // per, -(-b // per)) for a, b in zip(batch.positions.tolist(), ends.tolist(), strict=True)]
            assert mine[: len(expected)] == expected
            assert all(first == last for first, last in mine[len(expected) :])


def test_packed_windows_are_summed_up(table):
    plan = GenomeLoader(table[0], **ROW, strand="both").plan
    (stage,) = summarize({"train": plan})["parts"]["train"]["stages"]
    rows, known = len(plan.sampling(0)), 2 * sum((codes < 4).sum() for codes, _ in table[1].values())
    assert (stage["windows"], stage["samples"], stage["rows"]) == (COUNT, 2 * COUNT, rows)
    assert stage["batches"] == rows // 6
    assert stage["ambiguous"] == pytest.approx(1 - known / (rows * 70))
    assert stage["covered"] == sum(len(codes) for codes, _ in table[1].values())


def test_nothing_is_hidden_beside_sequences(table):
    objective = MaskedLM(MaskedLMConfig(kind="masked_lm", rate=0.9))
    hidden = 0
    for batch in GenomeLoader(table[0], **ROW, strand="random", last="pad"):
        _, target, valid = objective.encode(batch, torch.float32)
        unknown = kernels.tokens(**batch.packed) == 4
        assert not valid[unknown].any()
        assert (target[unknown] < 0).all()
        hidden += int((valid > 0).sum())
    assert hidden > COUNT * 10


def test_whole_regions_share_rows_on_their_strands_with_their_values(small_recipe):
    folder = small_recipe.parent
    (folder / "peaks.bed").write_text(
        "".join(f"chr1\t{s}\t{s + 9}\tp{s}\t0\t{'+-'[s % 2]}\n" for s in range(300, 420, 13))
    )
    (folder / "expr.csv").write_text("id,heart\n" + "".join(f"p{s},{s}\n" for s in range(300, 420, 13)))
    text = small_recipe.read_text() + '[[matrix]]\nname = "expr"\nmatrix = "expr.csv"\nregions = "peaks.bed"\n'
    small_recipe.write_text(text)
    build(read(small_recipe, Recipe), folder / "small.zarr")
    store = open_store(folder / "small.zarr")
    at = Regions(source="matrix:expr", at="whole")
    options = {"window": 40, "packed": True, "batch_size": 1, "strand": "region", "split": None}
    seen = []
    for batch in GenomeLoader(store, **options, windows=Windows(regions=at)):
        tokens, bounds = kernels.tokens(**batch.packed).reshape(-1), batch.segments.bounds.tolist()
        for number, place in enumerate(batch.where()):
            assert (place.end - place.start, place.strand) == (9, "+-"[place.start % 2])
            assert batch.targets["expr"][number].tolist() == [place.start]
            row = batch.segments.owners.tolist().index(number)
            assert tokens[bounds[row] : bounds[row + 1]].tolist() == store.codes(place).tolist()
            seen.append(place.start)
    assert sorted(seen) == list(range(300, 420, 13))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"windows": Windows(regions=Regions(source="contigs", at="middle"))}, "packed: only whole regions"),
        ({"placement": "device"}, 'placement: .*Use "auto", "host" or "stream"'),
        ({"target_length": 50}, "target_length: .*Use 70"),
        ({"window": 30}, "window: sequence .* has .* bases, a row 30. Use rows of"),
        ({"on_corrupt": "skip"}, 'on_corrupt: .*Use "stop"'),
        ({"batch_size": 100}, "batch_size: 100 is more than the .* samples"),
    ],
)
def test_what_packed_rows_cannot_do_is_said(table, changes, message):
    with pytest.raises(ConfigError, match=message):
        GenomeLoader(table[0], **(ROW | changes))


def test_packed_rows_have_no_tracks(small):
    options = {"window": 2000, "batch_size": 1, "split": None, "packed": True}
    whole = Windows(regions=Regions(source="contigs", at="whole"))
    with pytest.raises(ConfigError, match='packed: rows of several windows have no track "genes"'):
        GenomeLoader(small, **options, tracks=("genes",), windows=whole)
